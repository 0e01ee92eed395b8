"""Configuration files with the keys, types and values of published ones; names are replaced, sizes are those of a toy."""

from __future__ import annotations

from typing import Any

_BERT = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 24,
    "initializer_range": 0.02, "intermediate_size": 20, "layer_norm_eps": 1e-12, "max_position_embeddings": 33,
    "model_type": "bert", "num_attention_heads": 3, "num_hidden_layers": 2, "type_vocab_size": 2, "vocab_size": 41,
}  # fmt: skip
_ROBERTA = {
    **_BERT, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-05, "model_type": "roberta", "pad_token_id": 1,
    "type_vocab_size": 1,
}  # fmt: skip
_ELECTRA = {
    **_BERT, "embedding_size": 16, "model_type": "electra", "pad_token_id": 0, "position_embedding_type": "absolute",
    "summary_activation": "gelu", "summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": True,
}  # fmt: skip
_DISTILBERT = {
    "activation": "gelu", "attention_dropout": 0.1, "dim": 24, "dropout": 0.1, "hidden_dim": 20, "initializer_range": 0.02,
    "max_position_embeddings": 33, "model_type": "distilbert", "n_heads": 3, "n_layers": 2, "pad_token_id": 0,
    "qa_dropout": 0.1, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 41,
}  # fmt: skip
_MPNET = {
    **{key: value for key, value in _ROBERTA.items() if key != "type_vocab_size"}, "model_type": "mpnet",
    "relative_attention_num_buckets": 32,
}  # fmt: skip
_DEBERTA = {
    **_BERT, "layer_norm_eps": 1e-07, "max_relative_positions": -1, "model_type": "deberta-v2", "norm_rel_ebd": "layer_norm",
    "pos_att_type": "p2c|c2p", "position_biased_input": False, "position_buckets": 6, "relative_attention": True,
    "share_att_key": True, "type_vocab_size": 0,
}  # fmt: skip
_GPT2 = {
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 40,
    "embd_pdrop": 0.1, "eos_token_id": 40, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
    "n_ctx": 33, "n_embd": 24, "n_head": 3, "n_layer": 2, "n_positions": 33, "resid_pdrop": 0.1, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 41,
}  # fmt: skip
_NOMIC = {
    "attention_probs_dropout_prob": 0.0, "bos_token_id": None, "classifier_dropout": None, "dtype": "float32", "eos_token_id": None,
    "head_dim": 8, "hidden_act": "silu", "hidden_dropout_prob": 0.0, "hidden_size": 24, "initializer_range": 0.02,
    "intermediate_size": 20, "layer_norm_eps": 1e-12, "max_position_embeddings": 33, "model_type": "nomic_bert",
    "num_attention_heads": 3, "num_hidden_layers": 2, "pad_token_id": 0,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"}, "type_vocab_size": 2, "vocab_size": 41,
}  # fmt: skip
_MODERNBERT = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 4, "classifier_activation": "gelu",
    "classifier_bias": False, "classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 4, "decoder_bias": True,
    "deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 5, "hidden_activation": "gelu",
    "hidden_size": 24, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02, "intermediate_size": 20,
    "local_attention": 6, "max_position_embeddings": 33, "mlp_bias": False, "mlp_dropout": 0.0, "model_type": "modernbert",
    "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 3, "num_hidden_layers": 5, "pad_token_id": 6,
    "sep_token_id": 5, "tie_word_embeddings": True, "vocab_size": 41,
}  # fmt: skip
_MODERNBERT_OLD = {
    **_MODERNBERT, "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False,
    "layer_norm_eps": 1e-05, "local_rope_theta": 10000.0, "position_embedding_type": "absolute", "torch_dtype": "float32",
    "transformers_version": "4.47.0.dev0",
}  # fmt: skip
_LLAMA = {
    "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 24, "initializer_range": 0.02,
    "intermediate_size": 20, "max_position_embeddings": 33, "model_type": "llama", "num_attention_heads": 3, "num_hidden_layers": 2,
    "num_key_value_heads": 1, "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 41,
    "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
_QWEN = {
    **_LLAMA, "attention_dropout": 0.0, "max_window_layers": 1, "rope_theta": 1000000.0, "sliding_window": 4,
    "use_sliding_window": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.1", "rms_norm_eps": 1e-06,
}  # fmt: skip
_ENTITIES = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]


def _named(*names: str) -> dict[str, Any]:
    return {
        "id2label": {str(label): name for label, name in enumerate(names)},
        "label2id": {name: label for label, name in enumerate(names)},
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "BERT, cased": {
        **_BERT, "architectures": ["BertForMaskedLM"], "gradient_checkpointing": False, "pad_token_id": 0,
        "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0", "use_cache": True,
    },
    "BERT, uncased, both heads": {**_BERT, "architectures": ["BertForPreTraining"]},
    "BERT, multilingual": {
        **_BERT, "architectures": ["BertForMaskedLM"], "directionality": "bidi", "pad_token_id": 0, "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
    },
    "cross-encoder, old": {
        **_BERT, **_named("LABEL_0"), "_name_or_path": "someone/MiniLM-H24-uncased", "pad_token_id": 0,
        "architectures": ["BertForSequenceClassification"], "gradient_checkpointing": False, "use_cache": True,
        "position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.4.2",
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    },
    "cross-encoder, new": {
        **_ROBERTA, **_named("LABEL_0"), "architectures": ["RobertaForSequenceClassification"], "classifier_dropout": None,
        "sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "4.1.0.dev0"},
        "gradient_checkpointing": False, "position_embedding_type": "absolute", "torch_dtype": "float32", "use_cache": True,
    },
    "RoBERTa": {**_ROBERTA, "architectures": ["RobertaForMaskedLM"]},
    "RoBERTa, inference": {
        **_ROBERTA, **_named("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), "_num_labels": 3,
        "architectures": ["RobertaForSequenceClassification"],
    },
    "RoBERTa, answers": {
        **_ROBERTA, "architectures": ["RobertaForQuestionAnswering"], "gradient_checkpointing": False, "language": "english",
        "name": "Roberta", "position_embedding_type": "absolute", "use_cache": True,
    },
    "RoBERTa, sentiment of short messages": {
        **_ROBERTA, **_named("negative", "neutral", "positive"), "_name_or_path": "someone/roberta-messages-latest",
        "architectures": ["RobertaForSequenceClassification"], "classifier_dropout": None, "gradient_checkpointing": False,
        "position_embedding_type": "absolute", "torch_dtype": "float32", "transformers_version": "4.13.0.dev0",
    },
    "XLM-RoBERTa": {
        **_ROBERTA, "architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "output_past": True,
        "position_embedding_type": "absolute", "transformers_version": "4.17.0.dev0", "use_cache": True,
    },
    "XLM-RoBERTa, entities": {
        **_ROBERTA, **_named(*_ENTITIES), "_num_labels": 9, "architectures": ["XLMRobertaForTokenClassification"],
        "model_type": "xlm-roberta", "output_past": True, "pad_token_id": 1,
    },
    "XLM-RoBERTa, sentence vectors": {
        **_ROBERTA, "_name_or_path": "old_models/paraphrase-multilingual/0_Transformer", "architectures": ["XLMRobertaModel"],
        "gradient_checkpointing": False, "model_type": "xlm-roberta", "output_past": True, "tokenizer_class": "XLMRobertaTokenizer",
        "position_embedding_type": "absolute", "transformers_version": "4.7.0", "use_cache": True,
    },
    "CamemBERT": {
        **_ROBERTA, "architectures": ["CamembertForMaskedLM"], "bos_token_id": 5, "eos_token_id": 6, "model_type": "camembert",
        "output_past": True,
    },
    "DistilBERT": {**_DISTILBERT, "architectures": ["DistilBertForMaskedLM"], "transformers_version": "4.10.0.dev0"},
    "DistilBERT, sentiment": {
        **_DISTILBERT, **_named("NEGATIVE", "POSITIVE"), "architectures": ["DistilBertForSequenceClassification"],
        "finetuning_task": "sst-2", "output_past": True,
    },
    "DistilBERT, answers": {**_DISTILBERT, "architectures": ["DistilBertForQuestionAnswering"], "output_past": True},
    "ALBERT": {
        **_BERT, "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
        "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 16, "eos_token_id": 3, "gap_size": 0,
        "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "inner_group_num": 1, "layers_to_keep": [], "model_type": "albert",
        "net_structure_type": 0, "num_hidden_groups": 1, "num_memory_blocks": 0, "pad_token_id": 0,
    },
    "ELECTRA, discriminator": {**_ELECTRA, "architectures": ["ElectraForPreTraining"]},
    "ELECTRA, generator": {**_ELECTRA, "architectures": ["ElectraForMaskedLM"], "generator_size": "0.25"},
    "Longformer": {
        **_ROBERTA, "architectures": ["LongformerForMaskedLM"], "attention_mode": "longformer", "attention_window": [4, 4],
        "gradient_checkpointing": False, "ignore_attention_mask": False, "model_type": "longformer", "sep_token_id": 2,
    },
    "Longformer, a long classifier": {
        **_ROBERTA, **_named("fake", "real", "both"), "architectures": ["LongformerForSequenceClassification"],
        "attention_window": 6, "model_type": "longformer", "onnx_export": False, "output_past": True, "sep_token_id": 2,
    },
    "BigBird": {
        **_BERT, "architectures": ["BigBirdForPreTraining"], "attention_type": "block_sparse", "block_size": 64,
        "bos_token_id": 1, "eos_token_id": 2, "gradient_checkpointing": False, "hidden_act": "gelu_new",
        "model_type": "big_bird", "num_random_blocks": 3, "pad_token_id": 0, "position_embedding_type": "absolute",
        "rescale_embeddings": False, "sep_token_id": 36, "use_bias": True, "use_cache": True,
    },
    "Nyströmformer": {
        **_BERT, "architectures": ["NystromformerForMaskedLM"], "bos_token_id": 0, "conv_kernel_size": 5, "eos_token_id": 2,
        "hidden_act": "gelu_new", "inv_coeff_init_option": False, "layer_norm_eps": 1e-05, "model_type": "nystromformer",
        "num_landmarks": 64, "pad_token_id": 1, "segment_means_seq_len": 64, "torch_dtype": "float32",
    },
    "DeBERTa-v3": {**_DEBERTA, "architectures": ["DebertaV2ForMaskedLM"], "legacy": False},
    "DeBERTa-v3, as published": {**_DEBERTA, "architectures": ["DebertaV2Model"]},
    "DeBERTa-v2, a large one": {
        **_DEBERTA, "architectures": ["DebertaV2ForSequenceClassification"], "attention_head_size": 8, "conv_act": "gelu",
        "conv_kernel_size": 3, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": 24,
        **_named("contradiction", "neutral", "entailment"), "summary_type": "first",
    },
    "GPT-2": _GPT2,
    "GPT-2, distilled": {**_GPT2, **_named("LABEL_0"), "_num_labels": 1},
    "GPT-2, scaled by layer": {
        **_GPT2, "n_inner": None, "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True,
        "scale_attn_weights": True, "gradient_checkpointing": False, "use_cache": False, "transformers_version": "4.12.0.dev0",
    },
    "GPT-2, classes": {
        **_GPT2, **_named("neg", "pos"), "architectures": ["GPT2ForSequenceClassification"], "pad_token_id": 1,
        "problem_type": "single_label_classification", "summary_first_dropout": 0.0,
    },
    "LLaMA": {**_LLAMA, "pad_token_id": 0, "max_sequence_length": 33, "transformers_version": "4.28.0.dev0"},
    "LLaMA 2": {
        **_LLAMA, "_name_or_path": "someone/Llama-2-7b-hf", "pretraining_tp": 1, "rope_scaling": None, "torch_dtype": "float16",
        "transformers_version": "4.31.0.dev0",
    },
    "LLaMA 3.1": {
        **_LLAMA, "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": [2, 8, 9], "mlp_bias": False,
        "pretraining_tp": 1, "rope_theta": 500.0, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
        "rope_scaling": {
            "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 16,
            "rope_type": "llama3",
        },
    },
    "LLaMA 3.2, head_dim": {**_LLAMA, "head_dim": 16, "rope_theta": 500000.0, "tie_word_embeddings": True},
    "LLaMA, stretched": {**_LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "LLaMA, YaRN": {
        **_LLAMA, "rope_scaling": {
            "factor": 4.0, "original_max_position_embeddings": 12, "type": "yarn", "finetuned": True,
        },
    },
    "LLaMA, by the reference of today": {**_LLAMA, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}, "dtype": "float32"},
    "LLaMA, classes": {
        **_LLAMA, **_named("neg", "neutral", "pos"), "architectures": ["LlamaForSequenceClassification"], "pad_token_id": 0,
    },
    "Mistral": {
        **_LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "rope_theta": 10000.0, "sliding_window": 4,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0",
    },
    "Mistral, without a window": {
        **_LLAMA, "architectures": ["MistralForCausalLM"], "head_dim": 16, "model_type": "mistral", "rope_theta": 1000000.0,
        "sliding_window": None, "attention_dropout": 0.0,
    },
    "Qwen2": {**_QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "Qwen2, windows": {**_QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": True},
    "Qwen3": {
        **_QWEN, "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 16, "model_type": "qwen3",
        "rope_scaling": None, "sliding_window": None, "tie_word_embeddings": True,
    },
    "Gemma 2": {
        **_LLAMA, "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "head_dim": 16,
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma2", "pad_token_id": 0,
        "query_pre_attn_scalar": 16, "rope_theta": 10000.0, "sliding_window": 4, "tie_word_embeddings": True,
    },
    "MPNet": {**_MPNET, "architectures": ["MPNetForMaskedLM"], "transformers_version": "4.8.2"},
    "MPNet, sentence vectors": {**_MPNET, "_name_or_path": "someone/mpnet-base", "architectures": ["MPNetModel"]},
    "MiniLM, sentence vectors": {
        **_BERT, "_name_or_path": "someone/MiniLM-L6-H24-uncased", "architectures": ["BertModel"], "pad_token_id": 0,
        "gradient_checkpointing": False, "position_embedding_type": "absolute", "transformers_version": "4.8.2",
    },
    "retrieval vectors": {
        **_BERT, **_named("LABEL_0"), "_name_or_path": "/root/.cache/torch/vectors/", "architectures": ["BertModel"],
        "classifier_dropout": None, "pad_token_id": 0, "torch_dtype": "float16", "use_cache": True,
    },
    "BERT, entities": {
        **_BERT, **_named(*_ENTITIES), "_num_labels": 9, "architectures": ["BertForTokenClassification"], "output_past": True,
        "pad_token_id": 0,
    },
    "BERT, stars": {
        **_BERT, **_named("1 star", "2 stars", "3 stars", "4 stars", "5 stars"), "_num_labels": 5, "directionality": "bidi",
        "architectures": ["BertForSequenceClassification"], "finetuning_task": "sentiment-analysis", "output_past": True,
        "pad_token_id": 0,
    },
    "BERT, several topics": {
        **_BERT, **_named("toxic", "severe_toxic", "obscene"), "architectures": ["BertForSequenceClassification"],
        "problem_type": "multi_label_classification", "torch_dtype": "float32",
    },
    "left over from adapters": {
        **_BERT, **_named("no", "yes"), "architectures": ["BertForSequenceClassification"],
        "adapters": {"adapters": {"sst": "9076f36a74755ac4"}, "config_map": {}, "fusion_config_map": {}, "fusions": {}},
    },
    "left over from peft": {
        **_ROBERTA, "architectures": ["RobertaForSequenceClassification"], "base_model_name_or_path": "someone/roberta",
        "bias": "none", "inference_mode": True, "lora_alpha": 16, "lora_dropout": 0.1, "peft_type": "LORA", "r": 8,
        "target_modules": ["query", "value"], "task_type": "SEQ_CLS",
    },
    "trained with settings of its own": {
        **_BERT, "architectures": ["BertForSequenceClassification"], "label_smoothing": 0.1, "model_max_length": 512,
        "use_flash_attn": False, "cls_token_id": 101, "mask_token_id": 103, "sep_token_id": 102, "eos_token_id": [3, 99],
        "chunk_size_feed_forward": 3, "attention_window": [512, 512], "class_weights": [0.3, 0.7], "temperature": 0.05,
        "summary_activation": "tanh", "summary_first_dropout": 0.1, "summary_type": "cls_index", "summary_use_proj": True,
    },
    "pre-norm RoBERTa": {
        **_ROBERTA, "architectures": ["RobertaPreLayerNormForMaskedLM"], "model_type": "roberta-prelayernorm",
        "classifier_dropout": None, "position_embedding_type": "absolute", "torch_dtype": "float32", "use_cache": True,
    },
    "RoFormer": {
        **_BERT, "architectures": ["RoFormerForMaskedLM"], "embedding_size": 24, "gradient_checkpointing": False,
        "max_position_embeddings": 40, "model_type": "roformer", "pad_token_id": 0, "rotary_value": False,
        "tokenizer_class": "RoFormerTokenizer", "transformers_version": "4.5.0.dev0", "type_vocab_size": 2, "use_cache": True,
    },
    "RoFormer, small": {
        **_BERT, "architectures": ["RoFormerForMaskedLM"], "embedding_size": 16, "model_type": "roformer", "pad_token_id": 0,
        "rotary_value": True, "summary_activation": "gelu", "summary_last_dropout": 0.1, "summary_type": "first",
        "summary_use_proj": True, "use_cache": True,
    },
    "FNet": {
        **{k: v for k, v in _BERT.items() if "attention" not in k}, "architectures": ["FNetForPreTraining"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "gelu_new",
        "model_type": "fnet", "pad_token_id": 3, "tokenizer_class": "FNetTokenizer", "torch_dtype": "float32",
        "tpu_short_seq_length": 512, "type_vocab_size": 4, "use_tpu_fourier_optimizations": False, "use_latest": True,
    },
    "NomicBERT, vectors": {**_NOMIC, "architectures": ["NomicBertModel"]},
    "NomicBERT": {**_NOMIC, "architectures": ["NomicBertForMaskedLM"]},
    "ModernBERT, as published": {**_MODERNBERT_OLD, "architectures": ["ModernBertForMaskedLM"]},
    "ModernBERT, other steps and bases": {
        **_MODERNBERT_OLD, "architectures": ["ModernBertForSequenceClassification"], "global_attn_every_n_layers": 2,
        "global_rope_theta": 50.0, "local_rope_theta": 500.0, "norm_bias": True, "mlp_bias": True, "attention_bias": True,
        "classifier_bias": True, "decoder_bias": False, "reference_compile": False, "repad_logits_with_grad": False,
    },
    "ModernBERT, choices": {**_MODERNBERT, "architectures": ["ModernBertForMultipleChoice"], "classifier_pooling": "cls"},
    "ModernBERT, written by the reference of today": {
        **_MODERNBERT, "architectures": ["ModernBertForTokenClassification"], "dtype": "float32",
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_theta": 1000.0, "rope_type": "default"},
            "sliding_attention": {"factor": 2.0, "rope_theta": 100.0, "rope_type": "linear"},
        },
        "sparse_pred_ignore_index": -100, "sparse_prediction": False, "transformers_version": "5.23.0",
    },
    "written by the reference of today": {
        **_BERT, **_named("a", "b", "c"), "add_cross_attention": False, "architectures": ["BertForMultipleChoice"],
        "bos_token_id": None, "classifier_dropout": None, "dtype": "float32", "eos_token_id": None, "is_decoder": False,
        "pad_token_id": 0, "tie_word_embeddings": True, "transformers_version": "5.23.0", "use_cache": True,
    },
}  # fmt: skip

# What people's files hold besides: what stands in a BERT's, what it means, and (where the reference cannot read it) how it
# would have to be written for the reference.
ODD: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("id2label with a gap", {"id2label": {"0": "a", "2": "c"}}, {"num_labels": 2, "id2label": {0: "a", 2: "c"}}, {}),
    ("id2label from 1", {"id2label": {"1": "a", "2": "b"}}, {"num_labels": 2}, {}),
    ("doubled names", {"id2label": {"0": "a", "1": "a"}, "label2id": {"a": 1}}, {"label2id": {"a": 1}}, {}),
    ("fewer names", {"num_labels": 3, "id2label": {"0": "a", "1": "b"}}, {"id2label": {0: "a", 1: "b", 2: "LABEL_2"}}, {}),
    ("a name that is null", {"id2label": {"0": None, "1": "b"}}, {"id2label": {0: "LABEL_0", 1: "b"}}, {}),
    ("names that are numbers", {"id2label": {"0": 0, "1": 2.5}}, {"id2label": {0: "0", 1: "2.5"}}, {}),
    ("names in a list", {"id2label": ["a", "b", "c"]}, {"num_labels": 3}, {"id2label": {"0": "a", "1": "b", "2": "c"}}),
    ("no names", {"id2label": None, "label2id": None}, {"num_labels": 2}, {}),
    ("names in an empty object", {"id2label": {}}, {"num_labels": 2}, {"id2label": None}),
    ("ids that are texts", {**_named("a", "b"), "label2id": {"a": "0", "b": "1"}}, {"label2id": {"a": 0, "b": 1}}, {}),
    ("ids that are floats", {**_named("a", "b"), "label2id": {"a": 0.0, "b": 1.0}}, {"label2id": {"a": 0, "b": 1}}, {}),
    ("an id that is null", {**_named("a", "b"), "label2id": {"a": 0, "b": None}}, {"label2id": {"a": 0}}, {}),
    ("ids without names", {"label2id": {"a": 0, "b": 1}}, {"label2id": {"a": 0, "b": 1}, "num_labels": 2}, {}),
    ("num_labels as a text", {"num_labels": "3"}, {"num_labels": 3}, {"num_labels": 3}),
    ("num_labels as a float", {"num_labels": 3.0}, {"num_labels": 3}, {"num_labels": 3}),
    ("num_labels null", {"num_labels": None}, {"num_labels": 2}, {"num_labels": 2}),
    ("architectures as a text", {"architectures": "BertModel"}, {"architectures": ["BertModel"]}, {}),
    ("architectures null", {"architectures": None}, {"architectures": None}, {}),
    ("positions null", {"position_embedding_type": None}, {"position_embedding_type": "absolute"}, {}),
    ("several ends", {"eos_token_id": [2, 3]}, {"eos_token_id": [2, 3]}, {}),
    ("ids beyond the vocabulary", {"bos_token_id": 50256, "eos_token_id": -1, "sep_token_id": 10**6}, {"eos_token_id": -1}, {}),
    ("no padding", {"pad_token_id": -1}, {"pad_token_id": -1}, {}),
    ("padding null", {"pad_token_id": None}, {"pad_token_id": None}, {}),
    ("token types missing", {"type_vocab_size": ...}, {"type_vocab_size": 2}, {}),
    ("token types null", {"type_vocab_size": None}, {"type_vocab_size": 2}, {"type_vocab_size": 2}),
    ("flags null", {"output_attentions": None, "output_hidden_states": None}, {"output_attentions": False}, {}),
    ("flags of a decoder null", {"is_decoder": None, "use_cache": None}, {"is_decoder": False, "use_cache": True}, {"is_decoder": False, "use_cache": True}),
    ("chunks null", {"chunk_size_feed_forward": None}, {"chunk_size_feed_forward": None}, {"chunk_size_feed_forward": 0}),
    ("a list, a number, an object", {"notes": [1, [2.5, None]], "version": 3, "who": {"a": {"b": True}}}, {"notes": [1, [2.5, None]]}, {}),
    ("another family's fields", {"embedding_size": 128, "n_layers": 7, "num_hidden_groups": 1}, {"embedding_size": 24, "n_layers": 7}, {}),
    ("dtype with its module", {"torch_dtype": "torch.float32"}, {"torch_dtype": "torch.float32"}, {"torch_dtype": "float32"}),
]  # fmt: skip

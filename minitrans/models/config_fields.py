"""What each key of a config.json means to us: literal tables, for all families.

A key is a field of our config class, or it is here, or the file is refused: a key that nobody has looked at may change
the numbers. Fields go by BERT's names here; a configuration says which of them it has other names for.
"""

from __future__ import annotations

# Keys a config must hold: no default of ours would be right for a stranger's checkpoint (R3).
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "embedding_size",
)

# What the reference assumes where a file is silent and our class would assume something else (R3).
REFERENCE_DEFAULTS: dict[str, object] = {"layer_norm_eps": 1e-12}

# Largest sizes taken from a file; beyond these a typo or an attack is likelier than a model.
LARGEST: dict[str, int] = {
    "vocab_size": 100_000_000,
    "hidden_size": 1_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "intermediate_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "type_vocab_size": 1_000_000,
    "num_labels": 10_000,  # where the file names none of them; names are as many as the file is long
    "embedding_size": 1_000_000,
    "num_hidden_groups": 32,
    "inner_group_num": 4,
}

# Keys that must hold one of these values, and what another value would need.
MUST_EQUAL: dict[str, tuple[tuple[object, ...], str]] = {
    "is_encoder_decoder": ((False, None), "these are encoders or decoders, not pairs of them"),
    "chunk_size_feed_forward": (
        (0, None),
        "the feed-forward networks are not chunked; set it to 0, the numbers are the same",
    ),
    "quantization_config": ((None,), "quantised weights cannot be read; use the checkpoint they were made from"),
    "cross_attention_hidden_size": ((None,), "the memory must have the width of the model"),
    "per_layer_config": ((None,), "all layers have one configuration"),
    "use_bfloat16": ((False, None), "say dtype='bfloat16' instead"),
    "rope_scaling": ((None,), "these models have no rotary positions"),
    "rope_theta": ((None,), "these models have no rotary positions"),
}

# Fields that some families have; what a file of another may say there, because it says the same as nothing.
LACKING: dict[str, tuple[tuple[object, ...], str]] = {
    "position_embedding_type": (("absolute", None), "this family has no other positions"),
    "is_decoder": ((False, None), "this family has no decoder"),
    "add_cross_attention": ((False, None), "this family has no decoder"),
    "use_cache": ((True, False, None), "this family has no decoder, and no cache"),
}

_CODE = "names code; code from a checkpoint is never followed"
_KERNEL = "chose an implementation of the attention; say backend=... instead"
_HISTORY = "says who wrote the file, and how"
_GENERATION = "a setting of text generation, not of the model"
_TASK = "a remark on the task it was trained for"
_PYTHON = "a setting of the reference's Python interface"
_TRAINING = "a setting of training speed or memory"
_CONVERTED = "left over from the first TensorFlow checkpoints; nothing reads it"

IGNORED: dict[str, str] = {
    **dict.fromkeys(("auto_map", "custom_pipelines", "trust_remote_code"), _CODE),
    **dict.fromkeys(
        (
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_internal",
            "_attn_implementation_autoset",
            "experts_implementation",
            "_experts_implementation",
            "_experts_implementation_internal",
        ),
        _KERNEL,
    ),
    **dict.fromkeys(
        (
            "architectures",
            "transformers_version",
            "_name_or_path",
            "name_or_path",
            "_commit_hash",
            "language",
            "name",
            "tokenizer_class",
            "sentence_transformers",
            "tie_weights_",
        ),
        _HISTORY,
    ),
    **dict.fromkeys(("finetuning_task", "task_specific_params", "prefix", "_num_labels"), _TASK),
    **dict.fromkeys(("return_dict", "use_return_dict", "output_past", "torchscript", "tf_legacy_loss"), _PYTHON),
    **dict.fromkeys(("gradient_checkpointing", "xla_device"), _TRAINING),
    **dict.fromkeys(
        (
            "directionality",
            "down_scale_factor",
            "gap_size",
            "layers_to_keep",
            "net_structure_type",
            "num_memory_blocks",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        ),
        _CONVERTED,
    ),
    **dict.fromkeys(
        (
            "assistant_confidence_threshold",
            "bad_words_ids",
            "begin_suppress_tokens",
            "decoder_start_token_id",
            "diversity_penalty",
            "do_sample",
            "early_stopping",
            "encoder_no_repeat_ngram_size",
            "encoder_repetition_penalty",
            "epsilon_cutoff",
            "eta_cutoff",
            "exponential_decay_length_penalty",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "length_penalty",
            "max_length",
            "min_length",
            "no_repeat_ngram_size",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "num_beam_groups",
            "num_beams",
            "num_return_sequences",
            "output_scores",
            "remove_invalid_values",
            "repetition_penalty",
            "return_dict_in_generate",
            "sep_token_id",
            "suppress_tokens",
            "target_lookbehind",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
        ),
        _GENERATION,
    ),
}

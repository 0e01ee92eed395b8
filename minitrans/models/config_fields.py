"""What the keys of a config.json mean that are no fields of a configuration: literal tables, for all families.

A key that is neither a field nor here is read by nothing: it is kept, written back, and named in a warning. Fields go by
BERT's names here; a configuration says which of them it has other names for.
"""

from __future__ import annotations

from typing import Any

# Keys a file must hold: no default of ours would be right for a stranger's checkpoint (R3).
REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "embedding_size",
)

# Where null says what silence says; anywhere else it is no value.
NULL_IS_SILENCE = (
    *REQUIRED,
    "type_vocab_size", "position_embedding_type", "is_decoder", "add_cross_attention", "use_cache", "num_labels",
    "id2label", "label2id", "pruned_heads", "output_attentions", "output_hidden_states", "return_dict",
    "tie_word_embeddings",
)  # fmt: skip

# Largest sizes taken from a file; beyond these a typo or an attack is likelier than a model.
LARGEST: dict[str, int] = {
    "vocab_size": 100_000_000,
    "hidden_size": 1_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "intermediate_size": 10_000_000,
    "max_position_embeddings": 100_000_000,
    "type_vocab_size": 1_000_000,
    "embedding_size": 1_000_000,
    "num_hidden_groups": 32,
    "inner_group_num": 4,
}

MOST_LABELS = 10_000  # where the file does not name each of them; names are as many as the file is long

_NO_DECODER = "this family has no decoder: use BertLMHeadModel or another family that has one"
_NO_ROTARY = "these models have no rotary positions: leave it out, or ask for attention='rotary' in fresh models"
# Keys that are known to change numbers, no fields of the family: the values at which they change none (null is one of them),
# and what to do about any other.
CHANGES_NUMBERS: dict[str, tuple[tuple[object, ...], str]] = {
    "is_encoder_decoder": ((False,), "these are encoders or decoders, not pairs of them: use minitrans.models.transformer"),
    "is_decoder": ((False,), _NO_DECODER),
    "add_cross_attention": ((False,), _NO_DECODER),
    "cross_attention_hidden_size": ((), "the memory must have the width of the model: project it before"),
    "position_embedding_type": (("absolute",), "this family has no other positions: leave it out"),
    "rope_scaling": ((), _NO_ROTARY),
    "rope_theta": ((), _NO_ROTARY),
    "rope_parameters": ((), _NO_ROTARY),
    "rotary_emb_base": ((), _NO_ROTARY),
    "rotary_emb_fraction": ((0, 0.0), _NO_ROTARY),
    "feed_forward_type": (("original",), "these models have no gated feed-forward network: the file is of another model"),
    "per_layer_config": ((), "all layers have one configuration: make them alike"),
    "tie_last_hidden_states": ((True,), "the last hidden state is the output: leave it out"),
    "inv_coeff_init_option": ((False,), "the reference cannot run another beginning of the pseudo-inverse: leave it out"),
    "z_steps": ((0, 1), "no step is taken after the last block: the reference takes none either"),
    "use_bidirectional_attention": ((False,), "these decoders are causal: leave it out"),
    "original_max_position_embeddings": ((), "say it in rope_parameters"),
    "quantization_config": ((), "quantised weights cannot be read: use the checkpoint they were made from"),
}  # fmt: skip

_CODE = "names code; code from a checkpoint is never followed"
# Keys that are read by nothing and not written back, and why.
NOT_KEPT: dict[str, str] = {
    "auto_map": _CODE,
    "custom_pipelines": _CODE,
    "trust_remote_code": _CODE,
    "attn_implementation": "chose an implementation of the attention; say backend=... instead",
    "experts_implementation": "chose an implementation of experts; there are none",
    "use_return_dict": "an old name of return_dict, which was never read from a file",
    "name_or_path": "says where the writer had it",
    "transformers_version": "says who wrote the file",
}
PRIVATE = "a private note of whoever wrote the file"  # of every key that begins with "_"

# Keys that published files are full of: read by nothing and kept like any other, without a word.
WELL_KNOWN = {
    "attention_mode", "cache_implementation", "chunk_size_feed_forward", "cls_token_id", "decoder_start_token_id",
    "deterministic_flash_attn", "directionality", "down_scale_factor", "finetuning_task", "gap_size", "generator_size",
    "gradient_checkpointing", "ignore_attention_mask", "language", "layers_to_keep", "mask_token_id", "n_ctx", "name",
    "net_structure_type", "num_memory_blocks", "onnx_export", "output_past", "pooler_fc_size", "pooler_num_attention_heads",
    "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "prefix", "pretraining_tp", "reference_compile",
    "repad_logits_with_grad", "sbert_ce_default_activation_function", "sentence_transformers", "sep_token_id",
    "task_specific_params", "tf_legacy_loss", "tie_weights_", "tokenizer_class", "torchscript", "tpu_short_seq_length",
    "use_cache", "use_tpu_fourier_optimizations", "xla_device",
    # of T5 and of BART's kin, told by other fields or by the class
    "add_bias_logits", "add_final_layer_norm", "classif_dropout", "dense_act_fn", "extra_pos_embeddings",
    "force_bos_token_to_be_generated", "is_gated_act", "normalize_before", "normalize_embedding", "static_position_embeddings",
    # which `generate` reads
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping", "encoder_no_repeat_ngram_size",
    "forced_bos_token_id", "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "output_scores", "repetition_penalty", "return_dict_in_generate",
    "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip


def refused_value(config: Any, name: str, value: object) -> str | None:
    """What a setting that is no field would have to be, where it is known to change numbers; None where it may stay."""
    harmless, remedy = {**CHANGES_NUMBERS, **config.changes_numbers}.get(name, ((value,), ""))
    if value is None or any(value == each and type(value) is type(each) for each in harmless):
        return None
    return f"{harmless[0] if harmless else None!r}: {remedy}"

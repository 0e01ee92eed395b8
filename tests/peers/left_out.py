"""What of the reference's suites is not for us, by the name of a test (a pattern as of file names), and why."""

from __future__ import annotations

_PRIVATE = "looks into private parts of their library"
_BACKEND = "how attention is computed is a setting of the model (set_backend), not of its configuration"
_BUILT = "a configuration that a model has is not assigned to, where its modules were built from it"
_RUN_AGAIN = "counts the calls of a class of theirs; that numbers stay the same is tested in tests/models"

MODELS: dict[str, str] = {
    "test_can_load_ignoring_mismatched_shapes": "a head of another size is refused by a CheckpointError, which is a ValueError",
    "test_cannot_load_with_meta_device_context_manager": "a model loads with its values, whatever the default device is",
    "test_causal_lm_loss_honors_shift_labels": "labels are shifted by the model: it has no argument shift_labels",
    "test_config_attn_implementation_setter": _BACKEND,
    "test_generation_tester_mixin_inheritance": "their suite of generation is another; ours is tests/generation",
    "test_gradient_checkpointing_enable_disable": _RUN_AGAIN,
    "test_load_with_mismatched_shapes": _BUILT,
    "test_model_get_set_embeddings": "a token table of another size than the head above it has is refused",
    "test_model_weights_reload_no_missing_tied_weights": "a file without the body's weights is refused",
    "test_problem_types": "one label with single_label_classification is refused: nothing can be learnt",
    "test_resize_embeddings_untied_no_reinit_on_post_init": _PRIVATE,
    "test_resize_tokens_embeddings": "wants their words where a size is refused, after all numbers are as it expects",
    "test_sdpa_can_dispatch_non_composite_models": _BACKEND,
    "test_tied_weights_keys": _PRIVATE,
    "test_training_gradient_checkpointing*": _RUN_AGAIN,
}
_CHAT = "there are no chat models here"
_TEMPLATE = "where special tokens stand is the vocabulary's template; a flag that would change it is refused"
TOKENIZERS: dict[str, str] = {
    "test_added_tokens_serialization": _PRIVATE,
    "test_bos_token_with_add_bos_token_*": _TEMPLATE,
    "test_chat_template*": _CHAT,
    "test_continue_final_message*": _CHAT,
    "test_jinja_*": _CHAT,
    "test_maximum_encoding_length_*": "wants a log of the logger named transformers, and overflowing_tokens beside the pieces",
    "test_tokenizer_initialization_with_conflicting_key": "an unknown setting is refused by a TypeError that lists the known",
    "test_tokenizer_store_full_signature": _PRIVATE,
}

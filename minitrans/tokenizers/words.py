"""The words that scripts pass to a tokenizer or ask of it: what each does here. One literal table for each door."""

from __future__ import annotations

from minitrans.words import PUSHING, WHERE, Word, ignored, refused

_INTERNAL = "what the reference's classes tell each other"
_OF_MODELS = "a tokenizer has no weights"
_OF_CALLS = "says nothing at loading, in the reference too; pass it when the tokenizer is called"
_OF_OTHERS = "an option of other families' vocabularies"
_ONE = "there is one implementation, which is fast"
_CHAT = "there are no chat models here; write the text yourself"
_TEMPLATE = (
    "the template of the vocabulary says where special tokens stand; change it in tokenizer.json (post_processor)"
)

ENDS = ("bos_token", "eos_token")

# The constructor takes these besides files, special tokens, and the settings of `folder.PLAIN`.
SETTINGS: dict[str, Word] = {
    "vocab": Word("another name of vocab_file", "vocab_file"),
    "merges": Word("another name of merges_file", "merges_file"),
    "max_len": Word("another name of model_max_length", "model_max_length"),
    "use_fast": ignored(_ONE),
    "from_slow": ignored(_ONE),
    "legacy": ignored("chooses between versions of code that is not here"),
    "backend": refused(_ONE, "tokenizers"),
    "verbose": ignored("pass verbose=False to a call, to keep it from warning"),
    "errors": refused("bytes that are no UTF-8 are decoded to U+FFFD", "replace"),
    "do_basic_tokenize": refused("texts are split into words first; pass words with is_split_into_words=True", True),
    "never_split": refused("add words that must stay whole with add_tokens", [], ()),
    "sp_model_kwargs": refused("pieces are never sampled; leave it out", {}),
    "chat_template": refused(_CHAT),
    **{f"add_{end}": refused(_TEMPLATE) for end in ENDS},
    "trust_remote_code": ignored("code of a checkpoint is never run, and this class was asked for"),
    "code_revision": ignored("code of a checkpoint is never run"),
    "gguf_file": refused("use the checkpoint that the GGUF file was made from"),
    "mistral_format": refused("only tokenizer.json and the families' own files are read", False),
    "fix_mistral_regex": ignored("no pattern is ever replaced"),
    **dict.fromkeys(("torch_dtype", "dtype", "device", "device_map", "attn_implementation"), ignored(_OF_MODELS)),
    **dict.fromkeys(("low_cpu_mem_usage", "use_safetensors", "variant"), ignored(_OF_MODELS)),
    **dict.fromkeys(("padding", "truncation", "max_length", "stride", "pad_to_multiple_of"), ignored(_OF_CALLS)),
    **dict.fromkeys(("truncation_strategy", "return_tensors", "is_split_into_words"), ignored(_OF_CALLS)),
    **dict.fromkeys(("processor_class", "auto_map", "files_loaded", "tokenizer_class"), ignored(_INTERNAL)),
}  # fmt: skip

# Options of a family's pipeline change nothing in a family that has none such.
FOREIGN: dict[str, Word] = dict.fromkeys(
    ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "trim_offsets", "keep_accents"),
    ignored(_OF_OTHERS),
)

# In the place of a row above, where a family has no such token: it is not added.
WITHOUT: dict[str, Word] = {end: refused(_TEMPLATE, False) for end in ENDS}

# AutoTokenizer takes these besides, to find the class.
FINDING: dict[str, Word] = {
    **WHERE,
    "config": Word("a model's configuration, read instead of config.json", "config"),
    "trust_remote_code": Word("refused where the checkpoint names code, which is never run", "trust_remote_code"),
    "tokenizer_type": Word("the model_type whose tokenizer to take, whatever the files say", "tokenizer_type"),
}

# A call takes these besides the arguments that it names.
CALLING: dict[str, Word] = {
    **{word: Word("whether to return it", word) for word in (
        "return_token_type_ids", "return_attention_mask", "return_overflowing_tokens", "return_special_tokens_mask",
        "return_offsets_mapping", "return_length",
    )},
    "split_special_tokens": Word("whether special tokens in a text are read as text", "split_special_tokens"),
    "max_target_length": Word("max_length of text_target", "max_target_length"),
    "pad_to_max_length": Word("the older padding='max_length'", "pad_to_max_length"),
    "verbose": Word("False = no warnings", "verbose"),
    "truncation_strategy": refused("pass truncation=... with the same word", "do_not_truncate"),
    "return_input_ids": refused("input_ids are always returned", True),
    "tokenizer_kwargs": refused("pass what is in it as arguments: tokenizer(texts, **tokenizer_kwargs)", {}),
    "max_len": refused("pass max_length=..."),
    "return_tensor": refused("pass return_tensors=..."),
    **dict.fromkeys(("src_lang", "tgt_lang"), refused("set tokenizer.src_lang and tokenizer.tgt_lang")),
    "sanitize_control_tokens": refused(_CHAT, False),
}  # fmt: skip

DECODING: dict[str, Word] = {
    "use_source_tokenizer": ignored("there is one vocabulary for all"),
    "spaces_between_special_tokens": ignored("the decoder of the vocabulary puts the spaces"),
}

SAVING: dict[str, Word] = {
    "legacy_format": refused("tokenizer.json is written; save_vocabulary writes the older files", False),
    "save_format": refused("tokenizer.json is written", "hf"),
    "save_jinja_files": ignored(_CHAT),
    "filename_prefix": refused("the files have the names that are looked for; save into a folder of its own", ""),
    "push_to_hub": Word("upload the files that were written", "push_to_hub"),
    **PUSHING,
}

# What the reference has or had, and a tokenizer here has not.
ABSENT: dict[str, str] = {
    "as_target_tokenizer": "pass the targets as text_target=",
    "prepare_seq2seq_batch": "call the tokenizer with text_target=",
    "prepare_for_model": "call the tokenizer with the text; ids alone go to build_inputs_with_special_tokens",
    "truncate_sequences": "call the tokenizer with truncation=True",
    "apply_chat_template": _CHAT,
    "register_for_auto_class": "name the class yourself",
    "sp_model": "the sentencepiece file is read into backend_tokenizer",
    "basic_tokenizer": "see backend_tokenizer.normalizer and .pre_tokenizer",
    "wordpiece_tokenizer": "see backend_tokenizer.model",
}

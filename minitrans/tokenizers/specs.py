"""The tokenizers of the model families: a row for what each presumes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tokenizers import Tokenizer as Backend

from minitrans.tokenizers import byte_level_bpe, languages, sentencepiece_bpe, sentencepiece_model, wordpiece

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class TokenizerSpec:
    """What a tokenizer class presumes.

    Attributes:
        name: the class name, as checkpoints write it.
        model: the kind of model its tokenizer.json must hold, None for any.
        raw_files: the vocabulary files it can be built from.
        special_tokens: the special tokens by their names, unless files or caller say otherwise.
        options: the options of its pipeline and their defaults.
        input_names: the fields its models take.
        build: makes the bare model from the raw files, the special tokens by name, and all special texts.
        add_normalizer_and_decoder: gives a bare model the rest of the family's pipeline.
        extra_tokens: special tokens without a name, such as the codes of languages.
        mask_lstrip: whether the mask token swallows the space on its left (R8).
        padding_side: unless the files say otherwise.
    """

    name: str
    model: str | None = None
    raw_files: tuple[str, ...] = ()
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    build: Callable[[Mapping[str, Any], Mapping[str, str], Collection[str]], Backend] | None = None
    add_normalizer_and_decoder: Callable[[Backend, Mapping[str, Any], Mapping[str, str]], None] | None = None
    mask_lstrip: bool = False
    extra_tokens: tuple[str, ...] = ()
    padding_side: str = "right"


_BERT_TOKENS = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_ROBERTA_TOKENS = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>", "mask_token": "<mask>",
}  # fmt: skip

GENERIC = TokenizerSpec("PreTrainedTokenizerFast")
BERT = TokenizerSpec(
    "BertTokenizer",
    model="WordPiece",
    raw_files=("vocab.txt",),
    special_tokens=_BERT_TOKENS,
    options={"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None},
    input_names=("input_ids", "token_type_ids", "attention_mask"),
    build=wordpiece.build,
    add_normalizer_and_decoder=wordpiece.add_normalizer_and_decoder,
)
DISTILBERT = replace(BERT, name="DistilBertTokenizer", input_names=GENERIC.input_names)  # D1: no token types
ROFORMER = replace(BERT, name="RoFormerTokenizer")
MPNET = replace(
    DISTILBERT,
    name="MPNetTokenizer",
    special_tokens={**_ROBERTA_TOKENS, "unk_token": "[UNK]"},
    add_normalizer_and_decoder=wordpiece.add_normalizer_and_roberta_template,
    mask_lstrip=True,
)
ROBERTA = TokenizerSpec(
    "RobertaTokenizer",
    model="BPE",
    raw_files=("vocab.json", "merges.txt"),
    special_tokens=_ROBERTA_TOKENS,
    options={"add_prefix_space": False, "trim_offsets": True},
    build=byte_level_bpe.build,
    add_normalizer_and_decoder=byte_level_bpe.add_normalizer_and_decoder,
    mask_lstrip=True,
)
BART = replace(ROBERTA, name="BartTokenizer")
GPT2 = TokenizerSpec(
    "GPT2Tokenizer",
    model="BPE",
    raw_files=("vocab.json", "merges.txt"),
    special_tokens=dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    options={"add_prefix_space": False, "add_bos_token": False, "add_eos_token": False},
    build=byte_level_bpe.build,
    add_normalizer_and_decoder=byte_level_bpe.add_decoder,
)
QWEN2 = replace(
    GPT2,
    name="Qwen2Tokenizer",
    special_tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
    add_normalizer_and_decoder=byte_level_bpe.add_qwen2_decoder,
)
LLAMA = TokenizerSpec(
    "LlamaTokenizer",
    model="BPE",
    raw_files=("tokenizer.model",),
    special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    options={"add_prefix_space": True, "legacy": False, "add_bos_token": True, "add_eos_token": False},
    build=sentencepiece_bpe.build,
    add_normalizer_and_decoder=sentencepiece_bpe.add_spaces_and_decoder,
    padding_side="left",
)
GEMMA = replace(
    LLAMA,
    name="GemmaTokenizer",
    special_tokens={"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    options={"add_bos_token": True, "add_eos_token": False},
    add_normalizer_and_decoder=sentencepiece_bpe.add_marks_and_decoder,
)
XLM_ROBERTA = TokenizerSpec(
    "XLMRobertaTokenizer",
    model="Unigram",
    raw_files=("sentencepiece.bpe.model",),
    special_tokens=_ROBERTA_TOKENS,
    options={"add_prefix_space": True},
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.xlm_roberta_pieces),
    add_normalizer_and_decoder=sentencepiece_model.add_normalizer_and_decoder,
    mask_lstrip=True,
)
CAMEMBERT = replace(
    XLM_ROBERTA,
    name="CamembertTokenizer",
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.camembert_pieces),
)
BIG_BIRD = TokenizerSpec(
    "BigBirdTokenizer",
    model="Unigram",
    raw_files=("spiece.model",),
    special_tokens={**_ROBERTA_TOKENS, "sep_token": "[SEP]", "cls_token": "[CLS]", "mask_token": "[MASK]"},
    options={"add_prefix_space": True},
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.big_bird_pieces),
    add_normalizer_and_decoder=sentencepiece_model.add_big_bird_normalizer_and_decoder,
)
DEBERTA_V2 = TokenizerSpec(
    "DebertaV2Tokenizer",
    model="Unigram",
    raw_files=("spm.model",),
    special_tokens={**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"},
    options={"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True},
    input_names=("input_ids", "attention_mask", "token_type_ids"),
    build=sentencepiece_model.build_deberta_v2,
    add_normalizer_and_decoder=sentencepiece_model.add_deberta_v2_normalizer_and_decoder,
)
ALBERT = TokenizerSpec(
    "AlbertTokenizer",
    model="Unigram",
    raw_files=("spiece.model",),
    special_tokens={
        **_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>",
    },
    options={"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.albert_pieces),
    add_normalizer_and_decoder=sentencepiece_model.add_albert_normalizer_and_decoder,
)  # fmt: skip
FNET = replace(
    ALBERT,
    name="FNetTokenizer",
    input_names=("input_ids", "token_type_ids"),
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.fnet_pieces),
)
_TEXT_TO_TEXT = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
T5 = TokenizerSpec(
    "T5Tokenizer",
    model="Unigram",
    raw_files=("spiece.model",),
    special_tokens=_TEXT_TO_TEXT,
    options={"extra_ids": 100, "add_prefix_space": True},
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.t5_pieces),
    add_normalizer_and_decoder=sentencepiece_model.add_t5_decoder,
)
PEGASUS = TokenizerSpec(
    "PegasusTokenizer",
    model="Unigram",
    raw_files=("spiece.model",),
    special_tokens={**_TEXT_TO_TEXT, "mask_token": "<mask_2>"},
    options={"offset": sentencepiece_model.PEGASUS_OFFSET, "mask_token_sent": "<mask_1>"},
    build=partial(sentencepiece_model.build, layout=sentencepiece_model.pegasus_pieces),
    add_normalizer_and_decoder=sentencepiece_model.add_pegasus_normalizer_and_decoder,
    extra_tokens=sentencepiece_model.PEGASUS_EXTRA,
)
MBART = TokenizerSpec(
    "MBartTokenizer",
    model="Unigram",
    raw_files=("sentencepiece.bpe.model",),
    special_tokens=_ROBERTA_TOKENS,
    options={"src_lang": "en_XX", "tgt_lang": None},
    build=sentencepiece_model.build_mbart,
    add_normalizer_and_decoder=sentencepiece_model.add_mbart_decoder,
    mask_lstrip=True,
    extra_tokens=languages.MBART,
)
MBART50 = replace(
    MBART,
    name="MBart50Tokenizer",
    special_tokens={name: token for name, token in _ROBERTA_TOKENS.items() if name != "bos_token"},
    build=partial(
        sentencepiece_model.build,
        layout=partial(sentencepiece_model.xlm_roberta_pieces, languages=languages.MBART50),
    ),
    add_normalizer_and_decoder=sentencepiece_model.add_single_spaces_and_decoder,
    extra_tokens=languages.MBART50,
)
NLLB = replace(
    MBART,
    name="NllbTokenizer",
    model="BPE",
    options={"src_lang": "eng_Latn", "tgt_lang": None, "legacy_behaviour": False},
    build=sentencepiece_bpe.build_nllb,
    add_normalizer_and_decoder=sentencepiece_bpe.add_nllb_decoder,
    extra_tokens=languages.NLLB,
)
MARIAN = TokenizerSpec(
    "MarianTokenizer",
    raw_files=("vocab.json", "source.spm", "target.spm"),
    special_tokens=_TEXT_TO_TEXT,
    build=sentencepiece_model.refuse_marian,
)
M2M100 = TokenizerSpec(
    "M2M100Tokenizer",
    raw_files=("vocab.json", "sentencepiece.bpe.model"),
    special_tokens={name: text for name, text in _ROBERTA_TOKENS.items() if name not in ("cls_token", "mask_token")},
    options={"src_lang": "en", "tgt_lang": None, "language_codes": "m2m100"},
    build=sentencepiece_bpe.build_m2m100,
    add_normalizer_and_decoder=sentencepiece_bpe.add_m2m100_decoder,
    extra_tokens=languages.M2M100,
)

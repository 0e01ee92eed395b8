"""The tokenizer classes by the names that checkpoints use for them, and AutoTokenizer, which finds the right one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

from minitrans.errors import NotSupportedError
from minitrans.families import FAMILIES
from minitrans.files import printable
from minitrans.hub import local_folder
from minitrans.tokenizers import specs, words
from minitrans.tokenizers.folder import CONFIG_FILE, MODEL_CONFIG_FILE, PATTERNS, TOKENIZER_FILE
from minitrans.tokenizers.guards import fault, read_if_there
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.tokenizers.translation import TranslationTokenizer
from minitrans.words import read_words


class BertTokenizer(Tokenizer):
    """WordPiece with BERT's cleaning; `[CLS] A [SEP] B [SEP]` with token types 0 and 1."""

    spec = specs.BERT


class DistilBertTokenizer(Tokenizer):
    """BERT's, without token types in what it returns (D1)."""

    spec = specs.DISTILBERT


class DebertaV2Tokenizer(Tokenizer):
    """Unigram from a sentencepiece model with its own ids, punctuation as it comes; BERT's template and token types."""

    spec = specs.DEBERTA_V2


class BigBirdTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with its own ids; BERT's template, without token types unless they are asked for."""

    spec = specs.BIG_BIRD


class AlbertTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with its own ids; pairs as BERT, without token types unless they are asked for."""

    spec = specs.ALBERT


class MPNetTokenizer(Tokenizer):
    """BERT's pieces in RoBERTa's template; no token types (P1)."""

    spec = specs.MPNET


class RobertaTokenizer(Tokenizer):
    """Byte-level BPE; `<s> A </s></s> B </s>`, no token types (R8)."""

    spec = specs.ROBERTA


class BartTokenizer(Tokenizer):
    """RoBERTa's."""

    spec = specs.BART


class T5Tokenizer(Tokenizer):
    """Unigram from a sentencepiece model with its own ids, and 100 sentinels that count down; `A </s> B </s>` (T5)."""

    spec = specs.T5


class PegasusTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with ids from 103 on, two masks and 101 unused tokens before; `A B </s>`."""

    spec = specs.PEGASUS


class MBartTokenizer(TranslationTokenizer):
    """Unigram from a sentencepiece model with XLM-R's ids and 25 languages; `A B </s> en_XX`."""

    spec = specs.MBART
    code_is_last = True


class MBart50Tokenizer(TranslationTokenizer):
    """The same with 52 languages; `en_XX A B </s>`."""

    spec = specs.MBART50


class NllbTokenizer(TranslationTokenizer):
    """BPE from a sentencepiece model with XLM-R's ids and 202 languages; `eng_Latn A B </s>`."""

    spec = specs.NLLB


class MarianTokenizer(Tokenizer):
    """From a tokenizer.json, which has the source's side; the two sentencepiece files of the published models are refused."""

    spec = specs.MARIAN

    def _for_targets(self) -> NoReturn:
        raise NotSupportedError(
            "text_target: a tokenizer.json of Marian has the pieces of the source, the target has others: make the labels with "
            "transformers.MarianTokenizer"
        )


class M2M100Tokenizer(TranslationTokenizer):
    """BPE from a sentencepiece model with the ids of vocab.json and 100 languages; `__en__ A B </s>`."""

    spec = specs.M2M100
    language_token, language_code = "__{}__", "([a-z]{2,3})"

    def decode(self, token_ids: Any, *how: Any, **options: Any) -> Any:
        """As of every tokenizer, without spaces at the ends."""
        text = super().decode(token_ids, *how, **options)
        return text.strip() if isinstance(text, str) else text


class GPT2Tokenizer(Tokenizer):
    """Byte-level BPE; `A B`, nothing added."""

    spec = specs.GPT2


class FNetTokenizer(Tokenizer):
    """ALBERT's with other ids; it gives token types, and no mask, which its models do not look at (FN1)."""

    spec = specs.FNET


class RoFormerTokenizer(Tokenizer):
    """WordPiece within the words of jieba, a segmenter of Chinese that is not served here."""

    spec = specs.ROFORMER

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **overrides: Any) -> NoReturn:
        """Raises NotSupportedError: its files do not tell how a text falls into words."""
        raise NotSupportedError(
            "RoFormer's tokenizer cuts Chinese texts by jieba's dictionary, which minitrans does not have: make the ids with "
            "transformers.RoFormerTokenizer; for other texts BertTokenizer.from_pretrained opens the same vocabulary"
        )


class Qwen2Tokenizer(Tokenizer):
    """Byte-level BPE with its own pattern of words; nothing added."""

    spec = specs.QWEN2


class LlamaTokenizer(Tokenizer):
    """BPE from a sentencepiece model, with bytes for what it lacks; `<s> A`."""

    spec = specs.LLAMA


class GemmaTokenizer(Tokenizer):
    """The same, with spaces where they stand and special tokens of its own; `<bos> A`."""

    spec = specs.GEMMA


class XLMRobertaTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with XLM-R's ids (R8); pairs as RoBERTa."""

    spec = specs.XLM_ROBERTA


class CamembertTokenizer(Tokenizer):
    """Unigram from a sentencepiece model with CamemBERT's ids (R8); pairs as RoBERTa."""

    spec = specs.CAMEMBERT


FNetTokenizerFast = FNetTokenizer
RoFormerTokenizerFast = RoFormerTokenizer
BertTokenizerFast = ElectraTokenizer = ElectraTokenizerFast = BertTokenizer
DistilBertTokenizerFast = DistilBertTokenizer
AlbertTokenizerFast = AlbertTokenizer
DebertaV2TokenizerFast = DebertaV2Tokenizer
BigBirdTokenizerFast = BigBirdTokenizer
MPNetTokenizerFast = MPNetTokenizer
RobertaTokenizerFast = LongformerTokenizer = LongformerTokenizerFast = RobertaTokenizer
GPT2TokenizerFast = GPT2Tokenizer
Qwen2TokenizerFast = Qwen2Tokenizer
LlamaTokenizerFast = LlamaTokenizer
GemmaTokenizerFast = GemmaTokenizer
BartTokenizerFast = BartTokenizer
T5TokenizerFast = T5Tokenizer
PegasusTokenizerFast = PegasusTokenizer
MBartTokenizerFast = MBartTokenizer
MBart50TokenizerFast = MBart50Tokenizer
NllbTokenizerFast = NllbTokenizer
MarianTokenizerFast = MarianTokenizer
M2M100TokenizerFast = M2M100Tokenizer
XLMRobertaTokenizerFast = XLMRobertaTokenizer
CamembertTokenizerFast = CamembertTokenizer
PreTrainedTokenizer = PreTrainedTokenizerFast = Tokenizer  # what tokenizer.json says: ModernBERT

_OF_SEVERAL = {"MBart50Tokenizer": MBart50Tokenizer, "NllbTokenizer": NllbTokenizer}  # models of other families' types
_BY_FILE = {"vocab.txt": BertTokenizer, "merges.txt": RobertaTokenizer}  # a sentencepiece file alone does not tell


def known_classes() -> dict[str, type[Tokenizer]]:
    """The tokenizers of the families, and the names of what is read from tokenizer.json alone."""
    named = {row.tokenizer: globals()[row.tokenizer] for row in FAMILIES.values()}
    return {**named, **_OF_SEVERAL, "TokenizersBackend": Tokenizer}


def tokenizer_class(folder: Path, config: Any = None) -> type[Tokenizer]:
    """The class for the files in `folder`: named by tokenizer_config.json or config.json, or told by its files.

    A `config` (any object with model_type, and perhaps tokenizer_class) is read in place of config.json.

    Raises:
        CheckpointError: if the named class is not one of ours, or nothing tells.
    """
    known = known_classes()
    model = read_if_there(folder / MODEL_CONFIG_FILE) if config is None else _naming(config)
    for path, fields in (
        (folder / CONFIG_FILE, read_if_there(folder / CONFIG_FILE)),
        (folder / MODEL_CONFIG_FILE, model),
    ):
        name = fields.get("tokenizer_class")
        if name is not None and str(name).removesuffix("Fast") not in known:
            raise fault(path, f"tokenizer_class: expected one of {', '.join(known)}, found {printable(name)!r}")
        if name is not None:
            return known[str(name).removesuffix("Fast")]
    source = model.get("encoder") or model  # of two that are joined
    row = FAMILIES.get(str(source.get("model_type")) if isinstance(source, dict) else "")
    if row is not None:
        return known[row.tokenizer]
    if os.path.lexists(folder / TOKENIZER_FILE):
        return Tokenizer
    for file, found in _BY_FILE.items():
        if os.path.lexists(folder / file):
            return found
    wanted = f"{TOKENIZER_FILE}, a tokenizer_class in {CONFIG_FILE} or a model_type of {', '.join(FAMILIES)}"
    what = f"expected {wanted} in {MODEL_CONFIG_FILE}, found none; name the class, as BertTokenizer.from_pretrained"
    raise fault(folder, what)


def _naming(config: object) -> dict[str, Any]:
    return {name: getattr(config, name, None) for name in ("tokenizer_class", "model_type")}


class AutoTokenizer:
    """Opens a checkpoint's tokenizer without naming its class. It has no instances."""

    def __init__(self) -> None:
        raise TypeError("AutoTokenizer has no instances; use AutoTokenizer.from_pretrained(folder_or_name)")

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path, **overrides: Any) -> Tokenizer:
        """As `Tokenizer.from_pretrained`, with the class that the checkpoint asks for. No code of it is run.

        Args:
            pretrained_model_name_or_path: folder or hub name.
            overrides: as there; also `config`, a model's configuration in place of config.json, and `tokenizer_type`, the
                model_type whose tokenizer to take.
        """
        found, overrides = read_words(words.FINDING, overrides, "AutoTokenizer.from_pretrained", {})
        config, model_type = found.pop("config", None), found.pop("tokenizer_type", None)
        trusted = found.pop("trust_remote_code", False)
        folder = local_folder(pretrained_model_name_or_path, patterns=PATTERNS, **found)
        if trusted and "auto_map" in read_if_there(folder / CONFIG_FILE):
            raise NotSupportedError(
                "trust_remote_code=True is not offered: code of a checkpoint is never run; leave it out, or name the class"
            )
        if model_type is not None and model_type not in FAMILIES:
            raise ValueError(f"tokenizer_type={model_type!r}: expected one of {', '.join(FAMILIES)}")
        kind = known_classes()[FAMILIES[model_type].tokenizer] if model_type else tokenizer_class(folder, config)
        tokenizer = kind.from_pretrained(folder, **overrides)
        tokenizer.name_or_path = str(pretrained_model_name_or_path)
        return tokenizer

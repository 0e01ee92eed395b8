"""The tokenizers of the model families: what each presumes, and which builder makes it from raw vocabulary files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from minitrans.errors import CheckpointError
from minitrans.files import printable
from minitrans.tokenizers import byte_level_bpe, sentencepiece_model, wordpiece
from minitrans.tokenizers.backend import added_tokens
from minitrans.tokenizers.settings import Settings, text_of

Dress = Callable[[Backend, Mapping[str, Any], Mapping[str, str]], None]


@dataclass(frozen=True)
class Family:
    """What a tokenizer class presumes.

    Attributes:
        name: the class name, as checkpoints write it.
        model: the kind of model its tokenizer.json must hold, None for any.
        raw_files: the vocabulary files it can be built from.
        roles: role -> token, unless files or caller say otherwise.
        options: the options of its pipeline and their defaults.
        input_names: the fields its models take.
        dress: gives a bare model the family's pipeline.
        mask_lstrip: whether the mask token swallows the space on its left (R8).
    """

    name: str
    model: str | None = None
    raw_files: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    input_names: tuple[str, ...] = ("input_ids", "attention_mask")
    dress: Dress | None = None
    mask_lstrip: bool = False

    def settings(self) -> Settings:
        """Fresh settings with this family's tokens."""
        return Settings(roles=dict(self.roles))

    def flagged(self, role: str | None, token: AddedToken | str) -> AddedToken:
        """A special token with its flags: those it has, or this family's."""
        if isinstance(token, AddedToken):
            return token
        return AddedToken(token, special=True, normalized=False, lstrip=self.mask_lstrip and role == "mask_token")


_BERT_ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}

BERT = Family(
    name="BertTokenizer",
    model="WordPiece",
    raw_files=("vocab.txt",),
    roles=_BERT_ROLES,
    options={"do_lower_case": True, "tokenize_chinese_chars": True, "strip_accents": None},
    input_names=("input_ids", "token_type_ids", "attention_mask"),
    dress=wordpiece.dress,
)
DISTILBERT = replace(
    BERT, name="DistilBertTokenizer", input_names=("input_ids", "attention_mask")
)  # D1: no token types
ROBERTA = Family(
    name="RobertaTokenizer",
    model="BPE",
    raw_files=("vocab.json", "merges.txt"),
    roles=_ROBERTA_ROLES,
    options={"add_prefix_space": False, "trim_offsets": True},
    dress=byte_level_bpe.dress,
    mask_lstrip=True,
)
XLM_ROBERTA = Family(
    name="XLMRobertaTokenizer",
    model="Unigram",
    raw_files=("sentencepiece.bpe.model",),
    roles=_ROBERTA_ROLES,
    options={"add_prefix_space": True},
    dress=sentencepiece_model.dress,
    mask_lstrip=True,
)
CAMEMBERT = Family(
    name="CamembertTokenizer",
    model="Unigram",
    raw_files=("sentencepiece.bpe.model",),
    roles=_ROBERTA_ROLES,
    options={"add_prefix_space": True},
    dress=sentencepiece_model.dress,
    mask_lstrip=True,
)
ALBERT = Family(
    name="AlbertTokenizer",
    model="Unigram",
    raw_files=("spiece.model",),
    roles={**_BERT_ROLES, "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>"},
    options={"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
    dress=sentencepiece_model.dress_as_albert,
)
MPNET = replace(
    BERT,
    name="MPNetTokenizer",
    roles={**_ROBERTA_ROLES, "unk_token": "[UNK]"},
    input_names=("input_ids", "attention_mask"),
    dress=wordpiece.dress_as_roberta,
    mask_lstrip=True,
)
GENERIC = Family(name="PreTrainedTokenizerFast")


def role_texts(settings: Settings) -> dict[str, str]:
    """Role -> text of its token, for the roles that have one."""
    return {role: text_of(token) for role, token in settings.roles.items() if token is not None}


def build_model(family: Family, files: Mapping[str, Any], settings: Settings) -> tuple[Backend, dict[str, Any]]:
    """The bare model from raw files and the complete pipeline options. Raises CheckpointError if a file is at fault."""
    options = {**family.options, **settings.pipeline}
    texts = role_texts(settings)
    lacking = family.roles.keys() - texts.keys() - {"mask_token"}
    if lacking or (family.model == "Unigram" and "mask_token" not in texts):
        raise CheckpointError(
            f"{printable(settings.origin)}: {min(lacking or {'mask_token'})}: needed to make a {family.name} from raw files"
        )
    if family.model == "WordPiece":
        return wordpiece.build(files["vocab.txt"], texts["unk_token"]), options
    if family.model == "BPE":
        specials: Collection[str] = {
            *texts.values(),
            *map(text_of, settings.extra),
            *map(text_of, settings.fixed.values()),
        }
        return byte_level_bpe.build(files["vocab.json"], files["merges.txt"], specials), options
    backend, options["charsmap"] = sentencepiece_model.build(files[family.raw_files[0]], family.name, texts)
    return backend, options


def install_tokens(backend: Backend, family: Family, settings: Settings, origin: Path | str) -> dict[str, str | None]:
    """Declares the special and added tokens to `backend`; returns role -> text.

    Files never give a token an id that they do not state: only tokens the caller asked for are appended.

    Raises:
        CheckpointError: naming the token that the vocabulary lacks, or whose stated id is not its own.
    """
    for index, token in sorted(settings.fixed.items()):
        backend.add_tokens([token])
        found = backend.token_to_id(token.content)
        if found != index:
            raise CheckpointError(
                f"{printable(settings.origin)}: {printable(token.content)!r}: expected id {found}, "
                f"as in {printable(origin)}, found {index}"
            )
    declared = {token.content for token in added_tokens(backend).values()}
    roles: dict[str, str | None] = {}
    for role, named in settings.roles.items():
        if named is None:
            roles[role] = None
            continue
        text = text_of(named)
        presumed = family.roles.get(role) == named
        if backend.token_to_id(text) is None and text not in settings.by_caller:
            if presumed and role == "mask_token":
                roles[role] = None
                continue
            raise CheckpointError(
                f"{printable(origin)}: {role} {printable(text)!r}: expected it in the vocabulary, found no such token"
            )
        if text not in declared or (isinstance(named, AddedToken) and text in settings.by_caller):
            backend.add_special_tokens([family.flagged(role, named)])
            declared.add(text)
        roles[role] = text
    for extra in settings.extra:
        text = text_of(extra)
        if backend.token_to_id(text) is None and text not in settings.by_caller:
            raise CheckpointError(
                f"{printable(origin)}: special token {printable(text)!r} of {printable(settings.origin)}: "
                "expected it in the vocabulary, found no such token"
            )
        if text not in declared:
            backend.add_special_tokens([family.flagged(None, extra)])
    return roles

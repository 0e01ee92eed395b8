"""The tokenizer files of a checkpoint folder: which there are, what they set, and how they are written."""

from __future__ import annotations

import json
import os
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, normalizers, processors
from tokenizers import Tokenizer as Backend

from minitrans.files import atomic_write, printable, write_json
from minitrans.tokenizers import guards
from minitrans.tokenizers.guards import fault
from minitrans.tokenizers.specs import SPECIAL_TOKENS, TokenizerSpec
from minitrans.tokenizers.tokenizer_json import PIPELINE_OPTIONS, read_options, read_tokenizer_json

TOKENIZER_FILE, MODEL_CONFIG_FILE = "tokenizer.json", "config.json"
CONFIG_FILE, SPECIAL_FILE, ADDED_FILE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ENDS = ("add_bos_token", "add_eos_token")  # options of decoders, which a tokenizer.json has in its template
LANGUAGES = ("src_lang", "tgt_lang", "legacy_behaviour")  # and of translators
VOCABULARY_FILES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
)
PATTERNS = (TOKENIZER_FILE, MODEL_CONFIG_FILE, CONFIG_FILE, SPECIAL_FILE, ADDED_FILE, *VOCABULARY_FILES)

UNBOUNDED = int(1e30)  # the reference's "no limit", written into many tokenizer_config.json
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_OPTION_TYPES = {
    "strip_accents": bool | None,
    "extra_ids": int,
    "src_lang": str | None,
    "tgt_lang": str | None,
    "offset": int,
    "language_codes": str,
    "mask_token_sent": str | None,
}
_SECTIONS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types) and (bool in types or not isinstance(value, bool))


_SIDE = ("'left' or 'right'", ("left", "right").__contains__)

# Settings that are neither tokens nor of the pipeline, and are attributes of a tokenizer -> what they must be, the test for it.
PLAIN: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model_max_length": ("a number of at least 1", lambda value: _is(int, float)(value) and value >= 1),
    "padding_side": _SIDE,
    "truncation_side": _SIDE,
    "clean_up_tokenization_spaces": ("bool", _is(bool)),
    "split_special_tokens": ("bool", _is(bool)),
    "pad_token_type_id": ("int", _is(int)),
    "model_input_names": ("a list of names", lambda value: _is(list, tuple)(value) and all(map(_is(str), value))),
    "name_or_path": ("str", _is(str)),
}


def plain(name: str, value: Any) -> Any:
    """The value of a setting of PLAIN. Raises ValueError if it cannot be one."""
    wanted, is_right = PLAIN[name]
    if not is_right(value):
        raise ValueError(f"{name}: expected {wanted}, found {printable(value)!r}")
    if name == "model_max_length":
        return int(min(value, UNBOUNDED))
    return list(value) if isinstance(value, tuple) else value


@dataclass
class Settings:
    """The merged settings; later sources win: the spec, tokenizer_config.json, special_tokens_map.json, the caller.

    Attributes:
        special_tokens: name -> token, or None where a source says that there is none. A str has the flags of its family.
        extra: special tokens without a name.
        fixed: ids with their tokens, as the files fix them.
        pipeline: options of the normalizer and the splitting that a source states.
        plain: the rest, by the names of PLAIN.
        by_caller: the texts of tokens that the caller, not a file, asked for: only these may get new ids.
        origin: the file to blame.
    """

    special_tokens: dict[str, AddedToken | str | None] = field(default_factory=dict)
    extra: list[AddedToken | str] = field(default_factory=list)
    fixed: list[tuple[int, AddedToken]] = field(default_factory=list)
    pipeline: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    by_caller: set[str] = field(default_factory=set)
    origin: Path | str = "the tokenizer"

    def take(self, values: Mapping[str, Any], options: Mapping[str, Any]) -> set[str]:
        """Lets `values` win over what is here; returns the names it knows, `options` being the pipeline's options.

        Raises:
            ValueError: if a known name has a value it cannot have.
        """
        known = {name: value for name, value in values.items() if name in (*SPECIAL_TOKENS, *_EXTRA, *PLAIN, *options)}
        for name, value in known.items():
            if name in SPECIAL_TOKENS:
                self.special_tokens[name] = None if value is None else _token(name, value)
            elif name in _EXTRA:
                if name == _EXTRA[0] or not values.get(_EXTRA[0]):
                    self.extra = _tokens(name, value)
            elif name in PLAIN:
                self.plain |= {} if value is None else {name: plain(name, value)}
            elif not isinstance(value, _OPTION_TYPES.get(name, bool)):
                wanted = getattr(_OPTION_TYPES.get(name, bool), "__name__", "a text")
                raise ValueError(f"{name}: expected {wanted}, found {printable(value)!r}")
            else:
                self.pipeline[name] = value
        return set(known)

    def texts(self) -> dict[str, str]:
        """Name -> text of the special token, for those that there are."""
        return {name: text_of(token) for name, token in self.special_tokens.items() if token is not None}


def text_of(token: AddedToken | str) -> str:
    """The text of a token, with or without flags."""
    return token if isinstance(token, str) else token.content


def _flagged(name: str, value: object, special: bool = True) -> AddedToken:
    """A token with flags from JSON, `special` or not if it does not say, or one of the caller's."""
    if isinstance(value, AddedToken) and value.content:
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        special = value.get("special", special) is True
        flags = {"normalized": not special, **{flag: value[flag] for flag in _FLAGS if flag in value}}
        if all(map(_is(bool), flags.values())):
            return AddedToken(value["content"], special=special, **flags)
    raise ValueError(f"{name}: expected the text of a token, or an object with 'content', found {printable(value)!r}")


def _token(name: str, value: object) -> AddedToken | str:
    return value if isinstance(value, str) and value else _flagged(name, value)


def _tokens(name: str, value: object) -> list[AddedToken | str]:
    listed = list(value.values()) if isinstance(value, dict) else [] if value is None else value
    if not isinstance(listed, list | tuple):
        raise ValueError(f"{name}: expected a list of tokens, found {printable(value)!r}")
    return [_token(name, token) for token in listed]


def _fixed_tokens(values: Any) -> list[tuple[int, AddedToken]]:
    """The added tokens of tokenizer_config.json, id -> object."""
    fixed = []
    for index, value in values.items() if isinstance(values, dict) else [("", values)]:
        if not (index.isdecimal() and len(index) <= 10):
            raise ValueError(f"added_tokens_decoder: expected ids and tokens, found {printable({index: value})}")
        fixed.append((int(index), _flagged(f"added_tokens_decoder[{index}]", value, special=False)))
    return fixed


def _older_added_tokens(path: Path, specials: set[str]) -> list[tuple[int, AddedToken]]:
    """added_tokens.json, text -> id: a special token is matched in the raw text, another one after normalizing."""
    ids = guards.read_if_there(path)
    for text, index in ids.items():
        if type(index) is not int:
            raise fault(path, f"{printable(text)!r}: expected an id, found {printable(index)!r}")
    special = {text: text in specials for text in ids}
    return [(ids[text], AddedToken(text, special=special[text], normalized=not special[text])) for text in ids]


def from_folder(folder: Path, spec: TokenizerSpec, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a checkpoint folder. Keys that name code (`auto_map`) are not looked at.

    Raises:
        CheckpointError: naming the file and the key.
        TypeError, ValueError: naming the override that is unknown or has an impossible value.
    """
    config = guards.read_if_there(folder / CONFIG_FILE)
    fixed = config.get("added_tokens_decoder")
    special = guards.read_if_there(folder / SPECIAL_FILE) if fixed is None else {}
    settings = Settings(dict(spec.special_tokens), origin=folder / CONFIG_FILE)
    try:
        settings.take({"model_max_length": config.get("max_len"), **config}, spec.options)  # its older name first
        settings.fixed = _fixed_tokens(fixed or {})
        if special:
            settings.origin = folder / SPECIAL_FILE
            settings.take({name: special[name] for name in (*SPECIAL_TOKENS, *_EXTRA) if name in special}, {})
    except ValueError as error:
        raise fault(settings.origin, str(error)) from None
    if "added_tokens_decoder" not in config:
        specials = {*settings.texts().values(), *map(text_of, settings.extra)}
        settings.fixed = _older_added_tokens(folder / ADDED_FILE, specials)
    settings.plain.setdefault("name_or_path", str(folder))
    from_caller(settings, spec, overrides)
    return settings


def from_caller(settings: Settings, spec: TokenizerSpec, arguments: Mapping[str, Any]) -> None:
    """Lets the caller's arguments win. Raises TypeError for an unknown name, ValueError for an impossible value."""
    unknown = sorted(arguments.keys() - settings.take(arguments, spec.options))
    if unknown:
        valid = ", ".join(sorted((*SPECIAL_TOKENS, *_EXTRA, *PLAIN, *spec.options)))
        raise TypeError(f"{unknown[0]!r} is not a setting of this tokenizer; the settings are: {valid}")
    given = Settings()
    given.take({name: arguments[name] for name in (*SPECIAL_TOKENS, *_EXTRA) if name in arguments}, {})
    settings.by_caller = {*given.texts().values(), *map(text_of, given.extra)}


def vocabulary_files(folder: Path, spec: TokenizerSpec) -> dict[str, Path]:
    """The files of `folder` to build a tokenizer from: tokenizer.json if there, else all raw files of `spec`.

    Raises:
        CheckpointError: if they are not all there, saying what is.
    """
    if os.path.lexists(folder / TOKENIZER_FILE):
        return {TOKENIZER_FILE: folder / TOKENIZER_FILE}
    files = {name: folder / name for name in spec.raw_files}
    if not files or not all(map(os.path.lexists, files.values())):
        present = ", ".join(name for name in VOCABULARY_FILES if os.path.lexists(folder / name))
        wanted = " or ".join([TOKENIZER_FILE, *([" and ".join(files)] if files else [])])
        raise fault(folder, f"expected {wanted}, found {present or 'no vocabulary file'}")
    return files


def load(
    spec: TokenizerSpec, files: Mapping[str, Any], settings: Settings, asked: Mapping[str, Any]
) -> tuple[Backend, dict[str, str | None], dict[str, Any]]:
    """The backend of `files` (name -> path, or the vocabulary itself), its special tokens by name, its pipeline's options.

    Raises:
        CheckpointError: naming file and line, key or token.
        ValueError: if the caller `asked` for an option of the pipeline that this tokenizer.json has no place for.
    """
    first = next(iter(files.values()))
    origin = Path(first) if isinstance(first, str | Path) else Path("the vocabulary given")
    if TOKENIZER_FILE in files:
        stated = {name: value for name, value in settings.pipeline.items() if name in PIPELINE_OPTIONS}
        backend, document = read_tokenizer_json(first, spec.model, stated)
        found = read_options(document)
        options = {**spec.options, **found}
        for name, value in asked.items():
            if name not in (*found, *ENDS, *LANGUAGES) and options.get(name) != value:
                raise ValueError(f"{name}={value!r}: {printable(origin)} has no place for this option")
        _take_baked(document, settings)
        _take_extra(backend, spec, settings)
        special_tokens = _declare_tokens(backend, spec, settings, origin)
        extra = set(map(text_of, settings.extra))
        if "src_lang" not in spec.options:  # a language's template goes with the settings
            faults = guards.faults_of_template(document, special_tokens, extra, spec.special_tokens)
            guards.refuse_first(origin, faults)
        if spec.options.keys() & settings.pipeline.keys() & set(ENDS):
            add_ends(backend, {**options, **settings.pipeline}, special_tokens)
    else:
        options = {**spec.options, **settings.pipeline}
        backend = _build(spec, files, settings)
        _take_extra(backend, spec, settings)
        special_tokens = _declare_tokens(backend, spec, settings, origin)
        if spec.add_normalizer_and_decoder:
            spec.add_normalizer_and_decoder(backend, options, settings.texts())
        if options.get("add_bos_token") or options.get("add_eos_token"):
            add_ends(backend, options, settings.texts())
    guards.probe(backend, origin)
    return backend, special_tokens, options


def add_ends(backend: Backend, options: Mapping[str, Any], tokens: Mapping[str, str | None]) -> None:
    """Gives `backend` the template of decoders: the first token before each text, the last after it, or neither."""
    first = tokens.get("bos_token") if options.get("add_bos_token") else None
    last = tokens.get("eos_token") if options.get("add_eos_token") else None
    single, second = (
        " ".join(f"{part}:{kind}" for part in (first, text, last) if part) for text, kind in (("$A", 0), ("$B", 1))
    )
    ends = [guards.token_and_id(backend, token) for token in dict.fromkeys((first, last)) if token]
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {second}", special_tokens=ends
    )


def _build(spec: TokenizerSpec, files: Mapping[str, Any], settings: Settings) -> Backend:
    """The bare model from raw files. Raises CheckpointError if a file is at fault, or the settings lack a token."""
    texts = settings.texts()
    needed = spec.special_tokens.keys() - ({"mask_token"} if spec.model != "Unigram" else set())
    if needed - texts.keys() or spec.build is None:
        what = f"needed to make a {spec.name} from raw files"
        raise fault(settings.origin, f"{min(needed - texts.keys())}: {what}")
    fixed = (token for _, token in settings.fixed)
    return spec.build(files, texts, {*texts.values(), *map(text_of, (*settings.extra, *fixed))})


def _declare_tokens(backend: Backend, spec: TokenizerSpec, settings: Settings, origin: Path) -> dict[str, str | None]:
    """Declares the special and added tokens to `backend`; returns the special ones' texts by name.

    Files never give a token an id that they do not state: only tokens the caller asked for are appended.

    Raises:
        CheckpointError: naming the token that the vocabulary lacks, or whose stated id is not its own.
    """
    for index, fixed in sorted(settings.fixed, key=lambda pair: pair[0]):
        backend.add_tokens([fixed])
        found = backend.token_to_id(fixed.content)
        if found != index:
            what = f"expected id {found}, as in {printable(origin)}, found {index}"
            raise fault(settings.origin, f"{printable(fixed.content)!r}: {what}")
    declared = {token.content for token in backend.get_added_tokens_decoder().values()}
    special_tokens = dict.fromkeys(settings.special_tokens)
    named = [(name, token) for name, token in settings.special_tokens.items() if token is not None]
    for name, token in (*named, *((None, token) for token in settings.extra)):
        text = text_of(token)
        by_caller = text in settings.by_caller
        if backend.token_to_id(text) is None and not by_caller:
            if name == "mask_token" and spec.special_tokens.get(name) == token:
                continue  # presumed, and not there
            what = f"{name or 'special token'} {printable(text)!r}{'' if name else f' of {printable(settings.origin)}'}"
            raise fault(origin, f"{what}: expected it in the vocabulary, found no such token")
        if text not in declared or (name and by_caller and isinstance(token, AddedToken)):
            lstrip = spec.mask_lstrip and name == "mask_token"
            plain = AddedToken(text, special=True, normalized=False, lstrip=lstrip)
            backend.add_special_tokens([plain if isinstance(token, str) else token])
            declared.add(text)
        if name:
            special_tokens[name] = text
    return special_tokens


def _take_baked(document: Mapping[str, Any], settings: Settings) -> None:
    """Takes the sides, and a missing pad token, from the padding and truncation that a tokenizer.json carries."""
    padding, truncation = document.get("padding"), document.get("truncation")
    if padding:
        settings.plain.setdefault("padding_side", padding.get("direction", "right").lower())
        settings.special_tokens.setdefault("pad_token", padding["pad_token"])
    if truncation:
        settings.plain.setdefault("truncation_side", truncation.get("direction", "right").lower())


def _take_extra(backend: Backend, spec: TokenizerSpec, settings: Settings) -> None:
    """Takes the family's special tokens without a name, those that the vocabulary has."""
    named = set(map(text_of, settings.extra))
    settings.extra += [
        code for code in spec.extra_tokens if code not in named and backend.token_to_id(code) is not None
    ]


def flags(token: AddedToken) -> dict[str, Any]:
    """A token as the files write it."""
    return {name: getattr(token, name) for name in ("content", *_FLAGS, "special")}


def is_of_spec(backend: Backend, spec: TokenizerSpec, options: Mapping[str, Any], tokens: Mapping[str, str]) -> bool:
    """Whether the pipeline is what the reference's class of that name rebuilds from vocabulary and options alone."""
    if spec.model is None or spec.add_normalizer_and_decoder is None:
        return "src_lang" in spec.options  # M2M-100: the reference reads no tokenizer.json, we need its name
    if spec.special_tokens.keys() - {"mask_token"} - tokens.keys():
        return False
    rebuilt = Backend.from_str(backend.to_str())
    wanted = json.loads(backend.to_str())
    of_file = [part for part in guards.objects(wanted["normalizer"]) if part.get("type") == "Precompiled"]
    kept = of_file and (spec.model == "Unigram" or spec.extra_tokens)
    charsmap = b64decode(of_file[0]["precompiled_charsmap"]) if kept else b""
    rebuilt.normalizer = normalizers.Precompiled(charsmap) if kept else None
    spec.add_normalizer_and_decoder(rebuilt, options, tokens)
    found = json.loads(rebuilt.to_str())
    return all(found[section] == wanted[section] for section in _SECTIONS)


def save(backend: Backend, config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Writes tokenizer.json and `config` as tokenizer_config.json into `folder`, creating it; returns their paths."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"save_pretrained({str(folder)!r}): expected a folder, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    backend = Backend.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    with atomic_write(folder / TOKENIZER_FILE) as temporary:
        temporary.write_text(backend.to_str(pretty=True), encoding="utf-8")
    write_json(folder / CONFIG_FILE, config)
    return str(folder / CONFIG_FILE), str(folder / TOKENIZER_FILE)

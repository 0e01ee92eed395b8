"""What `tokenizer_config.json` and its two older companions, or the caller, say beside the vocabulary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
UNBOUNDED = int(1e30)  # the reference's "no limit", written into many tokenizer_config.json
CONFIG_FILE, SPECIAL_FILE, ADDED_FILE = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"

# Settings that are neither tokens nor of the pipeline -> the types they may have.
PLAIN: dict[str, tuple[type, ...]] = {
    "model_max_length": (int, float),
    "padding_side": (str,),
    "truncation_side": (str,),
    "clean_up_tokenization_spaces": (bool,),
    "split_special_tokens": (bool,),
    "pad_token_type_id": (int,),
    "model_input_names": (list, tuple),
    "name_or_path": (str,),
}
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_IGNORED_ARGUMENTS = ("use_fast", "verbose", "errors")  # they choose nothing here: there is one implementation


@dataclass
class Settings:
    """The merged settings; later sources win: family, tokenizer_config.json, special_tokens_map.json, the caller.

    Attributes:
        roles: role -> token, or None where a source says that there is none. A str has the flags of its family.
        extra: special tokens without a role.
        fixed: id -> token, as the files fix them.
        pipeline: options of the normalizer and the splitting that a source states.
        plain: the rest, by the names of PLAIN.
        by_caller: the texts of tokens that the caller, not a file, asked for: only these may get new ids.
        origin: the file to blame.
    """

    roles: dict[str, AddedToken | str | None] = field(default_factory=dict)
    extra: list[AddedToken | str] = field(default_factory=list)
    fixed: dict[int, AddedToken] = field(default_factory=dict)
    pipeline: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    by_caller: set[str] = field(default_factory=set)
    origin: Path | str = "the tokenizer"

    def take(self, values: Mapping[str, Any], options: Mapping[str, Any]) -> set[str]:
        """Lets `values` win over what is here; returns the names it knows, `options` being the family's pipeline options.

        Raises:
            ValueError: if a known name has a value it cannot have.
        """
        known = set()
        for name, value in values.items():
            if name in ROLES:
                self.roles[name] = None if value is None else _token(name, value)
            elif name in _EXTRA:
                if name == "additional_special_tokens" and values.get("extra_special_tokens"):
                    continue
                listed = list(value.values()) if isinstance(value, dict) else value
                if listed is not None and not isinstance(listed, list | tuple):
                    raise ValueError(f"{name}: expected a list of tokens, found {printable(value)!r}")
                self.extra = [_token(name, token) for token in listed or ()]
            elif name in PLAIN:
                _require_type(name, value, PLAIN[name])
                if value is not None:
                    self.plain[name] = value
            elif name in options:
                _require_type(name, value, (bool,))
                if value is None and name != "strip_accents":
                    raise ValueError(f"{name}: expected true or false, found nothing")
                self.pipeline[name] = value
            else:
                continue
            known.add(name)
        return known


def _require_type(name: str, value: object, types: tuple[type, ...]) -> None:
    if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise ValueError(f"{name}: expected {wanted}, found {printable(value)!r}")
    if name in ("padding_side", "truncation_side") and value not in ("left", "right", None):
        raise ValueError(f"{name}: expected 'left' or 'right', found {printable(value)!r}")
    if name == "model_input_names" and value is not None and not all(isinstance(item, str) for item in value):  # type: ignore[attr-defined]
        raise ValueError(f"{name}: expected a list of names, found {printable(value)!r}")
    if name == "model_max_length" and isinstance(value, int | float) and not value >= 1:
        raise ValueError(f"{name}: expected at least 1, found {value}")


def _token(name: str, value: object) -> AddedToken | str:
    """A token from JSON or from the caller: a non-empty text, or an object with flags (which then is special)."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, AddedToken) and value.content:
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]:
        flags = {key: value[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in value}
        if all(isinstance(flag, bool) for flag in flags.values()):
            return AddedToken(
                value["content"], special=bool(value.get("special", True)), **{"normalized": False, **flags}
            )
    raise ValueError(f"{name}: expected the text of a token, or an object with 'content', found {printable(value)!r}")


def _fixed_tokens(values: object) -> dict[int, AddedToken]:
    if not isinstance(values, dict):
        raise ValueError(f"added_tokens_decoder: expected an object, found {printable(values)!r}")
    fixed: dict[int, AddedToken] = {}
    for index, value in values.items():
        if not (isinstance(index, int) or (index.isascii() and index.isdigit() and len(index) <= 10)):
            raise ValueError(f"added_tokens_decoder: expected ids as keys, found {printable(index)!r}")
        token = _token(f"added_tokens_decoder[{index}]", value)
        if isinstance(token, str):
            raise ValueError(f"added_tokens_decoder[{index}]: expected an object, found {printable(value)!r}")
        if isinstance(value, dict) and value.get("special") is not True:
            flags = {key: value[key] for key in ("lstrip", "rstrip", "single_word", "normalized") if key in value}
            token = AddedToken(token.content, special=False, **flags)
        fixed[int(index)] = token
    return fixed


def _legacy_added(path: Path, special: set[str]) -> dict[int, AddedToken]:
    """added_tokens.json, text -> id: a special token is matched in the raw text, another one after normalizing."""
    fixed: dict[int, AddedToken] = {}
    for content, index in read_json(path).items():
        if type(index) is not int or not 0 <= index < 2**31 or not content or index in fixed:
            raise CheckpointError(
                f"{printable(path)}: {printable(content)!r}: expected an id of its own, found {printable(index)}"
            )
        fixed[index] = AddedToken(content, special=content in special, normalized=content not in special)
    return fixed


def text_of(token: AddedToken | str) -> str:
    """The text of a token, with or without flags."""
    return token if isinstance(token, str) else token.content


def from_folder(folder: Path, family: Settings, options: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """The settings of a checkpoint folder. Keys that name code (`auto_map`) are not looked at.

    Raises:
        CheckpointError: naming the file and the key.
        TypeError, ValueError: naming the override that is unknown or has an impossible value.
    """
    settings = family
    path, special = folder / CONFIG_FILE, folder / SPECIAL_FILE
    config = read_json(path) if os.path.lexists(path) else {}
    settings.origin = path
    try:
        settings.take(config, options)
        if config.get("added_tokens_decoder") is not None:
            settings.fixed = _fixed_tokens(config["added_tokens_decoder"])
        elif os.path.lexists(special):
            settings.origin = special
            settings.take({k: v for k, v in read_json(special).items() if k in (*ROLES, *_EXTRA)}, options)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{printable(settings.origin)}: {error}") from None
    if "added_tokens_decoder" not in config and os.path.lexists(folder / ADDED_FILE):
        named = {text_of(token) for token in (*settings.roles.values(), *settings.extra) if token is not None}
        settings.fixed = _legacy_added(folder / ADDED_FILE, named)
    settings.plain.setdefault("name_or_path", str(folder))
    from_caller(settings, options, overrides)
    return settings


def from_caller(settings: Settings, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Lets the caller's arguments win. Raises TypeError for an unknown name, ValueError for an impossible value."""
    if arguments.get("trust_remote_code"):
        raise ValueError("trust_remote_code=True: code of a checkpoint is never run; leave the argument out")
    known = settings.take(arguments, options) | {"trust_remote_code", *_IGNORED_ARGUMENTS}
    unknown = sorted(arguments.keys() - known - set(_EXTRA))
    if unknown:
        valid = ", ".join(sorted((*ROLES, *_EXTRA, *PLAIN, *options)))
        raise TypeError(f"{unknown[0]!r} is not a setting of this tokenizer; the settings are: {valid}")
    for name in ROLES:
        if arguments.get(name) is not None:
            settings.by_caller.add(text_of(_token(name, arguments[name])))
    if any(name in arguments for name in _EXTRA):
        settings.by_caller.update(text_of(token) for token in settings.extra)

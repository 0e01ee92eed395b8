"""A vocabulary of the same kind, learned from other texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minitrans.tokenizers.guards import objects

# Kind of model -> its trainer, and what an empty one holds.
_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "BPE": (trainers.BpeTrainer, {"vocab": {}, "merges": []}),
    "WordPiece": (trainers.WordPieceTrainer, {"vocab": {}}),
    "WordLevel": (trainers.WordLevelTrainer, {"vocab": {}}),
    "Unigram": (trainers.UnigramTrainer, {"unk_id": 0}),
}
_MARKS = ("continuing_subword_prefix", "end_of_word_suffix")


def retrained(
    backend: Backend,
    texts: Iterable[Any],
    vocab_size: int,
    *,
    length: int | None,
    new: list[str | AddedToken],
    renamed: Mapping[str, str],
    **options: Any,
) -> Backend:
    """A backend with the pipeline and special tokens of another, whose model has learned `vocab_size` tokens from `texts`.

    Args:
        backend: the one to follow. It is not changed.
        texts: strings, or lists of them.
        vocab_size: how many tokens to learn at most, special ones included.
        length: how many texts there are, for the progress bar.
        new: special tokens besides the old ones.
        renamed: old text -> new text of special tokens.
        options: arguments of the trainer.
    """
    document = json.loads(backend.to_str())
    kind, template, added = document["model"]["type"], document["post_processor"], document["added_tokens"]
    trainer, empty = _KINDS[kind]
    model = {**document["model"], **empty}
    if kind == "Unigram":
        unknown = document["model"]["vocab"][document["model"]["unk_id"] or 0][0]
        options["unk_token"] = renamed.get(unknown, unknown)
        model["vocab"] = [[options["unk_token"], 0.0]]
    elif model.get("unk_token") is not None:
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    bare = Backend.from_str(json.dumps({**document, "model": model, "added_tokens": [], "post_processor": None}))
    specials = [_renamed(token, renamed) for token in added if token["special"] or kind == "Unigram"]
    if kind == "BPE":
        options = {**{mark: model[mark] for mark in _MARKS if model.get(mark) is not None}, **options}
    if any(part.get("type") == "ByteLevel" for part in objects(document["pre_tokenizer"])):
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": vocab_size, "special_tokens": [*specials, *new], "show_progress": False, **options}
    bare.train_from_iterator(texts, trainer(**options), length=length)
    for part in objects(template):
        for key in {"cls", "sep"} & part.keys():
            text = renamed.get(part[key][0], part[key][0])
            part[key] = [text, bare.token_to_id(text)]
        for piece in dict(part.get("special_tokens", {})).values():
            piece["tokens"] = [renamed.get(text, text) for text in piece["tokens"]]
            piece["ids"] = [bare.token_to_id(text) for text in piece["tokens"]]
    return Backend.from_str(json.dumps({**json.loads(bare.to_str()), "post_processor": template}))


def _renamed(token: dict[str, Any], renamed: Mapping[str, str]) -> AddedToken:
    flags = {name: value for name, value in token.items() if name not in ("id", "content", "special")}
    return AddedToken(renamed.get(token["content"], token["content"]), **flags)

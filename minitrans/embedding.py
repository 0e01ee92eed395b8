"""Texts to vectors: run the body, pool over the real tokens, normalise (Reimers & Gurevych 2019, "Sentence-BERT")."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.files import printable, read_json, read_text
from minitrans.hub import local_folder
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.tokenizer import Tokenizer

POOLINGS = ("mean", "cls", "max")
MODULES_FILE = "modules.json"
LENGTH_FILE = "sentence_bert_config.json"
_PATTERNS = (MODULES_FILE, LENGTH_FILE, "*_Pooling/config.json")
_OLD_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
_CHUNK = 64  # batches that are encoded, sorted by length and run together: bounds the memory for a long file


@dataclass(frozen=True)
class PoolingRecipe:
    """How a sentence-transformers folder makes one vector of a text's tokens.

    Attributes:
        pooling: "mean", "cls" or "max".
        max_length: longer texts are cut to this many tokens; None = the tokenizer's and the model's own limit.
        lower_case: lower-case the texts first.
    """

    pooling: str = "mean"
    max_length: int | None = None
    lower_case: bool = False


class SentenceEncoder:
    """A body, its tokenizer and a way of pooling.

    Args:
        model: a body.
        tokenizer: its tokenizer.
        recipe: how to pool.
        normalize: scale every vector to length 1, so that a dot product is a cosine.

    Attributes:
        truncated: how many texts of the last call of `encode` were longer than `max_length` tokens, and cut.
    """

    truncated: int = 0

    def __init__(
        self, model: PreTrainedModel, tokenizer: Tokenizer, recipe: PoolingRecipe, *, normalize: bool = True
    ) -> None:
        if recipe.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {recipe.pooling!r}")
        self.model = model
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.normalize = normalize
        limits = (longest_input(model, tokenizer), recipe.max_length)
        self.max_length = min(limit for limit in limits if limit is not None)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """(len(texts), D) float32 vectors on the CPU (float64 for a float64 model), in the order of the texts.

        Args:
            texts: at least one.
            batch_size: texts that run together; they are sorted by length first, so that little is padding.
            progress: called with the number of texts done since the last call.

        Raises:
            ValueError: for no texts, or where the model gives NaN or infinite numbers.
        """
        if not texts:
            raise ValueError("expected at least one text, got none")
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        vectors = torch.empty(len(texts), self.model.config.hidden_size, dtype=dtype)
        self.truncated = 0
        size = batch_size * _CHUNK
        for start in range(0, len(texts), size):
            rows = self._tokenize(texts[start : start + size])
            for batch in length_sorted_batches([len(row["input_ids"]) for row in rows], batch_size):
                pooled = self._run([rows[index] for index in batch])
                vectors[[start + index for index in batch]] = pooled.to("cpu", dtype)
                if progress is not None:
                    progress(len(batch))
        if not bool(vectors.isfinite().all()):
            raise ValueError(
                "the model gives NaN or infinite numbers: its weights are broken, or overflow in this dtype"
            )
        return F.normalize(vectors, dim=-1) if self.normalize else vectors

    def _tokenize(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        texts = [text.lower() for text in texts] if self.recipe.lower_case else list(texts)
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length)
        self.truncated += sum(bool(encoded[row].overflowing) for row in range(len(texts)))
        return [{name: encoded[name][row] for name in encoded} for row in range(len(texts))]

    def _run(self, rows: list[dict[str, Any]]) -> Tensor:
        """(B, D)"""
        batch = self.tokenizer.pad(rows, return_attention_mask=True, return_tensors="pt").to(self.model.device)
        states = self.model(**batch).last_hidden_state  # (B, T, D)
        return pool(states, batch["attention_mask"].bool(), self.recipe.pooling)


def pool(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(B, T, D) and (B, T), True = a token, to (B, D); padding takes no part."""
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(states.dtype)  # (B, T, 1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    if pooling == "max":
        return states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
    first = mask.int().argmax(dim=1)  # the first real token, wherever the padding is
    return states[torch.arange(len(states), device=states.device), first]


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The indices of the longest `batch_size` items, then of the next: a run that does not fit fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def longest_input(model: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """How many tokens the model takes: its positions (R2: less those up to padding's), or the tokenizer's limit if smaller."""
    first = getattr(model.base_model, "padding_idx", -1) + 1
    return min(tokenizer.model_max_length, model.config.max_position_embeddings - first)


def read_recipe(name_or_path: str | Path, *, local_files_only: bool = False) -> PoolingRecipe:
    """The recipe of a sentence-transformers folder; the default one for a folder without modules.json.

    Raises:
        CheckpointError: where the files are not what they must be.
        NotSupportedError: for modules or a kind of pooling that is not offered.
    """
    folder = local_folder(name_or_path, patterns=_PATTERNS, local_files_only=local_files_only)
    length, lower_case = _read_length(folder / LENGTH_FILE)
    pooling = "mean"
    for kind, path in _read_modules(folder / MODULES_FILE):
        if kind == "Pooling":
            pooling = _read_pooling(folder / path / "config.json")
        elif kind not in ("Transformer", "Normalize"):
            raise NotSupportedError(
                f"{printable(folder / MODULES_FILE)}: the module {printable(kind)!r} is not offered, "
                "only Transformer, Pooling and Normalize"
            )
    return PoolingRecipe(pooling, length, lower_case)


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """(class name, folder) of each module; none where there is no such file."""
    if not path.exists():
        return []
    try:
        entries = json.loads(read_text(path))
        modules = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in entries]
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise CheckpointError(f"{printable(path)}: expected a list of modules, each with a type and a path") from None
    for _, folder in modules:
        if Path(folder).is_absolute() or ".." in Path(folder).parts or "\0" in folder:
            raise CheckpointError(f"{printable(path)}: expected a path inside the folder, found {printable(folder)!r}")
    return modules


def _read_pooling(path: Path) -> str:
    stored = read_json(path)
    mode: object = stored.get("pooling_mode")
    if mode is None:
        modes = [key for key, chosen in stored.items() if key.startswith("pooling_mode_") and chosen is True]
        mode = _OLD_MODES.get(modes[0], modes[0]) if len(modes) == 1 else modes
    if mode not in POOLINGS:
        raise NotSupportedError(
            f"{printable(path)}: the pooling {printable(mode)} is not offered, only one of {', '.join(POOLINGS)}"
        )
    return str(mode)


def _read_length(path: Path) -> tuple[int | None, bool]:
    stored: Mapping[str, Any] = read_json(path) if path.exists() else {}
    length, lower_case = stored.get("max_seq_length"), stored.get("do_lower_case", False)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 3):
        raise CheckpointError(
            f"{printable(path)}: max_seq_length: expected a number above 2, found {printable(length)}"
        )
    if not isinstance(lower_case, bool):
        raise CheckpointError(
            f"{printable(path)}: do_lower_case: expected true or false, found {printable(lower_case)}"
        )
    return length, lower_case

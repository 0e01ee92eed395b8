"""What all pipelines share: a model with its tokenizer, and batches of texts that are nearly equally long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from minitrans.files import printable
from minitrans.models.auto import AutoModel
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.words import WHERE
from weights_convert.translate import OWN_NAMES

Progress = Callable[[int], None]  # called with the number of texts, or windows of texts, done since the last call
Row = Mapping[str, Any]  # what the tokenizer says of one text: input_ids and perhaps token_type_ids, (T) each
Compute = Callable[..., Iterable[Tensor]]
Finish = Callable[[int, Tensor], Any]
Each = Callable[[Sequence[Row], Compute, Finish], list[Any]]
NO_LIMIT = 2**31 - 1  # tokens, where neither has one: what a tokenizer can be told
WINDOW = 16  # batches of a stream that are sorted by length together


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer, and the longest input that both take."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    max_length: int


class Pipeline:
    """Base of the tasks. `pipe(text)` gives the result of one text, `pipe([text, ...])` a list, `pipe(generator)` an iterator.

    Attributes:
        auto_class: what loads the model.
        head: what the users call its head; None where the body is enough.
        truncated: how many texts of the last call were cut, of a stream so far.
        run: from a list of inputs, and what runs the model on rows of tokens, to a result for each input.
    """

    auto_class: ClassVar[Any] = AutoModel
    head: ClassVar[str | None] = None
    truncated = 0
    run: Callable[..., list[Any]]

    def __init__(self, loaded: Loaded, *, batch_size: int = 32, **options: Any) -> None:
        self.model, self.tokenizer, self.max_length = loaded.model, loaded.tokenizer, loaded.max_length
        self.batch_size = batch_size
        self.options = options

    @property
    def labels(self) -> Mapping[int, str]:
        """The names of the model's classes."""
        config = self.model.config
        return {**{label: f"LABEL_{label}" for label in range(config.num_labels)}, **(config.id2label or {})}

    @classmethod
    def load(cls, name_or_path: str | Path, tokenizer: str | Path | Tokenizer | None = None, **options: Any) -> Loaded:
        """Model and tokenizer of a checkpoint; the options are those of `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError, TypeError: for a faulty checkpoint, wrong options, or a checkpoint without the head of this task.
        """
        hub = {name: options[name] for name in WHERE if name in options}
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(name_or_path if tokenizer is None else tokenizer, **hub)
        model = cls.auto_class.from_pretrained(name_or_path, **options)
        fresh = [name for name in model.load_report.fresh if OWN_NAMES not in name]
        if fresh and cls.head is not None:
            missing = ", ".join(fresh[:3]) + (", ..." if len(fresh) > 3 else "")
            raise ValueError(f"{printable(name_or_path)} has no trained {cls.head} (no {missing}): this task needs one")
        return cls.of(model, tokenizer)

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: str | Path | Tokenizer) -> Loaded:
        """From parts of which the model is loaded already."""
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        return Loaded(model.eval(), tokenizer, longest_input(model, tokenizer))

    def __call__(
        self, inputs: Any, *, batch_size: int | None = None, progress: Progress | None = None, **options: Any
    ) -> Any:
        """The result of one input, a list of results for a list, an iterator over them for a generator or a data set.

        Args:
            inputs: one, a list of them, or whatever else can be iterated over. That is read as far as results are taken: a batch,
                then twice as much, up to `WINDOW` batches; within these, texts run by length.
            batch_size: texts that run together; None = the pipeline's.
            progress: called with the number of texts, or windows of texts, that have run since its last call.
            options: those of `run`.
        """
        size = batch_size or self.batch_size
        each = partial(self._each, batch_size=size, progress=progress)
        run = partial(self.run, each=each, **{**self.options, **options})
        if isinstance(inputs, list):
            return run(inputs) if inputs else []
        stream = stream_of(inputs)
        if stream is None:
            return run([inputs])[0]
        return chain.from_iterable(run(window) for window in windows_of(stream, size))

    @torch.inference_mode()
    def _each(
        self, rows: Sequence[Row], compute: Compute, finish: Finish, *, batch_size: int, progress: Progress | None
    ) -> list[Any]:
        """What `finish` makes of each row, in the order of the rows; they run the longest first.

        Args:
            rows: the tokens of each text.
            compute: from the arguments of a model, (B, T) each, to the scores of each row, padding included.
            finish: from the number of a row and its scores, float64 on the CPU, to its result.
            batch_size: rows that run together.
            progress: see `__call__`.

        Raises:
            ValueError: for scores that are not finite.
        """
        results: list[Any] = [None] * len(rows)
        for batch in length_sorted_batches([len(row["input_ids"]) for row in rows], batch_size):
            fields = padded([rows[index] for index in batch], self.tokenizer.pad_token_id or 0, self.model.device)
            for index, scores in zip(batch, compute(**fields), strict=True):
                exact = scores.to("cpu", torch.float64)
                require_finite(exact)
                results[index] = finish(index, exact)
            if progress is not None:
                progress(len(batch))
        return results

    def encode(self, texts: Sequence[Any], **options: Any) -> list[Row]:
        """The tokens of each text, or pair of texts. Raises ValueError for one that is too long, unless it may be cut."""
        if options.get("truncation"):
            options.setdefault("max_length", self.max_length)
        encoded = self.tokenizer(list(texts), verbose=False, **options)
        rows = rows_of(encoded)
        self.truncated = sum(bool(encoded[index].overflowing) for index in range(len(rows)))
        number, longest = max(enumerate(len(row["input_ids"]) for row in rows), key=lambda each: each[1])
        if longest > self.max_length:
            which = f"text {number + 1} of {len(rows)}" if len(rows) > 1 else "a text"
            raise ValueError(
                f"{which}: expected at most {self.max_length} tokens, found {longest}; shorten it, or have it cut with "
                "truncation=True (--truncate) where the task allows it"
            )
        return rows


def stream_of(inputs: Any) -> Iterator[Any] | None:
    """Iterates over what holds inputs, such as a generator or a data set; None for a single input."""
    if isinstance(inputs, str | bytes | tuple | Mapping):
        return None
    if hasattr(inputs, "__iter__"):
        stream: Iterator[Any] = iter(inputs)
        return stream
    if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):  # a data set of torch's
        return (inputs[index] for index in range(len(inputs)))
    return None


def windows_of(stream: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, then of twice as many, up to `WINDOW` times: the first results come soon, later batches are even."""
    count = size
    while window := list(islice(stream, count)):
        yield window
        count = min(2 * count, WINDOW * size)


def rows_of(encoded: BatchEncoding) -> list[Row]:
    """What the model needs of each text, or piece of a text, of a batch."""
    names = [name for name in ("input_ids", "token_type_ids") if name in encoded]
    return [dict(zip(names, values, strict=True)) for values in zip(*(encoded[name] for name in names), strict=True)]


def longest_input(model: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """How many tokens the model takes: its positions (R2: less those up to padding's), or the tokenizer's limit if smaller."""
    limits = (NO_LIMIT, tokenizer.model_max_length, cast("int | None", model.base_model.longest))
    return min(limit for limit in limits if limit is not None)


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The indices of the longest `batch_size` items, then of the next: a run that does not fit fails at once."""
    order = longest_first(lengths)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def longest_first(lengths: Sequence[int]) -> list[int]:
    """The indices of the items, in their order where they are equally long."""
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def padded(rows: Sequence[Row], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """The arguments of a model for these texts, each (B, T), padding on the right, where it moves no position."""
    lengths = np.array([len(row["input_ids"]) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
    fields = {"attention_mask": mask.astype(np.int64)}
    for name, fill in (("input_ids", pad_id), ("token_type_ids", 0)):
        if name in rows[0]:
            fields[name] = np.full(mask.shape, fill)
            fields[name][mask] = np.concatenate([row[name] for row in rows])
    return {name: torch.from_numpy(values).to(device) for name, values in fields.items()}


def require_finite(scores: Tensor) -> None:
    """Raises ValueError for NaN and infinite scores, which no ranking survives."""
    if not bool(scores.isfinite().all()):
        raise ValueError("the model gives NaN or infinite numbers: its weights are broken, or overflow in this dtype")

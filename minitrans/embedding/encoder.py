"""`Encoder`: texts in, vectors out, with little padding and little memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from minitrans.attention.specs import VariantSpec
from minitrans.cpu import DTYPES, prepare
from minitrans.embedding.batching import CELLS, cell_batches, windows
from minitrans.embedding.folder import body_place, read_head, read_recipe
from minitrans.embedding.head import Dense, Head
from minitrans.embedding.memory import Heap
from minitrans.embedding.recipe import Recipe, check_pooling
from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.models.auto import AutoModel
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.base import Row, length_sorted_batches, longest_input, padded, require_finite
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer

Progress = Callable[[int], None]
_AT_ONCE = 512  # texts that one call of the tokenizer takes: what it returns is large until only the ids are kept


class Options(TypedDict, total=False):
    """What every way to encode takes; `Encoder.encode` explains it."""

    pooling: str | None
    normalize: bool | None
    batch_size: int | str
    prompt: str | None
    prompt_name: str | None


@dataclass(frozen=True)
class Call:
    """The options of one call, resolved."""

    pooling: tuple[str, ...]
    normalize: bool
    batch_size: int | str
    prompt: str


class Encoder:
    """A sentence-transformers folder, or any checkpoint with a body and a tokenizer, ready to make vectors.

    Args:
        path_or_name: a folder, or a name on the Hugging Face hub.
        dtype: of the parameters; None = as stored.
        device: where to run; None = the CPU.
        attention: swap this attention into the pretrained weights.
        backend: how to compute it.
        padding: what becomes of padding: "keep" computes it along, "remove" leaves it out, "auto" chooses.
        precision: "float32", "bfloat16" or "int8": compute the blocks by `minitrans.cpu.prepare`, faster, on a CPU; None = by the
            model itself.
        revision: of a hub repository.
        local_files_only: never ask the network.

    Attributes:
        model: the body.
        precision: as given.
        tokenizer: its tokenizer.
        recipe: what the folder says of pooling and all that follows.
        head: that, as a module.
        max_length: longer texts are cut to this many tokens.
        dimension: D of the vectors, unless `encode` is told another pooling.
        truncated: how many texts of the last call were cut.

    Raises:
        CheckpointError: naming file and key, for a folder with a fault. NotSupportedError: for one that asks for more than
            there is.
    """

    truncated: int = 0

    def __init__(
        self,
        path_or_name: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        attention: VariantSpec | None = None,
        backend: str = "auto",
        padding: str = "auto",
        precision: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        hub: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        recipe = read_recipe(path_or_name, **hub)
        body = body_place(path_or_name, recipe, **hub)
        tokenizer = AutoTokenizer.from_pretrained(body, **hub)
        model = AutoModel.from_pretrained(
            body, dtype=dtype, device=device, attention=attention, backend=backend, padding=padding, **hub
        )
        self._install(model, tokenizer, recipe, read_head(path_or_name, recipe, **hub), precision)

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        recipe: Recipe | None = None,
        head: Sequence[Dense] = (),
        precision: str | None = None,
    ) -> Self:
        """From parts that are loaded already; `head` has the "Dense" layers of the recipe, in their order."""
        encoder = cls.__new__(cls)
        encoder._install(model, tokenizer, recipe or Recipe(), head, precision)
        return encoder

    def _install(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        recipe: Recipe,
        dense: Sequence[Dense],
        precision: str | None,
    ) -> None:
        if precision not in (None, *DTYPES):
            raise ValueError(f"precision must be one of {', '.join(map(repr, DTYPES))}, got {precision!r}")
        self.model = model
        self.precision = precision
        self._runs = model if precision is None else prepare(model, precision)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.vector_dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        self.head = Head([module.kind for module in recipe.head], dense, self.vector_dtype, model.device)
        self.max_length = min(longest_input(model, tokenizer), recipe.max_length or tokenizer.model_max_length)
        self.dimension = self.dimension_of(None)
        self._heap = Heap()

    def encode(
        self, texts: Sequence[str] | str, *, show_progress: bool | Progress = False, **options: Unpack[Options]
    ) -> Tensor:
        """(len(texts), D) vectors on the CPU, in the order of the texts; (D) for one text.

        Args:
            texts: what to encode.
            show_progress: a bar on standard error, or a function that is called with the number of texts done since the
                last call.
            options: any of
                pooling: one of `POOLINGS`; None, the usual = the folder's;
                normalize: scale every vector to length 1, so that a dot product is a cosine, which is usual; None = as the
                folder says;
                batch_size: texts that run together, or "auto", the usual: as many as make a good number of tokens;
                prompt: put before every text;
                prompt_name: the same, by its name in the folder.

        Returns:
            float32, or float64 of a float64 model. Another batch size changes them by rounding only, if at all.

        Raises:
            TypeError, ValueError: for wrong arguments, or where the model gives NaN or infinite numbers.
        """
        one = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else texts
        call = self._call(**options)
        vectors = torch.empty(len(given), self._width(call.pooling), dtype=self.vector_dtype)
        start = 0
        with _progress(show_progress, len(given)) as advance:
            for block in self._blocks(windows(given), call, advance):
                vectors[start : start + len(block)] = block
                start += len(block)
        return vectors[0] if one else vectors

    def encode_iter(self, texts: Iterable[str], **options: Unpack[Options]) -> Iterator[Tensor]:
        """The vectors of any number of texts, in their order, as blocks (n, D); memory is that of a few windows.

        A window is a few thousand texts that are sorted by length and run together; the texts of the next are tokenized
        meanwhile. The options are those of `encode`, and so are the numbers, bit for bit.
        """
        return self.encode_windows(windows(texts), **options)

    def encode_windows(
        self, texts: Iterable[Sequence[str]], *, advance: Progress | None = None, **options: Unpack[Options]
    ) -> Iterator[Tensor]:
        """As `encode_iter`, for texts that come in windows: a block for each, which depends on nothing but that window."""
        return self._blocks(texts, self._call(**options), advance)

    def truncation_note(self, texts: int) -> str:
        """What to tell somebody who had `texts` texts encoded, of which some were cut."""
        return f"cut to {self.max_length} tokens: {self.truncated} of {texts} texts"

    def dimension_of(self, pooling: str | None) -> int:
        """D of what `encode` returns with this pooling. Raises ValueError where it cannot."""
        return self._width(self.recipe.pooling if pooling is None else (pooling,))

    def _width(self, poolings: Sequence[str]) -> int:
        return self.head.out_width(int(self.model.config.hidden_size), poolings)

    def _call(
        self,
        *,
        pooling: str | None = None,
        normalize: bool | None = True,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Call:
        poolings = self.recipe.pooling if pooling is None else (pooling,)
        check_pooling(poolings)
        self._width(poolings)
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size: expected 'auto' or a number above 0, got {batch_size!r}")
        if prompt is not None and prompt_name is not None:
            raise ValueError("give prompt or prompt_name, got both")
        name = self.recipe.default_prompt if prompt is None and prompt_name is None else prompt_name
        if name is not None and name not in self.recipe.prompts:
            known = ", ".join(map(printable, self.recipe.prompts)) or "none"
            raise ValueError(f"prompt_name: expected one that the folder has ({known}), got {printable(name)!r}")
        prompt = self.recipe.prompts[name] if name is not None else prompt or ""
        if prompt and not self.recipe.prompt_counts:
            raise NotSupportedError(
                "prompt: leaving its tokens out of the pooling, as this folder asks, is not offered"
            )
        return Call(poolings, self.head.ends_normalized if normalize is None else normalize, batch_size, prompt)

    def _blocks(self, texts: Iterable[Sequence[str]], call: Call, advance: Progress | None) -> Iterator[Tensor]:
        """The vectors of each window, with the next one in the tokenizer."""
        self.truncated = 0
        ahead: deque[Future[tuple[list[Row], int]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="minitrans-tokenizer") as thread:
            for window in texts:
                ahead.append(thread.submit(self._tokenize, window, call.prompt))
                if len(ahead) > 1:
                    yield self._encode_window(*ahead.popleft().result(), call, advance)
            while ahead:
                yield self._encode_window(*ahead.popleft().result(), call, advance)

    def _tokenize(self, texts: Sequence[str], prompt: str) -> tuple[list[Row], int]:
        """The tokens of each text, in few bytes, and how many were cut."""
        rows: list[Row] = []
        cut = 0
        for start in range(0, len(texts), _AT_ONCE):
            part = [prompt + text for text in texts[start : start + _AT_ONCE]]
            if self.recipe.lower_case:
                part = [text.lower() for text in part]
            encoded = self.tokenizer(part, truncation=True, max_length=self.max_length)
            cut += sum(bool(encoded[row].overflowing) for row in range(len(part)))
            fields = {"input_ids": np.int32, "token_type_ids": np.int8}
            rows += [
                {name: np.array(encoded[name][row], dtype) for name, dtype in fields.items() if name in encoded}
                for row in range(len(part))
            ]
        return rows, cut

    @torch.no_grad()
    def _encode_window(self, rows: list[Row], cut: int, call: Call, advance: Progress | None) -> Tensor:
        """(len(rows), D)"""
        self.truncated += cut
        lengths = [len(row["input_ids"]) for row in rows]
        vectors = torch.empty(len(rows), self._width(call.pooling), dtype=self.vector_dtype)
        if isinstance(call.batch_size, int):
            batches = length_sorted_batches(lengths, call.batch_size)
        else:
            batches = cell_batches(lengths, CELLS.get(self.model.device.type, CELLS["cpu"]))
        for batch in batches:
            fields = padded([rows[index] for index in batch], self.tokenizer.pad_token_id or 0, self.model.device)
            states = self._runs(
                **fields
            ).last_hidden_state  # (B, T, D); whether padding is computed is the model's business
            made = self.head(states, fields["attention_mask"].bool(), call.pooling, call.normalize)
            vectors[batch] = made.cpu()
            self._heap.settle()
            if advance is not None:
                advance(len(batch))
        require_finite(vectors)
        return vectors


@contextmanager
def _progress(wanted: bool | Progress, total: int) -> Iterator[Progress | None]:
    if not wanted or not isinstance(wanted, bool):
        yield wanted or None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True)) as bar:
        task = bar.add_task("embedding", total=total)
        yield lambda done: bar.advance(task, done)

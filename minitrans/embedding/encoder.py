"""`Encoder`: texts in, vectors out, with little padding and little memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.attention.registry import VariantSpec
from minitrans.cpu import DTYPES, prepare
from minitrans.embedding.batching import CELLS, Tokens, cell_batches, length_sorted_batches, padded
from minitrans.embedding.dense import Dense, read_dense
from minitrans.embedding.memory import Heap
from minitrans.embedding.modules import PATTERNS
from minitrans.embedding.pooling import pool
from minitrans.embedding.recipe import Recipe, body_place, check_pooling, read_recipe
from minitrans.embedding.windowing import windows
from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.hub import local_folder
from minitrans.models.auto import AutoModel
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer
from weights_convert.journal import Folder

Progress = Callable[[int], None]
_AT_ONCE = 512  # texts that one call of the tokenizer takes: what it returns is large until only the ids are kept


@dataclass(frozen=True)
class Call:
    """The options of one call of `encode`, resolved."""

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
        precision: "float32", "bfloat16" or "int8": compute the blocks by `minitrans.cpu.prepare`, faster, on a CPU; None = by the
            model itself.
        revision: of a hub repository.
        local_files_only: never ask the network.

    Attributes:
        model: the body.
        precision: as given.
        tokenizer: its tokenizer.
        recipe: what the folder says of pooling and all that follows.
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
        precision: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        hub: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        recipe = read_recipe(path_or_name, **hub)
        body = body_place(path_or_name, recipe, **hub)
        tokenizer = AutoTokenizer.from_pretrained(body, **hub)
        model = AutoModel.from_pretrained(body, dtype=dtype, device=device, attention=attention, backend=backend, **hub)
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
        head: Sequence[Dense],
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
        self.head = nn.ModuleList(head).to(model.device, self.vector_dtype)
        limits = (longest_input(model, tokenizer), recipe.max_length)
        self.max_length = min(limit for limit in limits if limit is not None)
        self.dimension = self._dimension(recipe.pooling)
        self._heap = Heap()

    def encode(
        self,
        texts: Sequence[str] | str,
        *,
        pooling: str | None = None,
        normalize: bool | None = True,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
        show_progress: bool | Progress = False,
    ) -> Tensor:
        """(len(texts), D) vectors on the CPU, in the order of the texts; (D) for one text.

        Args:
            texts: what to encode.
            pooling: one of `POOLINGS`; None = the folder's.
            normalize: scale every vector to length 1, so that a dot product is a cosine; None = as the folder says.
            batch_size: texts that run together, or "auto": as many as make a good number of tokens.
            prompt: put before every text.
            prompt_name: the same, by its name in the folder.
            show_progress: a bar on standard error, or a function that is called with the number of texts done since the
                last call.

        Returns:
            float32, or float64 of a float64 model. Another batch size changes them by rounding only, if at all.

        Raises:
            TypeError, ValueError: for wrong arguments, or where the model gives NaN or infinite numbers.
        """
        one = isinstance(texts, str)
        given = [texts] if isinstance(texts, str) else texts
        call = self._call(pooling, normalize, batch_size, prompt, prompt_name)
        vectors = torch.empty(len(given), self._dimension(call.pooling), dtype=self.vector_dtype)
        start = 0
        with _progress(show_progress, len(given)) as advance:
            for block in self._blocks(windows(given), call, advance):
                vectors[start : start + len(block)] = block
                start += len(block)
        return vectors[0] if one else vectors

    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        pooling: str | None = None,
        normalize: bool | None = True,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
    ) -> Iterator[Tensor]:
        """The vectors of any number of texts, in their order, as blocks (n, D); memory is that of a few windows.

        A window is a few thousand texts that are sorted by length and run together; the texts of the next are tokenized
        meanwhile. The arguments are those of `encode`, and so are the numbers, bit for bit.
        """
        return self.encode_windows(
            windows(texts), pooling=pooling, normalize=normalize, batch_size=batch_size, prompt=prompt,
            prompt_name=prompt_name,
        )  # fmt: skip

    def encode_windows(
        self,
        texts: Iterable[Sequence[str]],
        *,
        pooling: str | None = None,
        normalize: bool | None = True,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
        advance: Progress | None = None,
    ) -> Iterator[Tensor]:
        """As `encode_iter`, for texts that come in windows: a block for each, which depends on nothing but that window."""
        return self._blocks(texts, self._call(pooling, normalize, batch_size, prompt, prompt_name), advance)

    def _call(
        self, pooling: str | None, normalize: bool | None, batch_size: int | str, prompt: str | None, name: str | None
    ) -> Call:
        poolings = self.recipe.pooling if pooling is None else (pooling,)
        check_pooling(poolings)
        self._dimension(poolings)
        if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
            raise ValueError(f"batch_size: expected 'auto' or a number above 0, got {batch_size!r}")
        if prompt is not None and name is not None:
            raise ValueError("give prompt or prompt_name, got both")
        name = self.recipe.default_prompt if prompt is None and name is None else name
        if name is not None and name not in self.recipe.prompts:
            known = ", ".join(map(printable, self.recipe.prompts)) or "none"
            raise ValueError(f"prompt_name: expected one that the folder has ({known}), got {printable(name)!r}")
        prompt = self.recipe.prompts[name] if name is not None else prompt or ""
        if prompt and not self.recipe.prompt_counts:
            raise NotSupportedError(
                "prompt: leaving its tokens out of the pooling, as this folder asks, is not offered"
            )
        last = self.recipe.head[-1].kind if self.recipe.head else None
        return Call(poolings, last == "Normalize" if normalize is None else normalize, batch_size, prompt)

    def _blocks(self, texts: Iterable[Sequence[str]], call: Call, advance: Progress | None) -> Iterator[Tensor]:
        """The vectors of each window, with the next one in the tokenizer."""
        self.truncated = 0
        ahead: deque[Future[tuple[list[Tokens], int]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="minitrans-tokenizer") as thread:
            for window in texts:
                ahead.append(thread.submit(self._tokenize, window, call.prompt))
                if len(ahead) > 1:
                    yield self._encode_window(*ahead.popleft().result(), call, advance)
            while ahead:
                yield self._encode_window(*ahead.popleft().result(), call, advance)

    def _tokenize(self, texts: Sequence[str], prompt: str) -> tuple[list[Tokens], int]:
        """The tokens of each text, and how many were cut."""
        rows: list[Tokens] = []
        cut = 0
        for start in range(0, len(texts), _AT_ONCE):
            part = [prompt + text for text in texts[start : start + _AT_ONCE]]
            if self.recipe.lower_case:
                part = [text.lower() for text in part]
            encoded = self.tokenizer(part, truncation=True, max_length=self.max_length)
            types = encoded.get("token_type_ids") or [None] * len(part)
            for row, (ids, of_row) in enumerate(zip(encoded["input_ids"], types, strict=True)):
                cut += bool(encoded[row].overflowing)
                rows.append(
                    Tokens(np.array(ids, dtype=np.int32), None if of_row is None else np.array(of_row, dtype=np.int8))
                )
        return rows, cut

    @torch.no_grad()
    def _encode_window(self, rows: list[Tokens], cut: int, call: Call, advance: Progress | None) -> Tensor:
        """(len(rows), D)"""
        self.truncated += cut
        lengths = [len(row.ids) for row in rows]
        vectors = torch.empty(len(rows), self._dimension(call.pooling), dtype=self.vector_dtype)
        if isinstance(call.batch_size, int):
            batches = length_sorted_batches(lengths, call.batch_size)
        else:
            batches = cell_batches(lengths, CELLS.get(self.model.device.type, CELLS["cpu"]))
        for batch in batches:
            vectors[batch] = self._run([rows[index] for index in batch], call).cpu()
            self._heap.settle()
            if advance is not None:
                advance(len(batch))
        if not bool(vectors.isfinite().all()):
            raise ValueError(
                "the model gives NaN or infinite numbers: its weights are broken, or overflow in this dtype"
            )
        return vectors

    def _run(self, rows: list[Tokens], call: Call) -> Tensor:
        """(B, D)"""
        batch = padded(rows, self.tokenizer.pad_token_id or 0, self.model.device)
        states = self._runs(**batch).last_hidden_state  # (B, T, D); whether padding is computed is the model's business
        mask = batch["attention_mask"].bool()
        pooled = torch.cat([pool(states, mask, name) for name in call.pooling], dim=-1).to(self.vector_dtype)
        layers = iter(self.head)
        steps = [step.kind for step in self.recipe.head]
        if steps[-1:] == ["Normalize"]:
            steps.pop()
        for step in [*steps, *(["Normalize"] if call.normalize else [])]:
            pooled = F.normalize(pooled, dim=-1) if step == "Normalize" else next(layers)(pooled)
        return pooled

    def dimension_of(self, pooling: str | None) -> int:
        """D of what `encode` returns with this pooling. Raises ValueError where it cannot."""
        return self.dimension if pooling is None else self._dimension((pooling,))

    def _dimension(self, pooling: tuple[str, ...]) -> int:
        """D of the vectors. Raises ValueError where the layers of the head do not fit one another."""
        width = int(self.model.config.hidden_size) * len(pooling)
        for layer in self.head:
            assert isinstance(layer, Dense)
            needed = layer.weight.shape[1]
            if width != needed:
                raise ValueError(
                    f"pooling: {', '.join(pooling)} gives {width} numbers, the Dense layer after it takes {needed}"
                )
            width = layer.weight.shape[0]
        return width


def longest_input(model: PreTrainedModel, tokenizer: Tokenizer) -> int:
    """How many tokens the model takes: its positions (R2: less those up to padding's), or the tokenizer's limit if smaller."""
    first = getattr(model.base_model, "padding_idx", -1) + 1
    return min(tokenizer.model_max_length, model.config.max_position_embeddings - first)


def read_head(
    name_or_path: str | Path, recipe: Recipe, *, revision: str | None = None, local_files_only: bool = False
) -> list[Dense]:
    """The "Dense" layers of the recipe. Raises as `read_dense` does."""
    paths = [module.path for module in recipe.head if module.kind == "Dense"]
    if not paths:
        return []
    root = local_folder(name_or_path, patterns=PATTERNS, revision=revision, local_files_only=local_files_only)
    return [read_dense(Folder(root).below(path)) for path in paths]


@contextmanager
def _progress(wanted: bool | Progress, total: int) -> Iterator[Progress | None]:
    if isinstance(wanted, bool):
        if not wanted:
            yield None
            return
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True)) as bar:
            task = bar.add_task("embedding", total=total)
            yield lambda done: bar.advance(task, done)
    else:
        yield wanted

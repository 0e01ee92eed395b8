"""`Encoder`: texts in, vectors out, with little padding and little memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from torch import Tensor

from minitrans.attention.specs import VariantSpec
from minitrans.cpu import DTYPES, prepare
from minitrans.embedding.batching import CELLS, Text, cell_batches, windows
from minitrans.embedding.folder import body_place, read_head, read_recipe
from minitrans.embedding.head import Dense, Head
from minitrans.embedding.memory import Heap
from minitrans.embedding.options import Call, Options, Progress, Words, resolved
from minitrans.embedding.recipe import Recipe, check_pooling
from minitrans.embedding.similarity import quantised
from minitrans.embedding.surface import Surface
from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.models.auto import AutoModel
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.base import Row, length_sorted_batches, longest_input, padded, require_finite
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer

_AT_ONCE = 512  # texts that one call of the tokenizer takes: what it returns is large until only the ids are kept
_FIELDS = {"input_ids": np.int32, "token_type_ids": np.int8}  # of what the tokenizer gives, and what its numbers fit in


class Encoder(Surface):
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
            raise ValueError(
                f"precision must be one of {', '.join(map(repr, DTYPES))}, got {precision!r}; "
                "it is what the model computes in, and encode(precision=...) what the vectors are kept in"
            )
        self.model = model
        self.precision = precision
        self._runs = model if precision is None else prepare(model, precision)
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.head = Head([module.kind for module in recipe.head], dense)
        self._place_head()
        self.max_length = min(longest_input(model, tokenizer), recipe.max_length or tokenizer.model_max_length)
        self.dimension = self.dimension_of(None)
        self._heap = Heap()

    def _place_head(self) -> None:
        """Where the model is; its numbers are float64 with those of the model, else float32."""
        self.vector_dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        self.head.place(self.model.device, self.vector_dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves the model, or changes its dtype, as `torch.nn.Module.to` does.

        Raises:
            NotSupportedError: where the blocks were laid out for a CPU.
        """
        if self._runs is not self.model:
            raise NotSupportedError(
                f"precision={self.precision!r} lays the blocks out for a CPU, once; make an Encoder without it to move or cast"
            )
        self.model.to(*args, **kwargs)
        self._place_head()
        return self

    def encode(self, texts: Any = None, **words: Unpack[Words]) -> Any:
        """(len(texts), D) vectors, in the order of the texts; (D) for one text.

        Args:
            texts: what to encode: a text, or a list of texts. A text is a str, {"text": str}, or within a list a pair of str,
                which the model reads as two segments. `sentences=` and `inputs=` are the same.
            words: any of
                pooling: one of `POOLINGS`; None, the usual = the folder's;
                normalize: True scales every vector to length 1, so that a dot product is a cosine, False leaves its length;
                None, the usual = as the folder says. `normalize_embeddings` of sentence-transformers is True or None;
                truncate_dim: keep so many numbers of each; None, the usual = as the folder says;
                batch_size: texts that run together, or "auto", the usual: as many as make a good number of tokens;
                prompt: put before every text, before the first of a pair;
                prompt_name: the same, by its name in the folder;
                show_progress, show_progress_bar: a bar on standard error, or a function that is called with the number of
                texts done since the last call;
                output_value: "sentence_embedding", the usual; "token_embeddings", (T, D) for each text, its special tokens
                too; None, a dictionary for each text, of these and what the model was given;
                precision: what the numbers of the vectors are kept in: "float32", the usual, "int8" or "uint8" (a scale
                for each coordinate, from the vectors of this call), "binary" or "ubinary" (8 signs to a byte);
                convert_to_numpy, convert_to_tensor: an array, a tensor on the model's device, or, both being False, a list
                of tensors; usual is a tensor on the CPU;
                device: where the model moves first, and stays.

        Returns:
            float32, or float64 of a float64 model. Another batch size changes them by rounding only, if at all.

        Raises:
            TypeError, ValueError: for wrong arguments, or where the model gives NaN or infinite numbers.
        """
        options = resolved(words if texts is None else {"inputs": texts, **words}, Words, "encode")
        given = options.pop("texts", None)
        if given is None:
            raise TypeError("encode() takes a text or a list of texts, got none")
        one = isinstance(given, str | Mapping)
        given = [given] if one else list(given)
        show_progress, device = options.pop("show_progress", False), options.pop("device", None)
        output, precision = options.pop("output_value", "sentence_embedding"), options.pop("precision", None)
        to_numpy, to_tensor = options.pop("convert_to_numpy", None), options.pop("convert_to_tensor", None)
        if device is not None and torch.device(device) != self.device:
            self.to(device)
        call = self._call(**options)
        with _progress(show_progress, len(given)) as advance:
            if output != "sentence_embedding":
                if precision not in (None, "float32"):
                    raise ValueError(f"precision: {precision!r} is for output_value='sentence_embedding'")
                found = [each if output is None else each[output] for each in self._features(given, call, advance)]
                return found[0] if one else found
            vectors = torch.empty(len(given), self._width(call), dtype=self.vector_dtype)
            start = 0
            for block in self._blocks(windows(given), call, advance):
                vectors[start : start + len(block)] = block
                start += len(block)
        vectors = quantised(vectors, precision)
        shaped: Any = vectors
        if to_tensor:
            shaped = vectors.to(self.device)
        elif to_numpy or (to_numpy is None and to_tensor is not None):
            shaped = vectors.numpy()
        elif to_numpy is not None:
            shaped = list(vectors)
        return shaped[0] if one else shaped

    def encode_iter(self, texts: Iterable[Text], **options: Unpack[Options]) -> Iterator[Tensor]:
        """The vectors of any number of texts, in their order, as blocks (n, D); memory is that of a few windows.

        A window is a few thousand texts that are sorted by length and run together; the texts of the next are tokenized
        meanwhile. The options are those of `encode` that change the numbers, and so are the numbers, bit for bit.
        """
        return self.encode_windows(windows(texts), **options)

    def encode_windows(
        self, texts: Iterable[Sequence[Text]], *, advance: Progress | None = None, **options: Unpack[Options]
    ) -> Iterator[Tensor]:
        """As `encode_iter`, for texts that come in windows: a block for each, which depends on nothing but that window."""
        return self._blocks(texts, self._call(**resolved(options, Options, "encode_windows")), advance)

    def truncation_note(self, texts: int) -> str:
        """What to tell somebody who had `texts` texts encoded, of which some were cut."""
        return f"cut to {self.max_length} tokens: {self.truncated} of {texts} texts"

    def dimension_of(self, pooling: str | None) -> int:
        """D of what `encode` returns with this pooling. Raises ValueError where it cannot."""
        return self._width(self._call(pooling=pooling))

    def _width(self, call: Call) -> int:
        width = self.head.out_width(int(self.model.config.hidden_size), call.pooling)
        return width if call.truncate_dim is None else min(width, call.truncate_dim)

    def _call(
        self,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        batch_size: int | str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
    ) -> Call:
        poolings = self.recipe.pooling if pooling is None else (pooling,)
        check_pooling(poolings)
        if prompt is not None and prompt_name is not None:
            raise ValueError("give prompt or prompt_name, got both")
        name = self.recipe.default_prompt if prompt is None and prompt_name is None else prompt_name
        if name is not None and name not in self.prompts:
            known = ", ".join(map(printable, self.prompts))
            raise ValueError(f"prompt_name: expected one that the folder has ({known}), got {printable(name)!r}")
        prompt = self.prompts[name] if name is not None else prompt or ""
        skipped = self._prompt_length(prompt) if prompt and not self.recipe.prompt_counts else 0
        return Call(poolings, normalize, batch_size, prompt, truncate_dim or self.recipe.truncate_dim, skipped)

    def _features(self, texts: Sequence[Text], call: Call, advance: Progress | None) -> list[dict[str, Tensor]]:
        """For each text what the model was given and what it gave, without padding."""
        found: list[dict[str, Tensor]] = []
        for rows in self._tokenized(windows(texts), call):
            of_window: list[dict[str, Tensor]] = [{}] * len(rows)
            for batch, fields, states, vectors in self._batches(rows, call, advance):
                of_tokens = {**fields, "token_embeddings": states}
                for place, index in enumerate(batch):
                    length = len(rows[index]["input_ids"])
                    of_window[index] = {name: values[place, :length].cpu() for name, values in of_tokens.items()}
                    of_window[index]["sentence_embedding"] = vectors[place]
            found += of_window
        return found

    def _blocks(self, texts: Iterable[Sequence[Text]], call: Call, advance: Progress | None) -> Iterator[Tensor]:
        """The vectors (n, D) of each window."""
        for rows in self._tokenized(texts, call):
            block = torch.empty(len(rows), self._width(call), dtype=self.vector_dtype)
            for batch, _, _, vectors in self._batches(rows, call, advance):
                block[batch] = vectors
            yield block

    def _tokenized(self, texts: Iterable[Sequence[Text]], call: Call) -> Iterator[list[Row]]:
        """The tokens of each window, while the next one is in the tokenizer."""
        self.truncated = 0
        ahead: deque[Future[tuple[list[Row], int]]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="minitrans-tokenizer") as thread:
            for window in texts:
                ahead.append(thread.submit(self._tokenize, window, call.prompt))
                if len(ahead) > 1:
                    yield self._counted(*ahead.popleft().result())
            while ahead:
                yield self._counted(*ahead.popleft().result())

    def _counted(self, rows: list[Row], cut: int) -> list[Row]:
        self.truncated += cut
        return rows

    def _tokenize(self, texts: Sequence[Text], prompt: str) -> tuple[list[Row], int]:
        """The tokens of each text, in few bytes, and how many were cut."""
        rows: list[Row] = []
        cut = 0
        for start in range(0, len(texts), _AT_ONCE):
            for _, alike in groupby(texts[start : start + _AT_ONCE], key=type):  # one call takes texts or pairs
                encoded = self.tokenizer(
                    self._written(list(alike), prompt), truncation=True, max_length=self.max_length
                )
                count = len(encoded["input_ids"])
                cut += sum(bool(encoded[row].overflowing) for row in range(count))
                rows += [
                    {name: np.array(encoded[name][row], dtype) for name, dtype in _FIELDS.items() if name in encoded}
                    for row in range(count)
                ]
        return rows, cut

    def _prompt_length(self, prompt: str) -> int:
        """How many tokens at the beginning of a text are no text: the prompt's, and the special one before it."""
        ids = self.tokenizer(self._written([prompt], ""), truncation=True, max_length=self.max_length)["input_ids"][0]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def _written(self, texts: Sequence[Text], prompt: str) -> list[Text]:
        """The texts as the tokenizer reads them."""
        case = str.lower if self.recipe.lower_case else str
        return [
            case(prompt + text) if isinstance(text, str) else (case(prompt + text[0]), case(text[1])) for text in texts
        ]

    @torch.no_grad()
    def _batches(
        self, rows: list[Row], call: Call, advance: Progress | None
    ) -> Iterator[tuple[list[int], dict[str, Tensor], Tensor, Tensor]]:
        """Of each batch the places of its rows, what the model was given, the states (B, T, D), and the vectors (B, D)."""
        lengths = [len(row["input_ids"]) for row in rows]
        if isinstance(call.batch_size, int):
            batches = length_sorted_batches(lengths, call.batch_size)
        else:
            batches = cell_batches(lengths, CELLS.get(self.device.type, CELLS["cpu"]))
        for batch in batches:
            fields = padded([rows[index] for index in batch], self.tokenizer.pad_token_id or 0, self.device)
            states = self._runs(**fields).last_hidden_state  # whether padding is computed is the model's business
            vectors = self.head(states, fields["attention_mask"].bool(), call).cpu()
            require_finite(vectors)
            yield batch, fields, states, vectors
            self._heap.settle()
            if advance is not None:
                advance(len(batch))


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

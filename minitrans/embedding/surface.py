"""What scripts written for sentence-transformers call on an encoder besides `encode`, with the same names and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Never, Self, Unpack

import torch
from torch import Tensor

from minitrans.embedding.batching import as_text
from minitrans.embedding.options import REFUSED, Words
from minitrans.embedding.recipe import Recipe
from minitrans.embedding.similarity import SIMILARITIES, as_vectors
from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.base import longest_input
from minitrans.tokenizers.tokenizer import Tokenizer


class Surface:
    """The names of sentence-transformers, in terms of an encoder's own."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    recipe: Recipe
    max_length: int
    dimension: int
    _similarity: str | None = None

    def encode(self, texts: Any = None, **words: Unpack[Words]) -> Any:
        """See `Encoder.encode`."""
        raise NotImplementedError

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """See `Encoder.to`."""
        raise NotImplementedError

    def encode_query(self, texts: Any = None, **words: Unpack[Words]) -> Any:
        """`encode`; where the call names no prompt, that is "query", not the usual one."""
        return self.encode(texts, **self._prompted("query", words))

    def encode_document(self, texts: Any = None, **words: Unpack[Words]) -> Any:
        """The same with "document"."""
        return self.encode(texts, **self._prompted("document", words))

    def _prompted(self, kind: str, words: Words) -> Words:
        if words.get("prompt") is not None or words.get("prompt_name") is not None:
            return words
        return {**words, "prompt_name": kind}

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes, one of `SIMILARITIES`: what was set, or what the folder says, or "cosine"."""
        return self._similarity or self.recipe.similarity or "cosine"

    @similarity_fn_name.setter
    def similarity_fn_name(self, name: str | None) -> None:
        if name is not None and name not in SIMILARITIES:
            raise ValueError(f"similarity_fn_name: expected one of {', '.join(SIMILARITIES)}, got {printable(name)!r}")
        self._similarity = name

    def similarity(self, first: Any, second: Any) -> Tensor:
        """(M, D) and (N, D) to (M, N): how close each vector is to each, larger = closer. A vector (D) is one of one."""
        return self._compared(0, *map(torch.atleast_2d, (as_vectors(first), as_vectors(second))))

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """(N, D) and (N, D) to (N): how close the vectors are that stand at the same place."""
        return self._compared(1, as_vectors(first), as_vectors(second))

    def _compared(self, which: int, first: Tensor, second: Tensor) -> Tensor:
        common = torch.promote_types(first.dtype, second.dtype)
        return SIMILARITIES[self.similarity_fn_name][which](first.to(common), second.to(first.device, common))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def half(self) -> Self:
        """Casts the model to float16; vectors stay float32."""
        return self.to(torch.float16)

    @property
    def prompts(self) -> dict[str, str]:
        """The folder's, by name; "query" and "document" are empty unless it says otherwise."""
        return {"query": "", "document": "", **self.recipe.prompts}

    @property
    def max_seq_length(self) -> int:
        """`max_length`; it can be set, to what the model takes at most."""
        return self.max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        most = longest_input(self.model, self.tokenizer)
        if type(length) is not int or not 2 < length <= most:
            raise ValueError(f"max_seq_length: expected a number from 3 to {most}, got {printable(repr(length))}")
        self.max_length = length

    def get_max_seq_length(self) -> int:
        """`max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """`dimension`."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def tokenize(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        """What the model is given for these texts, each (B, T), padded, on the model's device."""
        given = [as_text(number, text) for number, text in enumerate(texts)]
        encoded = self.tokenizer(given, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        return {name: values.to(self.device) for name, values in encoded.items()}

    preprocess = tokenize

    def start_multi_process_pool(self, *devices: Any, **options: Any) -> Never:
        """Raises NotSupportedError, saying what to do instead."""
        raise NotSupportedError(f"start_multi_process_pool: {REFUSED['pool']}")

    encode_multi_process = start_multi_process_pool

"""The part of a tokenizer that needs no call options: ids, tokens, text, and the template of special tokens."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from minitrans.tokenizers.backend import added_tokens
from minitrans.tokenizers.special_tokens import SpecialTokens

# The clean-up of English spacing that older checkpoints ask for.
_SPACING = (" .", " ?", " !", " ,", " n't", " 'm", " 's", " 've", " 're")


def _lists(ids: Any) -> Any:
    """Ids as an int, a list of int, or a list of lists of int."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, list | tuple):
        return [_lists(item) for item in ids]
    return ids


class Conversion(SpecialTokens):
    """Ids <-> tokens <-> text, on the backend's vocabulary."""

    model_max_length: int
    clean_up_tokenization_spaces: bool

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the model, without added ones (the reference's meaning)."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    @property
    def vocab(self) -> dict[str, int]:
        """As get_vocab()."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> added token with its flags."""
        return added_tokens(self.backend_tokenizer)

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Text -> id of the added tokens."""
        return {token.content: index for index, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """As added_tokens_encoder."""
        return self.added_tokens_encoder

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token, or the ids of a list; an unknown one has the id of unk_token, None without."""
        if isinstance(tokens, str):
            index = self.backend_tokenizer.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        if not isinstance(tokens, list | tuple):
            raise TypeError(
                f"convert_tokens_to_ids: expected a token or a list, got {type(tokens).__name__} {tokens!r}"
            )
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a list; None for an id above the vocabulary.

        Raises:
            TypeError, ValueError: if an id is no integer, or negative.
        """
        ids = _lists(ids)
        if not isinstance(ids, list):
            return self.backend_tokenizer.id_to_token(_index(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.backend_tokenizer.id_to_token(_index(index)) for index in ids if index not in skipped]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text that tokens stand for."""
        decoder = self.backend_tokenizer.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(tokens)

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """The text of ids (int, list, tensor (T,)), or a list of texts for a list of them or a tensor (B, T).

        Args:
            token_ids: the ids; those above the vocabulary stand for nothing.
            skip_special_tokens: whether to leave special tokens out.
            clean_up_tokenization_spaces: whether to close up English punctuation, the tokenizer's setting if None; never
                for BPE, where the spaces are the text's own.

        Raises:
            TypeError, ValueError: if an id is no integer, or negative.
        """
        ids = _lists(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        indices = [_index(index) for index in (ids if isinstance(ids, list) else [ids])]
        text = self.backend_tokenizer.decode(indices, skip_special_tokens=skip_special_tokens)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        if clean and type(self.backend_tokenizer.model).__name__ != "BPE":
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The texts of a list of id lists or a tensor (B, T)."""
        text = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces)
        return [text] if isinstance(text, str) else list(text)

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Removes the spaces before English punctuation and contractions."""
        for spaced in _SPACING[:4]:
            text = text.replace(spaced, spaced[1:])
        text = text.replace(" ' ", "'")
        for spaced in _SPACING[4:]:
            text = text.replace(spaced, spaced[1:])
        return text

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call adds to a text, or to a pair."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a text fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def _template(self, pair: bool) -> list[tuple[int | None, int, int]]:
        """The template of a text or pair: (text 0 or 1, or None for a special token; id; token type) in order."""
        token = next(token for token, index in sorted(self.get_vocab().items()) if index not in self.all_special_ids)
        backend = self.backend_tokenizer
        found = backend.encode([token], [token] if pair else None, is_pretokenized=True)
        steps = zip(found.sequence_ids, found.ids, found.type_ids, strict=True)
        template: list[tuple[int | None, int, int]] = []
        for text, index, kind in steps:
            if text is None or not template or template[-1][0] != text:
                template.append((text, index, kind))
        return template

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The ids of one text, or of two, with the model's special tokens round them."""
        texts = (token_ids_0, token_ids_1 or [])
        template = self._template(token_ids_1 is not None)
        return [index for text, special, _ in template for index in ([special] if text is None else texts[text])]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The token types that go with build_inputs_with_special_tokens."""
        texts = (token_ids_0, token_ids_1 or [])
        template = self._template(token_ids_1 is not None)
        return [kind for text, _, kind in template for _ in ([0] if text is None else texts[text])]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special tokens, 0 for others.

        Args:
            token_ids_0: ids with special tokens, or the first text's ids without them.
            token_ids_1: the second text's ids.
            already_has_special_tokens: whether token_ids_0 is a finished sequence.

        Raises:
            ValueError: if a finished sequence comes with a second one.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("get_special_tokens_mask: a finished sequence takes no token_ids_1")
            special = set(self.all_special_ids)
            return [int(index in special) for index in _lists(token_ids_0)]
        texts = (token_ids_0, token_ids_1 or [])
        template = self._template(token_ids_1 is not None)
        return [int(text is None) for text, _, _ in template for _ in ([0] if text is None else texts[text])]


def _index(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected ids (int), got {type(value).__name__} {value!r}")
    if value < 0:
        raise ValueError(f"expected ids of at least 0, got {value}; replace the labels' -100 before decoding")
    return value

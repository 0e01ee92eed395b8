"""Which tokens there are: ids and texts, special and added tokens, and the way back to text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from minitrans.tokenizers import guards, words
from minitrans.tokenizers.call import kind_of
from minitrans.tokenizers.folder import text_of
from minitrans.tokenizers.specs import SPECIAL_TOKENS
from minitrans.words import read_words

Ids = list[int]
_EXTRA = ("extra_special_tokens", "additional_special_tokens")

# The clean-up of English spacing that older checkpoints ask for.
_SPACING = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class _SpecialToken:
    """The attribute `x_token`, a special token's text, or `x_token_id`, its id; None without. It may be set to any known."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.is_id = name.removesuffix("_id"), name.endswith("_id")

    def __get__(self, tokenizer: Vocabulary | None, owner: type) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._special_tokens.get(self.name)
        return tokenizer.backend_tokenizer.token_to_id(token) if self.is_id and token is not None else token

    def __set__(self, tokenizer: Vocabulary, value: Any) -> None:
        tokenizer._special_tokens[self.name] = None if value is None else tokenizer._known(self.name, value, self.is_id)


class _ExtraTokens:
    """The special tokens without a name, or with `_ids` their ids. They may be set to any known."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.is_id = name.removesuffix("_ids"), name.endswith("_ids")

    def __get__(self, tokenizer: Vocabulary | None, owner: type) -> Any:
        if tokenizer is None:
            return self
        return tokenizer.convert_tokens_to_ids(tokenizer._extra) if self.is_id else list(tokenizer._extra)

    def __set__(self, tokenizer: Vocabulary, values: Any) -> None:
        if not isinstance(values, list | tuple | None):
            raise ValueError(f"{self.name}: expected a list of tokens, got {kind_of(values)}")
        tokenizer._extra = [tokenizer._known(self.name, value, self.is_id) for value in values or ()]


class Vocabulary:
    """The tokens of a tokenizer. `Tokenizer` is one that reads text.

    Attributes:
        backend_tokenizer: the `tokenizers.Tokenizer` behind it.
        clean_up_tokenization_spaces: whether decoded English is closed up.
        cls_token, cls_token_id, ...: the special tokens and their ids, None where there is none.
        extra_special_tokens, extra_special_tokens_ids: those without a name (additional_special_tokens is the older name).
    """

    backend_tokenizer: Backend
    clean_up_tokenization_spaces: bool
    _special_tokens: dict[str, str | None]
    _extra: list[str]

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[tuple[str, ...]] = SPECIAL_TOKENS
    bos_token, bos_token_id, eos_token, eos_token_id = (_SpecialToken() for _ in range(4))
    unk_token, unk_token_id, sep_token, sep_token_id = (_SpecialToken() for _ in range(4))
    pad_token, pad_token_id, cls_token, cls_token_id = (_SpecialToken() for _ in range(4))
    mask_token, mask_token_id = _SpecialToken(), _SpecialToken()
    extra_special_tokens, extra_special_tokens_ids = _ExtraTokens(), _ExtraTokens()
    additional_special_tokens, additional_special_tokens_ids = _ExtraTokens(), _ExtraTokens()

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def _known(self, name: str, value: Any, is_id: bool) -> str:
        """The text of a token of the vocabulary, given as text or by its id."""
        text = self.backend_tokenizer.id_to_token(_index(value)) if is_id else _token_text(name, value)
        if text is None:
            what = f"expected an id of the vocabulary, which has {len(self)} tokens"
            raise ValueError(f"{name}_id={value}: {what}")
        if self.backend_tokenizer.token_to_id(text) is None:
            given = [text] if name in _EXTRA else text
            raise ValueError(
                f"{name}={text!r}: not in the vocabulary; add it with add_special_tokens({ {name: given}!r})"
            )
        return text

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Name -> token, for the special tokens that there are."""
        return {name: text for name in SPECIAL_TOKENS if (text := self._special_tokens.get(name)) is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once: those with a name, then the extra ones."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self._extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of all_special_tokens."""
        return [guards.token_and_id(self.backend_tokenizer, token)[1] for token in self.all_special_tokens]

    def add_tokens(
        self,
        new_tokens: str | AddedToken | list[str | AddedToken] | tuple[str | AddedToken, ...],
        special_tokens: bool = False,
    ) -> int:
        """Adds tokens that are not in the vocabulary at its end; returns how many.

        The model's table must grow with it: `model.resize_token_embeddings(len(tokenizer))`.

        Raises:
            TypeError: if something else than tokens is given.
            ValueError: if a token has no text.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            if not isinstance(token, str | AddedToken):
                raise TypeError(f"add_tokens: expected tokens (str or AddedToken), got {kind_of(token)}")
            if not text_of(token):
                raise ValueError("add_tokens: expected a text, got an empty token")
        before = len(self)
        add = self.backend_tokenizer.add_special_tokens if special_tokens else self.backend_tokenizer.add_tokens
        add(tokens)
        return len(self) - before

    def add_special_tokens(self, special_tokens_dict: dict[str, Any], replace_extra_special_tokens: bool = True) -> int:
        """Gives names (`{"pad_token": "<p>"}`) to tokens, or makes them extra special (`{"extra_special_tokens": [...]}`).

        Tokens that are not in the vocabulary are added at its end; returns how many.

        Raises:
            ValueError: if a key is none of these names, or a value no token.
        """
        before = len(self)
        for name, value in special_tokens_dict.items():
            extra = name in _EXTRA
            if not extra and name not in SPECIAL_TOKENS:
                raise ValueError(f"{name!r}: expected one of {', '.join(SPECIAL_TOKENS)}, extra_special_tokens")
            if extra and not isinstance(value, list | tuple):
                raise ValueError(f"{name}: expected a list of tokens, got {kind_of(value)}")
            tokens = list(value) if extra else [value]
            texts = [_token_text(name, token) for token in tokens]
            self.add_tokens(tokens, special_tokens=True)
            if extra:
                kept = [] if replace_extra_special_tokens else self._extra
                self._extra = list(dict.fromkeys([*kept, *texts]))
            else:
                setattr(self, name, value)
        return len(self) - before

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the model, without added ones (the reference's meaning)."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=False)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.backend_tokenizer.get_vocab(with_added_tokens=True)

    vocab = property(get_vocab)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Id -> added token with its flags."""
        return dict(sorted(self.backend_tokenizer.get_added_tokens_decoder().items()))

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
            raise TypeError(f"convert_tokens_to_ids: expected a token or a list, got {kind_of(tokens)}")
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
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> Any:
        """The text of ids (int, list, tensor (T,)), or a list of texts for a list of them or a tensor (B, T).

        Args:
            token_ids: the ids; those above the vocabulary stand for nothing.
            skip_special_tokens: whether to leave special tokens out.
            clean_up_tokenization_spaces: whether to close up English punctuation, the tokenizer's setting if None; never
                for BPE, where the spaces are the text's own.
            others: the words of `words.DECODING`, which change nothing.

        Raises:
            TypeError, ValueError: if an id is no integer, or negative, or an argument unknown.
        """
        for name in read_words(words.DECODING, others, "decode", {})[1]:
            raise TypeError(f"decode: unexpected argument {name!r}")
        ids = _lists(token_ids["input_ids"] if isinstance(token_ids, Mapping) else token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        indices = [_index(index) for index in (ids if isinstance(ids, list) else [ids])]
        text = self.backend_tokenizer.decode(indices, skip_special_tokens=skip_special_tokens)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces and type(self.backend_tokenizer.model).__name__ != "BPE":
            text = self.clean_up_tokenization(text)
        return text

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **others: Any,
    ) -> list[str]:
        """The texts of a list of id lists or a tensor (B, T)."""
        text = self.decode(sequences, skip_special_tokens, clean_up_tokenization_spaces, **others)
        return [text] if isinstance(text, str) else list(text)

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Removes the spaces before English punctuation and contractions."""
        for spaced in _SPACING:
            text = text.replace(spaced, spaced.strip())
        return text

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call adds to a text, or to a pair."""
        return self.backend_tokenizer.num_special_tokens_to_add(pair)

    def _joined(self, first: list[int], second: list[int] | None) -> list[tuple[int, int, int]]:
        """(id, token type, 1 if special) at each place of one text, or of two, in the model's template."""
        backend, texts = self.backend_tokenizer, (first, second or [])
        word = next(token for token, index in sorted(self.get_vocab().items()) if index not in self.all_special_ids)
        found = backend.encode([word], None if second is None else [word], is_pretokenized=True)
        places: list[tuple[int, int, int]] = []
        previous = None
        for text, index, kind in zip(found.sequence_ids, found.ids, found.type_ids, strict=True):
            if text is None:
                places.append((index, kind, 1))
            elif text != previous:  # a word may have several tokens
                places += [(index, kind, 0) for index in texts[text]]
            previous = text
        return places

    def build_inputs_with_special_tokens(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """The ids of one text, or of two, with the model's special tokens round them."""
        return [index for index, _, _ in self._joined(token_ids_0, token_ids_1)]

    def create_token_type_ids_from_sequences(self, token_ids_0: Ids, token_ids_1: Ids | None = None) -> Ids:
        """The token types that go with build_inputs_with_special_tokens."""
        return [kind for _, kind, _ in self._joined(token_ids_0, token_ids_1)]

    def get_special_tokens_mask(
        self, token_ids_0: Ids, token_ids_1: Ids | None = None, already_has_special_tokens: bool = False
    ) -> Ids:
        """1 for special tokens, 0 for others, as build_inputs_with_special_tokens puts them or as token_ids_0 has them.

        Raises:
            ValueError: if a finished sequence comes with a second one.
        """
        if not already_has_special_tokens:
            return [special for _, _, special in self._joined(token_ids_0, token_ids_1)]
        if token_ids_1 is not None:
            raise ValueError("get_special_tokens_mask: a finished sequence takes no token_ids_1")
        special = set(self.all_special_ids)
        return [int(index in special) for index in _lists(token_ids_0)]


def _lists(ids: Any) -> Any:
    """Ids as an int, a list of int, or a list of lists of int."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids
    return [_lists(item) for item in ids] if isinstance(ids, list | tuple) else ids


def _index(value: Any) -> int:
    if isinstance(value, int) and value >= 0 and not isinstance(value, bool):
        return value
    error = ValueError if isinstance(value, int) and value < 0 else TypeError
    raise error(f"expected ids (int) of at least 0, got {kind_of(value)}; replace the labels' -100 before decoding")


def _token_text(name: str, value: object) -> str:
    if not (isinstance(value, str | AddedToken) and text_of(value)):
        raise ValueError(f"{name}: expected the text of a token, got {kind_of(value)}")
    return text_of(value)

"""The tokenizer class: one call signature, the reference's, over every kind of vocabulary file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

from minitrans.hub import local_folder
from minitrans.tokenizers import call, folder, guards
from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.call import kind_of
from minitrans.tokenizers.folder import text_of
from minitrans.tokenizers.specs import GENERIC, SPECIAL_TOKENS, TokenizerSpec

Ids = list[int]
_log = logging.getLogger(__name__)

# The clean-up of English spacing that older checkpoints ask for.
_SPACING = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class _SpecialToken:
    """The attribute `x_token`, a special token's text, or `x_token_id`, its id; None without. It may be set to any known."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.is_id = name.removesuffix("_id"), name.endswith("_id")

    def __get__(self, tokenizer: Tokenizer | None, owner: type) -> Any:
        if tokenizer is None:
            return self
        token = tokenizer._special_tokens.get(self.name)
        return tokenizer.backend_tokenizer.token_to_id(token) if self.is_id and token is not None else token

    def __set__(self, tokenizer: Tokenizer, value: Any) -> None:
        if self.is_id and value is not None:
            token = tokenizer.backend_tokenizer.id_to_token(value)
            if token is None:
                what = f"expected an id of the vocabulary, which has {len(tokenizer)} tokens"
                raise ValueError(f"{self.name}_id={value}: {what}")
            value = token
        tokenizer._assign(self.name, value)


class Tokenizer:
    """Text to ids and back.

    `Tokenizer.from_pretrained(folder_or_name)` reads a checkpoint's files; the constructor takes files by name. Both
    raise CheckpointError, naming file and line or token, for a vocabulary that is missing, broken or at odds with itself.

    Attributes:
        model_max_length: the longest sequence the model takes, 10**30 if unknown.
        padding_side, truncation_side: "right" or "left".
        model_input_names: the fields that a call returns unless told otherwise.
        cls_token, cls_token_id, ...: the special tokens and their ids, None where there is none.
    """

    spec: ClassVar[TokenizerSpec] = GENERIC
    is_fast = True

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[tuple[str, ...]] = SPECIAL_TOKENS
    bos_token, bos_token_id, eos_token, eos_token_id = (_SpecialToken() for _ in range(4))
    unk_token, unk_token_id, sep_token, sep_token_id = (_SpecialToken() for _ in range(4))
    pad_token, pad_token_id, cls_token, cls_token_id = (_SpecialToken() for _ in range(4))
    mask_token, mask_token_id = _SpecialToken(), _SpecialToken()

    def __init__(
        self,
        vocab_file: str | Path | Mapping[str, int] | None = None,
        merges_file: str | Path | list[tuple[str, str]] | None = None,
        *,
        tokenizer_file: str | Path | None = None,
        **settings: Any,
    ) -> None:
        """Builds a tokenizer from files (a vocabulary may also be given as a dict, merges as a list of pairs).

        Args:
            vocab_file: vocab.txt, vocab.json or sentencepiece.bpe.model, whichever the family has.
            merges_file: merges.txt, for byte-level BPE.
            tokenizer_file: a tokenizer.json instead of these.
            settings: special tokens by name (`unk_token="[UNK]"`), `do_lower_case`, `model_max_length` and so on.

        Raises:
            TypeError: on an unknown setting, or files that are missing or of no use to this class.
            ValueError: on an impossible setting.
        """
        names = self.spec.raw_files
        files: dict[str, Any] = {folder.TOKENIZER_FILE: tokenizer_file}
        if tokenizer_file is None:
            given = (dict(file) if isinstance(file, Mapping) else file for file in (vocab_file, merges_file))
            files = dict(zip(names, given, strict=False))
        if not files or any(file is None for file in files.values()):
            what = f", or files such as {' and '.join(names)}" if names else ""
            raise TypeError(f"{type(self).__name__}: expected tokenizer_file{what}")
        merged = folder.Settings(dict(self.spec.special_tokens))
        folder.from_caller(merged, self.spec, settings)
        self._install(merged, *folder.load(self.spec, files, merged, merged.pipeline))

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """The tokenizer of a checkpoint: a folder, or a name on the Hugging Face hub.

        Args:
            pretrained_model_name_or_path: folder or hub name.
            revision: branch, tag or commit on the hub.
            local_files_only: never ask the network.
            overrides: settings that win over the checkpoint's files, as for the constructor.

        Raises:
            CheckpointError: if a file is missing or at fault, naming it and the line, key or token.
            ValueError, TypeError: if there is no such checkpoint, or an override is unknown or impossible.
        """
        name = pretrained_model_name_or_path
        at = local_folder(name, patterns=folder.PATTERNS, revision=revision, local_files_only=local_files_only)
        files = folder.vocabulary_files(at, cls.spec)
        settings = folder.from_folder(at, cls.spec, overrides)
        asked = {option: value for option, value in overrides.items() if option in cls.spec.options}
        tokenizer = cls.__new__(cls)
        tokenizer._install(settings, *folder.load(cls.spec, files, settings, asked))
        faults = guards.faults_of_size(tokenizer.backend_tokenizer, settings.by_caller, at / folder.MODEL_CONFIG_FILE)
        guards.refuse_first(next(iter(files.values())), faults)
        tokenizer.name_or_path = str(name)
        return tokenizer

    def _install(
        self,
        settings: folder.Settings,
        backend: Backend,
        special_tokens: dict[str, str | None],
        options: dict[str, Any],
    ) -> None:
        plain = settings.plain
        self.backend_tokenizer = backend
        self._special_tokens = special_tokens
        self._extra = list(dict.fromkeys(map(text_of, settings.extra)))
        self._options = options
        self.name_or_path = plain.get("name_or_path", "")
        self.model_max_length = int(min(plain.get("model_max_length", folder.UNBOUNDED), folder.UNBOUNDED))
        self.padding_side: str = plain.get("padding_side", "right")
        self.truncation_side: str = plain.get("truncation_side", "right")
        self.clean_up_tokenization_spaces: bool = plain.get("clean_up_tokenization_spaces", False)
        self.split_special_tokens: bool = plain.get("split_special_tokens", False)
        self.pad_token_type_id: int = plain.get("pad_token_type_id", 0)
        self.model_input_names = list(plain.get("model_input_names", self.spec.input_names))
        self._warned = False
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, tokens={len(self)}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map})"
        )

    @property
    def do_lower_case(self) -> bool | None:
        """Whether text is lower-cased; None where the normalizer does not say."""
        return self._options.get("do_lower_case")

    def __call__(
        self,
        text: Any,
        text_pair: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **returns: Any,
    ) -> BatchEncoding:
        """Encodes a text, a pair, or a batch of either.

        Args:
            text: a str, a list of str or of (str, str); with is_split_into_words lists of words in place of each str.
            text_pair: the second text, or as many second texts as there are first.
            add_special_tokens: whether to add those the model expects round the texts.
            padding: True or "longest"; "max_length"; False or "do_not_pad".
            truncation: True or "longest_first"; "only_first"; "only_second"; False or "do_not_truncate".
            max_length: the length for both, the model's if None. Given alone, it truncates.
            stride: how many tokens two overflowing pieces share.
            is_split_into_words: whether the texts are lists of words.
            pad_to_multiple_of: rounds padded lengths up.
            padding_side: "left" or "right", the tokenizer's own if None.
            return_tensors: "pt" (torch), "np" (numpy), or None for lists.
            returns: return_token_type_ids, return_attention_mask (None: as model_input_names says),
                return_overflowing_tokens, return_special_tokens_mask, return_offsets_mapping, return_length,
                pad_to_max_length, verbose.

        Returns:
            The fields asked for: lists of int, of lists for a batch, or tensors (B, T).

        Raises:
            TypeError, ValueError: naming the argument or the text that is wrong.
        """
        wanted = call.returned_fields(returns, self.model_input_names)
        batch, batched = call.as_batch(text, text_pair, is_split_into_words)
        plan = self._plan(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            pad_to_max_length=bool(returns.get("pad_to_max_length")),
        )
        encodings = self._encode(batch, plan, add_special_tokens, is_split_into_words)
        longest = max(map(len, encodings))
        if plan.truncation is None and longest > self.model_max_length and returns.get("verbose", True):
            self._warn_once("a sequence has %d tokens, the model takes at most %d; pass truncation=True", longest)
        rows, sources = [], []
        for source, encoding in enumerate(encodings):
            pieces = [encoding, *encoding.overflowing] if returns.get("return_overflowing_tokens") else [encoding]
            rows += pieces
            sources += [source] * len(pieces)
        data = {name: [read(row) for row in rows] for name, read in wanted.items()}
        if returns.get("return_overflowing_tokens"):
            data["overflow_to_sample_mapping"] = sources
        elif not batched and return_tensors is None:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
        return BatchEncoding(data, rows, return_tensors)

    def _plan(self, padding_side: str | None, **asked: Any) -> call.LengthPlan:
        side = self.padding_side if padding_side is None else padding_side
        plan = call.plan_lengths(padding_side=side, model_max_length=self.model_max_length, **asked)
        if plan.padding and self.pad_token_id is None:
            how = "tokenizer.pad_token = tokenizer.eos_token, or tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
            raise ValueError(f"padding: the tokenizer has no pad token; set or add one, as in {how}")
        return plan

    def _encode(self, batch: list[Any], plan: call.LengthPlan, specials: bool, split: bool) -> list[Encoding]:
        """Runs the backend, whose truncation and padding are state: one call at a time (the lock is for threads)."""
        call.require_room(self.backend_tokenizer, batch, plan, specials)
        pad = {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "pad_type_id": self.pad_token_type_id}
        with self._lock:
            self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
            call.set_lengths(self.backend_tokenizer, plan, self.truncation_side, pad)
            return call.encode_batch(self.backend_tokenizer, batch, plan, specials, split, self.name_or_path)

    def _warn_once(self, message: str, longest: int) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(message, longest, self.model_max_length)

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """The ids of a text or a pair: a list of int, or a tensor (1, T) with return_tensors. Arguments as a call's."""
        return self(text, text_pair, add_special_tokens, **options)["input_ids"]

    def encode_plus(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """A call for exactly one text or pair. Raises TypeError for a batch."""
        split = options.get("is_split_into_words", False)
        if isinstance(text[0] if split and text else text, list | tuple):
            raise TypeError("encode_plus: expected one text, got a batch; use batch_encode_plus or call the tokenizer")
        return self(text, text_pair, add_special_tokens, **options)

    def batch_encode_plus(
        self, batch_text_or_text_pairs: Any, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """A call for a list of texts or of pairs. Raises TypeError for anything else."""
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(f"batch_encode_plus: expected a list, got {type(batch_text_or_text_pairs).__name__}")
        return self(batch_text_or_text_pairs, None, add_special_tokens, **options)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text or a pair, as text."""
        return self(text, pair, add_special_tokens, **options).tokens()

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads encodings made one by one to a batch (see `pad_batch`); may serve as a data loader's collate_fn."""
        mask = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        plan = self._plan(
            padding_side,
            padding=padding,
            truncation=False,
            max_length=None if padding is True else max_length,
            pad_to_multiple_of=pad_to_multiple_of,
        )
        fills = {
            self.model_input_names[0]: self.pad_token_id,
            "attention_mask": 0,
            "token_type_ids": self.pad_token_type_id,
            "special_tokens_mask": 1,
        }
        return call.pad_batch(encoded_inputs, plan, fills, mask, return_tensors)

    # -- special and added tokens

    def __len__(self) -> int:
        """The number of tokens, added ones included."""
        return self.backend_tokenizer.get_vocab_size(with_added_tokens=True)

    def _assign(self, name: str, value: object) -> None:
        text = None if value is None else _token_text(name, value)
        if text is not None and self.backend_tokenizer.token_to_id(text) is None:
            what = f"not in the vocabulary; add it with add_special_tokens({{{name!r}: {text!r}}})"
            raise ValueError(f"{name}={text!r}: {what}")
        self._special_tokens[name] = text

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Name -> token, for the special tokens that there are."""
        return {name: text for name in SPECIAL_TOKENS if (text := self._special_tokens.get(name)) is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """The special tokens without a name."""
        return list(self._extra)

    additional_special_tokens = extra_special_tokens  # its older name

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
        """Adds tokens that are not in the vocabulary at its end; returns how many. The model's table must grow with it.

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
            extra = name in ("extra_special_tokens", "additional_special_tokens")
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
                self._assign(name, value)
        return len(self) - before

    # -- ids, tokens, text

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
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        if clean_up_tokenization_spaces and type(self.backend_tokenizer.model).__name__ != "BPE":
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
        for spaced in _SPACING:
            text = text.replace(spaced, spaced.strip())
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

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Writes tokenizer.json and tokenizer_config.json, each whole or not at all; returns their paths.

        Raises:
            ValueError: if `save_directory` is a file.
        """
        return folder.save(self.backend_tokenizer, self._config(), Path(save_directory))

    def _config(self) -> dict[str, Any]:
        """What tokenizer_config.json says: every added token is named, so that stale companions are not read."""
        tokens = self.special_tokens_map
        of_spec = folder.is_of_spec(self.backend_tokenizer, self.spec, self._options, tokens)
        return {
            **(self._options if of_spec else {}),
            **dict.fromkeys(self.spec.special_tokens),
            **tokens,
            "added_tokens_decoder": {str(i): folder.flags(token) for i, token in self.added_tokens_decoder.items()},
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "additional_special_tokens": self.extra_special_tokens,  # transformers 4 fails on the newer name
            "model_input_names": self.model_input_names,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "tokenizer_class": self.spec.name if of_spec else GENERIC.name,
            "truncation_side": self.truncation_side,
        }


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

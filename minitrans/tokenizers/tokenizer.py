"""The tokenizer class: one call signature, the reference's, over every kind of vocabulary file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from tokenizers import Encoding

from minitrans.hub import local_folder
from minitrans.tokenizers import call_options, loading, saving
from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.call_options import Plan
from minitrans.tokenizers.conversion import Conversion
from minitrans.tokenizers.families import GENERIC, Family
from minitrans.tokenizers.inputs import as_batch
from minitrans.tokenizers.padding import Filling, pad_batch
from minitrans.tokenizers.running import encode_batch, require_room_for, returned_fields, set_lengths
from minitrans.tokenizers.settings import UNBOUNDED, from_caller, from_folder

_log = logging.getLogger(__name__)


class Tokenizer(Conversion):
    """Text to ids and back.

    `Tokenizer.from_pretrained(folder_or_name)` reads a checkpoint's files; the constructor takes files by name. Both
    raise CheckpointError, naming file and line or token, for a vocabulary that is missing, broken or at odds with itself.

    Attributes:
        model_max_length: the longest sequence the model takes, 10**30 if unknown.
        padding_side, truncation_side: "right" or "left".
        model_input_names: the fields that a call returns unless told otherwise.
    """

    family: ClassVar[Family] = GENERIC
    is_fast = True

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
            settings: special tokens by role (`unk_token="[UNK]"`), `do_lower_case`, `model_max_length` and so on.

        Raises:
            TypeError: on an unknown setting, or files that are missing or of no use to this class.
            ValueError: on an impossible setting.
        """
        given = [vocab_file, merges_file][: len(self.family.raw_files)]
        if tokenizer_file is not None:
            files: dict[str, Any] = {loading.TOKENIZER_FILE: tokenizer_file}
        elif not given or any(file is None for file in given):
            raise TypeError(
                f"{type(self).__name__}: expected tokenizer_file"
                + (f", or files such as {' and '.join(self.family.raw_files)}" if self.family.raw_files else "")
            )
        else:
            files = {
                name: dict(file) if isinstance(file, Mapping) else file
                for name, file in zip(self.family.raw_files, given, strict=True)
            }
        merged = self.family.settings()
        from_caller(merged, self.family.options, settings)
        self._install(loading.load(self.family, files, merged, merged.pipeline))

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
        folder = local_folder(
            pretrained_model_name_or_path,
            patterns=loading.PATTERNS,
            revision=revision,
            local_files_only=local_files_only,
        )
        files = loading.vocabulary_files(folder, cls.family)
        settings = from_folder(folder, cls.family.settings(), cls.family.options, overrides)
        asked = {name: value for name, value in overrides.items() if name in cls.family.options}
        loaded = loading.load(cls.family, files, settings, asked)
        loading.require_room_in_table(loaded.backend, settings.by_caller, folder, next(iter(files.values())))
        tokenizer = cls.__new__(cls)
        tokenizer._install(loaded)
        tokenizer.name_or_path = str(pretrained_model_name_or_path)
        return tokenizer

    def _install(self, loaded: loading.Loaded) -> None:
        plain = loaded.settings.plain
        self.backend_tokenizer = loaded.backend
        self._roles = loaded.roles
        self._extra = list(
            dict.fromkeys(token if isinstance(token, str) else token.content for token in loaded.settings.extra)
        )
        self._options = loaded.options
        self.name_or_path = plain.get("name_or_path", "")
        self.model_max_length = int(min(plain.get("model_max_length", UNBOUNDED), UNBOUNDED))
        self.padding_side: str = plain.get("padding_side", "right")
        self.truncation_side: str = plain.get("truncation_side", "right")
        self.clean_up_tokenization_spaces: bool = plain.get("clean_up_tokenization_spaces", False)
        self.split_special_tokens: bool = plain.get("split_special_tokens", False)
        self.pad_token_type_id: int = plain.get("pad_token_type_id", 0)
        self.model_input_names = list(plain.get("model_input_names", self.family.input_names))
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
        wanted = returned_fields(returns, self.model_input_names)
        batch, batched = as_batch(text, text_pair, is_split_into_words)
        plan = self._plan(
            padding,
            truncation,
            max_length,
            stride,
            pad_to_multiple_of,
            padding_side,
            bool(returns.get("pad_to_max_length")),
        )
        encodings = self._encode(batch, plan, add_special_tokens, is_split_into_words)
        if plan.truncation is None and returns.get("verbose", True):
            self._warn_too_long(encodings)
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

    def _plan(
        self,
        padding: bool | str,
        truncation: bool | str | None,
        max_length: int | None,
        stride: int,
        pad_to_multiple_of: int | None,
        padding_side: str | None,
        pad_to_max_length: bool = False,
    ) -> Plan:
        plan = call_options.plan(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            pad_to_max_length=pad_to_max_length,
            model_max_length=self.model_max_length,
        )
        if plan.padding and self.pad_token_id is None:
            raise ValueError(
                "padding: the tokenizer has no pad token; set one, as in tokenizer.pad_token = tokenizer.eos_token, "
                "or add one with tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
            )
        return plan

    def _encode(self, batch: list[Any], plan: Plan, specials: bool, split: bool) -> list[Encoding]:
        """Runs the backend, whose truncation and padding are state: one call at a time (the lock is for threads)."""
        require_room_for(self.backend_tokenizer, batch, plan, specials)
        pad = None
        if plan.padding is not None:
            pad = {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "pad_type_id": self.pad_token_type_id}
        with self._lock:
            self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
            set_lengths(self.backend_tokenizer, plan, self.truncation_side, pad)
            return encode_batch(self.backend_tokenizer, batch, plan, specials, split, self.name_or_path)

    def _warn_too_long(self, encodings: list[Encoding]) -> None:
        longest = max(map(len, encodings))
        if longest > self.model_max_length and not self._warned:
            self._warned = True
            _log.warning(
                "a sequence has %d tokens, the model takes at most %d; pass truncation=True",
                longest,
                self.model_max_length,
            )

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
        plan = self._plan(padding, False, None if padding is True else max_length, 0, pad_to_multiple_of, padding_side)
        filling = Filling(self.model_input_names[0], self.pad_token_id, self.pad_token_type_id, mask)
        return pad_batch(encoded_inputs, plan, filling, return_tensors)

    def save_pretrained(self, save_directory: str | Path) -> tuple[str, ...]:
        """Writes tokenizer.json and tokenizer_config.json, each whole or not at all; returns their paths.

        Raises:
            ValueError: if `save_directory` is a file.
        """
        return saving.save(self.backend_tokenizer, self._config(), Path(save_directory))

    def _config(self) -> dict[str, Any]:
        """What tokenizer_config.json says: every added token is named, so that stale companions are not read."""
        roles = self.special_tokens_map
        of_family = saving.is_of_family(self.backend_tokenizer, self.family, self._options, roles)
        return {
            **(self._options if of_family else {}),
            **dict.fromkeys(self.family.roles),
            **roles,
            "added_tokens_decoder": {str(i): saving.flags(token) for i, token in self.added_tokens_decoder.items()},
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "additional_special_tokens": self.extra_special_tokens,  # transformers 4 fails on the newer name
            "model_input_names": self.model_input_names,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "tokenizer_class": self.family.name if of_family else GENERIC.name,
            "truncation_side": self.truncation_side,
        }

"""The tokenizer class: one call signature, the reference's, over every kind of vocabulary file."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as Backend

from minitrans.files import printable
from minitrans.hub import local_folder, upload
from minitrans.tokenizers import call, folder, guards, retraining, words
from minitrans.tokenizers.batch_encoding import BatchEncoding
from minitrans.tokenizers.folder import text_of
from minitrans.tokenizers.padding import pad_batch
from minitrans.tokenizers.specs import GENERIC, TokenizerSpec
from minitrans.tokenizers.vocabulary import Vocabulary
from minitrans.words import WHERE, Word, read_words

_log = logging.getLogger(__name__)


class _FileNames:
    """The class attribute `vocab_files_names`: argument -> the file that from_pretrained reads for it."""

    def __get__(self, tokenizer: Tokenizer | None, owner: type[Tokenizer]) -> dict[str, str]:
        return {
            **dict(zip(_FILE_ARGUMENTS, owner.spec.raw_files, strict=False)),
            "tokenizer_file": folder.TOKENIZER_FILE,
        }


_FILE_ARGUMENTS = ("vocab_file", "merges_file")


class Tokenizer(Vocabulary):
    """Text to ids and back.

    `Tokenizer.from_pretrained(folder_or_name)` reads a checkpoint's files; the constructor takes files by name. Both
    raise CheckpointError, naming file and line or token, for a vocabulary that is missing, broken or at odds with itself.

    Attributes:
        model_max_length: the longest sequence the model takes, 10**30 if unknown.
        padding_side, truncation_side: "right" or "left".
        model_input_names: the fields that a call returns unless told otherwise.
        name_or_path: where it was loaded from.
        deprecation_warnings: what was said once and is not said again, by the reference's keys.
        do_lower_case, ...: the options of the pipeline, by the names that the family's constructor takes.
    """

    spec: ClassVar[TokenizerSpec] = GENERIC
    is_fast: ClassVar[bool] = True
    backend: ClassVar[str] = "tokenizers"
    init_inputs: ClassVar[tuple[()]] = ()
    vocab_files_names = _FileNames()

    def __init__(
        self,
        vocab_file: str | Path | Mapping[str, int] | None = None,
        merges_file: str | Path | list[tuple[str, str]] | None = None,
        *,
        tokenizer_file: str | Path | None = None,
        tokenizer_object: Backend | None = None,
        **settings: Any,
    ) -> None:
        """Builds a tokenizer from files (a vocabulary may also be given as a dict, merges as a list of pairs).

        Args:
            vocab_file: vocab.txt, vocab.json or sentencepiece.bpe.model, whichever the family has.
            merges_file: merges.txt, for byte-level BPE.
            tokenizer_file: a tokenizer.json instead of these.
            tokenizer_object: a `tokenizers.Tokenizer` instead of these; it is copied.
            settings: special tokens by name (`unk_token="[UNK]"`), `do_lower_case`, `model_max_length` and so on, and the
                words of `words.SETTINGS`.

        Raises:
            TypeError: on an unknown setting, or files that are missing or of no use to this class.
            ValueError: on an impossible setting.
        """
        given = {"vocab_file": vocab_file, "merges_file": merges_file}
        options, rest = self._read_words(words.SETTINGS, settings, given)
        names = self.spec.raw_files
        files: dict[str, Any] = {folder.TOKENIZER_FILE: tokenizer_object or tokenizer_file}
        if files[folder.TOKENIZER_FILE] is None:
            found = (options.pop(name, None) for name in _FILE_ARGUMENTS)
            files = dict(
                zip(names, (dict(file) if isinstance(file, Mapping) else file for file in found), strict=False)
            )
        if not files or any(file is None for file in files.values()):
            what = f", or files such as {' and '.join(names)}" if names else ""
            raise TypeError(f"{type(self).__name__}: expected tokenizer_file{what}")
        merged = folder.Settings(dict(self.spec.special_tokens))
        folder.from_caller(merged, self.spec, {**rest, **options})
        self._install(merged, *folder.load(self.spec, files, merged, merged.pipeline))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **overrides: Any) -> Self:
        """The tokenizer of a checkpoint: a folder, a name on the Hugging Face hub, or a vocabulary file of its own.

        Args:
            pretrained_model_name_or_path: folder, hub name, or a tokenizer.json or vocab.txt.
            overrides: settings that win over the checkpoint's files, as for the constructor; and where to find it
                (`minitrans.words.WHERE`: revision, local_files_only, cache_dir, force_download, token, subfolder).

        Raises:
            CheckpointError: if a file is missing or at fault, naming it and the line, key or token.
            ValueError, TypeError: if there is no such checkpoint, or an override is unknown or impossible.
        """
        name = pretrained_model_name_or_path
        where, overrides = read_words(WHERE, overrides, f"{cls.__name__}.from_pretrained", {})
        if os.path.isfile(name):
            is_json = Path(name).suffix == ".json"
            return cls(
                None if is_json else name, tokenizer_file=name if is_json else None, name_or_path=str(name), **overrides
            )
        options, overrides = cls._read_words(words.SETTINGS, overrides, {})
        overrides |= options
        at = local_folder(name, patterns=folder.PATTERNS, **where)
        files = folder.vocabulary_files(at, cls.spec)
        settings = folder.from_folder(at, cls.spec, overrides)
        asked = {option: value for option, value in overrides.items() if option in cls.spec.options}
        tokenizer = cls.__new__(cls)
        tokenizer._install(settings, *folder.load(cls.spec, files, settings, asked))
        faults = guards.faults_of_size(tokenizer.backend_tokenizer, settings.by_caller, at / folder.MODEL_CONFIG_FILE)
        guards.refuse_first(next(iter(files.values())), faults)
        tokenizer.name_or_path = str(name)
        return tokenizer

    @classmethod
    def _read_words(
        cls, table: Mapping[str, Word], given: Mapping[str, Any], files: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        without = {f"add_{end}": word for end, word in words.WITHOUT.items() if end not in cls.spec.special_tokens}
        rows = {**table, **words.FOREIGN, **without}
        known = {name: word for name, word in rows.items() if name not in cls.spec.options}
        return read_words(known, given, cls.__name__, files)

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
        self.name_or_path: str = plain.get("name_or_path", "")
        self.model_max_length: int = plain.get("model_max_length", folder.UNBOUNDED)
        self.padding_side: str = plain.get("padding_side", self.spec.padding_side)
        self.truncation_side: str = plain.get("truncation_side", "right")
        self.clean_up_tokenization_spaces: bool = plain.get("clean_up_tokenization_spaces", False)
        self.split_special_tokens: bool = plain.get("split_special_tokens", False)
        self.pad_token_type_id: int = plain.get("pad_token_type_id", 0)
        self.model_input_names: list[str] = plain.get("model_input_names", self.spec.input_names)
        self.deprecation_warnings: dict[str, bool] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        """Settings are checked at once, wherever they come from; what the pipeline was built from stays."""
        if name in self.__dict__.get("_options", ()):
            raise AttributeError(f"{name}: the pipeline was built with it; load the tokenizer with {name}={value!r}")
        super().__setattr__(name, folder.plain(name, value) if name in folder.PLAIN else value)

    def __getattr__(self, name: str) -> Any:
        """The options of the pipeline, such as do_lower_case."""
        if name in self.__dict__.get("_options", ()):
            return self._options[name]
        how = f"; {words.ABSENT[name]}" if name in words.ABSENT else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{how}")

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # what is added to the one, or its language, is not the other's

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "deprecation_warnings": {}}  # a call leaves no trace

    def __repr__(self) -> str:
        added = "".join(f"\n\t{index}: {token!r}," for index, token in self.added_tokens_decoder.items())
        return (
            f"{type(self).__name__}(name_or_path={self.name_or_path!r}, vocab_size={self.vocab_size}, "
            f"model_max_length={self.model_max_length}, padding_side={self.padding_side!r}, "
            f"truncation_side={self.truncation_side!r}, special_tokens={self.special_tokens_map}, "
            f"added_tokens_decoder={{{added}\n}})"
        )

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The settings as they are now, as the constructor takes them; to change one, set the attribute."""
        plain = {name: getattr(self, name) for name in folder.PLAIN}
        return {**self._options, **plain, **self.special_tokens_map, "extra_special_tokens": self.extra_special_tokens}

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of a text fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=False)

    @property
    def max_len_sentences_pair(self) -> int:
        """How many tokens of a pair fit into the model."""
        return self.model_max_length - self.num_special_tokens_to_add(pair=True)

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        **others: Any,
    ) -> BatchEncoding:
        """Encodes a text, a pair, or a batch of either.

        Args:
            text: a str, a list of str or of (str, str); with is_split_into_words lists of words in place of each str.
            text_pair: the second text, or as many second texts as there are first.
            text_target: texts whose ids are returned as `labels`, or as they are if there is no `text`.
            text_pair_target: the second texts of these.
            add_special_tokens: whether to add those the model expects round the texts.
            padding: True or "longest"; "max_length"; False or "do_not_pad".
            truncation: True or "longest_first"; "only_first"; "only_second"; False or "do_not_truncate".
            max_length: the length for both, the model's if None. Given alone, it truncates.
            stride: how many tokens two overflowing pieces share.
            is_split_into_words: whether the texts are lists of words.
            pad_to_multiple_of: rounds padded lengths up.
            padding_side: "left" or "right", the tokenizer's own if None.
            return_tensors: "pt" (torch), "np" (numpy), or None for lists.
            others: the words of `words.CALLING`: return_token_type_ids, return_attention_mask (None: as model_input_names
                says), return_overflowing_tokens, return_special_tokens_mask, return_offsets_mapping, return_length, ...

        Returns:
            The fields asked for: lists of int, of lists for a batch, or tensors (B, T).

        Raises:
            TypeError, ValueError: naming the argument or the text that is wrong.
        """
        targets = None
        if text_target is not None:
            longest = others.pop("max_target_length", None) or max_length
            with self._for_targets() as tokenizer:
                targets = tokenizer(
                    text_target, text_pair_target, None, None, add_special_tokens, padding, truncation, longest, stride,
                    is_split_into_words, pad_to_multiple_of, padding_side, return_tensors, **others,
                )  # fmt: skip
            if text is None:
                return targets
        asked, unknown = read_words(words.CALLING, others, type(self).__name__, {})
        for name in sorted(unknown):
            known = ", ".join(word for word, meaning in words.CALLING.items() if meaning.ours)
            raise TypeError(f"unexpected argument {name!r}; besides the named ones a call takes {known}")
        warn = self._warn_once if asked.get("verbose", True) else _say_nothing
        plan = self._plan(
            warn,
            padding_side=padding_side,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            pad_to_multiple_of=pad_to_multiple_of,
            pad_to_max_length=asked.get("pad_to_max_length"),
        )
        batch, batched = call.as_batch(text, text_pair, is_split_into_words)
        splits = asked.get("split_special_tokens", self.split_special_tokens)
        encodings = self._encode(batch, plan, add_special_tokens, is_split_into_words, splits)
        overflowing = asked.get("return_overflowing_tokens")
        rows, sources = [], []
        for source, encoding in enumerate(encodings):
            pieces = [encoding, *encoding.overflowing] if overflowing else [encoding]
            rows += pieces
            sources += [source] * len(pieces)
        longest = max(map(len, rows))
        if plan.max_length is None and longest > self.model_max_length:
            what = f"a sequence has {longest} tokens, the model takes at most {self.model_max_length}"
            warn("sequence-length-is-longer-than-the-specified-maximum", f"{what}; pass truncation=True")
        wanted = call.returned_fields(asked, self.model_input_names)
        data = {name: [read(row) for row in rows] for name, read in wanted.items()}
        if overflowing:
            data["overflow_to_sample_mapping"] = sources
        elif not batched and return_tensors is None:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
        encoded = BatchEncoding(data, rows, return_tensors)
        if targets is not None:
            encoded["labels"] = targets["input_ids"]
        return encoded

    def _for_targets(self) -> AbstractContextManager[Tokenizer]:
        """The tokenizer that reads `text_target`."""
        return nullcontext(self)

    def _plan(self, warn_once: Callable[[str, str], None], padding_side: str | None, **asked: Any) -> call.LengthPlan:
        side = self.padding_side if padding_side is None else padding_side
        plan = call.plan_lengths({**asked, "padding_side": side}, self.model_max_length, warn_once)
        if plan.padding and self.pad_token_id is None:
            how = "tokenizer.pad_token = tokenizer.eos_token, or tokenizer.add_special_tokens({'pad_token': '[PAD]'})"
            raise ValueError(f"padding: the tokenizer has no pad token; set or add one, as in {how}")
        return plan

    def _encode(
        self, batch: list[Any], plan: call.LengthPlan, specials: bool, split: bool, split_specials: bool
    ) -> list[Encoding]:
        pad = {"pad_id": self.pad_token_id, "pad_token": self.pad_token, "pad_type_id": self.pad_token_type_id}
        return call.encode_batch(
            self.backend_tokenizer, batch, plan, self.truncation_side, pad,
            specials=specials, split=split, split_specials=split_specials, name=self.name_or_path,
        )  # fmt: skip

    def _warn_once(self, about: str, message: str) -> None:
        if not self.deprecation_warnings.get(about):
            self.deprecation_warnings[about] = True
            _log.warning(message)

    def encode(self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any) -> Any:
        """The ids of a text or a pair: a list of int, or a tensor (1, T) with return_tensors. Arguments as a call's."""
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)["input_ids"]

    def encode_plus(
        self, text: Any, text_pair: Any = None, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """A call for exactly one text or pair. Raises TypeError for a batch."""
        split = options.get("is_split_into_words", False)
        if isinstance(text[0] if split and text else text, list | tuple):
            raise TypeError("encode_plus: expected one text, got a batch; use batch_encode_plus or call the tokenizer")
        return self(text, text_pair, add_special_tokens=add_special_tokens, **options)

    def batch_encode_plus(
        self, batch_text_or_text_pairs: Any, add_special_tokens: bool = True, **options: Any
    ) -> BatchEncoding:
        """A call for a list of texts or of pairs. Raises TypeError for anything else."""
        if not isinstance(batch_text_or_text_pairs, list | tuple):
            raise TypeError(f"batch_encode_plus: expected a list, got {type(batch_text_or_text_pairs).__name__}")
        return self(batch_text_or_text_pairs, add_special_tokens=add_special_tokens, **options)

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any
    ) -> list[str]:
        """The tokens of a text or a pair, as text."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

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
            self._warn_once if verbose else _say_nothing,
            padding_side=padding_side,
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
        return pad_batch(encoded_inputs, plan, fills, mask, return_tensors)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[list[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[str | AddedToken] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer: Any,
    ) -> Self:
        """A tokenizer of the same kind, pipeline and special tokens, with a vocabulary learned from other texts.

        Args:
            text_iterator: the texts, one by one or in lists.
            vocab_size: how many tokens to learn at most, special ones included.
            length: how many texts there are, if known; only the progress bar asks.
            new_special_tokens: special tokens besides this tokenizer's.
            special_tokens_map: old text -> new text of special tokens that are to be renamed.
            trainer: arguments of the trainer in `tokenizers.trainers`.
        """
        renamed, new = dict(special_tokens_map or {}), list(new_special_tokens or ())
        backend = retraining.retrained(
            self.backend_tokenizer, text_iterator, vocab_size, length=length, new=new, renamed=renamed, **trainer
        )
        settings = {name: getattr(self, name) for name in folder.PLAIN}
        settings |= {name: self._options[name] for name in folder.LANGUAGES if name in self._options}
        tokens = {name: renamed.get(text, text) for name, text in self.special_tokens_map.items()}
        extra = [*(renamed.get(text, text) for text in self._extra), *new]
        return type(self)(tokenizer_object=backend, extra_special_tokens=extra, **settings, **tokens)

    def save_vocabulary(self, save_directory: str | Path, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes the files that the family's vocabulary is read from, without settings; returns their paths.

        Raises:
            ValueError: if the directory is none, or the vocabulary has no such files (Unigram): save_pretrained writes all.
        """
        if not Path(save_directory).is_dir():
            raise ValueError(f"save_vocabulary: expected a folder, found none at {printable(save_directory)}")
        if type(self.backend_tokenizer.model).__name__ == "Unigram":
            raise ValueError("save_vocabulary: no sentencepiece file is written; save_pretrained writes tokenizer.json")
        return tuple(self.backend_tokenizer.model.save(str(save_directory), filename_prefix))

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> tuple[str, ...]:
        """Writes tokenizer.json and tokenizer_config.json, each whole or not at all; returns their paths.

        Args:
            save_directory: the folder, made if it is not there.
            others: the words of `words.SAVING`; with push_to_hub=True those of `push_to_hub`.

        Raises:
            ValueError, TypeError: if `save_directory` is a file, a word is not offered or unknown, or the hub refuses.
        """
        options, unknown = read_words(words.SAVING, others, "save_pretrained", {})
        for name in unknown:
            raise TypeError(f"save_pretrained: unexpected argument {name!r}; it has {', '.join(words.SAVING)}")
        push = options.pop("push_to_hub", False)
        paths = folder.save(self.backend_tokenizer, self._config(), Path(save_directory))
        if push:
            repo_id = options.pop("repo_id", None) or Path(save_directory).resolve().name
            said = {"commit_message": "Upload a tokenizer", **options}
            upload(save_directory, repo_id, files=[Path(path).name for path in paths], **said)
        return paths

    def push_to_hub(self, repo_id: str, **others: Any) -> None:
        """Saves into a repository of the Hugging Face hub, which is made if it is new.

        Args:
            repo_id: "owner/name", or "name" of whoever asks.
            others: the words of `minitrans.words.PUSHING`: commit_message, private, token, revision, create_pr, ...

        Raises:
            ValueError, TypeError: if a word is not offered or unknown, or the hub refuses.
        """
        with TemporaryDirectory() as temporary:
            self.save_pretrained(temporary, push_to_hub=True, repo_id=repo_id, **others)

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


def _say_nothing(about: str, message: str) -> None:
    """For verbose=False."""

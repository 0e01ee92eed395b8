"""generation_config.json: the settings that a checkpoint comes with, as scripts read and assign them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from minitrans.errors import CheckpointError
from minitrans.files import atomic_write, printable, read_json
from minitrans.generation.settings import NAMES, check_values
from minitrans.hub import HubOptions, local_folder
from minitrans.words import Word, ignored, read_words, refused

FILE = "generation_config.json"

_LOW_MEMORY = "beams share the keys of their prompt already; take fewer prompts at a time"
_NO_COMPILE = "the loop runs as it is; torch.compile(model) works on its forward"

# Settings of the reference that are not ours: what to do instead, and the values that ask for nothing
OTHERS: dict[str, Word] = {
    "constraints": refused("give force_words_ids=[[ids of a word], [[ids of a form], [ids of another]]]"),
    "low_memory": refused(_LOW_MEMORY, False),
    "watermarking_config": refused("give a processor of your own in logits_processor=[...]"),
    "token_healing": refused("leave the last token of the prompt out yourself", False),
    "use_mtp": refused("give assistant_model=, a smaller model that drafts", False),
    "assistant_early_exit": refused("give assistant_model=, a smaller model that drafts"),
    "assistant_ensemble_weight": refused("drafts never change what is written; leave it out"),
    "speculation_type": refused("give assistant_model=, a smaller model that drafts"),
    "prefill_chunk_size": refused("a prompt is read as a whole; leave it out"),
    "custom_generate": refused("code from elsewhere is not run; write a loop over the model's forward"),
    **dict.fromkeys(("assistant_lookbehind", "target_lookbehind"), ignored("both models have one tokenizer")),
    "assistant_tokenizer": refused("the two models must have one tokenizer; leave it out"),
    **dict.fromkeys(("compile_config", "disable_compile"), ignored(_NO_COMPILE)),
    **dict.fromkeys(("cache_config", "max_cache_len"), ignored("a cache is as long as the texts may become")),
    **dict.fromkeys(("is_assistant", "continuous_batching_config", "trust_remote_code"), ignored("nothing here reads it")),
    "synced_gpus": refused("every process writes for itself; leave it out", False),
    **dict.fromkeys(("transformers_version", "_from_model_config", "_commit_hash"), ignored("says who wrote the file")),
}  # fmt: skip


class GenerationConfig:
    """Settings by name; those that are not set are None, and mean the default.

    Attributes:
        extra: what a file said besides: kept, and written back.

    Raises:
        ValueError: for a value that cannot be.
    """

    extra: dict[str, Any]
    _values: dict[str, Any]

    def __init__(self, **values: Any) -> None:
        self.__dict__["_values"] = {}
        self.__dict__["extra"] = {}
        self.update(**values)

    def update(self, **values: Any) -> dict[str, Any]:
        """Sets what is a setting, all or none; returns the rest."""
        _, rest = read_words(OTHERS, values, type(self).__name__, {})
        own = {name: value for name, value in rest.items() if name in NAMES}
        check_values(own)
        self._values.update(own)
        others = {name: value for name, value in rest.items() if name not in NAMES}
        self.extra.update(others)
        return others

    def __getattr__(self, name: str) -> Any:
        if name in NAMES:
            return self._values.get(name)
        if name in self.__dict__.get("extra", {}):
            return self.extra[name]
        raise AttributeError(f"{type(self).__name__} has no setting {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.update(**{name: value})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self).from_dict(self.to_dict())

    def __reduce__(self) -> Any:
        return (type(self).from_dict, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """What is set, and what a file said besides."""
        return {**self.extra, **{name: value for name, value in self._values.items() if value is not None}}

    to_diff_dict = to_dict

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(**values)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **where: Unpack[HubOptions]) -> Self:
        """The generation_config.json of a folder, or of a name on the Hugging Face hub.

        Raises:
            CheckpointError: where there is none, or a setting cannot be; it names the file.
        """
        folder = local_folder(pretrained_model_name_or_path, patterns=(FILE,), **where)
        return cls(**read_generation_config(folder / FILE).to_dict())

    def to_json_string(self) -> str:
        """What the file holds; raises ValueError for what JSON cannot."""
        values = self.to_dict()
        if isinstance(values.get("sequence_bias"), Mapping):
            values["sequence_bias"] = [[list(ids), bias] for ids, bias in values["sequence_bias"].items()]
        try:
            return json.dumps(values, indent=2, sort_keys=True) + "\n"
        except (TypeError, ValueError) as error:
            raise ValueError(f"{FILE} cannot hold every setting: {error}") from None

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes generation_config.json into a folder, which is made if it is new."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(folder) / FILE) as temporary:
            temporary.write_text(self.to_json_string(), encoding="utf-8")


def read_generation_config(path: Path) -> GenerationConfig:
    """The settings in a file. Raises CheckpointError, naming the file, for one that cannot be."""
    try:
        return GenerationConfig(**read_json(path))
    except CheckpointError:
        raise
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{printable(path)}: {printable(error, 300)}") from None

"""What every task says of itself; the fields of a recipe are the task's part of a configuration file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

from minitrans.errors import NotSupportedError
from minitrans.files import printable
from minitrans.models.auto import AutoConfig
from minitrans.models.pretrained import PreTrainedModel
from minitrans.pipelines.base import longest_input
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.folder import UNBOUNDED
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.data.table import read_table
from minitrans.training.metrics import Scores
from minitrans.training.objective import HeadObjective, Objective
from minitrans.training.settings import TrainingSettings

LONGEST = 512  # tokens of an example, unless the configuration says otherwise


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A task: data + objective + head + scores.

    Attributes:
        max_length: tokens that are left of a longer text; None = as many as the model takes, at most 512.
        columns: names of the columns of a table that has no line with them.
    """

    summary: ClassVar[str]  # of the help
    example: ClassVar[str]  # of its command
    auto: ClassVar[Any]  # what loads the model
    best: ClassVar[str]  # the score that tells the best checkpoint
    maximize: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {}  # of TrainingSettings, where the task wants others

    max_length: int | None = None
    columns: tuple[str, ...] = ()

    def read(self, paths: Sequence[Path]) -> Records:
        """The rows of one file. Raises ValueError, naming file and line, where it is malformed."""
        return read_table(only(paths), self.columns or None)

    def config(self, records: Records) -> dict[str, Any]:
        """What the data ask of the model's configuration, such as its classes."""
        return {}

    def adjusted(self, settings: TrainingSettings) -> TrainingSettings:
        """The settings of the loop, with what the task itself asks for."""
        return settings

    def model_class(self) -> Any:
        """What loads the model."""
        return self.auto

    def load(
        self, name: str | None, tokenizer: str | None, architecture: Mapping[str, Any], records: Records
    ) -> tuple[PreTrainedModel, Tokenizer]:
        """The model and its tokenizer: of a checkpoint, or fresh.

        Args:
            name: a checkpoint; None = fresh weights.
            tokenizer: another tokenizer's folder; the token table gets as many rows as it has tokens.
            architecture: of a fresh model, `model_type` and fields of its configuration; beside a checkpoint, fields that differ.
            records: the data.

        Raises:
            ValueError: where neither or both are given, or the checkpoint is faulty.
        """
        words = tokenizer or name
        if words is None:
            raise ValueError("give --model, or the architecture of a fresh model and --tokenizer")
        read: Tokenizer = AutoTokenizer.from_pretrained(words)
        fields = {**self.config(records), **architecture}
        if name is not None:
            model: PreTrainedModel = self.model_class().from_pretrained(name, **fields)
        elif "model_type" not in fields:
            raise ValueError(
                "architecture: a fresh model needs model_type, such as 'bert', and fields of its configuration"
            )
        else:
            model = self.model_class().from_config(AutoConfig.for_model(**{**ids_of(read), **fields}))
        if tokenizer is not None and len(read) != model.config.vocab_size:
            model.resize_token_embeddings(len(read))
        read.model_input_names = [
            name for name in read.model_input_names if name in signature(model.forward).parameters
        ]
        if read.model_max_length >= UNBOUNDED:
            read.model_max_length = self.length(model, read)
        model.padding = "remove"
        return model, read

    def reload(self, name: str) -> tuple[PreTrainedModel, Tokenizer]:
        """What `save` wrote."""
        return self.model_class().from_pretrained(name), AutoTokenizer.from_pretrained(name)

    def length(self, model: PreTrainedModel, tokenizer: Tokenizer) -> int:
        """Tokens of the longest example."""
        return self.max_length or min(longest_input(model, tokenizer), LONGEST)

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """What the loop draws from."""
        raise NotImplementedError

    def require_scorable(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> None:
        """Raises ValueError, before any training, for rows that `score` would refuse after it."""

    def objective(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Objective:
        """What is learnt from it: the head's own loss."""
        return HeadObjective(model)

    def score(self, model: PreTrainedModel, tokenizer: Tokenizer, records: Records) -> Scores:
        """What the model makes of rows that it has not seen."""
        raise NotImplementedError

    def save(self, model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
        """Writes a checkpoint that `from_pretrained` and the reference open."""
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def only(paths: Sequence[Path]) -> Path:
    """The one file. Raises ValueError for several."""
    if len(paths) != 1:
        raise ValueError(
            f"--data: expected one file for this task, got {len(paths)}: {printable(', '.join(map(str, paths)))}"
        )
    return paths[0]


def other_column(records: Records, label: str) -> str:
    """The column of the texts: the one that is not the label. Raises ValueError where that does not tell."""
    names = list(records.rows[0])
    if label not in names:
        raise ValueError(f"{records.name}: expected a column {label!r}, found {', '.join(names)}: say label=COLUMN")
    others = [name for name in names if name != label]
    if len(others) != 1:
        raise ValueError(f"{records.name}: which column has the texts? found {', '.join(others)}: say text=COLUMN")
    return others[0]


def ids_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a fresh model must know of its vocabulary."""
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id,
        "eos_token_id": tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id,
    }
    if ids["pad_token_id"] is None:
        raise NotSupportedError("the tokenizer has no padding token: add one, as minitrans train-tokenizer does")
    return {"vocab_size": len(tokenizer), **{name: value for name, value in ids.items() if value is not None}}

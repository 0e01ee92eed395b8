"""Which tokens are not the text's own (Clark et al. 2020, "ELECTRA")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from minitrans.files import printable
from minitrans.models.electra import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining
from minitrans.models.pretrained import PreTrainedModel
from minitrans.tokenizers.auto import AutoTokenizer
from minitrans.tokenizers.tokenizer import Tokenizer
from minitrans.training.data.records import Records
from minitrans.training.data.source import Source
from minitrans.training.objective import Objective
from minitrans.training.objectives import replaced
from minitrans.training.recipes.mlm import OfDocuments
from minitrans.training.recipes.recipe import ids_of

GENERATOR = "generator"  # its folder, in that of the discriminator


@dataclass(frozen=True, kw_only=True)
class Electra(OfDocuments):
    """What is kept is the discriminator; the generator lies in a folder beside.

    Attributes:
        generator: its width as a share of the discriminator's, of fresh models.
        weight: of the discriminator's loss.
    """

    summary: ClassVar[str] = "Replaced tokens are found out: documents, as for mlm."
    example: ClassVar[str] = "--data corpus.txt --tokenizer ./words --config small.toml"
    auto: ClassVar[Any] = ElectraForPreTraining

    generator: float = 0.25
    weight: float = 50.0

    def load(
        self, name: str | None, tokenizer: str | None, architecture: Mapping[str, Any], records: Records
    ) -> tuple[PreTrainedModel, Tokenizer]:
        """Both models: fresh ones, or what this recipe has written. Raises as the base's, and for another family."""
        if name is not None:
            return self.reload(name)
        fields = {name: value for name, value in architecture.items() if name != "model_type"}
        if architecture.get("model_type", "electra") != "electra" or tokenizer is None:
            raise ValueError("electra: give --tokenizer, and an architecture of model_type 'electra'")
        read: Tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        config = ElectraConfig(**{**ids_of(read), **fields})
        heads = max(1, round(config.num_attention_heads * self.generator))
        width = max(1, round(config.hidden_size * self.generator / heads)) * heads
        small = config.updated(
            hidden_size=width, num_attention_heads=heads,
            intermediate_size=max(1, round(config.intermediate_size * self.generator)),
        )  # fmt: skip
        return self._both(ElectraForMaskedLM(small), ElectraForPreTraining(config)), read

    def reload(self, name: str) -> tuple[PreTrainedModel, Tokenizer]:
        """As the base's. Raises ValueError for what this recipe has not written."""
        if not (Path(name) / GENERATOR).is_dir():
            raise ValueError(
                f"{printable(name)}: has no folder {GENERATOR!r}: give what electra has trained, or --tokenizer"
            )
        generator = ElectraForMaskedLM.from_pretrained(Path(name) / GENERATOR)
        return self._both(generator, ElectraForPreTraining.from_pretrained(name)), AutoTokenizer.from_pretrained(name)

    def _both(self, generator: Any, discriminator: Any) -> PreTrainedModel:
        generator.padding = discriminator.padding = "remove"
        return cast("PreTrainedModel", replaced.Electra(generator, discriminator))

    def examples(self, records: Records, model: PreTrainedModel, tokenizer: Tokenizer) -> Source:
        """As the base's."""
        return super().examples(records, cast("Any", model).discriminator, tokenizer)

    def objective(self, model: PreTrainedModel, tokenizer: Tokenizer) -> Objective:
        """Both losses."""
        return replaced.Replaced(cast("Any", model), tokenizer, weight=self.weight)

    def save(self, model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
        """The discriminator, and the generator below."""
        both = cast("Any", model)
        super().save(both.discriminator, tokenizer, folder)
        both.generator.save_pretrained(folder / GENERATOR)

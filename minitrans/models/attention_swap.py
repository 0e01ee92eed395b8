"""`convert_attention`: another attention in a model that is in memory, what begins how, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from minitrans.attention.specs import VariantSpec
from minitrans.attention.variant import Variant
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.models.config import EncoderConfig
from minitrans.models.pretrained import PreTrainedModel


@dataclass(eq=False)
class AttentionConversion:
    """What became of a model.

    Attributes:
        model: the model, in which the new attention is.
        begins: each parameter that the weights did not have, by its name in the model, and how it begins.
        longest: how many tokens of a text there are positions for, before and after.
    """

    model: PreTrainedModel
    begins: dict[str, str]
    longest: tuple[int, int]
    _fields: dict[str, Any] = field(repr=False)
    _blocks: list[tuple[MultiHeadAttention, list[Variant], str, float]] = field(repr=False)
    _positions: nn.Parameter | None = field(repr=False)

    @property
    def fresh(self) -> list[str]:
        """The parameters that healing trains."""
        return list(self.begins)

    def undo(self) -> None:
        """The attention and the positions of before, the very objects; what was trained in other weights stays trained."""
        for block, variants, backend, dropout in self._blocks:
            block.install(variants, backend, dropout)
        if self._positions is not None:
            _put(_table(self.model), self._positions)
        self.model.config.rebuild(**self._fields)

    def __str__(self) -> str:
        before, after = self.longest
        longer = f"; positions for {after} tokens instead of {before}" if after != before else ""
        count = sum(self.model.get_parameter(name).numel() for name in self.begins)
        return f"{len(self.begins)} fresh parameters of {count} numbers{longer}"


def convert_attention(
    model: PreTrainedModel,
    attention: VariantSpec,
    backend: str = "auto",
    *,
    dropout: float | None = None,
    longest: int | None = None,
) -> AttentionConversion:
    """What `from_pretrained(..., attention=...)` makes of a checkpoint, of a model that is here, by the same rules.

    Heads are merged by groups for `grouped_query`, the block's projections copied for `longformer` and cut to a rank for
    `multi_latent`; every other parameter begins as its row says, where there is such a place at softmax attention.

    Args:
        model: any with blocks of attention; it is changed.
        attention: as for `set_attention`.
        backend: how to compute softmax attention.
        dropout: probability, on the attention probabilities; None = as it is.
        longest: make positions for so many tokens, by repeating the learned ones from the first on that a token has (row 2 of
            RoBERTa's table; Beltagy et al. 2020, section 5); None = as many as there are.

    Returns:
        The account, with `undo()`.

    Raises:
        ValueError, TypeError: as `set_attention`, and where there are no positions to repeat; then nothing has changed.
    """
    body, before = model.base_model, model.config.fields()
    blocks = [each for each in body.modules() if isinstance(each, MultiHeadAttention)]
    kept = [(each, list(each.variants), each.backend, each.dropout_p) for each in blocks]
    had, old = cast("int", body.longest), None
    if longest is not None and longest != had:
        old = _lengthen(model, had, longest)
    done = AttentionConversion(model, {}, (had, longest or had), before, kept, old)
    try:
        model.set_attention(attention, backend, dropout=dropout)
    except Exception:
        done.undo()
        raise
    for path, block in model.named_modules():
        if isinstance(block, MultiHeadAttention):
            for place, variant in enumerate(block.variants):
                copies = type(variant).adopt is not Variant.adopt
                how = "from the weights of its block" if copies else "as its row begins"
                done.begins |= {f"{path}.variants.{place}.{name}": how for name, _ in variant.named_parameters()}
    return done


def _lengthen(model: PreTrainedModel, had: int, wanted: int) -> nn.Parameter:
    """Repeats rows of the position table, and says so in the configuration; returns the old ones."""
    table = _table(model)
    relative = any(
        isinstance(each, MultiHeadAttention) and each.distance_embedding is not None for each in model.modules()
    )
    if table is None or relative or wanted < had:
        raise ValueError(
            f"longest={wanted}: a table of {had} learned absolute positions can be made longer by repeating it; "
            + (
                "this one would be cut"
                if wanted < had
                else f"{type(model).__name__} has none, or relative ones besides"
            )
        )
    rows, old = len(table.weight), cast("nn.Parameter", table.weight)
    first = rows - had  # those before are nobody's, or padding's (R2)
    which = torch.arange(wanted, device=old.device) % had + first
    longer = torch.cat([old[:first], old[which]]).detach()
    config: EncoderConfig = model.config.updated(max_position_embeddings=first + wanted)
    _put(table, nn.Parameter(longer, requires_grad=old.requires_grad))
    model.config.rebuild(**config.fields())
    return old


def _table(model: PreTrainedModel) -> Any:
    """The position table; None where there is none."""
    return getattr(model.base_model.get_submodule("embeddings"), "position_embeddings", None)


def _put(table: Any, weight: Tensor) -> None:
    table.weight, table.num_embeddings = weight, len(weight)

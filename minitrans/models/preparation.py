"""From what a user passes to what the embeddings and blocks of a body work on: checked, positioned, packed if need be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.packing import Packing
from minitrans.models import inputs
from minitrans.models.config import EncoderConfig
from minitrans.models.padding import choose_packing


@dataclass(frozen=True)
class Given:
    """The arguments of a body's forward that describe its tokens; their meaning is explained there."""

    input_ids: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    layout: PackedLayout | None
    past_length: int


@dataclass(frozen=True)
class Prepared:
    """The same, ready: tensors are (B, T), or (N) where the batch has no padding.

    Attributes:
        tokens: ids, or vectors (..., D).
        positions: ids.
        types: ids.
        mask: of the self-attention.
        bias: of the self-attention.
        packing: where the tokens stand in the padded batch; None where they stand there themselves.
        shape: (B, T) of the padded batch.
    """

    tokens: Tensor
    positions: Tensor
    types: Tensor
    mask: AttentionMask
    bias: AttentionBias | None
    packing: Packing | None
    shape: tuple[int, int]

    @property
    def layout(self) -> PackedLayout | None:
        """Where the sequences of a packed batch lie."""
        return None if self.packing is None else self.packing.layout

    def padded(self, x: Tensor) -> Tensor:
        """(B, T, D) from what the blocks return."""
        return x if self.packing is None else self.packing.unpack(x)


def prepare(
    given: Given,
    config: EncoderConfig,
    rule: Callable[[Tensor, int], Tensor],
    *,
    padding: str,
    needs_padding: dict[str, bool],
) -> Prepared:
    """Checks the arguments and puts the tokens where they belong.

    Args:
        given: the arguments.
        config: of the model.
        rule: the family's rule of positions.
        padding: see `padding.choose_packing`.
        needs_padding: see there.

    Raises:
        ValueError, TypeError: for input that does not fit the model.
    """
    ids, mask, types, places, vectors = (
        given.input_ids,
        given.attention_mask,
        given.token_type_ids,
        given.position_ids,
        given.inputs_embeds,
    )
    packing = None
    if given.layout is not None:  # as if its sequences had come padded: the rules of positions and checks are the same
        packed = inputs.PackedInputs(given.layout, mask)
        packing, mask = packed.packing, packed.mask
        ids, vectors = packed.padded(ids, fill=config.pad_token_id or 0), packed.padded(vectors)
        types, places = packed.padded(types), packed.padded(places)
    tokens = inputs.check_tokens(ids, vectors, config.vocab_size, config.embedding_size)
    batch, length = tokens.shape[:2]
    positions = (
        rule(tokens, given.past_length)
        if places is None
        else inputs.check_positions(places, tokens, config.max_position_embeddings)
    )
    types = inputs.check_types(types, tokens, config.type_vocab_size)
    meaning, bias = inputs.attention_mask(
        "attention_mask", mask, batch, length, given.past_length + length, causal=config.is_decoder
    )
    packing = choose_packing(padding, meaning, width=config.hidden_size, needs_padding=needs_padding, given=packing)
    if packing is not None:
        tokens, positions, types = packing.pack(tokens), packing.pack(positions), packing.pack(types)
        meaning = AttentionMask(causal=meaning.causal)
    return Prepared(tokens, positions, types, meaning, bias, packing, (batch, length))

"""The boundary: what a user passes is checked here, once, so that no kernel has to fail on it."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias, DenseBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.packing import Packing
from minitrans.models.config import EncoderConfig


def check_tokens(input_ids: Tensor | None, inputs_embeds: Tensor | None, vocab_size: int, width: int) -> Tensor:
    """The one of the two that was given: (B, T) ids in [0, V), or (B, T, D) vectors.

    Raises:
        ValueError: for both or neither, a wrong shape, no tokens, or an id out of range. TypeError: for a wrong dtype.
    """
    if (input_ids is None) == (inputs_embeds is None):
        given = "neither" if input_ids is None else "both"
        raise ValueError(f"give exactly one of input_ids and inputs_embeds, got {given}")
    if inputs_embeds is not None:
        if not isinstance(inputs_embeds, Tensor) or not inputs_embeds.is_floating_point():
            raise TypeError(f"inputs_embeds must be a floating-point tensor, got {_kind(inputs_embeds)}")
        if inputs_embeds.dim() != 3 or inputs_embeds.shape[2] != width:
            raise ValueError(f"inputs_embeds must be (B, T, D={width}), got {tuple(inputs_embeds.shape)}")
        tokens = inputs_embeds
    else:
        tokens = check_ids("input_ids", input_ids, vocab_size, "vocab_size")
        if tokens.dim() != 2:
            raise ValueError(
                f"input_ids must be (B, T), got {tuple(tokens.shape)}; for one sequence write input_ids[None]"
            )
    if tokens.shape[1] == 0:
        raise ValueError("the sequences are empty: at least one token is needed")
    return tokens


def check_ids(name: str, ids: Tensor | None, size: int, of: str) -> Tensor:
    """`ids` as int64. Raises TypeError unless they are integers, ValueError unless all are in [0, size)."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        hint = "; tokenizers give tensors with return_tensors='pt'" if not isinstance(ids, Tensor) else ""
        raise TypeError(f"{name} must be a tensor of integers, got {_kind(ids)}{hint}")
    if ids.numel() and not torch.compiler.is_compiling():
        low, high = (int(end) for end in torch.stack(torch.aminmax(ids)).tolist())
        if low < 0 or high >= size:
            raise ValueError(f"{name} must be in [0, {of}={size}), got {low if low < 0 else high}")
    return ids.long()


def check_types(token_type_ids: Tensor | None, tokens: Tensor, type_vocab_size: int) -> Tensor:
    """(B, T) token types; zeros where none were given (B6).

    A family without a table (D1, P1) takes any and looks at none, as the reference does: tokenizers give them.
    """
    if token_type_ids is None:
        return torch.zeros(tokens.shape[:2], dtype=torch.long, device=tokens.device)
    types = token_type_ids
    if type_vocab_size:
        types = check_ids("token_type_ids", token_type_ids, type_vocab_size, "type_vocab_size")
    if types.shape != tokens.shape[:2]:
        raise ValueError(f"token_type_ids must be (B, T) = {tuple(tokens.shape[:2])}, got {tuple(types.shape)}")
    return types


def check_positions(position_ids: Tensor, tokens: Tensor, max_positions: int) -> Tensor:
    """(B, T) positions given by the user, or (1, T) for all rows, or (T)."""
    positions = check_ids("position_ids", position_ids, max_positions, "max_position_embeddings")
    batch, length = tokens.shape[:2]
    if positions.shape not in ((batch, length), (1, length), (length,)):
        raise ValueError(f"position_ids must be (B, T) or (1, T) = ({batch}, {length}), got {tuple(positions.shape)}")
    return positions.expand(batch, length)


def check_length(length: int, most: int) -> None:
    """Raises ValueError for sequences longer than the positions of the model (B6, R2)."""
    if length > most:
        raise ValueError(
            f"the sequences have {length} tokens, the model has positions for {most}; "
            f"cut them: tokenizer(..., truncation=True, max_length={most})"
        )


def attention_mask(
    name: str, given: Tensor | None, batch: int, query_length: int, key_length: int, *, causal: bool
) -> tuple[AttentionMask, AttentionBias | None]:
    """What a user's attention mask means: 2-D padding (M1), 4-D bool who sees whom, 4-D float scores to add.

    Args:
        name: of the argument, for messages.
        given: (B, S), non-zero = attend; or (B|1, H|1, T, S).
        batch: B.
        query_length: T.
        key_length: S, with the tokens of a cache.
        causal: whether a token sees only itself and those before it.

    Raises:
        TypeError, ValueError: for any other shape, length (M3: of all ones too) or meaning.
    """
    if given is None:
        return AttentionMask(causal=causal), None
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    if given.dim() == 4:
        return _square_mask(name, given, (batch, query_length, key_length))
    if given.shape != (batch, key_length):
        raise ValueError(f"{name} must be (B, S) = ({batch}, {key_length}), or 4-D, got {tuple(given.shape)}")
    if given.dtype != torch.bool and not torch.compiler.is_compiling() and not bool((given >= 0).all()):
        raise ValueError(
            f"{name} must hold 1 for tokens to attend to and 0 for padding, got negative or NaN values; "
            f"scores to be added are 4-D: (B, 1, T, S)"
        )
    keys = given.bool()
    if not torch.compiler.is_compiling() and bool(keys.all()):
        return AttentionMask(causal=causal), None
    return AttentionMask(key_padding=keys, causal=causal), None


def _square_mask(name: str, given: Tensor, sizes: tuple[int, int, int]) -> tuple[AttentionMask, AttentionBias | None]:
    """A 4-D mask is the whole truth: a decoder adds no causal one to it."""
    batch, query_length, key_length = sizes
    if given.shape[0] not in (1, batch) or given.shape[2:] != (query_length, key_length):
        raise ValueError(f"{name} must be (B|1, H|1, T, S) of B, T, S = {sizes}, got {tuple(given.shape)}")
    if given.dtype == torch.bool:
        return AttentionMask(dense=given), None
    if given.is_floating_point():
        # -inf and the most negative number both mean forbidden: as scores they would make an empty row NaN
        allowed = given > torch.finfo(given.dtype).min / 2
        return AttentionMask(dense=allowed), DenseBias(given.masked_fill(~allowed, 0.0))
    raise TypeError(f"a 4-D {name} must be bool (True = may attend) or floating point (added), got {given.dtype}")


def memory_mask(
    memory: Tensor | None, given: Tensor | None, shape: tuple[int, int], config: EncoderConfig
) -> AttentionMask | None:
    """The mask of the cross-attention of tokens of `shape` (B, T), after checking that there is a memory to mask (B7)."""
    if memory is None:
        return None
    if not config.add_cross_attention:
        raise ValueError("encoder_hidden_states needs cross-attention: set is_decoder=True, add_cross_attention=True")
    batch, length = shape
    if memory.dim() != 3 or memory.shape[0] != batch or memory.shape[2] != config.hidden_size:
        expected = f"(B={batch}, S, D={config.hidden_size})"
        raise ValueError(f"encoder_hidden_states must be {expected}, got {tuple(memory.shape)}")
    mask, bias = attention_mask("encoder_attention_mask", given, batch, length, memory.shape[1], causal=False)
    if bias is not None:
        raise TypeError("encoder_attention_mask must be (B, S), or 4-D and bool")
    return mask


class PackedInputs:
    """A packed batch on its way in: what was given for its N tokens, laid out as the padded batch (B, T) it stands for.

    Args:
        layout: where the sequences lie.
        attention_mask: must be None: a packed batch holds no padding.
    """

    def __init__(self, layout: PackedLayout, attention_mask: Tensor | None) -> None:
        if attention_mask is not None:
            raise ValueError("a packed batch has no padding: give no attention_mask with a layout")
        self.packing = Packing.of_layout(layout)
        self.mask = self.packing.unpack(torch.ones_like(self.packing.cells, dtype=torch.bool))

    def padded(self, given: Tensor | None, *, fill: int = 0) -> Tensor | None:
        """(N, ...) -> (B, T, ...), with `fill` at padding. Raises ValueError unless N is that of the layout."""
        if given is None:
            return None
        if given.dim() < 1 or given.shape[0] != len(self.packing.cells):
            raise ValueError(
                f"with a layout of {len(self.packing.cells)} tokens the inputs are (N) = ({len(self.packing.cells)}), "
                f"got shape {tuple(given.shape)}"
            )
        return self.packing.unpack(given, fill)


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

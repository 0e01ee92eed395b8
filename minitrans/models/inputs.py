"""The door: what a user passes to a model is checked here, once, and becomes what the embeddings and blocks work on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.bias import AttentionBias, DenseBias
from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import NO_MASK, AttentionMask
from minitrans.layers.cache import Cache
from minitrans.models.config import EncoderConfig
from minitrans.models.padding import MODES, Packing, check_mode, choose_packing, refuse_obstacles


class Body(Protocol):
    """What the door has to know of a body."""

    config: EncoderConfig
    padding: str

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        ...

    @property
    def longest(self) -> int:
        """The longest sequence that there are positions for."""
        ...

    @property
    def num_layers(self) -> int:
        """L, how many blocks run."""
        ...

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """The family's rule."""
        ...

    def why_not(self, what: str) -> str | None:
        """Why the attention of the blocks cannot serve "packed" batches or a "static" cache."""
        ...


@dataclass(frozen=True)
class ModelInputs:
    """The arguments of a body's forward that say what to run on; their meaning is explained there."""

    input_ids: Tensor | None
    attention_mask: Tensor | None
    token_type_ids: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    encoder_hidden_states: Tensor | None
    encoder_attention_mask: Tensor | None
    past_key_values: Cache | None
    use_cache: bool
    head_mask: Tensor | None
    layout: PackedLayout | None
    padding: str | None
    need_weights: bool


@dataclass(frozen=True)
class Batch:
    """The same, ready: tensors are (B, T), or (N) where the batch has no padding.

    Attributes:
        tokens: ids, or vectors (..., D).
        positions: ids.
        types: ids.
        context: what the blocks share.
        cache: that the blocks extend.
        packing: where the tokens stand in the padded batch; None where they stand there themselves.
    """

    tokens: Tensor
    positions: Tensor
    types: Tensor
    context: Context
    cache: Cache | None
    packing: Packing | None

    def padded(self, x: Tensor) -> Tensor:
        """(B, T, D) from what the blocks return."""
        return x if self.packing is None else self.packing.unpack(x)


def prepare_batch(body: Body, given: ModelInputs) -> Batch:
    """Checks the arguments and puts the tokens where they belong.

    Raises:
        ValueError, TypeError: for input that does not fit the model. NotSupportedError: for what does not go together.
    """
    config, packing, layout = body.config, None, None
    if given.layout is not None:  # as if its sequences had come padded: the rules of positions and checks are the same
        given, packing = _laid_out(given, given.layout, max(config.pad_token_id or 0, 0))
    tokens = _tokens(given.input_ids, given.inputs_embeds, config)
    grid = batch, length = tokens.shape[:2]
    cache = _cache(body, given, batch) if given.use_cache or given.past_key_values is not None else None
    past = 0 if cache is None else cache.get_seq_length()
    check_length(past + length, body.longest)
    positions = body.positions(tokens, past)
    if given.position_ids is not None:
        most = config.max_position_embeddings
        positions = check_ids("position_ids", given.position_ids, most, "max_position_embeddings")
        check_shape("position_ids", positions, "(B, T) or (1, T)", grid, (1, length), (length,))
        positions = positions.expand(grid)
    types, kinds = given.token_type_ids, config.type_vocab_size  # without a table (D1, P1) none is looked at
    if types is None:
        types = torch.zeros(grid, dtype=torch.long, device=tokens.device)  # B6
    else:
        types = check_ids("token_type_ids", types, kinds, "type_vocab_size") if kinds else types
        check_shape("token_type_ids", types, "(B, T)", grid)
    sizes, causal = (batch, length, past + length), config.is_decoder
    mask, bias = attention_mask("attention_mask", given.attention_mask, sizes, causal=causal)
    memory, head_mask = given.encoder_hidden_states, given.head_mask
    memory_mask = NO_MASK if memory is None else _memory_mask(memory, given.encoder_attention_mask, tokens, config)
    if head_mask is not None:
        every = body.num_layers, config.num_attention_heads
        check_shape("head_mask", head_mask, "(H) or (L, H)", every, every[1:])
        head_mask = head_mask.expand(every)

    mode = body.padding if given.padding is None else given.padding
    if packing is not None or mode not in MODES or (mode != "keep" and mask.key_padding is not None):
        packing = _packing(body, given, mask.key_padding, mode, packing)
    if packing is not None:
        layout, mask = packing.layout, AttentionMask(causal=mask.causal)
        tokens, positions, types = packing.pack(tokens), packing.pack(positions), packing.pack(types)
    if cache is not None and cache.capacity is not None:
        mask, bias = _over_capacity(body, mask, bias, past, length, cache.capacity)
    context = Context(mask, bias, layout, positions, memory, memory_mask, head_mask, given.need_weights)
    return Batch(tokens, positions, types, context, cache, packing)


def _tokens(ids: Tensor | None, vectors: Tensor | None, config: EncoderConfig) -> Tensor:
    """The one of the two that was given: (B, T) ids in [0, V), or (B, T, D) vectors; T is at least 1."""
    if (ids is None) == (vectors is None):
        given = "neither" if ids is None else "both"
        raise ValueError(f"give exactly one of input_ids and inputs_embeds, got {given}")
    if vectors is None:
        tokens = check_ids("input_ids", ids, config.vocab_size, "vocab_size")
        if tokens.dim() != 2:
            raise ValueError(
                f"input_ids must be (B, T), got {tuple(tokens.shape)}; for one sequence write input_ids[None]"
            )
    else:
        tokens, width = vectors, config.embedding_size
        if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
            raise TypeError(f"inputs_embeds must be a floating-point tensor, got {_kind(vectors)}")
        if vectors.dim() != 3 or vectors.shape[2] != width:
            raise ValueError(f"inputs_embeds must be (B, T, D={width}), got {tuple(vectors.shape)}")
    if tokens.shape[1] == 0:
        raise ValueError("the sequences are empty: at least one token is needed")
    return tokens


def check_shape(name: str, given: Tensor, letters: str, *shapes: tuple[int, ...]) -> None:
    """Raises ValueError unless `given` has one of these shapes, of which the first shows what the letters stand for."""
    if given.shape not in shapes:
        raise ValueError(f"{name} must be {letters} = {tuple(shapes[0])}, got {tuple(given.shape)}")


def check_ids(name: str, ids: Tensor | None, size: int, of: str) -> Tensor:
    """`ids` as int64. Raises TypeError unless they are integers, ValueError unless all are in [0, size)."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        hint = "; tokenizers give tensors with return_tensors='pt'" if not isinstance(ids, Tensor) else ""
        raise TypeError(f"{name} must be a tensor of integers, got {_kind(ids)}{hint}")
    if ids.numel() and not being_recorded():
        low, high = (int(end) for end in torch.stack(torch.aminmax(ids)).tolist())
        if low < 0 or high >= size:
            raise ValueError(f"{name} must be in [0, {of}={size}), got {low if low < 0 else high}")
    return ids.long()


def check_length(length: int, most: int) -> None:
    """Raises ValueError for sequences longer than the positions of the model (B6, R2)."""
    if length > most:
        hint = f"cut them: tokenizer(..., truncation=True, max_length={most})"
        raise ValueError(f"the sequences have {length} tokens, the model has positions for {most}; {hint}")


def attention_mask(
    name: str, given: Tensor | None, sizes: tuple[int, int, int], *, causal: bool
) -> tuple[AttentionMask, AttentionBias | None]:
    """What a user's attention mask means: 2-D padding (M1), 4-D bool who sees whom, 4-D float scores to add.

    Args:
        name: of the argument, for messages.
        given: (B, S), non-zero = attend; or (B|1, H|1, T, S).
        sizes: B, T and S, with the tokens of a cache.
        causal: whether a token sees only itself and those before it.

    Raises:
        TypeError, ValueError: for any other shape, length (M3: of all ones too) or meaning.
    """
    no_padding = AttentionMask(causal=True) if causal else NO_MASK
    if given is None:
        return no_padding, None
    if not isinstance(given, Tensor) or given.shape != (sizes[0], sizes[2]):
        return _square_mask(name, given, sizes)
    recorded = being_recorded()
    if given.dtype != torch.bool and not recorded and not bool((given >= 0).all()):
        hint = "got negative or NaN values; scores to be added are 4-D: (B, 1, T, S)"
        raise ValueError(f"{name} must hold 1 for tokens to attend to and 0 for padding, {hint}")
    keys = given.bool()
    if not recorded and bool(keys.all()):  # what is recorded keeps the mask as an input, whatever it holds today
        return no_padding, None
    return AttentionMask(key_padding=keys, causal=causal), None


def _square_mask(name: str, given: Tensor, sizes: tuple[int, int, int]) -> tuple[AttentionMask, AttentionBias | None]:
    """A 4-D mask is the whole truth: a decoder adds no causal one to it."""
    batch, query_length, key_length = sizes
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")
    if given.dim() != 4 or given.shape[0] not in (1, batch) or given.shape[2:] != (query_length, key_length):
        hint = f"got {tuple(given.shape)}; 4-D is (B|1, H|1, T, S) of B, T, S = {sizes}"
        raise ValueError(f"{name} must be (B, S) = ({batch}, {key_length}), or 4-D, {hint}")
    if given.dtype == torch.bool:
        return AttentionMask(dense=given), None
    if given.is_floating_point():
        # -inf and the most negative number both mean forbidden: as scores they would make an empty row NaN
        allowed = given > torch.finfo(given.dtype).min / 2
        return AttentionMask(dense=allowed), DenseBias(given.masked_fill(~allowed, 0.0))
    raise TypeError(f"a 4-D {name} must be bool (True = may attend) or floating point (added), got {given.dtype}")


def _memory_mask(memory: Tensor, given: Tensor | None, tokens: Tensor, config: EncoderConfig) -> AttentionMask:
    """The mask of the cross-attention of these tokens (B7)."""
    if not config.add_cross_attention:
        raise ValueError("encoder_hidden_states needs cross-attention: set is_decoder=True, add_cross_attention=True")
    batch, length = tokens.shape[:2]
    check_shape("encoder_hidden_states", memory, "(B, S, D)", (batch, *memory.shape[1:2], config.hidden_size))
    mask, bias = attention_mask("encoder_attention_mask", given, (batch, length, memory.shape[1]), causal=False)
    if bias is not None:
        raise TypeError("encoder_attention_mask must be (B, S), or 4-D and bool")
    return mask


def _laid_out(given: ModelInputs, layout: PackedLayout, fill: int) -> tuple[ModelInputs, Packing]:
    """A packed batch as the padded one (B, T) that it stands for, with `fill` as the ids of padding."""
    if given.attention_mask is not None:
        raise ValueError("a packed batch has no padding: give no attention_mask with a layout")
    packing = Packing.of_layout(layout)
    padded = replace(
        given,
        input_ids=packing.unpack_given(given.input_ids, fill),
        attention_mask=packing.unpack(torch.ones_like(packing.cells, dtype=torch.bool)),
        token_type_ids=packing.unpack_given(given.token_type_ids),
        position_ids=packing.unpack_given(given.position_ids),
        inputs_embeds=packing.unpack_given(given.inputs_embeds),
    )
    return padded, packing


def _cache(body: Body, given: ModelInputs, batch: int) -> Cache:
    if not body.config.is_decoder:
        raise ValueError("past_key_values needs a decoder: set is_decoder=True in the configuration")
    return cache_to_extend(given.past_key_values, body.num_layers, batch, given.encoder_hidden_states)


def cache_to_extend(past: Cache | None, layers: int, batch: int, memory: Tensor | None) -> Cache:
    """The cache of a call: a new one, or a fork of `past`, which is left as it is.

    Args:
        past: that the user gave.
        layers: L.
        batch: B.
        memory: (B, S, D), what cross-attention attends to.

    Raises:
        TypeError, ValueError: where `past` is of other sequences, another memory or another model.
    """
    if past is None:
        return Cache.growing(layers)
    if not isinstance(past, Cache):
        raise TypeError(f"past_key_values must be a minitrans Cache, as a call returns it, got {type(past).__name__}")
    first = past.layers[0] if past.layers else None
    key, memory_key = (None, None) if first is None else (first.self_attention.key, first.cross_attention.key)
    held = len(past.layers), batch if key is None else key.shape[0]
    if held != (layers, batch):
        of_both = f"{held}, the model and the call are of {(layers, batch)}; see Cache.reorder"
        raise ValueError(f"past_key_values must have the layers and sequences of this call, got {of_both}")
    if memory_key is not None and (memory is None or memory.shape[1] != memory_key.shape[2]):
        got = "none" if memory is None else f"shape {tuple(memory.shape)}"
        hint = f"give the same encoder_hidden_states in every call, got {got}"
        raise ValueError(f"past_key_values holds the keys of a memory of {memory_key.shape[2]} tokens: {hint}")
    return past.fork()


def _packing(body: Body, given: ModelInputs, real: Tensor | None, mode: str, packing: Packing | None) -> Packing | None:
    """Where the tokens lie if padding is left out: `packing`, if the batch came packed."""
    check_mode(mode)

    def obstacles() -> list[str]:
        wanted = {
            "output_attentions": given.need_weights,
            "use_cache": given.use_cache or given.past_key_values is not None,
            "encoder_hidden_states": given.encoder_hidden_states is not None,
        }
        reason = body.why_not("packed")
        unable = [] if reason is None else [f"an attention that does not support {reason}"]
        return [name for name, is_wanted in wanted.items() if is_wanted] + unable

    if packing is not None:
        refuse_obstacles("a packed batch does not go with", obstacles(), "pad it, with padding='keep'")
        return packing
    if mode == "auto" and (torch.is_grad_enabled() or being_recorded()):
        return None
    return choose_packing(mode, real, width=body.config.hidden_size, obstacles=obstacles)


def being_recorded() -> bool:
    """Whether a compiler, an exporter or a tracer writes down what happens: then nothing may depend on values."""
    return torch.compiler.is_compiling() or bool(torch._C._is_tracing())


def _over_capacity(
    body: Body, mask: AttentionMask, bias: AttentionBias | None, past: int, length: int, capacity: int
) -> tuple[AttentionMask, AttentionBias | None]:
    """Mask and bias over all places of a static cache, of which those after the token are hidden."""
    reason = body.why_not("static")
    if reason is not None:
        raise ValueError(f"a static cache does not go with {reason}; use a growing one")
    further = (0, capacity - past - length)
    if mask.dense is not None:
        dense = pad(mask.dense, further, value=False)
    else:
        places = torch.arange(capacity, device=body.device)
        dense = (places <= torch.arange(past, past + length, device=body.device)[:, None])[None, None]
    keys = None if mask.key_padding is None else pad(mask.key_padding, further, value=False)
    if isinstance(bias, DenseBias):
        bias = DenseBias(pad(bias.values, further))
    return AttentionMask(key_padding=keys, dense=dense), bias


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

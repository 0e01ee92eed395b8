"""The door: what a user passes to a model is checked here, once, and becomes what the embeddings and blocks work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from minitrans.attention.bias import AttentionBias, DenseBias
from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import NO_MASK, AttentionMask, has_values
from minitrans.errors import NotSupportedError
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
    def longest(self) -> int | None:
        """The longest sequence that there are positions for; None = there is no end of them."""
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


# What a call may get wrong: the error, and its words for what was given
WRONG: dict[str, tuple[type[Exception], str]] = {
    "one input": (ValueError, "give exactly one of input_ids and inputs_embeds, got {}"),
    "two dimensions": (ValueError, "input_ids must be (B, T), got {}; for one sequence write input_ids[None]"),
    "integers": (TypeError, "{} must be a tensor of integers, got {}"),
    "range": (ValueError, "{} must be in [0, {}={}), got {}"),
    "vectors": (TypeError, "inputs_embeds must be a floating-point tensor, got {}"),
    "width": (ValueError, "inputs_embeds must be (B, T, D={}), got {}"),
    "no heads": (NotSupportedError, "head_mask: the blocks of this model have no attention heads; leave it out"),
    "no token": (ValueError, "the sequences are empty: at least one token is needed"),
    "length": (
        ValueError,
        "the sequences have {} tokens, the model has positions for {}; cut them: tokenizer(..., truncation=True, max_length={})",
    ),
    "shape": (ValueError, "{} must be {} = {}, got {}"),
    "mask": (
        ValueError,
        "{} must hold 1 for tokens to attend to and 0 for padding, got negative or NaN values; scores to be added are 4-D: "
        "(B, 1, T, S)",
    ),
    "mask of tensors": (TypeError, "{} must be a tensor, got {}"),
    "mask of a shape": (
        ValueError, "{} must be (B, S) = ({}, {}), or 4-D, got {}; 4-D is (B|1, H|1, T|1, S) of B, T, S = {}",
    ),
    "square mask": (TypeError, "a 4-D {} must be bool (True = may attend) or floating point (added), got {}"),
    "cross-attention": (
        ValueError, "encoder_hidden_states needs cross-attention: set is_decoder=True, add_cross_attention=True",
    ),
    "memory mask": (TypeError, "encoder_attention_mask must be (B, S), or 4-D and bool"),
    "layout": (ValueError, "a packed batch has no padding: give no attention_mask with a layout"),
    "decoder": (ValueError, "past_key_values needs a decoder: set is_decoder=True in the configuration"),
    "cache": (TypeError, "past_key_values must be a minitrans Cache, as a call returns it, got {}"),
    "sizes of a cache": (
        ValueError,
        "past_key_values must have the layers and sequences of this call, got {}, the model and the call are of {}; see "
        "Cache.reorder",
    ),
    "memory of a cache": (
        ValueError,
        "past_key_values holds the keys of a memory of {} tokens: give the same encoder_hidden_states in every call, got {}",
    ),
    "static": (ValueError, "a static cache does not go with {}; use a growing one"),
}  # fmt: skip
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)
# Ids that go with the tokens: the field that says how many there are
_ROWS = {"position_ids": "max_position_embeddings", "token_type_ids": "type_vocab_size"}


def require(holds: bool, what: str, *given: object) -> None:
    """Raises the error of WRONG unless it holds."""
    if not holds:
        error, words = WRONG[what]
        raise error(words.format(*given))


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
    global_attention_mask: Tensor | None
    head_mask: Tensor | Sequence[Tensor | None] | None
    layout: PackedLayout | None
    padding: str | None
    need_weights: bool


@dataclass(frozen=True)
class Batch:
    """The same, ready: tensors are (B, T), or (N) where the batch has no padding.

    Attributes:
        tokens: ids, or vectors (..., D).
        positions: ids.
        types: ids; None = none were given.
        context: what the blocks share.
        cache: that the blocks extend.
        packing: where the tokens stand in the padded batch; None where they stand there themselves.
    """

    tokens: Tensor
    positions: Tensor
    types: Tensor | None
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
    positions = body.positions(tokens, past) if given.position_ids is None else _also("position_ids", given, body, grid)
    types = None if given.token_type_ids is None else _also("token_type_ids", given, body, grid)
    sizes, memory = (batch, length, past + length), given.encoder_hidden_states
    mask, bias = attention_mask("attention_mask", given.attention_mask, sizes, causal=config.is_decoder)
    if given.global_attention_mask is not None:
        mask = _with_global_tokens(mask, given.global_attention_mask, sizes)
    memory_mask = NO_MASK if memory is None else _memory_mask(memory, given.encoder_attention_mask, tokens, config)
    head_mask = None if given.head_mask is None else _head_mask(given.head_mask, body.num_layers, config)

    mode = body.padding if given.padding is None else given.padding
    if packing is not None or mode not in MODES or (mode != "keep" and mask.key_padding is not None):
        packing = _packing(body, given, mask.key_padding, mode, packing)
    if packing is not None:
        tokens_of_all = None if mask.global_tokens is None else packing.pack(mask.global_tokens)[None]
        layout, mask = packing.layout, AttentionMask(causal=mask.causal, global_tokens=tokens_of_all)
        tokens, positions = packing.pack(tokens), packing.pack(positions)
        types = None if types is None else packing.pack(types)
    context = Context(mask, bias, layout, positions, memory, memory_mask, head_mask, given.need_weights)
    if cache is not None and cache.capacity is not None:
        context = _over_capacity(body, context, past, length, cache.capacity)
    return Batch(tokens, positions, types, context, cache, packing)


def _tokens(ids: Tensor | None, vectors: Tensor | None, config: EncoderConfig) -> Tensor:
    """The one of the two that was given: (B, T) ids in [0, V), or (B, T, D) vectors; T is at least 1."""
    require((ids is None) != (vectors is None), "one input", "neither" if ids is None else "both")
    if vectors is None:
        tokens = check_ids("input_ids", ids, config.vocab_size, "vocab_size")
        require(tokens.dim() == 2, "two dimensions", tuple(tokens.shape))
    else:
        tokens, width = vectors, config.embedding_size
        require(isinstance(vectors, Tensor) and vectors.is_floating_point(), "vectors", _kind(vectors))
        require(vectors.dim() == 3 and vectors.shape[2] == width, "width", width, tuple(vectors.shape))
    require(tokens.shape[1] != 0, "no token")
    return tokens


def _also(name: str, given: ModelInputs, body: Body, grid: tuple[int, ...]) -> Tensor:
    """What was given besides the tokens, (B, T), (1, T) or (T), as (B, T)."""
    # without a table of types (D1, P1) none is looked at
    of = "no limit" if name == "position_ids" and body.longest is None else _ROWS[name]
    ids = check_ids(name, getattr(given, name), getattr(body.config, of, 0) or 2**63, of)
    check_shape(name, ids, "(B, T) or (1, T)", grid, (1, *grid[1:]), grid[1:])
    return ids.expand(grid)


def _head_mask(given: Tensor | Sequence[Tensor | None], layers: int, config: EncoderConfig) -> Tensor | None:
    """(L, H) factors from (H), (L, H), or a list of L rows of which None stands for ones."""
    require("num_attention_heads" not in config.lacking, "no heads")
    heads = config.num_attention_heads
    if not isinstance(given, Tensor):
        row = next((row for row in given if row is not None), None)
        if row is None:
            return None
        given = torch.stack([torch.ones_like(row) if each is None else each for each in given])
    check_shape("head_mask", given, "(H) or (L, H)", (layers, heads), (heads,))
    return given.expand(layers, heads)


def check_shape(name: str, given: Tensor, letters: str, *shapes: tuple[int, ...]) -> None:
    """Raises ValueError unless `given` has one of these shapes, of which the first shows what the letters stand for."""
    require(given.shape in shapes, "shape", name, letters, tuple(shapes[0]), tuple(given.shape))


def check_ids(name: str, ids: Tensor | None, size: int, of: str) -> Tensor:
    """`ids` as int64. Raises TypeError unless they are integers, ValueError unless all are in [0, size)."""
    if not isinstance(ids, Tensor) or ids.dtype not in _INTEGERS:
        hint = "" if isinstance(ids, Tensor) else "; tokenizers give tensors with return_tensors='pt'"
        raise TypeError(WRONG["integers"][1].format(name, _kind(ids) + hint))
    if has_values(ids) and ids.numel():
        low, high = (int(end) for end in torch.stack(torch.aminmax(ids)).tolist())
        require(low >= 0 and high < size, "range", name, of, size, low if low < 0 else high)
    return ids.long()


def check_length(length: int, most: int | None) -> None:
    """Raises ValueError for sequences longer than the positions of the model (B6, R2)."""
    require(most is None or length <= most, "length", length, most, most)


def attention_mask(
    name: str, given: Tensor | None, sizes: tuple[int, int, int], *, causal: bool
) -> tuple[AttentionMask, AttentionBias | None]:
    """What a user's attention mask means: 2-D padding (M1), 4-D bool who sees whom, 4-D float scores to add.

    Args:
        name: of the argument, for messages.
        given: (B, S), non-zero = attend; or (B|1, H|1, T|1, S).
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
    keys, known = given.bool(), has_values(given)
    require(not known or given.dtype == torch.bool or bool((given >= 0).all()), "mask", name)
    if known and bool(keys.all()):  # what is recorded keeps the mask as an input, whatever it holds today
        return no_padding, None
    return AttentionMask(key_padding=keys, causal=causal), None


def _with_global_tokens(mask: AttentionMask, given: Tensor, sizes: tuple[int, int, int]) -> AttentionMask:
    """The mask with those tokens that are global; of padding it hides those too."""
    check_shape("global_attention_mask", given, "(B, T)", (sizes[0], sizes[2]))
    return replace(mask, global_tokens=given.bool())


def _square_mask(name: str, given: Tensor, sizes: tuple[int, int, int]) -> tuple[AttentionMask, AttentionBias | None]:
    """A 4-D mask is the whole truth: a decoder adds no causal one to it."""
    batch, query_length, key_length = sizes
    require(isinstance(given, Tensor), "mask of tensors", name, type(given).__name__)
    fits = given.dim() == 4 and given.shape[0] in (1, batch) and given.shape[2] in (1, query_length)
    fits = fits and given.shape[3] == key_length
    require(fits, "mask of a shape", name, batch, key_length, tuple(given.shape), sizes)
    given = given.expand(-1, -1, query_length, -1)
    if given.dtype == torch.bool:
        return AttentionMask(dense=given), None
    require(given.is_floating_point(), "square mask", name, given.dtype)
    # -inf and the most negative number both mean forbidden: as scores they would make an empty row NaN
    allowed = given > torch.finfo(given.dtype).min / 2
    return AttentionMask(dense=allowed), DenseBias(given.masked_fill(~allowed, 0.0))


def _memory_mask(memory: Tensor, given: Tensor | None, tokens: Tensor, config: EncoderConfig) -> AttentionMask:
    """The mask of the cross-attention of these tokens (B7)."""
    require(config.add_cross_attention, "cross-attention")
    batch, length = tokens.shape[:2]
    check_shape("encoder_hidden_states", memory, "(B, S, D)", (batch, *memory.shape[1:2], config.hidden_size))
    mask, bias = attention_mask("encoder_attention_mask", given, (batch, length, memory.shape[1]), causal=False)
    require(bias is None, "memory mask")
    return mask


def _laid_out(given: ModelInputs, layout: PackedLayout, fill: int) -> tuple[ModelInputs, Packing]:
    """A packed batch as the padded one (B, T) that it stands for, with `fill` as the ids of padding."""
    require(given.attention_mask is None, "layout")
    packing = Packing.of_layout(layout)
    padded = replace(
        given,
        input_ids=packing.unpack_given(given.input_ids, fill),
        attention_mask=packing.unpack(torch.ones_like(packing.cells, dtype=torch.bool)),
        token_type_ids=packing.unpack_given(given.token_type_ids),
        position_ids=packing.unpack_given(given.position_ids),
        global_attention_mask=packing.unpack_given(given.global_attention_mask),
        inputs_embeds=packing.unpack_given(given.inputs_embeds),
    )
    return padded, packing


def _cache(body: Body, given: ModelInputs, batch: int) -> Cache:
    require(body.config.is_decoder, "decoder")
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
    require(isinstance(past, Cache), "cache", type(past).__name__)
    first = past.layers[0] if past.layers else None
    key, crossed = (None, None) if first is None else (first.self_attention.key, first.cross_attention.shared)
    held, of_call = (len(past.layers), batch if key is None else key.shape[0]), (layers, batch)
    require(held == of_call, "sizes of a cache", held, of_call)
    if crossed is not None:
        length, given = crossed[0].shape[2], None if memory is None else tuple(memory.shape)
        require(
            given is not None and given[1] == length, "memory of a cache", length, f"shape {given}" if given else "none"
        )
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
        return [name for name, is_wanted in wanted.items() if is_wanted] + ([] if reason is None else [reason])

    if packing is not None:
        refuse_obstacles("a packed batch does not go with", obstacles(), "pad it, with padding='keep'")
        return packing
    if mode == "auto" and (torch.is_grad_enabled() or (real is not None and not has_values(real))):
        return None
    return choose_packing(mode, real, width=body.config.hidden_size, obstacles=obstacles)


def _over_capacity(body: Body, context: Context, past: int, length: int, capacity: int) -> Context:
    """With the mask over all places of a static cache, of which those after the token are hidden."""
    mask, reason = context.mask, body.why_not("static")
    require(reason is None, "static", reason)
    further = (0, capacity - past - length)
    if mask.dense is not None:
        dense = pad(mask.dense, further, value=False)
    else:
        places = torch.arange(capacity, device=body.device)
        dense = (places <= torch.arange(past, past + length, device=body.device)[:, None])[None, None]
    keys = None if mask.key_padding is None else pad(mask.key_padding, further, value=False)
    return replace(context, mask=AttentionMask(key_padding=keys, dense=dense), first=past)


def _kind(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__

"""`prepare`: a model that computes the same as another, faster, for inference on a CPU only."""

from __future__ import annotations

import copy
from typing import Any, Self, TypeVar, cast

import torch
from torch import nn

from minitrans.attention.bias import RelativeBuckets
from minitrans.cpu.calibration import input_reach
from minitrans.cpu.encoder import FusedEncoder, Reach
from minitrans.cpu.linear import check_operators
from minitrans.errors import NotSupportedError
from minitrans.layers.block import Block
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models.pretrained import PreTrainedModel

DTYPES = ("float32", "bfloat16", "int8")
_LARGEST_REUSED = 31 * 1024 * 1024  # bytes; glibc lets its threshold rise to 32 MiB
M = TypeVar("M", bound=PreTrainedModel)


class Prepared:
    """What a prepared model refuses, mixed into the class of the model it was prepared from."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the model, without gradients."""
        with torch.no_grad():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]

    def train(self, mode: bool = True) -> Self:
        """Evaluation mode is the only one. Raises NotSupportedError for training."""
        if mode:
            raise NotSupportedError("a prepared model cannot be trained; train the model it was prepared from")
        return super().train(False)  # type: ignore[misc,no-any-return]

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        raise NotSupportedError("a prepared model keeps its dtype and device; change the model it was prepared from")

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise NotSupportedError("a prepared model has no weights to save or change; use the model it was prepared from")

    save_pretrained = state_dict = load_state_dict = set_attention = prune_heads = resize_token_embeddings = _refuse


def prepare(model: M, dtype: str = "float32") -> M:
    """A model of the same class, with the same forward and outputs, whose blocks are laid out for fast inference on this CPU.

    It holds copies of the blocks' weights; embeddings and heads it shares with `model`, which stays as it is. What the blocks do
    not compute this way (attention probabilities, head masks, masks of scores) is refused in the call.

    Args:
        model: an encoder on the CPU, in evaluation mode, with full attention and no vectors of relative positions.
        dtype: of the blocks' computation. "float32" gives the model's numbers to rounding; "bfloat16" is faster on processors
            that have it; "int8" has inputs and weights of all projections in 8 bits (cosine of sentence vectors to float64 above
            0.995, of single words above 0.99), by scales that the model's own vocabulary shows, in one run here.

    Raises:
        ValueError: for another dtype, a model in training mode, or one whose parts do not fit.
        NotSupportedError: for a model or a processor that this does not serve, saying why.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    if isinstance(model, Prepared):
        raise ValueError("the model is prepared already; prepare the one it was prepared from")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    body = model.base_model
    stack, blocks = _blocks(body)
    check_operators(dtype)
    last, distances = cast("LayerNorm | None", stack.LayerNorm), _distances(stack, blocks)
    with torch.no_grad():
        reach = _reach(body, blocks) if dtype == "int8" else ()
        encoder = FusedEncoder(blocks, stack.order, last, dtype, distances, reach).eval()
    _reuse_memory()
    fast_body = _with(body, encoder=encoder)
    return fast_body if model is body else _with(model, **{model.base_model_prefix: fast_body})  # type: ignore[return-value]


def _reach(body: PreTrainedModel, blocks: list[Block]) -> list[Reach]:
    """How far the inputs of the projections of each block reach."""
    layers = []
    for block in blocks:
        attention, network = cast("MultiHeadAttention", block.attention), cast("FeedForward", block.feed_forward)
        layers += [attention.query, attention.output, network.up, network.down]
    found = iter(input_reach(body, layers))
    return [Reach(*each) for each in zip(*[found] * len(Reach._fields), strict=True)]


def _reuse_memory() -> None:
    """Lets glibc keep what a batch frees for the next one, rather than fault in new pages for each large tensor.

    Freeing a block that is larger than any before raises the size from which memory comes from the system and goes back to it
    at once (mallopt(3), M_MMAP_THRESHOLD). This block is never touched, so it costs nothing.
    """
    torch.empty(_LARGEST_REUSED, dtype=torch.uint8)


def _with(model: M, **modules: nn.Module) -> M:
    """A prepared model that shares everything with `model` except these modules."""
    new = copy.copy(model)
    new._modules = {**model._modules, **modules}
    new.__class__ = type(f"Prepared{type(model).__name__}", (Prepared, type(model)), {})
    return new


def _blocks(body: PreTrainedModel) -> tuple[Stack, list[Block]]:
    """The stack of a body and its blocks. Raises NotSupportedError where one is not a plain encoder block."""
    stack = getattr(body, "encoder", None)
    name = type(body).__name__
    if type(stack) is not Stack:
        raise NotSupportedError(f"{name} has no stack of blocks of its own to prepare")
    for block in stack.layer:
        reason = "it is a decoder" if body.config.is_decoder else _obstacle(block)
        if reason:
            raise NotSupportedError(f"{name} cannot be prepared: {reason}")
    return stack, [block for block in stack.layer if isinstance(block, Block)]


def _distances(stack: Stack, blocks: list[Block]) -> RelativeBuckets | None:
    """What every block adds to its scores. Raises ValueError where that is not for the heads of a block."""
    if stack.relative_attention_bias is None:
        return None
    distances = stack.relative_attention_bias.bias()
    for block in blocks:
        distances.check(cast("MultiHeadAttention", block.attention).num_heads)
    return distances


def _obstacle(block: nn.Module) -> str:
    """Why a block cannot be prepared; empty where it can."""
    attention, network = getattr(block, "attention", None), getattr(block, "feed_forward", None)
    if type(block) is not Block or type(attention) is not MultiHeadAttention or type(network) is not FeedForward:
        return f"its blocks are {type(block).__name__}, only a Block of attention and feed-forward is served"
    if not isinstance(block.attention_LayerNorm, LayerNorm):
        return "its norms are not LayerNorm"
    checks = {
        "it is not on the CPU": attention.query.weight.device.type != "cpu",
        "its weights are float64": attention.query.weight.dtype == torch.float64,
        "its attention is not full": len(attention.all_variants) > 0 or attention.softcap is not None,
        "it has relative positions": attention.distance_embedding is not None,
        "its heads share keys and values": attention.num_kv_heads != attention.num_heads,
        "its feed-forward network is gated": network.gate is not None,
    }
    return "; ".join(reason for reason, holds in checks.items() if holds)

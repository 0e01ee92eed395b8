"""`prepare`: a model that computes the same as another, faster, for inference on a CPU only."""

from __future__ import annotations

import copy
from typing import Any, Self, TypeVar, cast

import torch
from torch import nn

from minitrans.attention.bias import RelativeBuckets
from minitrans.cpu.calibration import input_reach
from minitrans.cpu.decoder import FusedDecoder, FusedHead, why_not
from minitrans.cpu.encoder import FusedEncoder, Reach
from minitrans.cpu.linear import Reaches, check_operators
from minitrans.cpu.writing import BiasInHead, Writer
from minitrans.errors import NotSupportedError
from minitrans.layers.block import Block
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models.backbone import Backbone
from minitrans.models.encoder_decoder import EncoderDecoder
from minitrans.models.generative import Generative
from minitrans.models.pair_tasks import BiasedGeneration
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

    It holds copies of the blocks' weights, and of the projection onto the vocabulary in a model that writes; embeddings and other
    heads it shares with `model`, which stays as it is. What the blocks do not compute this way (attention probabilities, head
    masks; in encoders masks of scores) is refused in the call. `generate` is as before, with every search and cache; of a decoder
    in float32 there are two copies of large weights, one for single rows and one for several.

    Args:
        model: an encoder, a decoder or a pair on the CPU, in evaluation mode, of blocks with LayerNorm or RMSNorm and full
            attention, with rotary positions, windows and norms of queries and keys where they belong to the architecture.
        dtype: of the blocks' computation. "float32" gives the model's numbers to rounding; "bfloat16" is faster on processors
            that have it; "int8" has inputs and weights of all projections in 8 bits (cosine of sentence vectors to float64 above
            0.995, of single words above 0.99), by scales that the model's own vocabulary shows, in one run here; small
            projections of a decoder stay in float32, where they are faster.

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
    halves = {"": cast("Backbone", body)}
    if isinstance(body, EncoderDecoder):
        halves = {"encoder": body.encoder, "decoder": body.decoder}
    served = {name: _stack(half) for name, half in halves.items()}
    check_operators(dtype)
    with torch.no_grad():
        linears = (layer for layer in body.modules() if isinstance(layer, nn.Linear))
        reach = input_reach(body, linears) if dtype == "int8" else {}
        fast = {name: _fast_body(half, served[name], dtype, reach) for name, half in halves.items()}
        head = _head(model, body, dtype, reach)
    _reuse_memory()
    if model is body or isinstance(model, EncoderDecoder):  # a pair's head may be the pair itself (T5)
        return fast[""] if "" in fast else _with(model, **fast, **head)  # type: ignore[return-value]
    fast_body = fast[""] if "" in fast else _with(body, **fast)
    return _with(model, **{model.base_model_prefix: fast_body}, **head)


def _fast_body(body: Backbone, stack: Stack, dtype: str, reach: Reaches) -> Backbone:
    """A body with its stack in the form that serves it: rows without padding for encoders, few rows for the others."""
    if body.config.is_decoder or _obstacle(stack):
        new = _with(body, encoder=FusedDecoder(stack, dtype, reach).eval())
        new.padding = "keep"
        return new
    blocks = [cast("Block", block) for block in stack.layer]
    last, distances = cast("LayerNorm | None", stack.LayerNorm), _distances(stack, blocks)
    reaches = [_reach(block, reach) for block in blocks] if dtype == "int8" else ()
    return _with(body, encoder=FusedEncoder(blocks, stack.order, last, dtype, distances, reaches).eval())


def _reach(block: Block, reach: Reaches) -> Reach:
    """How far the inputs of its projections reach."""
    attention, network = cast("MultiHeadAttention", block.attention), cast("FeedForward", block.feed_forward)
    return Reach(*(reach[layer] for layer in (attention.query, attention.output, network.up, network.down)))


def _head(model: PreTrainedModel, body: PreTrainedModel, dtype: str, reach: Reaches) -> dict[str, nn.Module]:
    """The projection onto the vocabulary, of a model that writes by one."""
    linear = getattr(model, "lm_head", None)
    if not isinstance(model, Generative) or type(linear) is not nn.Linear:
        return {}
    bias = model.final_logits_bias[0].clone() if isinstance(model, BiasedGeneration) else None
    return {"lm_head": FusedHead(linear, bias, dtype, {linear: reach[body]} if reach else {})}


def _reuse_memory() -> None:
    """Lets glibc keep what a batch frees for the next one, rather than fault in new pages for each large tensor.

    Freeing a block that is larger than any before raises the size from which memory comes from the system and goes back to it
    at once (mallopt(3), M_MMAP_THRESHOLD). This block is never touched, so it costs nothing.
    """
    torch.empty(_LARGEST_REUSED, dtype=torch.uint8)


def _with(model: M, /, **modules: nn.Module) -> M:
    """A prepared model that shares everything with `model` except these modules."""
    new = copy.copy(model)
    new._modules = {**model._modules, **modules}
    mixed = {Writer: Generative, BiasInHead: BiasedGeneration}
    kinds = [kind for kind, served in mixed.items() if isinstance(model, served)]
    new.__class__ = type(f"Prepared{type(model).__name__}", (Prepared, *kinds, type(model)), {})
    return new


def _stack(body: Backbone) -> Stack:
    """The stack of a body. Raises NotSupportedError where one of its blocks is not served."""
    stack = getattr(body, "encoder", None)
    name = type(body).__name__
    if type(stack) is not Stack:
        raise NotSupportedError(f"{name} has no stack of blocks of its own to prepare")
    reason = why_not(stack.layer) if body.config.is_decoder else _obstacle(stack)
    if reason and (body.config.is_decoder or why_not(stack.layer)):
        raise NotSupportedError(f"{name} cannot be prepared: {reason}")
    return stack


def _distances(stack: Stack, blocks: list[Block]) -> RelativeBuckets | None:
    """What every block adds to its scores. Raises ValueError where that is not for the heads of a block."""
    if stack.relative_attention_bias is None:
        return None
    distances = stack.relative_attention_bias.bias()
    for block in blocks:
        distances.check(cast("MultiHeadAttention", block.attention).num_heads)
    return distances


def _obstacle(stack: Stack) -> str:
    """Why the blocks of an encoder cannot run on rows without padding; empty where they can."""
    reason = why_not(stack.layer)
    if reason:
        return reason
    for block in stack.layer:
        attention, network = cast("MultiHeadAttention", block.attention), cast("FeedForward", block.feed_forward)
        checks = {
            "its norms are not LayerNorm": not isinstance(block.attention_LayerNorm, LayerNorm),
            "its attention is not full": len(attention.all_variants) > 0,
            "it has relative positions": attention.distance_embedding is not None,
            "its heads share keys and values": attention.num_kv_heads != attention.num_heads,
            "its feed-forward network is gated": network.gate is not None,
        }
        reasons = [reason for reason, holds in checks.items() if holds]
        if reasons:
            return "; ".join(reasons)
    return ""

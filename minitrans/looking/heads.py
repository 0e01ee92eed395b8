"""What heads look at, how much of it counts, and which heads the model can do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.looking.look import look
from minitrans.looking.sites import sites_of

Batch = Mapping[str, Tensor]


@torch.no_grad()
def head_statistics(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """(L, H) each, means over the real tokens: `entropy` in nats, `distance` in tokens, `largest` and `first`, a weight each."""
    with look(model, "pattern") as seen:
        model(**batch)
    real = _real(batch, seen["pattern", 0])
    return statistics_of(seen.stack("pattern"), real)


def statistics_of(pattern: Tensor, real: Tensor | None = None) -> dict[str, Tensor]:
    """The same of (L, B, H, T, S), means over the tokens of `real` (B, T); or of one text, (L, H, T, S)."""
    if real is None:
        pattern, real = pattern[:, None], pattern.new_ones(1, pattern.shape[-2])
    rows, columns = (torch.arange(size) for size in pattern.shape[-2:])
    found = {
        "entropy": torch.special.entr(pattern).sum(-1),
        "distance": (pattern * (rows[:, None] - columns).abs().to(pattern)).sum(-1),
        "largest": pattern.amax(-1),
        "first": pattern[..., 0],
    }
    real = real[:, None, :]  # (B, 1, T)
    return {name: (each * real).sum((1, 3)) / real.sum() for name, each in found.items()}


@torch.no_grad()
def rollout(model: nn.Module, batch: Batch) -> Tensor:
    """(L, B, T, S): where the stream after each layer comes from, if half of it passes by (Abnar & Zuidema 2020, equation 1).

    Each is the product of ½ (mean of the heads' patterns) + ½ I up to its layer; rows of real tokens sum to 1.
    """
    with look(model, "pattern") as seen:
        model(**batch)
    total, found = None, []
    for pattern in seen["pattern"]:
        mixed = (pattern.mean(1) + torch.eye(pattern.shape[-1]).to(pattern)) / 2
        total = mixed if total is None else mixed @ total
        found.append(total)
    return torch.stack(found)


@torch.no_grad()
def norm_based(model: nn.Module, batch: Batch) -> Tensor:
    """(L, B, H, T, S): ‖pattern · v W_O‖, how long what each head brings from each token is (Kobayashi et al. 2020, equation 4).

    Raises:
        ValueError: for heads that share values, or an output that is no plain projection.
    """
    attentions = {
        site.layer: site.module for site in sites_of(model) if site.name == "pattern" and site.layer is not None
    }
    with look(model, ["pattern", "v"]) as seen:
        model(**batch)
    found = []
    for layer, attention in attentions.items():
        assert isinstance(attention, MultiHeadAttention)
        if attention.num_kv_heads != attention.num_heads or not isinstance(attention.output, nn.Linear):
            raise ValueError(
                "norms of what heads bring are those of heads with values of their own and a plain projection"
            )
        parts = attention.output.weight.view(-1, attention.num_heads, attention.head_width)  # (D, H, K)
        brought = torch.einsum("bshk,dhk->bhsd", seen["v", layer], parts).norm(dim=-1)  # (B, H, S)
        found.append(seen["pattern", layer] * brought[:, :, None])
    return torch.stack(found)


def head_importance(model: nn.Module, batches: Iterable[Batch], loss: Callable[[Any], Tensor]) -> Tensor:
    """(L, H): the mean over batches of |∂ loss / ∂ head mask| (Michel et al. 2019, equation 2): |Σ z · ∂ loss / ∂ z|."""
    total, count = None, 0
    for batch in batches:
        with look(model, "z", gradients=True) as seen:
            loss(model(**batch)).backward()  # type: ignore[no-untyped-call]
        layers = [layer for _, layer in seen if layer is not None]
        slopes = [(seen["z", layer].detach() * _of(seen.grad("z", layer))).sum((0, 1, 3)).abs() for layer in layers]
        here = torch.stack(slopes)
        total, count = here if total is None else total + here, count + 1
        model.zero_grad()
    if total is None:
        raise ValueError("there is no batch to judge the heads by")
    return total / count


def least_important(importance: Tensor, count: int) -> dict[int, list[int]]:
    """The `count` heads of least importance, {layer: heads}, as `prune_heads` takes them; every layer keeps one.

    Raises:
        ValueError: where so many cannot be taken.
    """
    layers, heads = importance.shape
    if not 0 <= count <= layers * (heads - 1):
        raise ValueError(f"of {layers} layers of {heads} heads at most {layers * (heads - 1)} can go, got {count}")
    gone: dict[int, list[int]] = {}
    for place in importance.flatten().argsort().tolist():
        layer, head = divmod(place, heads)
        if sum(map(len, gone.values())) < count and len(gone.get(layer, ())) < heads - 1:
            gone.setdefault(layer, []).append(head)
    return {layer: sorted(heads) for layer, heads in sorted(gone.items())}


def _of(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise ValueError("the loss does not depend on the heads")
    return gradient


def _real(batch: Batch, like: Tensor) -> Tensor:
    """(B, T), 1 = a token."""
    mask = batch.get("attention_mask")
    return like.new_ones(like.shape[1], like.shape[3]) if mask is None else mask.to(like)

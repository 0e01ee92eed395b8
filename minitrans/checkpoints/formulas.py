"""The parts of a BERT-shaped model once more, as plain formulas over named tensors, with a knob for each known mistake.

`diagnosis.py` turns one knob at a time and looks whether the result is what was observed. Independent of
`minitrans.layers` on purpose: a mistake there must not be repeated here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from minitrans.layers.activations import activation

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a part is computed. The first four come from the configuration, the defaults are what is right."""

    eps: float
    act: str
    heads: int
    causal: bool
    positions: str = "running"  # or "from padding_idx + 1", "skipping padding", "none"
    offset: int = 0
    types: str = "given"  # or "none", "all the first", "exchanged"
    embedding_scale: float = 1.0
    scale: str = "head"  # K ** -0.5; or "none", "width": D ** -0.5, "square": 1 / K
    split: str = "head by head"  # or "interleaved"
    mask: str | float = (
        "excluded"  # or "attended", "inverted", "added as it is", or what is added where there is padding
    )
    normalised: str = "keys"  # the softmax runs over them; or "queries"
    residual: bool = True
    norm: str = "right"  # or "none", "n - 1": the variance, "eps outside": the root
    norm_at: str = "after"  # the sum; or "before" the sub-layer, which is right for some families
    distances: str = "both sides"  # where there is a table of them; or "none", "one side", "exchanged"
    longest: int = 128  # distance to which the rows of that table grow
    pooled: str = "first"  # or "last", "mean"
    pooled_act: str = "tanh"
    source: str = "pooled"  # what a head reads; or "tokens", "first token"


@dataclass(frozen=True)
class Inputs:
    """(B, T) ids, (B, T) types or None, (B, T) mask with 1 for a token, and the id that pads."""

    ids: Tensor
    types: Tensor | None
    mask: Tensor
    pad: int


def layer_norm(x: Tensor, w: Weights, name: str, recipe: Recipe) -> Tensor:
    """(..., D) -> (..., D)."""
    if recipe.norm == "none":
        return x
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / (x.shape[-1] - (recipe.norm == "n - 1"))
    root = variance.sqrt() + recipe.eps if recipe.norm == "eps outside" else (variance + recipe.eps).sqrt()
    return w[f"{name}.weight"] * centred / root + w[f"{name}.bias"]


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    """(..., in) -> (..., out)."""
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def embeddings(given: Inputs, w: Weights, recipe: Recipe) -> Tensor:
    """(B, T) -> (B, T, D)."""
    x = w["embeddings.word_embeddings.weight"][given.ids] * recipe.embedding_scale
    kinds = w.get("embeddings.token_type_embeddings.weight")
    if kinds is not None and given.types is not None and recipe.types != "none":
        types = {"given": given.types, "all the first": given.types * 0, "exchanged": len(kinds) - 1 - given.types}
        x = x + kinds[types[recipe.types]]
    table = w.get("embeddings.position_embeddings.weight")
    if table is not None and recipe.positions != "none":
        real = (given.ids != given.pad).long()
        running = torch.arange(given.ids.shape[1]).expand_as(given.ids)
        positions = {
            "running": running,
            "from padding_idx + 1": running + given.pad + 1,
            "skipping padding": real.cumsum(1) * real + given.pad,
        }[recipe.positions]
        x = x + table[(positions + recipe.offset).clamp(0, len(table) - 1)]
    return layer_norm(x, w, "embeddings.LayerNorm", recipe)


def attention(x: Tensor, given: Inputs, w: Weights, layer: str, recipe: Recipe) -> Tensor:
    """(B, T, D) -> (B, T, D): attention, residual sum, norm; in a pre-norm block what the norm gives, which comes first."""
    norm = f"{layer}.attention_LayerNorm"
    if recipe.norm_at == "before":
        return layer_norm(x, w, norm, recipe)
    y = attended(x, given, w, layer, recipe)
    return layer_norm(x + y if recipe.residual else y, w, norm, recipe)


def attended(x: Tensor, given: Inputs, w: Weights, layer: str, recipe: Recipe) -> Tensor:
    """(B, T, D) -> (B, T, D): attention and its output projection."""
    q, k, v = (_split(linear(x, w, f"{layer}.attention.{part}"), recipe) for part in ("query", "key", "value"))
    width = q.shape[-1]
    factor = {"head": width**-0.5, "none": 1.0, "width": x.shape[-1] ** -0.5, "square": 1.0 / width}[recipe.scale]
    scores = q @ k.transpose(-1, -2) * factor  # (B, H, T, T)
    scores = scores + _added(given.mask[:, None, None].to(x.dtype), recipe)
    table = w.get("encoder.relative_attention_bias.weight")
    if table is not None and recipe.distances != "none":
        scores = scores + table[_buckets(x.shape[1], recipe)].permute(2, 0, 1)
    if recipe.causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, torch.finfo(x.dtype).min)
    y = scores.softmax(-1 if recipe.normalised == "keys" else -2) @ v  # (B, H, T, K)
    y = y.permute(0, 2, 3, 1) if recipe.split == "interleaved" else y.transpose(1, 2)
    return linear(y.flatten(2), w, f"{layer}.attention.output")


def _buckets(length: int, recipe: Recipe) -> Tensor:
    """(T, T): the row of the table for each query and key (P1): 16 for keys before the query and 16 for those after it.

    Of these, 8 are for distances of 0 to 7, and 8 for those up to the longest, ever more of them to a row.
    """
    rows = []
    for query in range(length):
        row = []
        for key in range(length):
            away = abs(query - key)
            near = away if away < 8 else min(15, 8 + int(8 * math.log(away / 8) / math.log(recipe.longest / 8)))
            after = {"both sides": key > query, "exchanged": key < query, "one side": False}[recipe.distances]
            row.append(near + 16 * after)
        rows.append(row)
    return torch.tensor(rows)


def _split(x: Tensor, recipe: Recipe) -> Tensor:
    """(B, T, H·K) -> (B, H, T, K)."""
    if recipe.split == "interleaved":
        return x.reshape(*x.shape[:2], -1, recipe.heads).permute(0, 3, 1, 2)
    return x.reshape(*x.shape[:2], recipe.heads, -1).transpose(1, 2)


def _added(mask: Tensor, recipe: Recipe) -> Tensor:
    """What is added to the scores of each key."""
    lowest = torch.finfo(mask.dtype).min
    if isinstance(recipe.mask, float):
        return (1 - mask) * recipe.mask
    return {"excluded": (1 - mask) * lowest, "attended": mask * 0, "inverted": mask * lowest, "added as it is": mask}[
        recipe.mask
    ]


def feed_forward(x: Tensor, raised: Tensor, w: Weights, layer: str, recipe: Recipe) -> Tensor:
    """(B, T, D) and the (B, T, F) of `up` -> (B, T, D): activation, down, residual sum, norm."""
    norm = f"{layer}.feed_forward_LayerNorm"
    if recipe.norm_at == "before":
        return layer_norm(x, w, norm, recipe)
    y = lowered(raised, w, layer, recipe)
    return layer_norm(x + y if recipe.residual else y, w, norm, recipe)


def lowered(raised: Tensor, w: Weights, layer: str, recipe: Recipe) -> Tensor:
    """(B, T, F) -> (B, T, D): activation and down."""
    return linear(activation(recipe.act)(raised), w, f"{layer}.feed_forward.down")


def pooler(x: Tensor, w: Weights, name: str, recipe: Recipe) -> Tensor:
    """(B, T, D) -> (B, D)."""
    chosen = {"first": x[:, 0], "last": x[:, -1], "mean": x.mean(1)}[recipe.pooled]
    return activation(recipe.pooled_act)(linear(chosen, w, f"{name}.dense"))


def head(pooled: Tensor | None, tokens: Tensor, w: Weights, name: str, recipe: Recipe) -> Tensor:
    """A linear head, on the pooled vector or on the tokens; or one of two layers, on the first token or on each (ELECTRA)."""
    if f"{name}.dense_prediction.weight" in w:
        y = activation(recipe.act)(linear(tokens, w, f"{name}.dense"))
        return linear(y, w, f"{name}.dense_prediction").squeeze(-1)
    if f"{name}.out_proj.weight" in w:
        return linear(pooler(tokens, w, name, recipe), w, f"{name}.out_proj")
    chosen = {"pooled": pooled, "tokens": tokens, "first token": tokens[:, 0]}[recipe.source]
    return linear(tokens if chosen is None else chosen, w, name)

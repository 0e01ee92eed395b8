"""Every point of every family is what its formula says; what is written there moves what follows from it, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import minitrans
from minitrans.layers.block import Block
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.looking import Seen, look
from minitrans.looking.sites import sites_of

EXACT = 1e-12  # float64, sums of at most 24 products in another order


def close(got: Tensor, expected: Tensor) -> bool:
    same = got == expected  # infinities
    return bool((same | ((got - expected).abs() <= EXACT * (1 + expected.abs()))).all())


At = Callable[[str], Tensor]
Formulas = dict[str, Callable[[], Tensor]]


def of_attention(at: At, attention: MultiHeadAttention, crosses: bool) -> Formulas:
    """By point: what it is, written from the paper and not from the blocks; of a cross-attention keys come from elsewhere."""

    def heads(projection: nn.Linear) -> Tensor:
        return linear(at("attn_in"), projection.weight, projection.bias).unflatten(-1, (-1, attention.head_width))

    def probabilities() -> Tensor:
        weights = at("scores").exp()
        return (weights / weights.sum(-1, keepdim=True)).nan_to_num(0.0)  # M2: a row that sees nothing

    def weighed() -> Tensor:
        value = at("v").repeat_interleave(attention.num_heads // attention.num_kv_heads, dim=2)
        return torch.einsum("bhts,bshk->bthk", at("pattern"), value)

    found: Formulas = {"q": lambda: heads(attention.query)}
    if not crosses:
        found |= {"k": lambda: heads(attention.key), "v": lambda: heads(attention.value)}
    if not any(each.is_mechanism for each in attention.all_variants):
        found["pattern"] = probabilities
        if not attention.all_variants:
            found["z"] = weighed
    if isinstance(attention.output, nn.Linear):
        width, matrix, bias = attention.head_width, attention.output.weight, attention.output.bias
        parts = [matrix[:, head * width : (head + 1) * width] for head in range(attention.num_heads)]
        found["head_out"] = lambda: torch.stack([at("z")[:, :, h] @ part.T for h, part in enumerate(parts)], dim=2)
        found["attn_out"] = lambda: at("head_out").sum(2) + (0.0 if bias is None else bias)
    return found


def of_block(at: At, block: Block, crosses: bool) -> Formulas:
    """The same for the rest of a block, of figure 1 in its two forms."""
    first, second, last = block.attention_LayerNorm, block.cross_attention_LayerNorm, block.feed_forward_LayerNorm
    network, middle = block.feed_forward, "resid_mid_cross" if crosses else "resid_mid"
    gate = (lambda: at("mlp_pre_linear")) if network.gate is not None else (lambda: 1.0)
    found: Formulas = {
        "resid_mid": lambda: at("resid_pre") + at("attn_out"),
        "mlp_in": lambda: at(f"{middle}_norm"),
        "mlp_pre": lambda: (network.gate or network.up)(at("mlp_in")),
        "mlp_post": lambda: network.act(at("mlp_pre")) * gate(),
        "mlp_out": lambda: network.down(at("mlp_post")),
    }
    if network.gate is not None:
        found["mlp_pre_linear"] = lambda: network.up(at("mlp_in"))
    if block.norm_first:
        stream, branch = "{}", second if crosses else last
        found |= {"attn_in": lambda: first(at("resid_pre")), "resid_post": lambda: at("resid_post_sum")}
    else:
        stream, branch = "{}_norm", first
        found |= {"attn_in": lambda: at("resid_pre"), "resid_post": lambda: last(at("resid_post_sum"))}
    found |= {
        "resid_mid_norm": lambda: branch(at("resid_mid")),
        "resid_post_sum": lambda: at(stream.format(middle)) + at("mlp_out"),
    }
    if crosses:
        found |= {
            "cross_attn_in": lambda: at("resid_mid_norm"),
            "resid_mid_cross": lambda: at(stream.format("resid_mid")) + at("cross_attn_out"),
            "resid_mid_cross_norm": lambda: (last if block.norm_first else second)(at("resid_mid_cross")),
        }
    return found


def formulas(model: nn.Module, seen: Seen) -> dict[tuple[str, int], Callable[[], Tensor]]:
    found: dict[tuple[str, int], Callable[[], Tensor]] = {}
    blocks = {(site.half, site.layer): site.block for site in sites_of(model) if site.block is not None}
    for (half, layer), block in blocks.items():
        start = f"{half}." if half else ""
        crosses = (f"{start}cross_z", layer) in seen

        def at(name: str, start: str = start, layer: Any = layer) -> Tensor:
            return seen[f"{start}{name}", layer]

        here = of_block(at, block, crosses)
        if isinstance(block.attention, MultiHeadAttention):
            here |= of_attention(at, block.attention, crosses=False)
        if crosses:
            crossing = of_attention(lambda name, at=at: at(f"cross_{name}"), block.cross_attention, crosses=True)
            here |= {f"cross_{name}": formula for name, formula in crossing.items()}
        found |= {(f"{start}{name}", layer): formula for name, formula in here.items()}
    return found


def broken(model: nn.Module, seen: Seen) -> set[tuple[str, int]]:
    """The points that are not what their formula says."""
    return {key for key, formula in formulas(model, seen).items() if key in seen and not close(seen[key], formula())}


def output(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**batch).last_hidden_state


def test_reading_changes_no_bit_and_finds_what_the_formulas_say(case):
    model, batch = case
    before = output(model, batch)
    with look(model, "*") as seen:
        after = output(model, batch)
    assert torch.equal(before, after)
    assert broken(model, seen) == set()
    assert len(formulas(model, seen)) >= 2 * 9
    assert torch.equal(output(model, batch), before)
    assert not any(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_writing_back_changes_no_bit_and_writing_noise_what_follows_from_it(case):
    model, batch = case
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    if not any(each.is_mechanism for attention in attentions for each in attention.all_variants):
        model.set_backend("eager")  # what scores and pattern are edited by
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)  # each layer matters
    with look(model, "*") as seen:
        before = output(model, batch)
    for site in (site for site in sites_of(model) if site.layer == 0):
        name = (site.full_name, 0)
        if site.bare == "pattern" and any(each.is_mechanism for each in site.module.all_variants):
            with pytest.raises(minitrans.NotSupportedError, match="no softmax"), look(model, edit={name: torch.clone}):
                pass
            continue
        with look(model, edit={name: torch.clone}):
            written = output(model, batch)
        assert site.bare == "head_out" or torch.equal(written, before), name

        noise = torch.randn(seen[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        if site.bare == "scores":
            noise = noise.masked_fill(seen[name] == -torch.inf, 0.0)
        with look(model, "*", edit={name: lambda x, noise=noise: x + noise}) as moved:
            after = output(model, batch)
        assert not torch.equal(after, before), name
        assert close(moved[name], seen[name] + noise), name
        # every formula holds behind the point: only its own is broken, and nothing has moved before it
        same = {("resid_post", "resid_post_sum"), ("resid_post_sum", "resid_post")} if site.pre_norm else set()
        own = {name, *((site.full_name.replace(one, other), 0) for one, other in same if site.name == one)}
        assert broken(model, moved) <= own, name
        start = (f"{site.half}.resid_pre" if site.half else "resid_pre", 0)
        assert site.bare == "resid_pre" or torch.equal(moved[start], seen[start]), name

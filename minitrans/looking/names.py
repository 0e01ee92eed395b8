"""From the names that a user gives to points: patterns with *, layers, halves of a pair, and names of other tools."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from minitrans.errors import nearest
from minitrans.looking.points import POINTS
from minitrans.looking.sites import Site

# Names of TransformerLens, {l} = the layer, that mean here what they say there.
ALIASES = {
    "hook_q": "q", "hook_k": "k", "hook_v": "v", "hook_rot_q": "rot_q", "hook_rot_k": "rot_k",
    "hook_attn_scores": "scores", "hook_pattern": "pattern", "hook_z": "z", "hook_result": "head_out",
    "hook_attn_out": "attn_out", "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_mlp_out": "mlp_out",
    "hook_pre": "mlp_pre", "hook_pre_linear": "mlp_pre_linear", "hook_post": "mlp_post",
}  # fmt: skip
# ... and those that do so in blocks of one kind only
PRE_NORM_ALIASES = {"hook_resid_post": "resid_post"}
POST_NORM_ALIASES = {"hook_normalized_resid_mid": "resid_mid_norm", "hook_normalized_resid_post": "resid_post"}
UNTRUE = {
    "hook_resid_post": "of a post-norm block it is the sum for some, normalised for others: say resid_post_sum or resid_post",
    "hook_mlp_in": "it is a copy of the stream there, and not what the network gets: say resid_mid or mlp_in",
    "hook_attn_in": "it is a copy of the stream a head there, and not what the attention gets: say resid_pre or attn_in",
    "hook_embed": "it is the tokens' vectors alone there: embed is what the first block gets",
    "hook_scale": "norms are not split here: look at resid_mid and resid_mid_norm",
}


def find(name: Any, sites: Sequence[Site], layers: Iterable[int] | None = None) -> list[Site]:
    """The sites that a name stands for, in the order of the model.

    Args:
        name: of `POINTS`, with `encoder.` or `decoder.` before it for one half of a pair, and `cross_` for cross-attention; a
            pattern with * or ?; (name, layer); or a name of TransformerLens.
        sites: all that the model has.
        layers: of these layers only; negative ones count from the end.

    Raises:
        ValueError: for a name or a layer that the model does not have.
        TypeError: for anything but a name.
    """
    wanted = name
    if isinstance(name, tuple) and len(name) == 2:
        name, layers = name[0], [name[1]]
    if not isinstance(name, str):
        raise TypeError(f"a point is a name or (name, layer), got {wanted!r}")
    if "hook_" in name:
        name, layers = _translated(name, sites, layers)
    found = [site for site in sites if fnmatchcase(site.name, name) or fnmatchcase(site.full_name, name)]
    if not found:
        known = dict.fromkeys(each for site in sites for each in (site.name, site.full_name))
        if name in POINTS:
            raise ValueError(f"no block of this model has {name!r} ({POINTS[name].meaning})")
        raise ValueError(f"this model has no point {name!r}; the nearest is {nearest(name, known)}")
    if layers is None:
        return found
    depth = {site.half: 0 for site in sites}
    for site in sites:
        depth[site.half] = max(depth[site.half], -1 if site.layer is None else site.layer)
    numbers = {half: {layer + last + 1 if layer < 0 else layer for layer in layers} for half, last in depth.items()}
    if any(not 0 <= layer <= depth[half] for half in depth for layer in numbers[half]) and len(depth) == 1:
        raise ValueError(f"layers are 0 to {max(depth.values())}, got {sorted(layers)}")
    kept = [site for site in found if site.layer is None or site.layer in numbers[site.half]]
    if not kept:
        raise ValueError(f"{name!r} is at none of the layers {sorted(layers)}")
    return kept


def _translated(name: str, sites: Sequence[Site], layers: Iterable[int] | None) -> tuple[str, Iterable[int] | None]:
    """A name of TransformerLens as ours, and its layer."""
    parts = re.fullmatch(r"(?:blocks\.(\d+|\*)\.)?(?:attn\.|mlp\.)?(hook_\w+)", name)
    word = parts[2] if parts else name
    pre_norm = all(site.pre_norm for site in sites if site.block is not None)
    table = ALIASES | (PRE_NORM_ALIASES if pre_norm else POST_NORM_ALIASES)
    if parts is None or word not in table:
        why = UNTRUE.get(word, f"the nearest name that does is {nearest(word, table)}")
        raise ValueError(f"{name!r} does not mean here what it means elsewhere: {why}")
    return table[word], layers if parts[1] in (None, "*") else [int(parts[1])]

"""Whether a batch runs with its padding or without it."""

from __future__ import annotations

import torch

from minitrans.attention.mask import AttentionMask
from minitrans.errors import NotSupportedError
from minitrans.layers.packing import Packing, is_contiguous

MODES = ("auto", "keep", "remove")
# Padding tokens times width: below, a MiniLM saves less than 20 ms on two CPU cores, and "auto" leaves a small batch as it is.
WORTH_IT = 2**16


def check_mode(mode: str) -> None:
    """Raises ValueError for anything but "auto", "keep" and "remove"."""
    if mode not in MODES:
        raise ValueError(f"padding must be one of {', '.join(map(repr, MODES))}, got {mode!r}")


def choose_packing(
    mode: str, mask: AttentionMask, *, width: int, needs_padding: dict[str, bool], given: Packing | None = None
) -> Packing | None:
    """How to leave out the padding that `mask` shows, or None to compute it along.

    "auto" removes padding from inference on a CPU where enough of it can be saved: a training run keeps it, so that losses over
    labelled padding stay those of the reference (B5).

    Args:
        mode: "auto", "keep" or "remove".
        mask: of the self-attention; its `key_padding` shows the padding.
        width: D.
        needs_padding: what the call asks for that only a padded run gives, and whether it does ask.
        given: the packing of a batch that came packed.

    Raises:
        NotSupportedError: for "remove" with something that needs the padding, or tokens that do not stand side by side.
    """
    check_mode(mode)
    real = mask.key_padding
    wanted = [name for name, is_wanted in needs_padding.items() if is_wanted]
    if given is not None and wanted:
        raise NotSupportedError(f"a packed batch does not go with {', '.join(wanted)}; pad it")
    if mode == "keep" or real is None or given is not None:
        return given
    if mode == "remove":
        if wanted:
            raise NotSupportedError(f"padding='remove' does not go with {', '.join(wanted)}; use padding='keep'")
        if not is_contiguous(real):
            raise NotSupportedError(
                "padding='remove' needs rows without holes in the attention mask; use padding='keep'"
            )
        return Packing.of_mask(real)
    if wanted or torch.is_grad_enabled() or torch.compiler.is_compiling() or real.device.type != "cpu":
        return None
    saved = (real.numel() - int(real.sum())) * width
    return Packing.of_mask(real) if saved >= WORTH_IT and is_contiguous(real) else None

"""Which backend `backend="auto"` means for a call, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from minitrans.attention.triton import WIDEST

# options -> what a call that uses them all costs torch's fused attention and not our kernels
_SPARED = {
    ("packed",): "torch's fused attention would be called once per length of sequence, our kernels once",
    ("window",): "torch's fused attention would compute every pair, our kernels only tiles inside the window",
    ("blocks",): "torch's fused attention would compute every pair, our kernels only tiles with allowed blocks",
    ("key_padding",): "torch's fused attention would compute the padding too, our kernels not what surrounds a text",
    ("bias", "gradient"): "torch's fused attention would store a bias gradient for every sample, our kernels its sum",
}


@dataclass(frozen=True)
class BackendChoice:
    """Which backend a call runs on, and why."""

    name: str
    reason: str


def choose(used: set[str], query: Tensor, need_weights: bool) -> BackendChoice:
    """The backend of a pattern for a call that uses these options, in the words of `contract.OPTIONS`."""
    if need_weights:
        return BackendChoice("eager", "the probabilities were asked for, and eager computes them anyway")
    if query.device.type == "cuda":
        return _choose_on_cuda(used, query)
    return BackendChoice(
        "sdpa", f"torch's fused attention is the fastest exact one here for {query.device.type} tensors"
    )


def _choose_on_cuda(used: set[str], query: Tensor) -> BackendChoice:
    """By what each would have to compute and store, not by the clock."""
    from minitrans_kernels.runtime import runs_on_triton

    spared = next((reason for options, reason in _SPARED.items() if used.issuperset(options)), None)
    if spared is None:
        return BackendChoice("sdpa", "torch's fused attention takes this in one kernel")
    if "dense_mask" in used:
        return BackendChoice("sdpa", "torch's fused attention reads a dense mask as it is")
    if "float64" in used or query.shape[-1] > WIDEST:
        return BackendChoice("sdpa", f"our kernels are for float32 and below and for head widths up to {WIDEST}")
    if not runs_on_triton(query):
        return BackendChoice("sdpa", "our kernels cannot run here: minitrans_kernels.available() says why")
    return BackendChoice("triton", spared)

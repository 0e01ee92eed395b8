"""A differentiable call made ready for timing: forward, backward, both, in turns and in CUDA graphs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from minitrans_kernels.runtime import runs_on_triton
from torch import Tensor

from benchmarks.measuring import Call, graph_row, interleaved_ms, peak_bytes, quantiles
from benchmarks.record import Row

Found = dict[str, Tensor]
MODES = ("forward", "backward", "both")
_SECONDS_A_CALL = 0.06  # of timing on a GPU, for one provider and mode; a CPU only tries the code


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass
class Prepared:
    """A provider ready to run one case.

    Attributes:
        forward: computes the output from the leaves.
        leaves: what gets gradients, by name.
        grad_out: the gradient of the output.
        padded: brings an output, and the gradients of query, key and value, to the shape of the reference.
    """

    forward: Callable[[], Tensor]
    leaves: dict[str, Tensor]
    grad_out: Tensor
    padded: Callable[[Tensor], Tensor] = field(default=_same)

    def backward(self, out: Tensor, *, retain: bool = False) -> tuple[Tensor, ...]:
        """The gradients of the leaves."""
        return torch.autograd.grad(out, list(self.leaves.values()), self.grad_out, retain_graph=retain)

    def both(self) -> tuple[Tensor, ...]:
        """Forward and backward."""
        return self.backward(self.forward())

    def results(self) -> dict[str, Tensor]:
        """Output and gradients by name."""
        out = self.forward()
        found = dict(zip(self.leaves, self.backward(out), strict=True))
        shaped = {
            name: self.padded(found[name]) if name in ("query", "key", "value") else found[name] for name in found
        }
        return {"output": self.padded(out.detach()), **shaped}


def path_of(tensor: Tensor) -> Row:
    """What a row says of our kernels where it is not Triton on a GPU that runs for this tensor."""
    if tensor.is_cuda and runs_on_triton(tensor):
        return {}
    return {"runs": "Triton's interpreter" if runs_on_triton(tensor) else "the PyTorch path"}


def verdict(errors: dict[str, float], allowed: dict[str, float]) -> Row:
    """Errors by tensor beside what is allowed, and the status "wrong", with the reason, where one is too large or no number."""
    row: Row = {
        "error": {name: error if math.isfinite(error) else None for name, error in errors.items()},
        "error_allowed": allowed,
    }
    wrong = [name for name, error in errors.items() if not error <= allowed[name]]
    if wrong:
        reason = f"{wrong[0]}: error {errors[wrong[0]]:.1e}, allowed {allowed[wrong[0]]:.1e}"
        row |= {"status": "wrong", "reason": reason}
    return row


@dataclass
class Expected:
    """Output and gradients by name: what float64 gives, and how large an error may be.

    Twice that of the same mathematics in plain torch in the dtype of the case, in gradients three times.
    """

    exact: Found
    allowed: dict[str, float]

    @classmethod
    def of(cls, exact: Found, plain: Found, dtype: torch.dtype) -> Expected:
        """From what plain torch finds in float64 and in the dtype."""
        of_plain = cls(exact, {}).errors(plain)
        epsilon = torch.finfo(dtype).eps
        allowed = {
            name: (2.0 if name == "output" else 3.0) * (of_plain[name] + 0.5 * epsilon * value.abs().max().item())
            for name, value in exact.items()
        }
        return cls(exact, allowed)

    def errors(self, found: Found) -> dict[str, float]:
        """The largest difference of each tensor; infinity where something is not finite."""
        gaps = {name: (found[name].to(value.dtype) - value).abs().max().item() for name, value in self.exact.items()}
        return {name: math.inf if math.isnan(gap) else gap for name, gap in gaps.items()}


def calls_of(prepared: Prepared) -> dict[str, Call]:
    """What is timed, by mode; the forward alone records nothing for a backward."""

    def forward() -> object:
        with torch.no_grad():
            return prepared.forward()

    out = prepared.forward()
    return {"forward": forward, "backward": partial(prepared.backward, out, retain=True), "both": prepared.both}


def measure(
    ready: dict[str, Prepared], device: torch.device, rates: Callable[[str, float], Row]
) -> dict[str, dict[str, Row]]:
    """By provider and mode: times, peak memory, and what `rates` makes of mode and milliseconds."""
    rows: dict[str, dict[str, Row]] = {name: {} for name in ready}
    calls = {name: calls_of(prepared) for name, prepared in ready.items()}
    seconds = _SECONDS_A_CALL * len(ready) if device.type == "cuda" else 0.0
    for mode in MODES:
        timed = {name: calls[name][mode] for name in calls}
        peaks = {name: peak_bytes(call, device) for name, call in timed.items()}
        for name, ms in interleaved_ms(timed, device, seconds).items():
            row: Row = {"ms": quantiles(ms), "peak_bytes": peaks[name]}
            row |= rates(mode, row["ms"]["median"])
            if device.type == "cuda":
                row |= graph_row(partial(_call, ready[name], mode), device)
                if row["graph_ms"] is not None:
                    of_graph = rates(mode, row["graph_ms"]["median"])
                    row |= {f"graph_{key}": value for key, value in of_graph.items()}
            rows[name][mode] = row
    return rows


def _call(prepared: Prepared, mode: str) -> Call:
    """One call, made on the stream that captures: a backward runs where its forward ran."""
    return calls_of(prepared)[mode]

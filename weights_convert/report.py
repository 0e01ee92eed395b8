"""What a conversion did, tensor by tensor."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from minitrans.files import printable


@dataclass(frozen=True)
class TensorRow:
    """One filled parameter (or, when a model is saved, one written tensor).

    Attributes:
        target: its name.
        file: where it came from (or went to).
        sources: the key or keys there.
        rule: which kind of rule moved it.
        stored: dtype in the file.
        dtype: dtype in the model.
        shape: of the parameter.
        tied_to: the name that holds the same tensor, if any.
        sha256: of its bytes as stored in the file, row-major; None where it was not asked for.
        finite: False if a value is NaN or infinite; None where it was not looked at.
    """

    target: str
    file: str
    sources: tuple[str, ...]
    rule: str
    stored: str
    dtype: str
    shape: tuple[int, ...]
    tied_to: str | None = None
    sha256: str | None = None
    finite: bool | None = None


@dataclass
class ConversionReport:
    """Rows for every tensor that was used, and what became of everything else.

    Attributes:
        rows: one per target tensor.
        dropped: key -> why it was not needed.
        unknown: key -> why no rule could use it; worth a look.
        fresh: parameters of a head that the file lacks, or has in another shape, initialised at random.
        mismatched: of those in another shape, the key in the file, its shape there and in the model.
        notes: facts worth knowing, such as a tie that the file breaks.
        config: what is odd about the configuration file, such as settings that nothing reads.
    """

    rows: list[TensorRow] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    config: list[str] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """One line for each thing that a user should look at."""
        lines = list(self.config)
        if self.fresh:
            lines.append(f"not in the checkpoint, initialised at random, train before use: {', '.join(self.fresh)}")
        if self.unknown:
            shown = [f"{printable(key, 60)} ({reason})" for key, reason in list(self.unknown.items())[:4]]
            more = f" and {len(self.unknown) - 4} more" if len(self.unknown) > 4 else ""
            lines.append(f"in the checkpoint, not used: {', '.join(shown)}{more}")
        lines += [f"{printable(row.target)}: holds NaN or infinite values" for row in self.rows if row.finite is False]
        return lines

    def loading_info(self) -> dict[str, Any]:
        """What the reference tells of a load: names here that are fresh, keys there that nobody needed or that do not fit."""
        sized = {key for key, _, _ in self.mismatched}
        return {
            "missing_keys": set(self.fresh),
            "unexpected_keys": {*self.dropped, *self.unknown} - sized,
            "mismatched_keys": set(self.mismatched),
            "error_msgs": [],
        }

    def summary(self) -> str:
        """The counts, then the warnings and notes, a line each."""
        tied = sum(row.tied_to is not None for row in self.rows)
        head = f"{len(self.rows)} tensors ({tied} tied), {len(self.dropped)} dropped, {len(self.fresh)} fresh"
        reasons: dict[str, list[str]] = {}
        for key, why in self.dropped.items():
            reasons.setdefault(why, []).append(printable(key, 60))
        drops = [f"dropped, {why}: {', '.join(keys)}" for why, keys in reasons.items()]
        return "\n".join([head, *drops, *(f"warning: {line}" for line in self.warnings), *self.notes])

    def __str__(self) -> str:
        rows = [
            f"{printable(row.target)} {list(row.shape)} {row.dtype} <- {row.file}: {', '.join(map(printable, row.sources))}"
            f" ({row.rule}{f', tied to {row.tied_to}' if row.tied_to else ''})"
            for row in self.rows
        ]
        return "\n".join([*rows, self.summary()])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> "float32"."""
    return str(dtype).removeprefix("torch.")


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, row-major, independent of how it is laid out in memory."""
    values = tensor.detach().cpu().contiguous().flatten()
    return hashlib.sha256(values.view(torch.uint8).numpy().data if values.numel() else b"").hexdigest()

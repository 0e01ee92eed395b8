"""The contract test in short, before anything of a variant is measured."""

from __future__ import annotations

from typing import Any

import torch

from minitrans.lab.bench import Bench
from minitrans.lab.specs import Subject
from minitrans.testing import check_attention

SIZES: tuple[dict[str, Any], ...] = (
    {},
    {"heads": 4},
    {"heads": 4, "kv_heads": 4},
)  # some need heads in pairs, or alike


def gate(bench: Bench, subject: Subject, seed: int) -> dict[str, Any]:
    """`check_attention` in float64; "status" is "failed", with the reason, where the variant breaks what it promises.

    At several numbers of heads; at four, where it cannot be built for all of those.
    """
    for sizes in SIZES:
        try:
            report = check_attention(subject.spec, dtypes=(torch.float64,), **sizes)
            return {"passed": len(report.passed), "refused": len(report.refused), "support": report.support}
        except ValueError as error:  # it cannot be built for these sizes, or for any
            reason = str(error)
        except (AssertionError, TypeError) as error:
            return {"status": "failed", "reason": str(error)}
    return {"status": "failed", "reason": reason}

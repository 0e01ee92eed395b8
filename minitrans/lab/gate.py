"""The contract test in short, before anything of a variant is measured."""

from __future__ import annotations

from typing import Any

import torch

from minitrans.lab.bench import Bench
from minitrans.lab.specs import Subject
from minitrans.testing import check_attention


def gate(bench: Bench, subject: Subject, seed: int) -> dict[str, Any]:
    """`check_attention` in float64; "status" is "failed", with the reason, where the variant breaks what it promises."""
    try:
        report = check_attention(subject.spec, dtypes=(torch.float64,))
    except (AssertionError, ValueError, TypeError) as error:
        return {"status": "failed", "reason": str(error)}
    return {"passed": len(report.passed), "refused": len(report.refused)}

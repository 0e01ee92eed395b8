"""Whether what happens is being written down, to be run again in other sizes and on other values (see `mask.has_values`)."""

from __future__ import annotations

import torch


def being_traced() -> bool:
    """By `torch.jit.trace`, as for ONNX without dynamo: then nothing may depend on sizes either, which become constants."""
    return not torch.compiler.is_compiling() and bool(torch._C._is_tracing())


def being_exported() -> bool:
    """By a tracer or `torch.export`, which cannot go back to Python where lengths decide what to compute."""
    return torch.compiler.is_exporting() or being_traced()

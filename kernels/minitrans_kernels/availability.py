"""Whether the Triton kernels can run here."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

# the oldest Triton whose kernels are tested, and the first CUDA architecture it compiles matrix instructions for
_MIN_TRITON = (3, 6)
_MIN_CAPABILITY = (8, 0)


def interpreting() -> bool:
    """Whether Triton kernels are interpreted on the CPU (TRITON_INTERPRET=1), as the tests of their logic do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available() -> tuple[bool, str]:
    """Whether Triton kernels can run here, and the reason, as a sentence."""
    if find_spec("triton") is None:
        return False, "the package triton is not installed (pip install 'minitrans[kernels]')"
    import triton

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < _MIN_TRITON:
        return False, f"triton {triton.__version__} is older than {'.'.join(map(str, _MIN_TRITON))}"
    if interpreting():
        return True, f"triton {triton.__version__} interprets the kernels on the CPU (TRITON_INTERPRET=1), slowly"
    if not torch.cuda.is_available():
        return False, f"triton {triton.__version__} is installed, but torch {torch.__version__} sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    name = torch.cuda.get_device_name()
    if capability < _MIN_CAPABILITY:
        return False, f"{name} has compute capability {capability}, the kernels need {_MIN_CAPABILITY}"
    return True, f"triton {triton.__version__} on {name}"

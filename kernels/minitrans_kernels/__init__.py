"""Triton kernels for Transformers, each with a plain PyTorch path for where Triton cannot run."""

from minitrans_kernels.availability import available

__all__ = ["available"]

"""How alike two representations are: linear CKA (Kornblith et al. 2019, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor


def cka(x: Tensor, y: Tensor) -> Tensor:
    """‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), columns centred: 1 = the same up to rotation and scale. The width of the two may differ.

    Args:
        x: (N, D), a row a token or a text.
        y: (N, E), rows of the same.

    Raises:
        ValueError: for unequal numbers of rows, or fewer than two.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) < 2:
        raise ValueError(f"need (N, D) and (N, E) with N of at least 2, got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x - x.mean(0), y - y.mean(0)
    alike: Tensor = torch.linalg.matrix_norm(y.T @ x) ** 2 / (
        torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    )
    return alike

"""The meaning of masked_lm_loss, in the dtype it is given (Devlin et al. 2019, section 3.1, task 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_lm_loss(hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, ignore_index: int) -> Tensor:
    """Mean cross entropy of hidden (..., D) · weight (V, D) + bias against labels (...), where these are not ignore_index."""
    logits = hidden @ weight.T if bias is None else hidden @ weight.T + bias
    logits, labels = logits.flatten(0, -2), labels.flatten()
    labelled = labels != ignore_index
    probabilities = torch.log_softmax(logits[labelled], dim=-1)
    return -probabilities[torch.arange(len(probabilities)), labels[labelled]].mean()

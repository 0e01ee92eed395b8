"""Softmax attention: one call for rectangles, one for packed batches, each on Triton or on plain PyTorch."""

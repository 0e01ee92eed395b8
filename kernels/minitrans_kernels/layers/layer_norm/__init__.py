"""LayerNorm(dropout(x) + residual) in one pass."""

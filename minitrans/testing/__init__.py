"""What a researcher runs on an attention of their own: `check_attention(MyAttention())`."""

from minitrans.testing.contract import AttentionReport, check_attention

__all__ = ["AttentionReport", "check_attention"]

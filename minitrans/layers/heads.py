"""What stands on top of a body: the language-modelling head, the two-layer classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from minitrans.layers.activations import activation
from minitrans.layers.norms import LayerNorm


class PredictionHead(nn.Module):
    """LayerNorm(act(dense(x))): what a language model has before its decoder, and ModernBERT before its classifiers (N1).

    Args:
        width: D.
        act: activation name.
        eps: of the LayerNorm.
        table_width: of what comes out; None = D.
        bias: whether the projection has one.
        norm_bias: whether the norm has one.
    """

    def __init__(
        self,
        width: int,
        *,
        act: str,
        eps: float,
        table_width: int | None = None,
        bias: bool = True,
        norm_bias: bool = True,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(width, table_width or width, bias=bias)
        self.act = activation(act)
        self.LayerNorm = LayerNorm(table_width or width, eps, norm_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D), or as wide as the table."""
        x: Tensor = self.LayerNorm(self.act(self.dense(hidden)))
        return x


class LanguageModelHead(PredictionHead):
    """Scores over the vocabulary: decoder(LayerNorm(act(dense(x)))) (B3, R4).

    Args:
        width: D.
        vocab_size: V.
        decoder_bias: whether the decoder has a bias.
        others: of `PredictionHead`; `table_width` is that of the token table, where it is not D (E1, A1).
    """

    def __init__(self, width: int, vocab_size: int, *, decoder_bias: bool = True, **others: Any) -> None:
        super().__init__(width, **others)
        self.decoder = nn.Linear(self.dense.out_features, vocab_size, bias=decoder_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.decoder(super().forward(hidden))
        return scores


class ClassificationHead(nn.Module):
    """out_proj(dropout(act(dense(dropout(h₀))))) of the first token, RoBERTa's way to classify a sequence (R5).

    Args:
        width: D.
        num_labels: C.
        dropout: probability.
        act: activation name: tanh for RoBERTa, gelu for ELECTRA (E1).
    """

    def __init__(self, width: int, num_labels: int, *, dropout: float, act: str = "tanh") -> None:
        super().__init__()
        self.act = activation(act)
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(width, num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.out_proj(self.dropout(self.act(self.dense(self.dropout(hidden[:, 0])))))
        return scores

"""What stands on top of a body: the language-modelling head, the two-layer classifier."""

from __future__ import annotations

from torch import Tensor, nn

from minitrans.layers.activations import activation
from minitrans.layers.norms import LayerNorm


class LanguageModelHead(nn.Module):
    """Scores over the vocabulary: decoder(LayerNorm(act(dense(x)))) (B3, R4).

    Args:
        width: D.
        vocab_size: V.
        act: activation name.
        eps: of the LayerNorm.
        table_width: of the token table, where it is not D (E1, A1): the decoder is as wide.
    """

    def __init__(self, width: int, vocab_size: int, *, act: str, eps: float, table_width: int | None = None) -> None:
        super().__init__()
        table_width = table_width or width
        self.dense = nn.Linear(width, table_width)
        self.act = activation(act)
        self.LayerNorm = LayerNorm(table_width, eps)
        self.decoder = nn.Linear(table_width, vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.decoder(self.LayerNorm(self.act(self.dense(hidden))))
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

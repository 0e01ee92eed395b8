"""What enters the first block: embeddings of tokens, types and positions, summed, and normalised in a BERT-like model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.layers.norms import LayerNorm


class Embeddings(nn.Module):
    """LayerNorm(token + type + position), then dropout (Devlin et al. 2019, figure 2).

    Args:
        vocab_size: V.
        width: of the tables: D, unless projected.
        max_positions: rows of the position table; None = there is none, positions enter in the attention.
        type_vocab_size: rows of the type (segment) table; 0 = there is none, and types are not looked at.
        padding_idx: the token id whose row gets no gradient through the lookup (M10); None = every row does.
        position_padding_idx: the same for the position table (R2).
        eps: of the LayerNorm.
        norm_bias: whether it has one.
        dropout: probability.
        project_to: D, where the tables are narrower: a projection after the dropout (E1, A1); None = there is none.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        max_positions: int | None = None,
        type_vocab_size: int = 0,
        padding_idx: int | None = None,
        position_padding_idx: int | None = None,
        eps: float = 1e-12,
        norm_bias: bool = True,
        dropout: float = 0.0,
        project_to: int | None = None,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width, padding_idx=padding_idx)
        positions = (
            None if max_positions is None else nn.Embedding(max_positions, width, padding_idx=position_padding_idx)
        )
        self.position_embeddings = positions
        self.token_type_embeddings = nn.Embedding(type_vocab_size, width) if type_vocab_size else None
        self.LayerNorm = LayerNorm(width, eps, norm_bias)
        self.dropout = nn.Dropout(dropout)
        self.projection = None if project_to is None else nn.Linear(width, project_to)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """Embeds a batch.

        Args:
            tokens: (...) int64 token ids, or vectors as wide as the tables that stand for them.
            positions: (...) int64.
            types: (...) int64; None = zeros (B6).

        Returns:
            (..., D).
        """
        words = tokens if tokens.is_floating_point() else self.word_embeddings(tokens)
        types = torch.zeros_like(positions) if types is None else types
        # M9: in this order, because floating-point addition is not associative
        x = words if self.token_type_embeddings is None else words + self.token_type_embeddings(types)
        x = x if self.position_embeddings is None else x + self.position_embeddings(positions)
        normed: Tensor = self.dropout(self.LayerNorm(x))
        return normed if self.projection is None else self.projection(normed)


class TokenEmbeddings(nn.Module):
    """scale · token, plus its position where there is a table of them, then dropout: before a stack of pre-norm blocks.

    Args:
        vocab_size: V.
        width: D.
        positions: what gives the vectors of positions; None = they enter in the attention.
        padding_idx: the token id whose row gets no gradient through the lookup (M10); None = every row does.
        scale: factor of the rows of the token table, not of vectors that stand for them.
        norm: of the sum, before the dropout (M9); None = there is none.
        dropout: probability.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        *,
        positions: nn.Module | None = None,
        padding_idx: int | None = None,
        scale: float = 1.0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width, padding_idx=padding_idx)
        self.position_embeddings = positions
        self.scale = scale
        self.LayerNorm = norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """As of `Embeddings`; types are not looked at."""
        x = self.total(tokens, positions, types)
        embedded: Tensor = self.dropout(x if self.LayerNorm is None else self.LayerNorm(x))
        return embedded

    def rows(self, tokens: Tensor) -> Tensor:
        """(..., D) what stands for ids: rows of the table times the scale."""
        found: Tensor = self.word_embeddings(tokens) * self.scale
        return found

    def total(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        """(..., D): the sum, before the dropout."""
        x = tokens if tokens.is_floating_point() else self.rows(tokens)
        return x if self.position_embeddings is None else x + self.position_embeddings(positions)

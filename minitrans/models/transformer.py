"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017): its figure 1, sections 3.1-3.5 and 5.4.

Start here. Read on in `layers/block.py` (the boxes of figure 1), `layers/multi_head_attention.py` (figure 2, right),
`attention/eager.py` (figure 2, left) and `layers/positions.py` (section 3.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.attention.context import Context
from minitrans.attention.mask import AttentionMask, has_values
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.losses import smoothed_loss
from minitrans.layers.multi_head_attention import CrossAttention, MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.positions import SinusoidalPositions
from minitrans.layers.stack import run_blocks
from minitrans.models.config import RATE, SIZE, TOKEN, Rule, check_fields
from minitrans.models.inputs import cache_to_extend, check_ids, check_length
from minitrans.models.outputs import LogitsOutput


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The defaults are the paper's base model (table 3).

    Raises:
        TypeError: for an unknown field or a value of the wrong type.
        ValueError: for an impossible value or combination.
    """

    vocab_size: int = 37000  # V, tokens that source and target share (section 5.1)
    width: int = 512  # D
    num_encoder_layers: int = 6  # L of the encoder
    num_decoder_layers: int = 6  # L of the decoder
    num_heads: int = 8  # H
    hidden_width: int = 2048  # F
    max_length: int = 1024  # the longest source or target
    dropout: float = 0.1  # on the output of each sub-layer and on the sums of embeddings and positions
    label_smoothing: float = 0.1  # ε
    pad_token_id: int = 0  # fills short sequences; as a label it is left out of the loss
    bos_token_id: int = 1  # begins what the decoder reads
    eos_token_id: int = 2  # ends a target

    def __post_init__(self) -> None:
        check_fields(self, _RULES)
        if self.pad_token_id in (self.bos_token_id, self.eos_token_id):
            raise ValueError(f"pad_token_id={self.pad_token_id} must differ from bos_token_id and eos_token_id")


_RULES: tuple[Rule, ...] = (
    (("vocab_size", "width", "num_encoder_layers", "num_decoder_layers", "num_heads", "hidden_width", "max_length"), *SIZE),
    (("dropout", "label_smoothing"), *RATE),
    (("pad_token_id", "bos_token_id", "eos_token_id"), *TOKEN),
    (("width",), lambda width, c: width % c.num_heads == 0, lambda c: f"a multiple of num_heads={c.num_heads}"),
)  # fmt: skip


class Memory(NamedTuple):
    """What the encoder hands to the decoder: its output (B, S, D), and which of the S places hold tokens."""

    output: Tensor
    mask: AttentionMask


class Transformer(nn.Module):
    """The encoder reads the source; the decoder reads it too, and writes the target token after token (figure 1).

    Args:
        config: the sizes.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        # Section 3.4: one matrix is the source embedding, the target embedding and the output projection
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.positions = SinusoidalPositions(config.max_length, config.width)
        self.encoder = nn.ModuleList(self._block() for _ in range(config.num_encoder_layers))
        self.decoder = nn.ModuleList(self._block(decodes=True) for _ in range(config.num_decoder_layers))
        self.dropout = nn.Dropout(config.dropout)
        self.reset_parameters()

    def forward(
        self, source_ids: Tensor, target_ids: Tensor | None = None, *, labels: Tensor | None = None
    ) -> LogitsOutput:
        """Scores every next token of the target.

        Args:
            source_ids: (B, S), padded with `pad_token_id`, which nothing attends to.
            target_ids: (B, T), what the decoder reads, beginning with `bos_token_id`, padded on the right; None = the
                labels, shifted right by one.
            labels: (B, T), what it should say, ending with `eos_token_id`; `pad_token_id` is left out of the loss.

        Returns:
            The logits (B, T, V) and, with labels, the loss.

        Raises:
            ValueError, TypeError: for ids that are none, out of range, too many, or that do not fit each other.
        """
        if labels is not None:
            labels = self._checked("labels", labels)
        if target_ids is None:
            if labels is None:
                raise ValueError("give target_ids, labels or both: the decoder needs something to read")
            bos = labels.new_full((len(labels), 1), self.config.bos_token_id)
            target_ids = torch.cat([bos, labels[:, :-1]], dim=1)

        logits, _ = self.decode(target_ids, self.encode(source_ids))
        smoothing, pad = self.config.label_smoothing, self.config.pad_token_id  # section 5.4
        loss = None if labels is None else smoothed_loss(logits, labels, smoothing, ignored=pad)
        return LogitsOutput(loss=loss, logits=logits)

    def encode(self, source_ids: Tensor) -> Memory:
        """The left half of figure 1: (B, S) ids -> (B, S, D) and their mask."""
        source_ids = self._checked("source_ids", source_ids)
        mask = AttentionMask(key_padding=source_ids != self.config.pad_token_id)
        return Memory(run_blocks(self.encoder, self._embed(source_ids), Context(mask=mask)).output, mask)

    def decode(self, target_ids: Tensor, memory: Memory, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """The right half of figure 1, up to the logits; the softmax is left to the loss or the search.

        Args:
            target_ids: (B, T).
            memory: of the encoder.
            past: what an earlier call returned; `target_ids` are then the tokens that come after.

        Returns:
            The logits (B, T, V), and the keys and values of all tokens so far.
        """
        cache = cache_to_extend(past, len(self.decoder), memory.output.shape[0], memory.output)
        if cache.capacity is not None:
            raise ValueError("this Transformer decodes with a growing cache, got a static one")
        start = cache.get_seq_length()
        target_ids = self._checked("target_ids", target_ids, start)
        sources, targets = memory.output.shape[0], target_ids.shape[0]
        if sources != targets:
            raise ValueError(f"source and target must be pairs, got {sources} and {targets} sequences")
        padding = target_ids == self.config.pad_token_id
        if has_values(padding) and bool((padding[:, :-1] & ~padding[:, 1:]).any()):
            raise ValueError("target_ids must be padded on the right: a token comes after pad_token_id")
        # the causal mask hides the padding from the tokens too, as it comes after them
        context = Context(mask=AttentionMask(causal=True), memory=memory.output, memory_mask=memory.mask)
        x = run_blocks(self.decoder, self._embed(target_ids, start), context, cache).output
        return F.linear(x, self.embedding.weight), cache

    @torch.no_grad()
    def greedy_decode(self, source_ids: Tensor, max_new_tokens: int) -> Tensor:
        """The likeliest token at each step; put the model in `eval()` mode first, or dropout is part of the search.

        Args:
            source_ids: (B, S).
            max_new_tokens: how many to write at most.

        Returns:
            (B, T) ids after `bos_token_id`, T <= max_new_tokens; what follows `eos_token_id` is `pad_token_id`.
        """
        if not 1 <= max_new_tokens <= self.config.max_length:
            raise ValueError(
                f"max_new_tokens must be in [1, max_length={self.config.max_length}], got {max_new_tokens}"
            )
        memory = self.encode(source_ids)
        token = torch.full_like(source_ids[:, :1], self.config.bos_token_id)  # (B, 1)
        finished = torch.zeros_like(token, dtype=torch.bool)
        written: list[Tensor] = []
        past = None
        while len(written) < max_new_tokens and not bool(finished.all()):
            logits, past = self.decode(token, memory, past)
            logits[..., self.config.pad_token_id] = -torch.inf  # never right: no label is padding
            token = logits.argmax(dim=-1).masked_fill(finished, self.config.pad_token_id)
            finished = finished | (token == self.config.eos_token_id)
            written.append(token)
        return torch.cat(written, dim=1)

    def reset_parameters(self) -> None:
        """Glorot & Bengio's uniform matrices and zero biases; embeddings of variance 1/D, so that scaled ones have 1."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.embedding.weight, std=self.config.width**-0.5)

    def _block(self, *, decodes: bool = False) -> Block:
        """A box of figure 1: the left one, or the right one with a third sub-layer."""
        width, heads, dropout = self.config.width, self.config.num_heads, self.config.dropout
        return Block(
            MultiHeadAttention(width, heads),
            FeedForward(width, self.config.hidden_width, act="relu"),
            [LayerNorm(width) for _ in range(3 if decodes else 2)],
            cross_attention=CrossAttention(width, heads) if decodes else None,
            dropout=dropout,
        )

    def _embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """(B, T) ids that stand at `start` and after -> (B, T, D) (sections 3.4, 3.5 and 5.4)."""
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x: Tensor = self.dropout(self.embedding(ids) * math.sqrt(self.config.width) + self.positions(positions))
        return x

    def _checked(self, name: str, ids: Tensor, start: int = 0) -> Tensor:
        """`ids` as (B, T) int64 of the vocabulary, T at least 1, and short enough for the positions."""
        ids = check_ids(name, ids, self.config.vocab_size, "vocab_size")
        if ids.dim() != 2 or ids.numel() == 0:
            hint = f"for one sequence write {name}[None]"
            raise ValueError(f"{name} must be (B, T) with at least one token, got {tuple(ids.shape)}; {hint}")
        check_length(start + ids.shape[1], self.config.max_length)
        return ids

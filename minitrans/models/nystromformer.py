"""Nyströmformer: attention by way of landmarks (Xiong et al. 2021). What differs from `bert.py`:

a convolution of the values is added to what each attention gives; in texts of `segment_means_seq_len` tokens the softmax is taken
by way of `num_landmarks` means of segments, unless there are as many of these as tokens (Y1). Positions begin at 2; no pooler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.dispatch import attend
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.variant import LayerSizes, Variant
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, build_block, layer_sizes
from minitrans.models.config import BertSizesConfig, EncoderConfig, Rule

ORDER = (
    "input_ids attention_mask token_type_ids position_ids inputs_embeds {}"
    "output_attentions output_hidden_states return_dict"
)
FIRST = 2  # the position of the first token
ITERATIONS = 6  # of the pseudo-inverse


@dataclass(kw_only=True)
class NystromformerConfig(BertSizesConfig):
    """The defaults are those of nystromformer-512; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "nystromformer"
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        (("type_vocab_size", "num_landmarks"), lambda size, c: size >= 1, "at least 1"),
        (
            ("segment_means_seq_len",), lambda length, c: length > 0 and length % c.num_landmarks == 0,
            lambda c: f"a multiple of num_landmarks={c.num_landmarks}: each stands for as many tokens",
        ),
        (("conv_kernel_size",), lambda size, c: size > 0 and size % 2 == 1, "odd: a text keeps its length"),
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: each head has a convolution; use head_mask"),
    )  # fmt: skip
    reference_defaults: ClassVar[Mapping[str, object]] = {"layer_norm_eps": 1e-5, "type_vocab_size": 2}

    vocab_size: int = 30000
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu_new"
    max_position_embeddings: int = 510  # the longest text; the table has FIRST rows more
    type_vocab_size: int = 2  # rows of the token-type table
    layer_norm_eps: float = 1e-5
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2
    num_landmarks: int = 64  # m
    segment_means_seq_len: int = (
        64  # tokens of a text, padding included; as many as landmarks: exact attention, any length
    )
    conv_kernel_size: int = 65  # width of the convolution of the values


class LandmarkAttention(Variant):
    """softmax(q k̃ᵀ) · Z · softmax(q̃ kᵀ) v + conv(v), q̃ and k̃ means of m segments (equation 13); exact where m is the length.

    Padding takes part, in the means and in the convolution, and the pseudo-inverse begins with a number of the whole batch:
    as in the reference (Y1). So the numbers of a text depend on its padding and on its batch, and no batch can be packed.

    Args:
        sizes: of the block.
        landmarks: m.
        length: tokens of a text.
        conv: odd width of the convolution.
    """

    name = "nystromformer"
    whole_texts = True

    def __init__(self, sizes: LayerSizes, *, landmarks: int, length: int, conv: int) -> None:
        super().__init__(sizes)
        self.landmarks, self.length, self.is_exact = landmarks, length, landmarks == length
        channels, around = sizes.heads, (conv // 2, 0)
        self.conv = nn.Conv2d(channels, channels, (conv, 1), padding=around, bias=False, groups=channels)

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """(B, H, T, K); there is no dropout, whatever is configured (Y1)."""
        rules = replace(rules, dropout_p=0.0)
        result = attend(query, key, value, rules) if self.is_exact else self._by_landmarks(query, key, value, rules)
        return replace(result, output=result.output + self.conv(value))

    def _by_landmarks(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        scale = rules.scale_for(query)
        q, k = (
            x.reshape(*x.shape[:2], self.landmarks, -1, x.shape[3]).mean(dim=3) for x in (query, key)
        )  # (B, H, m, K)
        to_landmarks = torch.softmax(query @ k.mT * scale, dim=-1) @ _inverse(torch.softmax(q @ k.mT * scale, dim=-1))
        scores = q @ key.mT * scale  # (B, H, m, T)
        if rules.mask.key_padding is not None:
            scores = scores.masked_fill(~rules.mask.key_padding[:, None, None], torch.finfo(scores.dtype).min)
        from_landmarks = torch.softmax(scores, dim=-1)
        weights = to_landmarks @ from_landmarks if rules.need_weights else None  # (B, H, T, T)
        return AttentionResult(to_landmarks @ (from_landmarks @ value), weights)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """What goes with landmarks."""
        mask, landmarks = rules.mask, not self.is_exact
        patterns = (mask.window, mask.blocks, mask.rule, mask.dense, mask.global_tokens)
        lacking = {
            "packed batches": rules.layout is not None,
            "the logsumexp": rules.need_logsumexp,
            f"texts of another length than segment_means_seq_len={self.length}: pad them to it": (
                landmarks and rules.layout is None and query.shape[2] != self.length
            ),
            "masks but key padding": landmarks and (mask.causal or any(part is not None for part in patterns)),
            "a bias": landmarks and rules.bias is not None, "softcap": landmarks and rules.softcap is not None,
        }  # fmt: skip
        return next((name for name, asked in lacking.items() if asked), None)


def _inverse(a: Tensor) -> Tensor:
    """(B, H, m, m): steps of third order from aᵀ over the largest column sum of all (equation 14)."""
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.mT / a.sum(dim=-2).max()
    for _ in range(ITERATIONS):
        az = a @ z
        z = z / 4 @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


class NystromformerModel(Backbone):
    """Embeddings, and L post-norm blocks of attention by landmarks.

    Args:
        config: sizes and rules.
    """

    config_class = NystromformerConfig
    base_model_prefix = "nystromformer"
    has_pooler = False
    forward = in_order(Backbone, ORDER.format(""))

    def build(self, config: EncoderConfig) -> None:
        """As BERT, with attention of its own."""
        config = cast("NystromformerConfig", config)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            max_positions=config.max_position_embeddings + FIRST,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        options = {
            "landmarks": config.num_landmarks, "length": config.segment_means_seq_len, "conv": config.conv_kernel_size,
        }  # fmt: skip
        self.encoder = Stack(
            build_block(config, own=[LandmarkAttention(layer_sizes(config, layer), **options)])
            for layer in range(config.num_hidden_layers)
        )

    def positions(self, tokens: Tensor, past_length: int) -> Tensor:
        """2, 3, ..., whatever is padding."""
        return super().positions(tokens, past_length + FIRST)


class NystromformerForMaskedLM(language_tasks.MaskedLM):
    """Nyströmformer with a head that scores the vocabulary at every token."""

    body_class = NystromformerModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format("labels "))


class NystromformerForSequenceClassification(tasks.SequenceClassification):
    """Nyströmformer with a two-layer classifier on the first token, with the activation of the blocks."""

    body_class = NystromformerModel
    needs_pooler = False
    forward = in_order(tasks.SequenceClassification, ORDER.format("labels "))

    def build_head(self, config: EncoderConfig) -> None:
        """`classifier`, with dropout inside."""
        width, dropout = config.hidden_size, config.head_dropout
        self.classifier = ClassificationHead(width, config.num_labels, dropout=dropout, act=config.hidden_act)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, C)."""
        scores: Tensor = self.classifier(hidden)
        return scores


class NystromformerForTokenClassification(tasks.TokenClassification):
    """Nyströmformer with a linear classifier on every token."""

    body_class = NystromformerModel
    forward = in_order(tasks.TokenClassification, ORDER.format("labels "))


class NystromformerForQuestionAnswering(tasks.QuestionAnswering):
    """Nyströmformer with a head that scores every token as the first and as the last of the answer."""

    body_class = NystromformerModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions "))


class NystromformerForMultipleChoice(tasks.MultipleChoice):
    """Nyströmformer with a two-layer score of the first token of each of several texts."""

    body_class = NystromformerModel
    needs_pooler = False
    forward = in_order(tasks.MultipleChoice, ORDER.format("labels "))

    def build_head(self, config: EncoderConfig) -> None:
        """`pre_classifier` and `classifier`, without dropout."""
        self.pre_classifier = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def score(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(B · choices, T, D) -> (B · choices, 1)."""
        scores: Tensor = self.classifier(torch.relu(self.pre_classifier(hidden[:, 0])))
        return scores

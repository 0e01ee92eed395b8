"""NomicBERT: BERT for long texts (Nussbaum et al. 2024, "Nomic Embed"). What differs from `bert.py`:

no position table, queries and keys turn with their position; gated feed-forward networks; no biases but those of the norms and
the heads; the body alone has no pooler (NB1). Files with the names of the authors' own code are read too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from minitrans.attention.rotary_scaling import ScaledRotary
from minitrans.attention.variant import LayerSizes
from minitrans.layers.block import Block
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, rope, tasks
from minitrans.models.backbone import Backbone
from minitrans.models.config import SIZE, BertSizesConfig, EncoderConfig, Rule

_NOT_SERVED = "the authors' code can do that, no published model does, and it is not served here"


@dataclass(kw_only=True)
class NomicBertConfig(BertSizesConfig):
    """The defaults are those of nomic-embed-text-v1.5; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "nomic_bert"
    aliases: ClassVar[Mapping[str, str]] = {  # what the authors' code calls them
        "n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
        "n_inner": "intermediate_size", "n_positions": "max_position_embeddings", "layer_norm_epsilon": "layer_norm_eps",
        "attn_pdrop": "attention_probs_dropout_prob", "resid_pdrop": "hidden_dropout_prob",
    }  # fmt: skip
    changes_numbers: ClassVar[Mapping[str, tuple[tuple[object, ...], str]]] = {
        "activation_function": (("swiglu",), _NOT_SERVED),
        **dict.fromkeys(
            ("prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "use_rms_norm", "causal", "parallel_block",
             "scale_attn_by_inverse_layer_idx"), ((False,), _NOT_SERVED),
        ),
        "scale_attn_weights": ((True,), _NOT_SERVED),
        "embd_pdrop": ((0, 0.0), _NOT_SERVED),
        **rope.OLD_KEYS,
        **dict.fromkeys(("rotary_emb_scale_base", "rotary_scaling_factor"), ((), _NOT_SERVED)),
    }  # fmt: skip
    rules: ClassVar[tuple[Rule, ...]] = (
        *BertSizesConfig.rules,
        (("type_vocab_size",), *SIZE),
        rope.RULE,
        (
            ("rotary_emb_base",), lambda base, c: base in (None, c.rope["rope_theta"]),
            "the rope_theta of rope_parameters, or left out",
        ),
        (("rotary_emb_fraction",), lambda part, c: 0 < part <= 1, "in (0, 1]"),
        (("head_dim",), lambda width, c: width is None or width >= 1, "at least 1"),
    )  # fmt: skip

    vocab_size: int = 30528
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    head_dim: int | None = None  # K; None = D / H
    intermediate_size: int = 3072
    hidden_act: str = "silu"  # on the gates
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    max_position_embeddings: int = 2048
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None  # before a classifier; None = hidden_dropout_prob
    rope_parameters: dict[str, Any] | None = None  # rope_theta and rope_type; None = those of the next field
    rotary_emb_base: float | None = None  # the authors' name of rope_theta; None = 1000
    rotary_emb_fraction: float = 1.0  # how much of each head turns
    rotary_emb_interleaved: bool = False  # columns beside each other make a pair

    def __post_init__(self) -> None:
        if self.head_dim is None and self.num_attention_heads:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.rope_parameters is None:
            self.rope_parameters = {"rope_theta": self.rotary_emb_base or 1000.0, "rope_type": "default"}
        super().__post_init__()

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """By either name the base is one, and heads share the width."""
        values = super()._by_field(changes)
        if any(
            values.get(name, getattr(self, name)) != getattr(self, name)
            for name in ("hidden_size", "num_attention_heads")
        ):
            values.setdefault("head_dim", None)
        if values.get("rotary_emb_base", self.rotary_emb_base) != self.rotary_emb_base:
            values.setdefault("rope_parameters", None)
        return values

    @property
    def rope(self) -> dict[str, Any]:
        """How queries and keys turn."""
        return rope.described(self.rope_parameters, self.max_position_embeddings, self.rotary_emb_base or 1000.0)

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class NomicBertModel(Backbone):
    """Embeddings without positions, L post-norm blocks, and where asked for a pooler on the first token.

    Args:
        config: sizes and rules.
        add_pooling_layer: whether to have the pooler.
    """

    config_class = NomicBertConfig
    base_model_prefix = "nomic_bert"

    def __init__(self, config: EncoderConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer)

    @property
    def longest(self) -> int | None:
        """Turns that are found anew for each text have no end."""
        return None if cast("NomicBertConfig", self.config).rope["rope_type"] == "dynamic" else super().longest

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        config = cast("NomicBertConfig", config)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            type_vocab_size=config.type_vocab_size,
            padding_idx=config.pad_token_id,
            eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        self.encoder = Stack(_block(config, layer) for layer in range(config.num_hidden_layers))


def _block(config: NomicBertConfig, layer: int) -> Block:
    width, heads = config.hidden_size, config.num_attention_heads
    head_width = cast("int", config.head_dim)
    sizes = LayerSizes(width, heads, heads, head_width, layer, config.max_position_embeddings)
    layout = "interleaved" if config.rotary_emb_interleaved else "halves"
    turns = ScaledRotary(sizes, config.rope, layout=layout, fraction=config.rotary_emb_fraction)
    dropout = config.attention_probs_dropout_prob
    return Block(
        MultiHeadAttention(width, heads, head_width=head_width, bias=False, dropout=dropout, own=[turns]),
        FeedForward(width, config.intermediate_size, act=config.hidden_act, gated=True, bias=False),
        [LayerNorm(width, config.layer_norm_eps) for _ in range(2)],
        dropout=config.hidden_dropout_prob,
    )


class NomicBertForMaskedLM(language_tasks.MaskedLM):
    """NomicBERT with a head that scores the vocabulary at every token."""

    body_class = NomicBertModel


class NomicBertForSequenceClassification(tasks.SequenceClassification):
    """NomicBERT with a linear classifier on the pooled first token."""

    body_class = NomicBertModel


class NomicBertForTokenClassification(tasks.TokenClassification):
    """NomicBERT with a linear classifier on every token."""

    body_class = NomicBertModel

"""ModernBERT: an encoder for long texts (Warner et al. 2024, "Smarter, Better, Faster, Longer"). What differs from `bert.py`:

pre-norm blocks without a norm before the first attention; queries and keys turn with their position; of three layers one sees
the whole text and two a window, with another base of the turns; gated feed-forward networks; no biases, no token types, no
pooler. Every head begins as the language model's does before its decoder, and texts are their first token or the mean (N1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from minitrans.attention.rotary_scaling import ScaledRotary, wrong_description
from minitrans.attention.variant import Variant
from minitrans.attention.variants.sliding_window import SlidingWindow
from minitrans.layers.activations import activation
from minitrans.layers.block import Block
from minitrans.layers.embeddings import Embeddings
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.heads import LanguageModelHead, PredictionHead
from minitrans.layers.losses import Items, token_loss
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.stack import Stack
from minitrans.models import language_tasks, rope, tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import Backbone, EncoderOutput, layer_sizes
from minitrans.models.config import EncoderConfig, Rule
from minitrans.models.outputs import LogitsOutput
from minitrans.models.padding import Packing

WHOLE, LOCAL = "full_attention", "sliding_attention"
ORDER = "input_ids attention_mask position_ids {}"


def _wrong_turns(config: Any) -> str:
    """What rope_parameters would have to be; "" where they are understood."""
    given = config.rope_parameters or {}
    for kind in (WHOLE, LOCAL):
        if not isinstance(given, dict) or not isinstance(given.get(kind), dict | None):
            return f"for {kind} an object"
        if wrong := wrong_description(config.turns_of(kind)):
            return f"for {kind} {wrong}"
    return ""


@dataclass(kw_only=True)
class ModernBertConfig(EncoderConfig):
    """The defaults are those of ModernBERT-base; the meaning of the other fields stands in `config.py`."""

    model_type: ClassVar[str] = "modernbert"
    own_names: ClassVar[Mapping[str, str]] = {
        "hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps", "attention_probs_dropout_prob": "attention_dropout",
    }  # fmt: skip
    aliases: ClassVar[Mapping[str, str]] = {"layer_norm_eps": "norm_eps"}
    changes_numbers: ClassVar[Mapping[str, tuple[tuple[object, ...], str]]] = {
        **rope.OLD_KEYS, "head_dim": ((), "heads share the width"), "sliding_window": ((), "say twice that in local_attention"),
    }  # fmt: skip
    rules: ClassVar[tuple[Rule, ...]] = (
        *EncoderConfig.rules,
        (("local_attention",), lambda width, c: width >= 2, "at least 2: a token sees half of it to each side"),
        (("global_attn_every_n_layers",), lambda step, c: step >= 1, "at least 1"),
        (
            ("layer_types",), lambda kinds, c: kinds is None or (
                isinstance(kinds, list) and len(kinds) == c.num_hidden_layers and {*kinds} <= {WHOLE, LOCAL}
            ),
            lambda c: f"{c.num_hidden_layers} of '{WHOLE}' and '{LOCAL}', one a layer, or null",
        ),
        (("rope_parameters",), lambda given, c: not _wrong_turns(c), _wrong_turns),
        (("classifier_pooling",), lambda how, c: how in ("cls", "mean"), "'cls' or 'mean'"),
    )  # fmt: skip

    vocab_size: int = 50368
    hidden_size: int = 768
    intermediate_size: int = 1152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    hidden_activation: str = "gelu"  # on the gates
    max_position_embeddings: int = 8192
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0  # beyond so many standard deviations no fresh weight lies
    norm_eps: float = 1e-5
    norm_bias: bool = False
    pad_token_id: int | None = 50283
    eos_token_id: int | list[int] | None = 50282
    bos_token_id: int | None = 50281
    attention_bias: bool = False
    attention_dropout: float = 0.0  # on attention probabilities and on the output of the attention
    layer_types: list[str] | None = None  # WHOLE or LOCAL, one a layer; None = as the next field says
    global_attn_every_n_layers: int = 3  # the first layer, and each so many further on, sees the whole text
    rope_parameters: dict[str, Any] | None = (
        None  # rope_theta and rope_type of WHOLE and of LOCAL; None = as the next say
    )
    global_rope_theta: float = 160_000.0
    local_rope_theta: float | None = 10_000.0  # None = the same
    local_attention: int = 128  # tokens seen in a local layer, half to each side
    embedding_dropout: float = 0.0
    mlp_bias: bool = False
    mlp_dropout: float = 0.0  # within the feed-forward networks
    decoder_bias: bool = True
    classifier_pooling: str = "cls"  # what stands for a text: its first token, or the "mean" of all
    classifier_dropout: float = 0.0  # before every classifier
    classifier_bias: bool = False  # of the layer before it
    classifier_activation: str = "gelu"  # of that layer
    sparse_prediction: bool = False  # with labels, score only tokens that have one
    sparse_pred_ignore_index: int = -100  # the label of those that have none

    def __post_init__(self) -> None:
        super().__post_init__()
        activation(self.classifier_activation)
        found: dict[str, Any] = {"rope_parameters": {kind: self.rope_of(kind) for kind in (WHOLE, LOCAL)}}
        if self.layer_types is None:
            step = self.global_attn_every_n_layers
            found["layer_types"] = [LOCAL if layer % step else WHOLE for layer in range(self.num_hidden_layers)]
        self.__dict__.update(found)

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """What follows from other fields is found again where these change."""
        values = super()._by_field(changes)
        follows = {
            "layer_types": ("num_hidden_layers", "global_attn_every_n_layers"),
            "rope_parameters": ("global_rope_theta", "local_rope_theta"),
        }
        for name, sources in follows.items():
            if any(values.get(source, getattr(self, source)) != getattr(self, source) for source in sources):
                values.setdefault(name, None)
        return values

    @property
    def head_dropout(self) -> float:
        """The dropout before a classifier."""
        return self.classifier_dropout

    def rope_of(self, kind: str) -> dict[str, Any]:
        """How queries and keys turn in a layer of this kind."""
        base = self.local_rope_theta if kind == LOCAL else None
        old = {"rope_theta": self.global_rope_theta if base is None else base, "rope_type": "default"}
        return {**old, **((self.rope_parameters or {}).get(kind) or {})}

    def turns_of(self, kind: str) -> dict[str, Any]:
        """The same, whole."""
        return rope.described(self.rope_of(kind), self.max_position_embeddings)


class ModernBertModel(Backbone):
    """Embeddings without positions, L pre-norm blocks, and a norm.

    Args:
        config: sizes and rules.
    """

    config_class = ModernBertConfig
    base_model_prefix = "model"
    has_pooler = False
    forward = in_order(Backbone, ORDER.format("inputs_embeds"))

    @property
    def longest(self) -> int | None:
        """Turns that are found anew for each text have no end."""
        config = cast("ModernBertConfig", self.config)
        kinds = {config.turns_of(kind)["rope_type"] for kind in config.layer_types or ()}
        return None if kinds == {"dynamic"} else super().longest

    def build(self, config: EncoderConfig) -> None:
        """Bottom up."""
        config = cast("ModernBertConfig", config)
        self.embeddings = Embeddings(
            config.vocab_size,
            config.hidden_size,
            padding_idx=config.pad_token_id,
            eps=config.norm_eps,
            norm_bias=config.norm_bias,
            dropout=config.embedding_dropout,
        )
        blocks = (_block(config, layer) for layer in range(config.num_hidden_layers))
        self.encoder = Stack(blocks, LayerNorm(config.hidden_size, config.norm_eps, config.norm_bias))

    def init_weights(self, module: nn.Module | None = None) -> None:
        """See `_begin`."""
        super().init_weights(module)
        _begin(self.config, module)


def _block(config: ModernBertConfig, layer: int) -> Block:
    width, kind, sizes = config.hidden_size, (config.layer_types or ())[layer], layer_sizes(config, layer)
    own: list[Variant] = [ScaledRotary(sizes, config.turns_of(kind))]
    if kind == LOCAL:
        own.append(SlidingWindow(sizes, window=config.local_attention // 2 * 2))
    norms = [LayerNorm(width, config.norm_eps, config.norm_bias) for _ in range(2)]
    return Block(
        MultiHeadAttention(
            width, config.num_attention_heads, bias=config.attention_bias, dropout=config.attention_dropout, own=own
        ),
        FeedForward(
            width,
            config.intermediate_size,
            act=config.hidden_activation,
            gated=True,
            bias=config.mlp_bias,
            dropout=config.mlp_dropout,
        ),
        norms if layer else [nn.Identity(), norms[1]],  # the embeddings have just been normalised
        norm_first=True,
        dropout=config.attention_dropout,
        feed_forward_dropout=0.0,
    )


def _begin(config: Any, module: nn.Module | None) -> None:
    """Fresh weights are normal ones, cut; what is added to the residual stream begins smaller the deeper the stack."""
    inner = {MultiHeadAttention: "output", FeedForward: "down", PredictionHead: "dense", LanguageModelHead: "dense"}
    cut = config.initializer_cutoff_factor
    if isinstance(module, nn.Linear | nn.Embedding):
        _cut_normal(module.weight, config.initializer_range, cut)
    elif type(module) in inner:
        part = cast("nn.Linear", module.get_submodule(inner[type(module)]))  # type: ignore[union-attr]
        _cut_normal(part.weight, config.initializer_range / math.sqrt(2 * config.num_hidden_layers), cut)


def _cut_normal(weight: Tensor, deviation: float, cut: float) -> None:
    nn.init.trunc_normal_(weight, std=deviation, a=-cut * deviation, b=cut * deviation)


class _OnPredictionHead(tasks.TaskModel):
    """What all heads share: they look at what the head of the language model makes of the tokens, or of the pooled text."""

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`, without a decoder, besides what the task has."""
        super().build_head(config)
        self.lm_head = PredictionHead(config.hidden_size, **_of_head(config))

    def run_body(self, labels: Tensor | None, /, **given: Any) -> EncoderOutput:
        """The body's output, with what the head makes of it."""
        body = super().run_body(labels, **given)
        if self.needs_grid:
            body.pooler_output = self.lm_head(self.pool(body.last_hidden_state, given))
        else:
            body.last_hidden_state = self.lm_head(body.last_hidden_state)
        return body

    def init_weights(self, module: nn.Module | None = None) -> None:
        """See `_begin`; classifiers begin larger."""
        super().init_weights(module)
        _begin(self.config, module)
        if module is not None and module is getattr(self, "classifier", None):
            config = cast("ModernBertConfig", self.config)
            _cut_normal(cast("nn.Linear", module).weight, config.hidden_size**-0.5, config.initializer_cutoff_factor)

    def pool(self, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
        """(B, T, D) -> (B, D): the mean of the tokens, or the first of the row, padding or not."""
        if cast("ModernBertConfig", self.config).classifier_pooling == "cls":
            return hidden[:, 0]
        real = _real(hidden, given)
        return (hidden * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def _real(hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
    """(B, T, 1) 1 where there is a token of a padded or packed batch. Raises ValueError where a mask does not tell."""
    mask, layout = given.get("attention_mask"), given.get("layout")
    if layout is not None:
        packing = Packing.of_layout(layout)
        mask = packing.unpack(torch.ones_like(packing.cells))
    elif mask is None:
        mask = hidden.new_ones(hidden.shape[:2])
    elif mask.dim() != 2:
        raise ValueError(
            "which tokens are there to take the mean of? Give a (B, T) attention_mask, or classifier_pooling='cls'"
        )
    return mask.bool().to(hidden.dtype)[..., None]


def _of_head(config: EncoderConfig) -> dict[str, Any]:
    config = cast("ModernBertConfig", config)
    return {
        "act": config.classifier_activation, "eps": config.norm_eps, "bias": config.classifier_bias,
        "norm_bias": config.norm_bias,
    }  # fmt: skip


class ModernBertForMaskedLM(language_tasks.MaskedLM):
    """ModernBERT with a head that scores the vocabulary at every token."""

    body_class = ModernBertModel
    forward = in_order(language_tasks.MaskedLM, ORDER.format("inputs_embeds labels"))

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`."""
        self.base_model.below_decoder = True
        bias = cast("ModernBertConfig", config).decoder_bias
        self.lm_head = LanguageModelHead(config.hidden_size, config.vocab_size, decoder_bias=bias, **_of_head(config))

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """As of `MaskedLM`; with `sparse_prediction` the logits of labelled tokens alone, (M, V)."""
        config = cast("ModernBertConfig", self.config)
        if labels is None or not config.sparse_prediction:
            return super().head(body, labels, items)
        targets = tasks.unpadded_labels(body, labels).flatten()
        learnt = targets != config.sparse_pred_ignore_index
        logits = self.lm_head(body.last_hidden_state.flatten(0, -2)[learnt])
        return LogitsOutput(token_loss(logits, targets[learnt], items), logits, **body.by_layer)

    def init_weights(self, module: nn.Module | None = None) -> None:
        """See `_begin`."""
        super().init_weights(module)
        _begin(self.config, module)


class ModernBertForSequenceClassification(_OnPredictionHead, tasks.SequenceClassification):
    """ModernBERT with a classifier on the pooled text."""

    body_class = ModernBertModel
    needs_pooler = False
    forward = in_order(tasks.SequenceClassification, ORDER.format("inputs_embeds labels"))


class ModernBertForTokenClassification(_OnPredictionHead, tasks.TokenClassification):
    """ModernBERT with a classifier on every token."""

    body_class = ModernBertModel
    forward = in_order(tasks.TokenClassification, ORDER.format("inputs_embeds labels"))


class ModernBertForQuestionAnswering(_OnPredictionHead, tasks.QuestionAnswering):
    """ModernBERT with a head that scores every token as the first and as the last of the answer."""

    body_class = ModernBertModel
    forward = in_order(tasks.QuestionAnswering, ORDER.format("start_positions end_positions"))

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`, and the scores under the name that all classifiers have here."""
        super().build_head(config)
        self.classifier = self.qa_outputs
        del self.qa_outputs

    def dropout_of(self, config: EncoderConfig) -> float:
        """As before every classifier."""
        return config.head_dropout

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., 2)."""
        scores: Tensor = self.classifier(self.dropout(hidden))
        return scores


class ModernBertForMultipleChoice(_OnPredictionHead, tasks.MultipleChoice):
    """ModernBERT with a score of each of several pooled texts."""

    body_class = ModernBertModel
    needs_pooler = False
    forward = in_order(tasks.MultipleChoice, ORDER.format("inputs_embeds labels"))

    def pool(self, hidden: Tensor, given: Mapping[str, Any]) -> Tensor:
        """(B · choices, T, D) -> (B · choices, D): as of sequences, but for the first token, which is that after padding."""
        if cast("ModernBertConfig", self.config).classifier_pooling == "mean":
            return super().pool(hidden, given)
        first = _real(hidden, given)[..., 0].argmax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), first]

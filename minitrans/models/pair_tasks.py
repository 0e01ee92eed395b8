"""A pair with a head and its loss: the target word by word, a class or a span of a text that the decoder reads too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from minitrans.attention.layout import PackedLayout
from minitrans.layers.cache import Cache
from minitrans.layers.heads import ClassificationHead
from minitrans.layers.losses import Items, TwoItems, check_labels, classification_loss, span_loss, token_loss
from minitrans.models import decoder_tasks
from minitrans.models.arguments import in_order
from minitrans.models.backbone import EncoderOutput, returned
from minitrans.models.config import EncoderConfig
from minitrans.models.encoder_decoder import DecoderOnly, EncoderDecoder, PairOutput
from minitrans.models.generative_pair import GenerativePair
from minitrans.models.outputs import LogitsOutput, SpanOutput
from minitrans.models.pretrained import PreTrainedModel


@dataclass(repr=False)
class OfPair:
    """What every head on a pair passes on, as in `PairOutput`."""

    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    decoder_attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    cross_attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    encoder_last_hidden_state: Tensor | None = field(default=None, kw_only=True)
    encoder_hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    encoder_attentions: tuple[Tensor, ...] | None = field(default=None, kw_only=True)


@dataclass(repr=False)
class PairLogitsOutput(OfPair, LogitsOutput):
    """Of a head on a pair: logits (B, T, V) of the target, or (B, C) of a classifier."""


@dataclass(repr=False)
class PairSpanOutput(OfPair, SpanOutput):
    """Of a head that scores spans: start_logits and end_logits (B, T)."""


class PairHead(PreTrainedModel):
    """What heads on a pair share, whether the pair is below them (`model.model`) or they are the pair (T5)."""

    @property
    def pair(self) -> EncoderDecoder:
        """The pair."""
        return cast("EncoderDecoder", self.base_model)

    def get_encoder(self) -> Any:
        """The left half."""
        return self.pair.encoder

    def get_decoder(self) -> Any:
        """The right half."""
        return self.pair.decoder

    def encode(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> EncoderOutput:
        """See `EncoderDecoder.encode`."""
        return EncoderDecoder.encode(self.pair, input_ids, attention_mask, **options)

    def resize_token_embeddings(self, *size: Any, **options: Any) -> nn.Embedding:
        """As of any model, where both sides share a table. Raises ValueError where each has its own."""
        if not self.config.shares_tables:
            raise ValueError("source and target have a table of tokens each: not resized")
        return super().resize_token_embeddings(*size, **options)

    def run_pair(self, *given: Any, **options: Any) -> PairOutput:
        """What the pair gives, with names: `self.pair` may be this very model, whose own forward scores it."""
        output: PairOutput = EncoderDecoder.forward(self.pair, *given, **{**options, "return_dict": True})
        return output

    def read_twice(self, input_ids: Tensor | None, decoder_input_ids: Tensor | None, **given: Any) -> PairOutput:
        """The pair on a text that its decoder reads too, shifted by one."""
        if decoder_input_ids is None and given.get("decoder_inputs_embeds") is None:
            if input_ids is None:
                raise ValueError(
                    "the decoder reads the text too: give input_ids, or decoder_input_ids beside inputs_embeds"
                )
            decoder_input_ids = self.pair.shift_right(input_ids)
        return self.run_pair(input_ids, decoder_input_ids=decoder_input_ids, **given)


class ConditionalGeneration(PairHead, GenerativePair):
    """Scores of the next token of the target, given the source: translation, summaries, whatever is text to text."""

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`."""
        self.lm_head = nn.Linear(config.hidden_size, self.tied_table().num_embeddings, bias=False)

    def tied_table(self) -> nn.Embedding:
        """The decoder's."""
        return self.pair.decoder.embeddings.word_embeddings

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.lm_head(hidden)
        return scores

    def get_output_embeddings(self) -> nn.Linear:
        """The projection onto the vocabulary."""
        return self.lm_head

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces it."""
        self.lm_head = decoder

    def shifted(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the decoder reads to write `labels`, and which of it is no padding; None = all (T5)."""
        return self.pair.shift_right(labels), None

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to write `labels`, by the name that collators call."""
        return self.pair.shift_right(labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Tensor] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        *,
        num_items_in_batch: Items = None,
        **options: Any,
    ) -> PairLogitsOutput:
        """Scores the target; the other arguments: see `EncoderDecoder.forward`.

        Args:
            labels: (B, T) what the target should say, -100 where nothing is to be learnt. Without decoder_input_ids the
                decoder reads them, shifted by one.
            num_items_in_batch: see `Items`.
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids, mask = self.shifted(labels)
                decoder_attention_mask = mask if decoder_attention_mask is None else decoder_attention_mask
        body = self.run_pair(
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, use_cache, **options,
        )  # fmt: skip
        logits = self.score(body.last_hidden_state)
        loss = None
        if labels is not None:
            check_labels(labels, logits.shape[-1])
            loss = token_loss(logits, labels, num_items_in_batch)
        return returned(PairLogitsOutput(loss, logits, **body.besides), return_dict, self.config)


class BiasedGeneration(ConditionalGeneration):
    """The same with a bias that is not trained (S3)."""

    final_logits_bias: Tensor

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head` and `final_logits_bias` (1, V)."""
        super().build_head(config)
        self.final_logits_bias = nn.Buffer(torch.zeros(1, self.lm_head.out_features))

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return super().score(hidden) + self.final_logits_bias

    def resize_token_embeddings(self, *size: Any, **options: Any) -> nn.Embedding:
        """As of any model; new tokens have no bias."""
        table = super().resize_token_embeddings(*size, **options)
        further = self.lm_head.out_features - self.final_logits_bias.shape[1]
        self.final_logits_bias = nn.functional.pad(self.final_logits_bias, (0, further))
        return table


class CausalDecoder(decoder_tasks.CausalLM):
    """The decoder of a pair alone; `labels` say what follows each token, they are not shifted.

    Args:
        config: of the pair.
    """

    forward = in_order(
        decoder_tasks.CausalLM,
        "input_ids attention_mask encoder_hidden_states encoder_attention_mask past_key_values inputs_embeds labels use_cache "
        "logits_to_keep",
    )

    def __init__(self, config: EncoderConfig) -> None:
        alone = isinstance(config, self.config_class) and not config.is_decoder
        super().__init__(config.updated(is_decoder=True, is_encoder_decoder=False) if alone else config)

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`: a target may have another vocabulary than a source."""
        super().build_head(config)
        self.lm_head = nn.Linear(config.hidden_size, self.tied_table().num_embeddings, bias=False)

    def targets(self, labels: Tensor, layout: PackedLayout | None) -> Tensor:
        """The labels."""
        return labels

    @property
    def writer(self) -> Any:
        """The decoder."""
        return cast("DecoderOnly", self.base_model).side


class SequenceClassification(PairHead):
    """A class, several, or a number for a text, from what the decoder makes of its last end token (S5)."""

    head_has_labels = True

    def build_head(self, config: EncoderConfig) -> None:
        """`classification_head`."""
        self.classification_head = ClassificationHead(
            config.hidden_size, config.num_labels, dropout=config.classifier_dropout
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Tensor] | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        *,
        num_items_in_batch: Items = None,
        **options: Any,
    ) -> PairLogitsOutput:
        """`labels`: see `classification_loss`. Raises ValueError for a text without an end token."""
        body = self.read_twice(
            input_ids, decoder_input_ids, attention_mask=attention_mask, decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs, inputs_embeds=inputs_embeds, decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if labels is not None else use_cache, **options,
        )  # fmt: skip
        hidden = body.last_hidden_state
        rows = torch.arange(len(hidden), device=hidden.device)
        logits = self.classification_head(hidden[rows, self._last_end(input_ids), None])  # (B, C)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        return returned(PairLogitsOutput(loss, logits, **body.besides), return_dict, self.config)

    def _last_end(self, ids: Tensor | None) -> Tensor:
        """(B) where each text ends."""
        end = self.config.eos_token_id
        ends = None if ids is None or end is None else torch.isin(ids, torch.tensor(end, device=ids.device))
        if ends is None or not bool(ends.any(dim=1).all()):
            raise ValueError(
                f"a text is classified by its end token: give input_ids with eos_token_id={end} in every row"
            )
        return (torch.arange(ends.shape[1], device=ends.device) * ends).argmax(dim=1)


class QuestionAnswering(PairHead):
    """The span of a text that answers a question, from what the decoder makes of it."""

    def build_head(self, config: EncoderConfig) -> None:
        """`qa_outputs`: one score for a first token, one for a last."""
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutput | Sequence[Tensor] | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        *,
        num_items_in_batch: Items | TwoItems = None,
        **options: Any,
    ) -> PairSpanOutput:
        """`start_positions`, `end_positions` (B): see `span_loss`; the loss needs both."""
        learns = start_positions is not None and end_positions is not None
        body = self.read_twice(
            input_ids, decoder_input_ids, attention_mask=attention_mask, decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs, inputs_embeds=inputs_embeds, decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=False if learns else use_cache, **options,
        )  # fmt: skip
        start, end = self.qa_outputs(body.last_hidden_state).unbind(dim=-1)  # (B, T) each
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions, num_items_in_batch)
        return returned(PairSpanOutput(loss, start, end, **body.besides), return_dict, self.config)

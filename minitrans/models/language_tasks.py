"""A body with a head that knows language, and its loss: masked tokens, next tokens, next sentences."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from torch import Tensor, nn

from minitrans.attention.layout import PackedLayout
from minitrans.layers.cache import Cache
from minitrans.layers.heads import LanguageModelHead
from minitrans.layers.losses import IGNORED, Items, TwoItems, check_labels, next_token_labels, token_loss
from minitrans.models.arguments import in_order
from minitrans.models.backbone import EncoderOutput, returned
from minitrans.models.config import EncoderConfig
from minitrans.models.generative import Generative
from minitrans.models.outputs import CausalOutput, LogitsOutput, PreTrainingOutput
from minitrans.models.tasks import LabelledModel, TaskModel, pad_scores, unpadded_labels


class WithLanguageModelHead(TaskModel):
    """What masked and causal language models share: the head, and its decoder as output embeddings."""

    lm_head: nn.Module
    head_act: ClassVar[str | None] = None  # None = the configuration's hidden_act

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`."""
        self.base_model.below_decoder = True
        self.lm_head = LanguageModelHead(
            config.hidden_size,
            config.vocab_size,
            act=self.head_act or config.hidden_act,
            eps=config.layer_norm_eps,
            table_width=config.embedding_size,
        )

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder of the head."""
        return cast("LanguageModelHead", self.lm_head).decoder

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces it, bias included (C4)."""
        cast("LanguageModelHead", self.lm_head).decoder = decoder


class MaskedLM(WithLanguageModelHead, LabelledModel):
    """Scores of the vocabulary at every token (Devlin et al. 2019, section 3.1, task 1)."""

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """`labels` (B, T): the true ids where tokens were masked, -100 elsewhere.

        In training with padding="remove" only the M labelled tokens are scored: `logits` is (M, V) then.
        """
        hidden = body.last_hidden_state
        targets = None if labels is None else unpadded_labels(body, labels)
        if self.training and targets is not None and body.packing is not None:
            learnt = targets != IGNORED
            logits = self.lm_head(hidden[learnt])  # (M, V): the vocabulary is wide, and only labelled tokens are scored
            return LogitsOutput(token_loss(logits, targets[learnt], items), logits, **body.by_layer)
        scores = self.lm_head(hidden)
        loss = None if targets is None else token_loss(scores, targets, items)
        return LogitsOutput(loss, pad_scores(body, scores), **body.by_layer)  # logits (B, T, V)


class MaskedLMWithMemory(MaskedLM):
    """The same where the body may attend to an encoder's output (B7)."""

    forward = in_order(
        MaskedLM,
        "input_ids attention_mask token_type_ids position_ids inputs_embeds encoder_hidden_states encoder_attention_mask labels",
    )


class CausalLM(WithLanguageModelHead, Generative):
    """Scores of the next token, from a body in decoder mode (B7)."""

    loss_type: ClassVar[str] = "ForCausalLM"  # by which Trainer knows that the first label is no target

    def __init__(self, config: EncoderConfig) -> None:
        if isinstance(config, self.config_class) and not config.is_decoder:
            raise ValueError(
                f"{type(self).__name__} must not see the token it predicts: set is_decoder=True in its config"
            )
        super().__init__(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        *,
        num_items_in_batch: Items = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> CausalOutput:
        """Scores of the next tokens, and their loss.

        Args:
            labels: (B, T) the input ids, -100 at padding; each is predicted from those before it.
            logits_to_keep: score only so many tokens at the end, or those at these places; 0 = all.
        """
        if labels is not None:
            use_cache = False
        body = self.run_body(
            labels, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask, past_key_values=past_key_values, use_cache=use_cache, **options,
        )  # fmt: skip
        hidden = body.last_hidden_state
        if isinstance(logits_to_keep, Tensor) or logits_to_keep:
            if labels is not None or body.packing is not None:
                raise ValueError("logits_to_keep does not go with labels, nor with padding that is left out")
            hidden = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        scores = self.score(hidden)  # (B, T, V), or (N, V)
        loss = None
        if labels is not None:
            check_labels(labels, scores.shape[-1])
            targets = unpadded_labels(body, self.targets(labels, options.get("layout")))
            loss = token_loss(scores, targets, num_items_in_batch)
        output = CausalOutput(
            loss,
            pad_scores(body, scores),
            body.past_key_values,
            cross_attentions=body.cross_attentions,
            **body.by_layer,
        )
        return returned(output, return_dict, self.config)

    def targets(self, labels: Tensor, layout: PackedLayout | None) -> Tensor:
        """What each token is to be followed by."""
        return next_token_labels(labels, layout)

    def score(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        scores: Tensor = self.lm_head(hidden)
        return scores

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Cache | None = None, **options: Any
    ) -> dict[str, Any]:
        """What a loop that writes text gives to the next call: the ids that the cache does not hold yet."""
        held = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {"input_ids": input_ids[:, held:], "past_key_values": past_key_values, **options}


class TwoLosses(WithLanguageModelHead):
    """Masked tokens, and something about the whole text. Both have labels, or there is no loss."""

    needs_pooler = True
    accepts_loss_kwargs: ClassVar[bool] = (
        False  # Trainer counts one kind of labels: it is to average over batches instead
    )

    def both_losses(
        self, body: EncoderOutput, scores: Tensor, labels: Tensor, of_texts: Tensor, text_labels: Tensor, items: Any
    ) -> Tensor:
        """Their sum; `items` are two numbers, of labelled tokens and of texts."""
        if items is not None and not isinstance(items, tuple):
            raise ValueError(f"two losses need two counts: num_items_in_batch must be (tokens, texts), got {items!r}")
        tokens, texts = items or (None, None)
        return token_loss(scores, unpadded_labels(body, labels), tokens) + token_loss(
            of_texts, text_labels.flatten(), texts
        )


class PreTraining(TwoLosses):
    """Masked tokens and next sentence together (Devlin et al. 2019, section 3.1)."""

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head` and `seq_relationship`."""
        super().build_head(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        *,
        num_items_in_batch: TwoItems | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> PreTrainingOutput:
        """`labels` as in `MaskedLM`, `next_sentence_label` (B): 0 = it follows; the loss needs both (B4)."""
        body = self.run_body(
            labels, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, **options,
        )  # fmt: skip
        scores = self.lm_head(body.last_hidden_state)
        relationship = self.seq_relationship(body.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = self.both_losses(body, scores, labels, relationship, next_sentence_label, num_items_in_batch)
        output = PreTrainingOutput(loss, pad_scores(body, scores), relationship, **body.by_layer)  # logits (B, T, V)
        return returned(output, return_dict, self.config)


class NextSentencePrediction(LabelledModel):
    """Whether the second text follows the first (Devlin et al. 2019, section 3.1, task 2)."""

    needs_pooler = True

    def build_head(self, config: EncoderConfig) -> None:
        """`seq_relationship`."""
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def head(self, body: EncoderOutput, labels: Tensor | None, items: Items) -> LogitsOutput:
        """`labels` (B): 0 = it follows, 1 = it is a random text (B4)."""
        logits = self.seq_relationship(body.pooler_output)  # (B, 2)
        loss = None if labels is None else token_loss(logits, labels.flatten(), items)
        return LogitsOutput(loss, logits, **body.by_layer)

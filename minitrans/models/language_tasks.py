"""A body with a head that knows language, and its loss: masked tokens, next tokens, next sentences."""

from __future__ import annotations

from typing import ClassVar, Unpack

from torch import Tensor, nn

from minitrans.layers.cache import Cache
from minitrans.layers.heads import LanguageModelHead
from minitrans.layers.losses import IGNORED, check_labels, next_token_labels, token_loss
from minitrans.models.backbone import BodyOptions, EncoderOutput, returned
from minitrans.models.config import EncoderConfig
from minitrans.models.outputs import CausalOutput, LogitsOutput, PreTrainingOutput
from minitrans.models.tasks import LabelledModel, TaskModel, pad_scores, unpadded_labels


class WithLanguageModelHead(TaskModel):
    """What masked and causal language models share: the head, and its decoder as output embeddings."""

    lm_head: LanguageModelHead
    head_act: ClassVar[str | None] = None  # None = the configuration's hidden_act

    def build_head(self, config: EncoderConfig) -> None:
        """`lm_head`."""
        self.lm_head = LanguageModelHead(
            config.hidden_size,
            config.vocab_size,
            act=self.head_act or config.hidden_act,
            eps=config.layer_norm_eps,
            table_width=config.embedding_size,
        )

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder of the head."""
        return self.lm_head.decoder

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces it, bias included (C4)."""
        self.lm_head.decoder = decoder


class MaskedLM(WithLanguageModelHead, LabelledModel):
    """Scores of the vocabulary at every token (Devlin et al. 2019, section 3.1, task 1)."""

    def head(self, body: EncoderOutput, labels: Tensor | None) -> LogitsOutput:
        """`labels` (B, T): the true ids where tokens were masked, -100 elsewhere.

        In training with padding="remove" only the M labelled tokens are scored: `logits` is (M, V) then.
        """
        hidden = body.last_hidden_state
        targets = None if labels is None else unpadded_labels(body, labels)
        if self.training and targets is not None and body.packing is not None:
            learnt = targets != IGNORED
            logits = self.lm_head(hidden[learnt])  # (M, V): the vocabulary is wide, and only labelled tokens are scored
            return LogitsOutput(token_loss(logits, targets[learnt]), logits, **body.by_layer)
        scores = self.lm_head(hidden)
        loss = None if targets is None else token_loss(scores, targets)
        return LogitsOutput(loss, pad_scores(body, scores), **body.by_layer)  # logits (B, T, V)


class CausalLM(WithLanguageModelHead):
    """Scores of the next token, from a body in decoder mode (B7)."""

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
        *,
        return_dict: bool | None = None,
        **options: Unpack[BodyOptions],
    ) -> CausalOutput:
        """`labels` (B, T): the input ids, -100 at padding; each is predicted from those before it."""
        tokens = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        memory = (encoder_hidden_states, encoder_attention_mask)
        cache = (past_key_values, False if labels is not None else use_cache)
        body = self.run_body(*tokens, *memory, *cache, labels=labels, **options)
        scores = self.lm_head(body.last_hidden_state)  # (B, T, V), or (N, V)
        loss = None
        if labels is not None:
            check_labels(labels, scores.shape[-1])
            loss = token_loss(scores, unpadded_labels(body, next_token_labels(labels, options.get("layout"))))
        output = CausalOutput(
            loss,
            pad_scores(body, scores),
            body.past_key_values,
            cross_attentions=body.cross_attentions,
            **body.by_layer,
        )
        return returned(output, return_dict)


class PreTraining(WithLanguageModelHead):
    """Masked tokens and next sentence together (Devlin et al. 2019, section 3.1)."""

    needs_pooler = True

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
        return_dict: bool | None = None,
        **options: Unpack[BodyOptions],
    ) -> PreTrainingOutput:
        """`labels` as in `MaskedLM`, `next_sentence_label` (B): 0 = it follows; the loss needs both (B4)."""
        given = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.run_body(*given, labels=labels, **options)
        scores = self.lm_head(body.last_hidden_state)
        logits = pad_scores(body, scores)  # (B, T, V)
        relationship = self.seq_relationship(body.pooler_output)  # (B, 2)
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = token_loss(scores, unpadded_labels(body, labels)) + token_loss(
                relationship, next_sentence_label.flatten()
            )
        output = PreTrainingOutput(loss, logits, relationship, **body.by_layer)
        return returned(output, return_dict)


class NextSentencePrediction(LabelledModel):
    """Whether the second text follows the first (Devlin et al. 2019, section 3.1, task 2)."""

    needs_pooler = True

    def build_head(self, config: EncoderConfig) -> None:
        """`seq_relationship`."""
        self.seq_relationship = nn.Linear(config.hidden_size, 2)

    def head(self, body: EncoderOutput, labels: Tensor | None) -> LogitsOutput:
        """`labels` (B): 0 = it follows, 1 = it is a random text (B4)."""
        logits = self.seq_relationship(body.pooler_output)  # (B, 2)
        loss = None if labels is None else token_loss(logits, labels.flatten())
        return LogitsOutput(loss, logits, **body.by_layer)

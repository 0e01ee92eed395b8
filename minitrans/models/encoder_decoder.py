"""The engine of pairs: an encoder reads the source, a decoder writes the target and looks at what the encoder made of it.

Both are bodies as in `backbone.py` and take their input through the same door; a family builds the two (Sutskever et al.
2014; Vaswani et al. 2017, figure 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from minitrans.attention.specs import VariantSpec
from minitrans.layers.cache import Cache
from minitrans.layers.losses import IGNORED
from minitrans.models.arguments import refuse_unknown
from minitrans.models.backbone import Backbone, EncoderOutput, returned
from minitrans.models.config import EncoderConfig, Rule
from minitrans.models.outputs import ModelOutput
from minitrans.models.pretrained import PreTrainedModel


@dataclass(kw_only=True)
class PairConfig(EncoderConfig):
    """What every pair has. By BERT's names it answers for the encoder; `DecoderSide` does for the decoder."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *EncoderConfig.rules,
        (("pruned_heads",), lambda pruned, c: not pruned, "empty: the heads of a pair are not pruned; use head_mask"),
    )  # fmt: skip
    steering: ClassVar[frozenset[str]] = EncoderConfig.steering | {
        "use_cache", "decoder_start_token_id", "forced_eos_token_id",
    }  # fmt: skip
    # BERT's name -> the field that holds it for the decoder, where that is another than the encoder's
    of_decoder: ClassVar[Mapping[str, str]] = {}

    @property
    def shares_tables(self) -> bool:
        """Whether source and target have one token table."""
        return True

    use_cache: bool = True  # the decoder's cache is returned unless the call says otherwise
    decoder_start_token_id: int | None = None  # the id that begins what the decoder reads


class DecoderSide:
    """The configuration of a pair as its decoder reads it; nothing is stored here.

    Args:
        pair: whose fields these are.
    """

    is_decoder, is_encoder_decoder, add_cross_attention, is_built = True, False, True, False

    def __init__(self, pair: PairConfig) -> None:
        self.__dict__["pair"] = pair

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """To `isinstance` a proxy is what it stands for, as those of the standard library are."""
        return type(self.pair)

    def __getattr__(self, name: str) -> Any:
        if name == "pair":  # not there yet: a copy is being made
            raise AttributeError(name)
        return getattr(self.pair, self.pair.of_decoder.get(name, name))

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.pair, self.pair.of_decoder.get(name, name), value)

    def build_in(self, free: frozenset[str] = frozenset()) -> None:
        """The pair is built in by the model itself."""


@dataclass(repr=False)
class PairOutput(ModelOutput):
    """Of the body of a pair.

    Attributes:
        last_hidden_state: (B, T, D) of the decoder.
        past_key_values: what the decoder remembers, the keys of the memory too.
        decoder_hidden_states: L + 1 tensors (B, T, D).
        decoder_attentions: L tensors (B, H, T, T), probabilities before dropout.
        cross_attentions: L tensors (B, H, T, S).
        encoder_last_hidden_state: (B, S, D), the memory.
        encoder_hidden_states: L + 1 tensors (B, S, D).
        encoder_attentions: L tensors (B, H, S, S).
    """

    last_hidden_state: Tensor
    past_key_values: Cache | None = None
    decoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.last_hidden_state, (Mapping, Iterator)):
            self.rebuild(self.last_hidden_state)

    @property
    def besides(self) -> dict[str, Any]:
        """What every output above this one passes on."""
        return {name: value for name, value in vars(self).items() if name != "last_hidden_state"}


class WithSide(PreTrainedModel):
    """What a pair and either half alone share: `side` takes the input."""

    side_class: ClassVar[type[Backbone]]  # of both halves
    table_path = "encoder.embeddings.word_embeddings"

    @property
    def side(self) -> Backbone:
        """What reads the input."""
        return cast("Backbone", self.get_submodule(self.table_path.partition(".")[0]))

    def of_side(self, config: EncoderConfig) -> EncoderConfig:
        """The configuration as that half reads it."""
        return config

    @property
    def longest(self) -> int | None:
        """The longest source that there are positions for; None = there is no end of them."""
        return self.side.longest

    @property
    def padding(self) -> str:
        """What becomes of the padding of the source."""
        return self.side.padding

    @padding.setter
    def padding(self, padding: str) -> None:
        self.side.padding = padding

    def share_config(self, config: EncoderConfig) -> None:
        """One configuration for the model, what is below it and the head above."""
        super().share_config(config)
        self.side.share_config(self.of_side(config))

    def install_attention(self, attention: VariantSpec, backend: str = "auto", dropout: float | None = None) -> None:
        """The self-attention of that half."""
        self.side.install_attention(attention, backend, dropout)


class EncoderDecoder(WithSide):
    """The two bodies; a family names their class, or makes them, in `sides`.

    Args:
        config: sizes and rules.
        add_pooling_layer: pairs have none.
    """

    source_words: ClassVar[tuple[str, ...]] = ()  # what else its encoder takes, by the names of `Backbone.forward`
    encoder: Backbone
    decoder: Backbone
    config: PairConfig

    def __init__(self, config: EncoderConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        if self.config.is_decoder:
            raise ValueError("this configuration is of a decoder alone: set is_decoder=False, is_encoder_decoder=True")
        self.encoder, self.decoder = self.sides(self.config)
        self.build_head(self.config)
        self.finish_init()

    def sides(self, config: PairConfig) -> tuple[Backbone, Backbone]:
        """The encoder and the decoder."""
        return self.side_class(config), self.side_class(cast("Any", DecoderSide(config)))

    def build_head(self, config: PairConfig) -> None:
        """What a family may put on the pair itself: nothing here."""

    def share_config(self, config: EncoderConfig) -> None:
        """The decoder's too."""
        super().share_config(config)
        self.decoder.share_config(cast("Any", DecoderSide(cast("PairConfig", config))))

    def tie_weights(self) -> None:
        """Source and target have one token table, unless the configuration says otherwise."""
        if self.config.shares_tables:
            self.decoder.embeddings.word_embeddings = self.encoder.embeddings.word_embeddings
        super().tie_weights()

    def shift_right(self, ids: Tensor) -> Tensor:
        """(B, T) what the decoder reads to write `ids`: they begin with the start token; -100 becomes padding.

        Raises:
            ValueError: where the configuration does not say which token begins.
        """
        start, pad = self.config.decoder_start_token_id, self.config.pad_token_id
        if start is None or pad is None:
            missing = "decoder_start_token_id" if start is None else "pad_token_id"
            raise ValueError(
                f"set model.config.{missing}, or give decoder_input_ids: nothing says what the decoder reads"
            )
        shifted = torch.cat([ids.new_full((len(ids), 1), start), ids[:, :-1]], dim=1)
        return shifted.masked_fill(shifted == IGNORED, pad)

    def seen(self, memory: Tensor) -> Tensor:
        """What of the memory (B, S, D) the decoder sees: all of it."""
        return memory

    def encode(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **options: Any
    ) -> EncoderOutput:
        """What the encoder makes of the source: the memory (B, S, D). `options` are those of `Backbone.forward`."""
        output: EncoderOutput = self.encoder(input_ids, attention_mask, unpack=True, return_dict=True, **options)
        return output

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
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        *,
        padding: str | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> Any:
        """Runs both.

        Args:
            input_ids: (B, S) the source.
            attention_mask: (B, S), 1 = a token, 0 = padding, for the encoder and for what the decoder sees of it.
            decoder_input_ids: (B, T) what the decoder reads.
            decoder_attention_mask: (B, T), of a cache's tokens too.
            encoder_outputs: what `encode` returned, instead of a source.
            past_key_values: what an earlier call returned; this call's target comes after.
            inputs_embeds: (B, S, D) instead of the source.
            decoder_inputs_embeds: (B, T, D) instead of the target.
            use_cache: return the cache; None = the configuration's.
            return_dict: False returns a plain tuple.
            padding: what becomes of that of the source.
            output_attentions: see `Backbone.forward`.
            output_hidden_states: see `Backbone.forward`.
            others: words of `arguments.IGNORED_WORDS`, which change nothing.

        Raises:
            ValueError, TypeError: for input that does not fit the model, and for any other word.
        """
        further = {name: others.pop(name) for name in self.source_words if name in others}
        if others:
            refuse_unknown(others, self)
        kept = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        if encoder_outputs is None:
            encoder_outputs = EncoderDecoder.encode(
                self, input_ids, attention_mask, inputs_embeds=inputs_embeds, padding=padding, **kept, **further
            )
        elif not isinstance(encoder_outputs, EncoderOutput):
            names = ("last_hidden_state", "hidden_states", "attentions")
            encoder_outputs = EncoderOutput(**dict(zip(names, cast("Any", encoder_outputs), strict=False)))
        memory = encoder_outputs.last_hidden_state
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.default_target(input_ids)
        out: EncoderOutput = self.decoder(
            input_ids=decoder_input_ids, attention_mask=decoder_attention_mask, inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=self.seen(memory), encoder_attention_mask=attention_mask, past_key_values=past_key_values,
            use_cache=use_cache, padding="keep", return_dict=True, **kept,
        )  # fmt: skip
        output = PairOutput(
            out.last_hidden_state, out.past_key_values, out.hidden_states, out.attentions, out.cross_attentions, memory,
            encoder_outputs.hidden_states, encoder_outputs.attentions,
        )  # fmt: skip
        return returned(output, return_dict, self.config)

    def default_target(self, input_ids: Tensor | None) -> Tensor:
        """What the decoder reads where the call says nothing. Raises ValueError: here a call must."""
        raise ValueError(
            "give decoder_input_ids, or labels to a model with a head: the decoder needs something to read"
        )

    def get_encoder(self) -> Backbone:
        """The left half."""
        return self.encoder

    def get_decoder(self) -> Backbone:
        """The right half."""
        return self.decoder

    def install_attention(self, attention: VariantSpec, backend: str = "auto", dropout: float | None = None) -> None:
        """The self-attention of both sides."""
        super().install_attention(attention, backend, dropout)
        self.decoder.install_attention(attention, backend, dropout)


class EncoderOnly(WithSide):
    """The left half of a pair as a model of its own.

    Args:
        config: of the pair.
        add_pooling_layer: there is none.
    """

    def __init__(self, config: EncoderConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.add_module(self.table_path.partition(".")[0], self.side_class(self.of_side(self.config)))
        self.finish_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> EncoderOutput:
        """See `Backbone.forward`."""
        output: EncoderOutput = self.side(input_ids, attention_mask, inputs_embeds=inputs_embeds, **options)
        return output


class DecoderOnly(EncoderOnly):
    """The right half, which need not look at anything.

    Args:
        config: of the pair.
        add_pooling_layer: there is none.
    """

    table_path = "decoder.embeddings.word_embeddings"

    def of_side(self, config: EncoderConfig) -> EncoderConfig:
        """As the decoder reads it."""
        return cast("Any", DecoderSide(cast("PairConfig", config)))  # type: ignore[no-any-return]

"""Two bodies joined to a pair: a BERT reads, another one writes and looks at what the first made of the source.

Both may begin with the weights of checkpoints (Rothe et al. 2020, "Leveraging Pre-trained Checkpoints for Sequence
Generation Tasks"); only the cross-attention is fresh then, and a projection where the two are of different widths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from minitrans.errors import NotSupportedError
from minitrans.families import family_row
from minitrans.hub import HubOptions
from minitrans.models import bert, camembert, gpt2, pair_tasks, roberta, roberta_prelayernorm, xlm_roberta
from minitrans.models.backbone import Backbone
from minitrans.models.config import ModelConfig, Rule
from minitrans.models.config_file import load_config, telling
from minitrans.models.encoder_decoder import EncoderDecoder, PairConfig
from minitrans.models.loading import blank_model, materialise

HALVES: dict[str, Any] = {
    "bert": bert, "roberta": roberta, "xlm-roberta": xlm_roberta, "camembert": camembert,
    "roberta-prelayernorm": roberta_prelayernorm, "gpt2": gpt2,
}  # fmt: skip
_ALONE = (
    "of a pair whose halves share all weights no two are loaded: save the model with the tool that tied them, untied"
)
# what the engine asks of any configuration, and the encoder answers
_OF_ENCODER = frozenset({
    "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "type_vocab_size",
    "initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "position_embedding_type",
})  # fmt: skip


def half(model_type: object, head: str | None = None) -> Any:
    """The class of a half with this head; None = its configuration. Raises ValueError for a family that is none."""
    if model_type not in HALVES:
        raise ValueError(f"the halves of a pair must be of {', '.join(HALVES)}, got {model_type!r}")
    row = family_row(model_type)
    return getattr(HALVES[str(model_type)], row.class_names[0] if head is None else row.class_name(head))


@dataclass(kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """Two configurations, and what begins, ends and fills a target; the decoder's own ids where nothing is said here."""

    model_type: ClassVar[str] = "encoder-decoder"
    is_encoder_decoder: ClassVar[bool] = True
    lacking: ClassVar[Mapping[str, Any]] = {"is_decoder": False, "add_cross_attention": False, "shares_tables": False}
    changes_numbers: ClassVar[Mapping[str, tuple[tuple[object, ...], str]]] = {
        "tie_encoder_decoder": ((False,), _ALONE)
    }
    steering: ClassVar[frozenset[str]] = PairConfig.steering | ModelConfig.steering
    rules: ClassVar[tuple[Rule, ...]] = (
        *ModelConfig.rules,
        (("encoder",), lambda side, c: not side.is_decoder, "no decoder: set is_decoder=False in it"),
        (("decoder",), lambda side, c: side.is_decoder and side.add_cross_attention, "a decoder with cross-attention"),
        (("vocab_size",), lambda size, c: size == c.decoder.vocab_size, lambda c: f"the decoder's, {c.decoder.vocab_size}"),
        *(rule for rule in PairConfig.rules if rule[0] == ("pruned_heads",)),
    )  # fmt: skip

    encoder: Any  # a configuration, or its fields
    decoder: Any
    vocab_size: int | None = None  # V of the target; None = the decoder's
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None  # the id that begins what the decoder reads
    use_cache: bool = True
    pruned_heads: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            given = getattr(self, name)
            kind = half(given.get("model_type"))
            self.__dict__[name] = given if isinstance(given, kind) else kind.from_dict(given)
        for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                self.__dict__[name] = self.decoder.get(name)
        super().__post_init__()

    @classmethod
    def from_encoder_decoder_configs(cls, encoder_config: Any, decoder_config: Any, **fields: Any) -> Self:
        """Of two configurations, of which the second becomes a decoder with cross-attention."""
        return cls(
            encoder=encoder_config.copy(),
            decoder=decoder_config.updated(is_decoder=True, add_cross_attention=True),
            **fields,
        )

    def __getattr__(self, name: str) -> Any:
        side = "encoder" if name in _OF_ENCODER else "decoder" if name == "tie_word_embeddings" else None
        return super().__getattr__(name) if side is None else getattr(self.__dict__[side], name)

    def _by_field(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Whether tables are tied is said by the decoder."""
        changes = dict(changes)
        if "tie_word_embeddings" in changes:
            changes["decoder"] = self.decoder.updated(tie_word_embeddings=changes.pop("tie_word_embeddings"))
        return super()._by_field(changes)

    def own_name(self, name: str) -> str:
        """As of any configuration."""
        return name

    def to_dict(self) -> dict[str, Any]:
        """Plain values, those of the halves too."""
        return {**super().to_dict(), "encoder": telling(self.encoder), "decoder": telling(self.decoder)}


class EncoderDecoderModel(pair_tasks.ConditionalGeneration, EncoderDecoder):  # type: ignore[misc]
    """The pair, with the decoder's own head.

    Args:
        config: of both.
    """

    config_class = cast("Any", EncoderDecoderConfig)
    base_model_prefix = "encoder_decoder"
    source_words = ("token_type_ids", "position_ids")
    enc_to_dec_proj: nn.Linear | None

    def sides(self, config: PairConfig) -> tuple[Backbone, Backbone]:
        """A body, and that of a causal language model."""
        given = cast("EncoderDecoderConfig", config)
        changes = {"attention": given.attention} if given.attention != "full" else {}
        encoder = half(given.encoder.model_type, "Model")(given.encoder.updated(**changes))
        writer = half(given.decoder.model_type, "ForCausalLM")(given.decoder.updated(**changes))
        self.lm_head = writer.lm_head
        config.rebuild(encoder=encoder.config, decoder=writer.config)
        return encoder, writer.base_model

    def build_head(self, config: PairConfig) -> None:  # type: ignore[override]
        """`enc_to_dec_proj`, where the memory is of another width than the decoder."""
        sizes = [side.config.hidden_size for side in (self.encoder, self.decoder)]
        self.enc_to_dec_proj = nn.Linear(*sizes) if sizes[0] != sizes[1] else None

    def seen(self, memory: Tensor) -> Tensor:
        """(B, S, D) of the decoder's width."""
        return memory if self.enc_to_dec_proj is None else self.enc_to_dec_proj(memory)

    def shifted(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Padding of the target is hidden."""
        ids = self.shift_right(labels)
        return ids, ids.ne(cast("int", self.config.pad_token_id)).long()

    def get_output_embeddings(self) -> nn.Linear:
        """The projection onto the vocabulary."""
        return cast("nn.Linear", getattr(self.lm_head, "decoder", self.lm_head))

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces it."""
        if isinstance(self.lm_head, nn.Linear):
            self.lm_head = decoder
        else:
            self.lm_head.decoder = decoder

    def resize_token_embeddings(self, *size: Any, **options: Any) -> nn.Embedding:
        """Raises NotSupportedError: there are two vocabularies."""
        raise NotSupportedError("each half has its own vocabulary: resize the two models before they are joined")

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | Path | None = None,
        decoder_pretrained_model_name_or_path: str | Path | None = None,
        **words: Any,
    ) -> Self:
        """A pair of two checkpoints, in evaluation mode; what of the cross-attention is fresh stands in `load_report`.

        Args:
            encoder_pretrained_model_name_or_path: a folder, or a name on the Hugging Face hub.
            decoder_pretrained_model_name_or_path: the same.
            words: `encoder_...` and `decoder_...` for the loading of the two, `encoder_model` and `decoder_model` instead of
                it; all others are fields of the configuration.

        Raises:
            ValueError, TypeError: for wrong arguments. CheckpointError: as of `from_pretrained`.
        """
        own = {field.name for field in dataclasses.fields(cast("Any", EncoderDecoderConfig))}  # decoder_start_token_id
        of = {
            side: {name.removeprefix(side): words.pop(name) for name in {*words} - own if name.startswith(side)}
            for side in ("encoder_", "decoder_")
        }
        encoder, decoder = (of[side].pop("model", None) for side in of)
        if encoder is None:  # it may be in the file of a decoder
            role = {"is_decoder": False, "add_cross_attention": False}
            encoder = _loaded("Model", encoder_pretrained_model_name_or_path, {**role, **of["encoder_"]})
        if decoder is None:
            role = {"is_decoder": True, "add_cross_attention": True}
            decoder = _loaded("ForCausalLM", decoder_pretrained_model_name_or_path, {**role, **of["decoder_"]})
        config = EncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config, **words)
        model = blank_model(cls, config)
        model.encoder, model.decoder, model.lm_head = encoder, decoder.base_model, decoder.lm_head
        model.config.rebuild(encoder=encoder.config, decoder=decoder.config)
        fresh = [name for name in model.state_dict() if name.startswith("enc_to_dec_proj")]
        materialise(model, torch.get_default_dtype() if decoder.dtype is None else decoder.dtype, decoder.device, fresh)
        model.tie_weights()
        model.load_report = decoder.load_report
        return cast("Self", model.eval())


def _loaded(head: str, place: str | Path | None, words: Mapping[str, Any]) -> Any:
    """The model of a half, of whichever family its file is."""
    if place is None:
        raise TypeError("give two folders or names on the hub, or encoder_model= and decoder_model=")
    where: Any = {name: words[name] for name in HubOptions.__annotations__ if name in words}
    config = load_config(place, lambda stored, path: half(stored.get("model_type")), **where)
    return half(config.model_type, head).from_pretrained(place, **words)

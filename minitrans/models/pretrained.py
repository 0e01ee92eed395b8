"""What every model can do besides its forward: load, save, tie, resize, prune, change its attention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from minitrans.attention.specs import VariantSpec
from minitrans.layers.multi_head_attention import MultiHeadAttention
from minitrans.layers.norms import LayerNorm, RMSNorm
from minitrans.models.clients import ForClients
from minitrans.models.config import EncoderConfig
from minitrans.models.loading import dtype_from, load_model
from minitrans.models.padding import check_mode
from minitrans.models.saving import push_model, save_model, upload_model
from minitrans.models.state_dicts import fill_model, load_reference_names
from minitrans.models.words import LOADING, SAVING, TO_FOLDER
from minitrans.words import Word, read_words
from weights_convert.journal import Folder, Save
from weights_convert.report import ConversionReport

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class PreTrainedModel(ForClients):
    """Base of bodies and of models with a head. Subclasses build their modules, then call `finish_init`."""

    config_class: ClassVar[type[EncoderConfig]]
    base_model_prefix: ClassVar[str]
    table_path: ClassVar[str] = "embeddings.word_embeddings"  # where the token table of a body is
    head_has_labels: ClassVar[bool] = False  # its rows are the labels of the configuration

    config: EncoderConfig
    padding: str = "auto"
    below_decoder: bool = False  # a body whose token table has as many rows as the decoder of its head
    load_report: ConversionReport | None = None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        if not isinstance(config, self.config_class):
            raise TypeError(f"{type(self).__name__} needs a {self.config_class.__name__}, got {type(config).__name__}")
        self._own(config.copy() if config.is_built else config)

    def _own(self, config: EncoderConfig) -> None:
        self.config = config
        config.build_in(frozenset() if self.head_has_labels else frozenset({"num_labels"}))

    def share_config(self, config: EncoderConfig) -> None:
        """The configuration of a head becomes that of what is below it: there is one for both."""
        self.config = config

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._own(self.config)

    def finish_init(self) -> None:
        """Fresh weights in every module except a body, which has given itself its own; then ties."""
        for module in self.children():
            if not isinstance(module, PreTrainedModel):
                self._initialise(module)
        self.tie_weights()

    def _initialise(self, module: nn.Module) -> None:
        """Fresh weights in a module and below; a variant of attention that is swapped in begins as it was made."""
        for name, child in module.named_children():
            if not (isinstance(module, MultiHeadAttention) and name == "variants"):
                self._initialise(child)
        self.init_weights(module)

    def init_weights(self, module: nn.Module | None = None) -> None:
        """Fresh weights for one module: normal ones, zero biases, unit norms, zero rows for padding (M10); None = all."""
        if module is None:
            self.finish_init()
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d | nn.Conv2d):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, LayerNorm | RMSNorm):
            nn.init.constant_(module.weight, getattr(module, "initial", 1.0))
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
        if isinstance(module, nn.Linear | LayerNorm | nn.Conv1d) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def tie_weights(self) -> None:
        """Makes the decoder of a language-modelling head and the token table one parameter, if they are to be tied."""
        if self.base_model is not self:
            self.base_model.tie_weights()
        output = self.get_output_embeddings()
        if output is not None and self.config.tie_word_embeddings:
            output.weight = self.tied_table().weight

    # -- loading and saving ------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | None = None,
        config: Any = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        attention: VariantSpec | None = None,
        backend: str | None = None,
        padding: str | None = None,
        **words: Any,
    ) -> Self:
        """A model with the weights of a checkpoint, in evaluation mode.

        Args:
            pretrained_model_name_or_path: a folder, or a name on the Hugging Face hub.
            config: use this configuration instead of the folder's: ours, the reference's, or the place of a config.json.
            dtype: of the parameters; None or "auto" = as stored (B9).
            device: where to put them; None = the CPU.
            attention: swap this attention into the pretrained weights; None = the checkpoint's own.
            backend: how to compute it; None = "auto".
            padding: what becomes of padding: "keep" computes it along, "remove" leaves it out, None = "auto" chooses.
            words: what else `minitrans.models.words.LOADING` lists (revision, cache_dir, variant, state_dict, ...), and fields of
                the configuration, such as num_labels=3. With `output_loading_info=True` the result is (model, what was missing,
                left over or of another size).

        Raises:
            CheckpointError: where the files are not a checkpoint of this model, naming every fault.
            ValueError, TypeError: for wrong arguments, and for words that cannot be meant here.
        """
        given = {
            "pretrained_model_name_or_path": pretrained_model_name_or_path, "config": config, "dtype": dtype, "device": device,
            "attention": attention, "backend": backend, "padding": padding,
        }  # fmt: skip
        options, overrides = read_words(LOADING, words, f"{cls.__name__}.from_pretrained", given)
        place = options.pop("pretrained_model_name_or_path", None)
        tell, generation = options.pop("output_loading_info", False), options.pop("generation_config", None)
        model, report = load_model(cls, place, overrides=overrides, **options)
        model.load_report = report
        if generation is not None:
            model.generation_config = generation
        model.config.update({"name_or_path": str(place or ""), "dtype": model.dtype})
        return cast("Self", (model, report.loading_info())) if tell else model

    @classmethod
    def from_config(cls, config: EncoderConfig, **words: Any) -> Self:
        """A model with fresh weights.

        Args:
            config: of the model.
            words: dtype, device, attention, backend, padding, or what the reference calls them, as for `from_pretrained`.

        Raises:
            ValueError, TypeError: for wrong arguments.
        """
        options, rest = read_words(LOADING, words, f"{cls.__name__}.from_config", {})
        options.pop("trust_remote_code", None)
        wrong = [
            *rest,
            *(name for name in options if name not in ("dtype", "device", "attention", "backend", "padding")),
        ]
        if wrong:
            raise TypeError(f"{cls.__name__}.from_config has no argument {wrong[0]!r}; change the configuration")
        attention = options.get("attention")
        model = cls(config if attention is None else config.updated(attention=attention))
        model.set_backend(options.get("backend", "auto"))
        model.set_padding(options.get("padding", "auto"))
        return model.to(device=options.get("device"), dtype=dtype_from(options.get("dtype")))

    def save_pretrained(self, save_directory: str | Path, **words: Any) -> ConversionReport:
        """Writes config.json and model.safetensors in Hugging Face's layout: `transformers` opens the folder too.

        Args:
            save_directory: the folder, made if it is new.
            words: what `minitrans.models.words.TO_FOLDER` lists: state_dict, is_main_process, max_shard_size, variant; and with
                push_to_hub=True those of `push_to_hub`.

        Raises:
            CheckpointError: for a state dict that is not one of this model.
            ValueError, TypeError: for wrong arguments, and for words that cannot be meant here.
        """
        options = self._options(TO_FOLDER, words, "save_pretrained")
        push = options.pop("push_to_hub", False)
        if not options.pop("is_main_process", True):
            return ConversionReport()
        own = {name: options.pop(name) for name in ("state_dict", "max_shard_size", "variant") if name in options}
        report = save_model(self, save_directory, **own)
        if push:
            upload_model(save_directory, options.pop("repo_id", None), report, own.get("variant"), **options)
        return report

    def push_to_hub(self, repo_id: str, **words: Any) -> CommitInfo:
        """Saves the model into a repository of the Hugging Face hub, which is made if it is new.

        Args:
            repo_id: "owner/name", or "name" of whoever asks.
            words: what `minitrans.models.words.SAVING` lists: commit_message, private, token, revision, create_pr, ...

        Raises:
            ValueError, TypeError: for wrong arguments, and where the hub refuses.
        """
        return push_model(self, repo_id, **self._options(SAVING, words, "push_to_hub"))

    def _options(self, table: Mapping[str, Word], words: Mapping[str, Any], call: str) -> dict[str, Any]:
        options, rest = read_words(table, words, f"{type(self).__name__}.{call}", {})
        if rest:
            raise TypeError(
                f"{type(self).__name__}.{call} has no argument {next(iter(rest))!r}; it has {', '.join(table)}"
            )
        return options

    def load_reference_state_dict(self, state_dict: Mapping[str, Any], *, strict: bool = True) -> ConversionReport:
        """Fills the model from a state dict of the reference (`torch.save(model.state_dict())`), or one of ours.

        `load_state_dict` takes both too; this one accounts for every tensor.

        Args:
            state_dict: tensors by name.
            strict: False leaves a head that the state dict lacks as it is.

        Raises:
            CheckpointError: naming every fault.
        """
        return fill_model(self, state_dict, strict=strict)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        faults: list[str] = rest[-1]
        faults += load_reference_names(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def name_or_path(self) -> str:
        """Where it was loaded from; "" for a model with fresh weights."""
        return self.config.name_or_path

    def read_beside(self, folder: Folder) -> None:
        """Takes what a checkpoint folder holds for this kind of model besides configuration and weights: nothing."""

    def write_beside(self, save: Save) -> bool:
        """Stages such files; returns whether any is new or changed."""
        return False

    # -- parts -------------------------------------------------------------------------------------------------------

    @property
    def base_model(self) -> PreTrainedModel:
        """The body: the model itself, or what stands below its head."""
        return cast("PreTrainedModel", getattr(self, self.base_model_prefix, self))

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return cast("nn.Embedding", self.base_model.get_submodule(self.base_model.table_path))

    def set_input_embeddings(self, table: nn.Embedding) -> None:
        """Replaces the token table, and with it a tied decoder; its rows are the new `vocab_size`.

        Raises:
            ValueError: for another number of rows than a language-modelling head has.
        """
        rows = table.num_embeddings
        if rows != self.config.vocab_size and (self.below_decoder or self.get_output_embeddings() is not None):
            told = f"the head has {self.config.vocab_size} rows, the table {rows}"
            raise ValueError(f"{told}: call resize_token_embeddings({rows}) on the whole model first")
        self.base_model.get_submodule(self.base_model.table_path.rpartition(".")[0]).word_embeddings = table
        self.tie_weights()
        self.config.rebuild(vocab_size=rows)

    def tied_table(self) -> nn.Embedding:
        """The token table that is one with the output embeddings, where the two are tied."""
        return self.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear | None:
        """The decoder of a language-modelling head, weight and bias; None where there is no such head."""
        return None

    def set_output_embeddings(self, decoder: nn.Linear) -> None:
        """Replaces that decoder, bias included (C4). Raises ValueError where there is no such head."""
        raise ValueError(f"{type(self).__name__} has no language-modelling head")

    # -- surgery -----------------------------------------------------------------------------------------------------

    def set_attention(
        self, attention: VariantSpec = "full", backend: str = "auto", *, dropout: float | None = None
    ) -> None:
        """Swaps the attention of every block, there and back; the pretrained weights stay.

        Args:
            attention: what `attention.specs` lists, for all layers or by layer; parameters of its own are fresh.
            backend: how to compute softmax attention, cross-attention too (which is always full).
            dropout: probability, on the attention probabilities; None = as it is.

        Raises:
            ValueError, TypeError: for an unknown attention or backend; then nothing is swapped.
        """
        changes: dict[str, Any] = {"attention": attention}
        if dropout is not None:
            changes[self.config.own_name("attention_probs_dropout_prob")] = dropout
        config = self.config.updated(**changes)
        self.base_model.install_attention(attention, backend, dropout)
        self._set_config(config)

    def set_backend(self, backend: str) -> None:
        """How softmax attention is computed. Raises ValueError for an unknown way, NotSupportedError with a mechanism."""
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.set_backend(backend)

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """`set_backend` by the reference's name. Raises NotSupportedError for one that is not offered, saying what to do."""
        self.set_backend(LOADING["attn_implementation"].means(attn_implementation))

    def install_attention(self, attention: VariantSpec, backend: str = "auto", dropout: float | None = None) -> None:
        """What `set_attention` does to the blocks of a body."""
        raise NotImplementedError

    def set_padding(self, padding: str) -> None:
        """What becomes of padding: "keep" computes it along, "remove" leaves it out, "auto" chooses (see `padding.py`)."""
        check_mode(padding)
        self.base_model.padding = padding

    def prune_heads(self, heads: Mapping[int, Iterable[int]]) -> None:
        """Removes attention heads, given by layer in the numbering of the unpruned model (M8).

        Raises:
            ValueError: for heads that do not exist, are gone already, or would leave a layer without any.
        """
        asked = {int(layer): {int(head) for head in chosen} for layer, chosen in heads.items()}
        before = {layer: set(gone) for layer, gone in self.config.pruned_heads.items()}
        again = {layer: sorted(both) for layer, chosen in asked.items() if (both := chosen & before.get(layer, set()))}
        if again:
            raise ValueError(f"these heads are pruned already: {again}")
        after = {layer: tuple(before.get(layer, set()) | asked.get(layer, set())) for layer in {*before, *asked}}
        config = self.config.updated(pruned_heads=after)  # checks that the heads exist and that some remain
        self.remove_heads(asked, before)
        self._set_config(config)

    def remove_heads(self, heads: Mapping[int, Iterable[int]], before: Mapping[int, set[int]] | None = None) -> None:
        """Cuts the weights of these heads, numbered as if those of `before` were still there."""
        for layer, chosen in heads.items():
            attention = cast("MultiHeadAttention", self.base_model.get_submodule(f"encoder.layer.{layer}.attention"))
            gone = (before or {}).get(layer, set())
            kept = [head for head in range(self.config.num_attention_heads) if head not in gone]
            attention.prune_heads([kept.index(head) for head in chosen])

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Cuts or lengthens the token table, and a decoder with its bias.

        Args:
            new_num_tokens: rows; None = as many as there are.
            pad_to_multiple_of: round them up.
            mean_resizing: new rows are drawn closely around the mean of the old ones (Hewitt 2021, "Initializing New Word
                Embeddings for Pretrained Language Models"); False = as a fresh model draws them. The bias of an untied
                decoder goes with them, that of a tied one is 0 for new rows, as in the reference.

        Returns:
            The table.
        """
        table, decoder = self.get_input_embeddings(), self.get_output_embeddings()
        size, step = table.num_embeddings if new_num_tokens is None else new_num_tokens, pad_to_multiple_of or 1
        if size < 1 or step < 1 or size % 1 or step % 1:
            told = f"got {size}, padded to a multiple of {step}"
            raise ValueError(f"the new vocabulary size must be at least 1, {told}; whole numbers")
        size = math.ceil(size / step) * step
        if size == table.num_embeddings:
            return table
        if self.below_decoder:
            raise ValueError(
                f"the head above has as many rows: resize the whole model, with resize_token_embeddings({size})"
            )
        config = self.config.updated(vocab_size=size)
        deviation = None if mean_resizing else config.initializer_range
        if decoder is not None:
            decoder.weight = _resized(decoder.weight, size, deviation)
            if decoder.bias is not None:
                spread = None if mean_resizing and not config.tie_word_embeddings else 0.0
                decoder.bias = _resized(decoder.bias, size, spread)
            decoder.out_features = size
        table.weight, table.num_embeddings = _resized(table.weight, size, deviation), size
        self.tie_weights()
        self._set_config(config)
        return table

    def _set_config(self, config: EncoderConfig) -> None:
        """What `config` says becomes what this model's own says, which its body and its head share."""
        self.config.rebuild(**config.fields())


def _resized(old: Tensor, size: int, deviation: float | None) -> nn.Parameter:
    """`size` rows: the old ones, then new ones of this deviation around 0; None = around the old mean, closely."""
    values = old.detach()
    fresh = values.new_zeros(max(size - len(values), 0), *values.shape[1:])
    if deviation is not None:
        fresh.normal_(std=deviation)
    elif len(fresh):
        shrink = 1e-9 if values.dim() > 1 else 1e-18  # of the covariance; of a bias the deviation is shrunk so
        rows = values.to(torch.promote_types(values.dtype, torch.float32)).reshape(len(values), -1)
        mean = rows.mean(dim=0)
        factor, failed = torch.linalg.cholesky_ex((rows - mean).T @ (rows - mean) / len(rows) * shrink)
        noise = torch.randn(len(fresh), len(mean), device=mean.device, dtype=mean.dtype) @ factor.T
        noise = torch.zeros_like(noise) if bool(failed) else noise  # too few rows span no volume
        fresh.copy_((mean + noise).view(fresh.shape))
    return nn.Parameter(torch.cat([values[:size], fresh]), requires_grad=old.requires_grad)

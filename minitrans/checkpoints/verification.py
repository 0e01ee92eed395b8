"""Is our model the reference's model? Layer by layer, in float64, forward and gradients, on the same weights and inputs."""

from __future__ import annotations

import inspect
import io
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitrans.checkpoints.conversion import load_whole
from minitrans.checkpoints.diagnosis import likely_cause, part_of
from minitrans.checkpoints.watching import Run, layer_of, matched, pairs_of, shown_name, watched_run
from minitrans.errors import NotSupportedError
from minitrans.models.auto import stored_config
from minitrans.models.loading import family_of
from weights_convert.checkpoint import find_folder
from weights_convert.families.family import Family
from weights_convert.report import ConversionReport
from weights_convert.rules import Alias, ties
from weights_convert.translate import file_tensors

TOLERANCE = 1e-10
LENGTH = 16
# A gradient that is zero in exact arithmetic (of a key's bias, say) is rounding noise: errors are measured against at
# least this share of the largest gradient.
GRADIENT_FLOOR = 1e-5


@dataclass(frozen=True)
class Comparison:
    """One module's output ("forward") or one parameter's gradient ("gradient") by the reference's name, and how far apart."""

    kind: str
    name: str
    error: float


@dataclass(frozen=True)
class Verification:
    """The comparisons in the order in which the modules run, then the gradients from the last parameter back to the first."""

    class_name: str
    comparisons: tuple[Comparison, ...]
    cause: str | None = None  # of the first output that differs; "unknown" where no known mistake explains it
    tolerance: float = TOLERANCE

    @property
    def first_diverging(self) -> Comparison | None:
        """The first comparison beyond the tolerance: what comes after it is consequence."""
        return next((c for c in self.comparisons if not c.error <= self.tolerance), None)

    @property
    def equal(self) -> bool:
        """Whether everything agrees."""
        return self.first_diverging is None

    def worst(self, kind: str) -> float:
        """The largest relative error among "forward" or "gradient" comparisons."""
        return max((c.error for c in self.comparisons if c.kind == kind), default=0.0)

    def summary(self) -> str:
        """One line."""
        first = self.first_diverging
        if first is None:
            return (
                f"{self.class_name} equals the reference in float64: {self.worst('forward'):.1e} forward, "
                f"{self.worst('gradient'):.1e} gradients (largest relative error of {len(self.comparisons)} comparisons)"
            )
        cause = f"; likely cause: {self.cause}" if self.cause else ""
        return f"{self.class_name} differs from the reference: first at {first.kind} of {first.name}, {first.error:.1e}{cause}"

    def by_layer(self) -> dict[str, dict[str, float]]:
        """Place -> the largest error of its outputs ("forward") and of its parameters ("gradient"), in the order they run."""
        places: dict[str, dict[str, float]] = {}
        for comparison in self.comparisons:
            errors = places.setdefault(_place(comparison.name), {})
            errors[comparison.kind] = max(errors.get(comparison.kind, 0.0), comparison.error)
        return places


def _place(name: str) -> str:
    """The layer that a module or parameter belongs to, or the module outside the layers."""
    if " in layer " in name:
        return name[name.rindex("layer ") :]
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part == "layer" and parts[index + 1].isdigit():
            return f"layer {parts[index + 1]}"
    outside = [part for part in parts if part not in ("weight", "bias")]
    return "embeddings" if "embeddings" in outside else ".".join(outside[:2])


def verify(
    name_or_path: str | Path,
    *,
    class_name: str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Verification:
    """Compares our model with that of `transformers`, both made from the same checkpoint.

    Args:
        name_or_path: a folder, or a name on the Hugging Face hub.
        class_name: for example "BertForMaskedLM"; None = the first that config.json names.
        revision: of a hub repository.
        local_files_only: never ask the network.

    Raises:
        NotSupportedError: where `transformers` is not installed or has no such model any more.
        CheckpointError: where the checkpoint is faulty.
    """
    try:
        with _quiet_import():
            import transformers
            from transformers import PreTrainedModel  # noqa: F401 - what is imported with the models talks too
    except ImportError:
        raise NotSupportedError(
            "verify compares with transformers, which is not installed: pip install transformers"
        ) from None
    folder = find_folder(name_or_path, revision=revision, local_files_only=local_files_only)
    stored = stored_config(folder)
    if stored.config.attention != "full" or stored.config.position_embedding_type != "absolute":
        raise NotSupportedError(
            "the reference has only full attention with absolute positions: nothing to compare with"
        )
    name, ours, _ = load_whole(folder, stored, class_name, done="compared", dtype=torch.float64)
    with _quiet():
        theirs = getattr(transformers, name).from_pretrained(
            folder.root, dtype=torch.float64, attn_implementation="eager", local_files_only=True
        )
        theirs = with_exact_buffers(theirs, ours)
    if stored.config.pad_token_id is None:  # or where would texts of several lengths end?
        ours.config.pad_token_id = theirs.config.pad_token_id = 0
    return compare(ours, theirs.eval(), name)


def with_exact_buffers(theirs: Any, ours: Any) -> Any:
    """The model, or where it has tables that are computed (frequencies of turns, sinusoids), one that has them in float64."""
    stored = theirs.state_dict()
    ours_too = {key for _, keys in matched(family_of(ours.config.model_type), theirs, ours.config) for key in keys}
    modules = [(path, each) for path, each in theirs.named_modules() if "Sinusoidal" in type(each).__name__]
    named = (f"{path}.{name}" for path, each in modules for name, _ in each.named_parameters())
    computed = [name for name in named if name not in ours_too]
    if not computed and all(name in stored or not each.is_floating_point() for name, each in theirs.named_buffers()):
        return theirs
    with without_float32():
        exact = type(theirs)(theirs.config).double()
    exact.load_state_dict(
        {name: tensor for name, tensor in stored.items() if name not in computed}, strict=not computed
    )
    return exact


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Without what packages that the reference imports where they are installed say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and load reports of the reference: what there is to say we say."""
    from transformers.utils import logging as reports

    shown, verbosity = reports.is_progress_bar_enabled(), reports.get_verbosity()
    reports.disable_progress_bar()
    reports.set_verbosity_error()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if shown:
            reports.enable_progress_bar()


@contextmanager
def without_float32() -> Iterator[None]:
    """The reference computes in float64 what it would round to float32: norms, angles of turns, some probabilities, losses.

    Its model must have been imported before.
    """
    places: list[tuple[Any, str, Any]] = [
        (torch, "float", torch.float64), (torch, "float32", torch.float64), (torch, "FloatTensor", torch.DoubleTensor),
        (torch.Tensor, "float", torch.Tensor.double),
    ]  # fmt: skip
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    default = torch.get_default_dtype()
    for place in places:
        setattr(*place)
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
        for place in before:
            setattr(*place)


def compare(ours: Any, theirs: nn.Module, class_name: str) -> Verification:
    """Runs both models on the same random batch, one row of it padded, and compares every module and every gradient."""
    family = family_of(ours.config.model_type)
    batch = _batch(ours.config, class_name)
    if "use_cache" in inspect.signature(theirs.forward).parameters:
        batch["use_cache"] = (
            False  # of a pair's decoder alone the reference makes one of as many layers as the encoder has
        )
    if "global_attention_mask" in inspect.signature(theirs.forward).parameters:
        batch["global_attention_mask"] = (torch.arange(batch["input_ids"].shape[-1]) < 3).expand_as(batch["input_ids"])
    pairs = pairs_of(family, ours, theirs)
    mask = batch["attention_mask"].flatten(0, -2)
    with torch.enable_grad():
        mine, our_result = watched_run(ours, batch, {pair.ours: pair.place for pair in pairs})
        with without_float32():
            reference, their_result = watched_run(theirs, batch, {pair.theirs: pair.place for pair in pairs})
        reference = {
            place: replace(run, output=_laid_out(run.output, mine.get(place))) for place, run in reference.items()
        }
        mine |= _results(our_result)
        reference |= _results(their_result)
        places = {shown_name(place, run): place for place, run in _in_order(reference).items()}
        forward = [
            Comparison("forward", name, _output_error(mine.get(place), reference[place], mask))
            for name, place in places.items()
        ]
        weigh = _weigher(mask)
        torch.autograd.backward(_scalar(our_result, weigh))
        torch.autograd.backward(_scalar(their_result, weigh))
    found = Verification(class_name, (*forward, *_compare_gradients(ours, theirs)))
    first = found.first_diverging
    is_pair = getattr(ours.config, "is_encoder_decoder", False)  # of which no part is taken to run alone
    if first is None or first.kind != "forward" or places[first.name] not in mine or is_pair:
        return found
    place = places[first.name]
    with torch.no_grad():
        right = _with_their_weights(ours, theirs, family)
        part = part_of(right, place, batch)
        if part is None:
            return replace(found, cause="unknown")
        own = ours.get_submodule(next(name for name, module in right.named_modules() if module is part.module))
        outputs = mine[place].output, reference[place].output
        return replace(found, cause=likely_cause(part, *outputs, own, lambda output: _real(output, mask), mask))


def _results(result: Any) -> dict[str, Run]:
    """What the model returns, as if modules had given it, and what enters the first block."""
    found = {name: getattr(result, name, None) for name in OUTPUTS}
    states = getattr(result, "hidden_states", None) or getattr(result, "encoder_hidden_states", None)
    found["embeddings"] = None if states is None else states[0]
    return {name: Run(name, value.detach()) for name, value in found.items() if value is not None}


def _laid_out(output: Tensor, ours: Run | None) -> Tensor:
    """(B, T, D) where the reference has (T, B, D), or more padding (L1)."""
    if ours is None or {output.dim(), ours.output.dim()} != {3} or output.shape == ours.output.shape:
        return output
    batch, length = ours.output.shape[:2]
    return (output if output.shape[0] == batch else output.transpose(0, 1))[:, :length]


def _in_order(runs: dict[str, Run]) -> dict[str, Run]:
    """What enters the first block comes before it."""
    layers = [place for place in runs if layer_of(place) is not None]
    before = list(runs)[: list(runs).index(layers[0])] if layers else []
    return {place: runs[place] for place in (*before, "embeddings", *runs)}


def _with_their_weights(ours: Any, theirs: nn.Module, family: Family) -> Any:
    """A model as ours should be, with the weights of the reference."""
    right = type(ours)(ours.config).double().eval()
    right.set_padding("keep")
    theirs_by_name = theirs.state_dict()
    values = {
        target: tensor
        for step, keys in matched(family, theirs, ours.config)
        for target, tensor in zip(step.targets, step.rule.apply([theirs_by_name[key] for key in keys]), strict=True)
    }
    for name, parameter in right.named_parameters(remove_duplicate=False):
        bare = family.bare(name)
        if bare in values:
            parameter.copy_(values[bare])
    return right


def _batch(config: Any, class_name: str) -> dict[str, Any]:
    """(2, T) random tokens, the second row padded on the right; (2, 2, T) for heads of several texts."""
    generator = torch.Generator().manual_seed(0)
    length = min(LENGTH, config.max_position_embeddings // 2)
    shape = (2, 2, length) if class_name.endswith(("MultipleChoice", "DoubleHeadsModel")) else (2, length)
    mask = torch.ones(shape, dtype=torch.long)
    mask[-1, ..., length - length // 3 :] = 0
    pad = max(config.pad_token_id or 0, 0)
    ids = torch.randint(0, config.vocab_size - 1, shape, generator=generator)
    ids = torch.where(ids >= pad, ids + 1, ids)  # never the padding id, by which RoBERTa counts positions
    batch = {"input_ids": torch.where(mask.bool(), ids, pad), "attention_mask": mask}
    if config.type_vocab_size:
        batch["token_type_ids"] = torch.randint(0, config.type_vocab_size, shape, generator=generator)
    if getattr(config, "is_encoder_decoder", False) and not class_name.endswith(
        ("EncoderModel", "TokenClassification")
    ):
        end = config.eos_token_id or 0  # one in every text: by it classifiers find where it ends (S5)
        other = next(id for id in range(config.vocab_size) if id not in (end, pad))
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == end, other)
        batch["input_ids"][:, 1] = end
        if not class_name.endswith("SequenceClassification"):  # whose decoder reads the text again
            batch["decoder_input_ids"] = ids[:, 2:]  # of another length than the source: no row of it is padding
    return batch


def _real(output: Tensor, mask: Tensor) -> Tensor:
    """The rows of real tokens where the output has a row per token; what stands at padding means nothing (M2)."""
    return output[mask.bool()] if output.shape[:2] == mask.shape else output


def _output_error(found: Run | None, expected: Run, mask: Tensor) -> float:
    """As `_error`; infinite for what never ran."""
    if found is None:
        return math.inf
    output, theirs = found.output, expected.output
    if output.numel() == theirs.numel():  # several texts a row, or a row each
        theirs = theirs.reshape(output.shape)
    return _error(_real(output, mask), _real(theirs, mask))


def _weigher(mask: Tensor) -> Callable[[Tensor], Tensor]:
    """A fixed random linear form, the same for both models, so that every output takes part in one gradient."""

    def weigh(output: Tensor) -> Tensor:
        real = _real(output, mask)
        generator = torch.Generator().manual_seed(real.numel())
        return (real * torch.randn(real.shape, generator=generator, dtype=real.dtype)).sum()

    return weigh


OUTPUTS = (
    "last_hidden_state", "pooler_output", "logits", "prediction_logits", "seq_relationship_logits", "sop_logits",
    "start_logits", "end_logits", "mc_logits",
)  # fmt: skip


def _scalar(result: Any, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    parts = [weigh(getattr(result, name)) for name in OUTPUTS if getattr(result, name, None) is not None]
    return torch.stack(parts).sum()


def _compare_gradients(ours: Any, theirs: nn.Module) -> list[Comparison]:
    parameters = dict(ours.named_parameters(remove_duplicate=False))
    mine = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}
    family = family_of(ours.config.model_type)
    translated = {
        name: each.values for name, each in file_tensors(mine, family, ours.config, ConversionReport()).items()
    }
    for step, keys in matched(family, theirs, ours.config):
        if isinstance(step.rule, Alias):  # modules of the reference that have other names than its files
            bare, prefixed = step.targets[0], f"{family.prefix}.{step.targets[0]}"
            translated[keys[0]] = mine[bare if bare in mine else prefixed]
    expected = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in theirs.named_parameters(remove_duplicate=False)
    }
    unread = {
        tie.second for tie in ties(family.table(ours.config)) if tie.saved == "both"
    }  # B3: no forward reads an untied predictions.bias
    largest = max((float(gradient.abs().max()) for gradient in expected.values()), default=0.0)
    return [
        Comparison("gradient", name, _error(translated[name], expected[name], GRADIENT_FLOOR * largest))
        for name in reversed(expected)
        if name in translated and name not in unread
    ]


def _error(found: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """The largest difference, relative to the largest expected value; infinite for another shape or NaN."""
    if found.shape != expected.shape:
        return float("inf")
    if found.numel() == 0:
        return 0.0
    scale = max(float(expected.abs().max()), floor, torch.finfo(expected.dtype).tiny)
    error = float((found - expected).abs().max()) / scale
    return float("inf") if math.isnan(error) else error

"""From a checkpoint folder to a model: plan, refuse or fill, report."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from minitrans.errors import CheckpointError
from minitrans.files import printable
from minitrans.hub import local_folder
from minitrans.models.padding import check_mode
from weights_convert.blank import Model, blank_model
from weights_convert.checkpoint import BIN_PATTERNS, SAFE, SAFE_INDEX, SAFE_PATTERNS, Checkpoint, open_checkpoint
from weights_convert.configs import CONFIG, DTYPES, read_stored_config
from weights_convert.families.family import Family
from weights_convert.families.registry import family_of
from weights_convert.filling import Filling, fill_parameters, materialise
from weights_convert.journal import Folder
from weights_convert.names import bare_names
from weights_convert.plan import FLOATS, Mismatch, Plan, make_plan
from weights_convert.report import ConversionReport
from weights_convert.rules import Shape, fill, inverse, match, ties

if TYPE_CHECKING:
    from minitrans.attention.registry import VariantSpec
    from minitrans.models.pretrained import PreTrainedModel

logger = logging.getLogger("minitrans")
MAX_FAULTS_SHOWN = 50
LABEL_LAYERS = ("classifier", "out_proj")  # the linear layers that have a row for each label
SMALL_MODEL = 64  # layers that may be made before their tensors are looked for, so that each missing one is named


def load_model(
    cls: type[Model],
    name_or_path: str | Path,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    attention: VariantSpec | None = None,
    backend: str = "auto",
    padding: str = "auto",
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Model, ConversionReport]:
    """A model of class `cls` with the weights of a checkpoint, in evaluation mode, and the account of every tensor.

    Args:
        cls: the model class; a head that the checkpoint lacks is fresh, and named in the report and in the log.
        name_or_path: a folder, or a name on the Hugging Face hub.
        dtype: of the parameters; None or "auto" = what config.json says, else what the file holds (B9).
        device: where the parameters go; None = the CPU.
        revision: of a hub repository.
        local_files_only: never ask the network.
        attention: swap this attention into the pretrained weights; None = the configuration's own.
        backend: how to compute it.
        padding: "keep", "remove" or "auto": what becomes of padding.
        overrides: fields of the configuration, `ignore_mismatched_sizes=True` to make a head of another size fresh, and
            `add_pooling_layer=False` for a body without its pooler.

    Raises:
        CheckpointError: naming every fault of the files. TypeError, ValueError: for wrong arguments.
    """
    check_mode(padding)
    changes = dict(overrides or {})
    ignore_mismatched = bool(changes.pop("ignore_mismatched_sizes", False))
    parts = {name: changes.pop(name) for name in ("add_pooling_layer",) if name in changes}
    if attention is not None:
        changes["attention"] = attention
    folder = find_folder(name_or_path, revision=revision, local_files_only=local_files_only)
    model, report = load_folder(
        cls, folder, dtype=dtype, device=device, changes=changes, ignore_mismatched=ignore_mismatched, parts=parts
    )
    if backend != "auto":
        model.set_attention(model.config.attention, backend)
    model.set_padding(padding)
    for line in report.warnings:
        logger.warning("%s from %s: %s", cls.__name__, printable(name_or_path), line)
    return model, report


def find_folder(name_or_path: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Folder:
    """The folder of a checkpoint, fetched from the hub if it is not here; pickles are fetched only if there is nothing else."""
    for patterns in (SAFE_PATTERNS, BIN_PATTERNS):
        root = local_folder(name_or_path, patterns=patterns, revision=revision, local_files_only=local_files_only)
        folder = Folder(root)
        if folder.has(SAFE) or folder.has(SAFE_INDEX):
            break
    return folder


def load_folder(
    cls: type[Model],
    folder: Folder,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    changes: Mapping[str, Any],
    ignore_mismatched: bool = False,
    parts: Mapping[str, bool] | None = None,
    hashes: bool = False,
) -> tuple[Model, ConversionReport]:
    """`load_model` for a folder that is here; `parts` go to the class beside the configuration.

    With `hashes` every row of the report carries the SHA-256 of its tensor.
    """
    wanted_dtype = _dtype_from(dtype)
    stored = read_stored_config(folder, cls.config_class)
    config = stored.config.updated(**dict(changes))
    family = family_of(config.model_type)
    report = ConversionReport()
    with open_checkpoint(folder) as checkpoint:
        _require_room(config, checkpoint, folder)
        names, doubled = bare_names(checkpoint.tensors, family.prefix)
        sources = {name: checkpoint.tensors[key] for name, key in names.items()}
        model = blank_model(cls, config, parts)
        targets = bare_parameters(model.state_dict(), family)
        plan = make_plan(family.table(config), sources, _shapes(model, targets))
        broken = _broken_ties(family, config, plan, checkpoint, names, report)
        if broken:
            model = blank_model(cls, config.updated(**broken), parts)
            targets = bare_parameters(model.state_dict(), family)
            plan = make_plan(family.table(model.config), sources, _shapes(model, targets))
        missing, mismatched = _unfilled(family, plan, model, targets, ignore_mismatched, report)
        faults = [f"{checkpoint.source}: {fault}" for fault in (*doubled, *missing)] + plan.faults + mismatched
        if faults:
            raise CheckpointError(_all_faults(folder, cls, faults))
        report.dropped = {names[name]: why for name, why in plan.dropped.items()}
        report.unknown = {names[name]: why for name, why in plan.unknown.items()}
        used = {plan.served_by.get(name, name) for step in plan.steps for name in step.sources}
        dtypes = [sources[name].dtype for name in used]
        chosen = wanted_dtype or stored.dtype or _widest(dtypes)
        materialise(model, chosen, device, report.fresh)
        fill_parameters(Filling(model, targets, plan, checkpoint, names, hashes), report)
    return model.eval(), report


def _require_room(config: Any, checkpoint: Checkpoint, folder: Folder) -> None:
    """Raises CheckpointError where the configuration asks for more layers than the files can fill: no model is built first."""
    held = max(len(checkpoint.tensors), SMALL_MODEL)
    if config.num_hidden_layers > held:
        raise CheckpointError(
            f"{printable(folder.path(CONFIG))}: num_hidden_layers: expected no more than the {len(checkpoint.tensors)} "
            f"tensors in {printable(checkpoint.source)}, found {config.num_hidden_layers}"
        )


def bare_parameters(names: Iterable[str], family: Family) -> dict[str, str]:
    """Bare name -> name in the model's state dict: the body's prefix is taken off where the model has a head."""
    start = f"{family.prefix}."
    return {name.removeprefix(start): name for name in names}


def _shapes(model: nn.Module, targets: Mapping[str, str]) -> dict[str, Shape]:
    state = model.state_dict()
    return {bare: tuple(state[name].shape) for bare, name in targets.items()}


def _dtype_from(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, str):
        dtype = DTYPES.get(dtype.removeprefix("torch."), dtype)
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, 'auto' or None, got {dtype!r}")
    assert isinstance(dtype, torch.dtype)
    return dtype


def _widest(dtypes: list[torch.dtype]) -> torch.dtype:
    """The one dtype that holds all of them without loss."""
    widest = dtypes[0]
    for dtype in dtypes[1:]:
        widest = torch.promote_types(widest, dtype)
    return widest


def _broken_ties(
    family: Family,
    config: Any,
    plan: Plan,
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    report: ConversionReport,
) -> dict[str, bool]:
    """Compares tensors that are tied and both stored; returns the config fields that the file contradicts (B3)."""
    used = {name for step in plan.steps for name in step.sources}
    changes: dict[str, bool] = {}
    for tie in ties(family.table(config)):
        if tie.first not in names or tie.second not in names or tie.first not in used:
            continue
        first, second = names[tie.first], names[tie.second]
        if _identical(checkpoint.read(first), checkpoint.read(second)):
            continue
        if tie.switch is not None:
            changes[tie.switch] = False
            report.notes.append(
                f"{first} and {second} differ in the checkpoint: loaded as two, {tie.switch} is False now"
            )
        else:
            report.notes.append(f"{first} and {second} differ in the checkpoint: {first} is used (B3)")
    return changes


def _identical(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit where the dtypes agree, so that a NaN equals itself; else by value."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return one.shape == other.shape and torch.equal(one.double(), other.double())
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))


def _unfilled(
    family: Family,
    plan: Plan,
    model: PreTrainedModel,
    targets: Mapping[str, str],
    ignore_mismatched: bool,
    report: ConversionReport,
) -> tuple[list[str], list[str]]:
    """Parameters that no tensor fills, and tensors that do not fit, but for a head that may be fresh; that goes to the report."""
    present = _heads_in_file(plan)
    missing: list[str] = []
    mismatched: list[str] = []
    for bare in plan.missing:
        head = bare.partition(".")[0]
        if head in family.fresh and head not in present:
            report.fresh.append(targets[bare])
            continue
        key = _source_of(bare, family, model.config)
        rest = f", beside the rest of {head}" if head in family.fresh else ""
        missing.append(f"{targets[bare]}: expected a tensor {key} in the checkpoint{rest}, found none")
    for mismatch in plan.mismatched:
        head = mismatch.target.partition(".")[0]
        if ignore_mismatched and head in family.fresh:
            report.fresh.append(targets[mismatch.target])
        else:
            mismatched.append(_mismatch_fault(mismatch, targets[mismatch.target], head in family.fresh))
    report.fresh.sort(key=list(targets.values()).index)
    return missing, mismatched


def _heads_in_file(plan: Plan) -> set[str]:
    """Top-level modules for which the file holds at least one tensor of their own, not one borrowed through a tie."""
    groups: dict[str, set[str]] = {}
    for step in plan.steps:
        for source in step.sources:
            groups.setdefault(plan.served_by.get(source, source), set()).update(
                t.partition(".")[0] for t in step.targets
            )
    own = {head for heads in groups.values() if len(heads) == 1 for head in heads}
    return own | {mismatch.target.partition(".")[0] for mismatch in plan.mismatched}


def _source_of(bare: str, family: Family, config: Any) -> str:
    for rule in inverse(family.table(config)):
        for template in rule.sources:
            numbers = match(template, bare)
            if numbers is not None:
                return " or ".join(fill(target, numbers) for target in rule.targets)
    return bare


def _mismatch_fault(mismatch: Mismatch, target: str, head: bool) -> str:
    fault = (
        f"{mismatch.source.shown}: expected shape {list(mismatch.expected)} for {target}, found {list(mismatch.found)}"
    )
    if not head:
        return fault
    name, found = target.rpartition(".")[0].rpartition(".")[2], mismatch.found
    rows = found[0] if name in LABEL_LAYERS and found[1:] == mismatch.expected[1:] and found else 0
    labels = f"pass num_labels={rows} to keep the stored head, or " if rows else ""
    return f"{fault}; {labels}pass ignore_mismatched_sizes=True for a fresh one"


def _all_faults(folder: Folder, cls: type, faults: list[str]) -> str:
    """One line per fault."""
    lines = [f"{printable(folder.root)}/{fault}" for fault in faults[:MAX_FAULTS_SHOWN]]
    if len(faults) > MAX_FAULTS_SHOWN:
        lines.append(f"and {len(faults) - MAX_FAULTS_SHOWN} more faults")
    if len(lines) > 1:
        lines.insert(0, f"{printable(folder.root)}: {len(faults)} faults, not a checkpoint of {cls.__name__}:")
    return "\n".join(lines)

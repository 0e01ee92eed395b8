"""From a checkpoint's names to ours and back: every tensor accounted for, whatever the model.

A model is known here by the names and shapes of its parameters and by the table of its family, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch

from minitrans.errors import CheckpointError
from minitrans.files import printable
from weights_convert.checkpoint import Checkpoint
from weights_convert.families.family import NO_POOLER, OTHER_HEAD, Family
from weights_convert.names import bare_names
from weights_convert.own_names import languages, own_table
from weights_convert.plan import Mismatch, Plan, Step, TensorInfo, instances, make_plan
from weights_convert.report import ConversionReport
from weights_convert.rules import Rename, Shape, TableRow, fill, inverse, match, ties
from weights_convert.state_dict import StateDict

MAX_FAULTS_SHOWN = 50
LABEL_LAYERS = ("classifier", "out_proj", "label_scores")  # the linear layers that have a row for each label
OWN_NAMES = (
    ".variants."  # parameters of an attention variant: no file of the reference has them, ours by these very names
)


@dataclass
class Translation:
    """How a checkpoint fills a model, before the first byte of a weight is read.

    Attributes:
        checkpoint: where the tensors are.
        plan: what is done with each, by bare names.
        targets: bare name -> name in the model.
        keys: bare name -> key in the files.
        report: what is known of the account so far.
        faults: why it cannot be done.
        broken: fields of the configuration that the file contradicts (B3), and their new value: build the model anew.
    """

    checkpoint: Checkpoint | StateDict
    plan: Plan
    targets: dict[str, str]
    keys: dict[str, str]
    report: ConversionReport = field(default_factory=ConversionReport)
    faults: list[str] = field(default_factory=list)
    broken: dict[str, bool] = field(default_factory=dict)

    def keys_of(self, step: Step) -> tuple[str, ...]:
        """The keys in the files that a step reads."""
        return tuple(self.keys[self.plan.served_by.get(name, name)] for name in step.sources)

    @property
    def dtype(self) -> torch.dtype:
        """The one dtype that holds all that is read without loss."""
        read = (self.checkpoint.tensors[key].dtype for step in self.plan.steps for key in self.keys_of(step))
        return reduce(torch.promote_types, read)

    def by_our_names(self) -> dict[str, torch.Tensor]:
        """What is read by the model's names, and what has no place in it by its own; what a model need not have is left out."""
        named = {
            self.targets[name]: tensor
            for step in self.plan.steps
            for name, tensor in zip(
                step.targets, step.rule.apply([self.checkpoint.read(key) for key in self.keys_of(step)]), strict=True
            )
        }
        named |= {self.targets[each.target]: self.checkpoint.read(each.source.key) for each in self.plan.mismatched}
        foreign = [bare for bare, why in self.plan.dropped.items() if why in (OTHER_HEAD, NO_POOLER)]
        return named | {
            self.keys[bare]: self.checkpoint.read(self.keys[bare]) for bare in (*foreign, *self.plan.unknown)
        }

    def require_sound(self, model: str) -> None:
        """Raises CheckpointError, a line for each fault, if there is any."""
        place = self.checkpoint.place
        lines = [f"{place}{fault}" for fault in self.faults[:MAX_FAULTS_SHOWN]]
        if len(self.faults) > MAX_FAULTS_SHOWN:
            lines.append(f"and {len(self.faults) - MAX_FAULTS_SHOWN} more faults")
        if len(lines) > 1:
            whole = place.removesuffix("/") or self.checkpoint.source
            lines.insert(0, f"{whole}: {len(self.faults)} faults, not a checkpoint of {model}:")
        if lines:
            raise CheckpointError("\n".join(lines))


def translate(
    checkpoint: Checkpoint | StateDict,
    family: Family,
    config: Any,
    shapes: Mapping[str, Shape],
    *,
    ignore_mismatched: bool = False,
    key_mapping: Mapping[str, str] | None = None,
) -> Translation:
    """Plans how `checkpoint` fills parameters of these names and shapes; with `ignore_mismatched` heads need not fit.

    Its names may be the reference's or ours (see `own_names`); `key_mapping` first makes others the reference's.
    """
    keys, doubled = bare_names(checkpoint.tensors, family.prefixes, key_mapping)
    sources = {bare: checkpoint.tensors[key] for bare, key in keys.items()}
    targets = bare_parameters(shapes, family)
    table = _table(family, config, targets)
    ours = languages(table, keys) == (False, True)
    if ours:
        table = own_table(table)
    plan = make_plan(table, sources, {bare: shapes[name] for bare, name in targets.items()})
    found = Translation(checkpoint, plan, targets, keys)
    if ours:
        found.report.notes.append("the tensors have our own names: a training tool saved the state dict")
    found.broken = _broken_ties(table, found)
    missing, mismatched = _unfilled(family, table, found, ignore_mismatched)
    found.faults = [f"{checkpoint.source}: {fault}" for fault in (*doubled, *missing)] + plan.faults + mismatched
    found.report.dropped = {keys[bare]: why for bare, why in plan.dropped.items()}
    found.report.unknown = {keys[bare]: why for bare, why in plan.unknown.items()}
    return found


def bare_parameters(names: Iterable[str], family: Family) -> dict[str, str]:
    """Bare name -> name in the model: the body's prefix is taken off where the model has a head."""
    return {family.bare(name): name for name in names}


def _table(family: Family, config: Any, parameters: Iterable[str]) -> tuple[TableRow, ...]:
    """The family's rows, and one for each parameter that goes by its own name."""
    return (*family.table(config), *(Rename(name, name) for name in parameters if OWN_NAMES in name))


def _broken_ties(table: tuple[TableRow, ...], found: Translation) -> dict[str, bool]:
    """Compares tensors that are tied and both stored; returns the config fields that the file contradicts (B3)."""
    used = {name for step in found.plan.steps for name in step.sources}
    changes: dict[str, bool] = {}
    for tie in ties(table):
        if tie.first not in found.keys or tie.second not in found.keys or tie.first not in used:
            continue
        first, second = found.keys[tie.first], found.keys[tie.second]
        if _identical(found.checkpoint.read(first), found.checkpoint.read(second)):
            continue
        then = f"{first} is used (B3)"
        if tie.switch is not None:
            changes[tie.switch] = False
            then = f"loaded as two, {tie.switch} is False now"
        found.report.notes.append(f"{first} and {second} differ in the checkpoint: {then}")
    return changes


def _identical(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Bit for bit where the dtypes agree, so that a NaN equals itself; else by value."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return one.shape == other.shape and torch.equal(one.double(), other.double())
    return torch.equal(one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8))


def _unfilled(
    family: Family, table: tuple[TableRow, ...], found: Translation, ignore_mismatched: bool
) -> tuple[list[str], list[str]]:
    """Parameters that no tensor fills, and tensors that do not fit, but for those that may be fresh, which the report names."""
    present = _heads_in_file(found.plan)
    missing: list[str] = []
    mismatched: list[str] = []
    fresh: set[str] = set()
    for bare in found.plan.missing:
        head = _part(bare)
        if OWN_NAMES in bare or (head in family.fresh and head not in present):
            fresh.add(bare)
            continue
        rest = f", beside the rest of {head}" if head in family.fresh else ""
        missing.append(
            f"{found.targets[bare]}: expected a tensor {_source_of(bare, table)} in the checkpoint{rest}, found none"
        )
    for mismatch in found.plan.mismatched:
        is_head = _part(mismatch.target) in family.fresh
        if ignore_mismatched and is_head:
            fresh.add(mismatch.target)
            found.report.mismatched.append((mismatch.source.key, mismatch.found, mismatch.expected))
        else:
            mismatched.append(_mismatch_fault(mismatch, found.targets[mismatch.target], is_head))
    found.report.fresh = [name for bare, name in found.targets.items() if bare in fresh]
    return missing, mismatched


def _heads_in_file(plan: Plan) -> set[str]:
    """Heads, and the cross-attention, of which the file holds at least one tensor, not one borrowed through a tie."""
    groups: dict[str, set[str]] = {}
    for step in plan.steps:
        for source in step.sources:
            groups.setdefault(plan.served_by.get(source, source), set()).update(
                _part(target) for target in step.targets
            )
    own = {head for heads in groups.values() if len(heads) == 1 for head in heads}
    return own | {_part(mismatch.target) for mismatch in plan.mismatched}


def _part(bare: str) -> str:
    """What of a model has this parameter, of what a file may lack: a head, or the cross-attention of all blocks."""
    return "cross_attention" if ".cross_attention" in bare else bare.partition(".")[0]


def _source_of(bare: str, table: tuple[TableRow, ...]) -> str:
    for rule in inverse(table):
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


@dataclass(frozen=True)
class FileTensor:
    """A tensor as a file holds it, our names for it and the rule that leads there."""

    values: torch.Tensor
    ours: tuple[str, ...]
    rule: str


def file_tensors(
    state: Mapping[str, torch.Tensor], family: Family, config: Any, report: ConversionReport
) -> dict[str, FileTensor]:
    """The tensors of a state dict by the names of the file."""
    names = bare_parameters(state, family)
    available = {
        bare: TensorInfo(name, state[name].dtype, tuple(state[name].shape), "") for bare, name in names.items()
    }
    tensors: dict[str, FileTensor] = {}
    used: set[str] = set()
    full: dict[str, str] = {}
    for step in instances(inverse(_table(family, config, names)), available):
        ours = tuple(names[bare] for bare in step.sources)
        used.update(step.sources)
        prefix = ours[0].removesuffix(family.bare(ours[0]))
        for key, tensor in zip(step.targets, step.rule.apply([state[name].detach() for name in ours]), strict=True):
            full[key] = prefix + key
            tensors[prefix + key] = FileTensor(tensor, ours, type(step.rule).__name__)
    for bare, name in names.items():
        if bare not in used:
            tensors[name] = FileTensor(state[name].detach(), (name,), "as it is")
            report.notes.append(f"{printable(name)}: no rule knows this parameter; saved under its own name")
    # A tied tensor is said once, or under both names where a file must hold both (B3).
    for tie in ties(family.table(config)):
        first = full.get(tie.first)
        if first is not None:
            second = full.setdefault(tie.second, first.removesuffix(tie.first) + tie.second)
            tensors.setdefault(second, tensors[first])
            if tie.saved == "second":
                del tensors[first]
    return tensors

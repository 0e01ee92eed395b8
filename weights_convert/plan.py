"""The engine: matches the keys of a file with the parameters of a model by a table, and accounts for every one of them.

Nothing is read here: the plan is made from names, shapes and dtypes alone, so that all faults are known before the
first byte of a weight is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from minitrans.files import printable
from weights_convert.rules import Drop, Numbers, Refuse, Rule, Shape, TableRow, fill, match, movements, ties

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
FLOATS = tuple(DTYPES.values())


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of one tensor, without its values."""

    key: str
    dtype: torch.dtype
    shape: Shape
    file: str

    @property
    def shown(self) -> str:
        """Its file and key, fit to be printed."""
        return f"{printable(self.file)}: {printable(self.key)}" if self.file else printable(self.key)


@dataclass(frozen=True)
class Step:
    """One movement: the tensors under `sources` (names of the file side) fill `targets` (names of the model side)."""

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Mismatch:
    """A stored tensor whose shape is not that of the parameter it should fill."""

    source: TensorInfo
    target: str
    found: Shape
    expected: Shape


@dataclass
class Plan:
    """What will be done with each tensor, and what is wrong. `unknown` holds keys no rule could use and no Drop excuses."""

    steps: list[Step] = field(default_factory=list)
    served_by: dict[str, str] = field(default_factory=dict)  # tied name that the file lacks -> name that serves it
    dropped: dict[str, str] = field(default_factory=dict)  # name -> reason
    unknown: dict[str, str] = field(default_factory=dict)  # name -> reason
    missing: list[str] = field(default_factory=list)  # targets that nothing in the file was meant for
    mismatched: list[Mismatch] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def make_plan(table: Sequence[TableRow], sources: Mapping[str, TensorInfo], targets: Mapping[str, Shape]) -> Plan:
    """Plans how `sources` (bare name -> what is stored) fill `targets` (name -> shape) by the rows of `table`.

    Every source ends in a step, in `dropped`, in `unknown` or in a fault; every target is filled by one step, or is in
    `missing`, `mismatched` or a fault.
    """
    plan = Plan()
    for tie in ties(table):
        for absent, present in ((tie.first, tie.second), (tie.second, tie.first)):
            if absent not in sources and present in sources:
                plan.served_by[absent] = present
    available = {**sources, **{absent: sources[present] for absent, present in plan.served_by.items()}}
    used: set[str] = set()
    idle: dict[str, str] = {}
    claimed: dict[str, str] = {}  # target -> the key meant for it, sound or not
    for step in instances(movements(table), available):
        if any(target in targets for target in step.targets):
            used.update(step.sources)
            _place(step, available, targets, claimed, plan)
        else:
            idle.update(dict.fromkeys(step.sources, f"this model has no {printable(step.targets[0])}"))
    used |= {plan.served_by[name] for name in used if name in plan.served_by}
    plan.missing = [target for target in targets if target not in claimed]
    for tie in ties(table):
        if tie.first in used and tie.second in sources and tie.second not in used:
            plan.dropped[tie.second] = f"{tie.first} is used, to which it is tied"
            used.add(tie.second)
    for name, info in sources.items():
        if name not in used:
            _dismiss(name, info, idle.get(name, "no rule of this family knows the name"), table, plan)
    return plan


def instances(rules: Sequence[Rule], available: Mapping[str, TensorInfo]) -> Iterator[Step]:
    """Each rule at each set of numbers for which one of its sources is there, once."""
    seen: set[tuple[int, tuple[tuple[str, int], ...]]] = set()
    by_ending: dict[str, list[tuple[int, str]]] = {}
    for index, rule in enumerate(rules):
        for template in rule.sources:
            whole = "{" not in template  # such a name needs no search: shared layers have a row each
            by_ending.setdefault(template if whole else _ending(template), []).append((index, template))
    for name in available:
        ending = _ending(name)
        rows = by_ending.get(name, []) + (by_ending.get(ending, []) if ending != name else [])
        for index, template in rows:
            numbers = match(template, name)
            if numbers is None or (index, tuple(numbers.items())) in seen:
                continue
            seen.add((index, tuple(numbers.items())))
            rule = rules[index]
            yield Step(rule, _filled(rule.sources, numbers), _filled(rule.targets, numbers))


def _ending(name: str) -> str:
    """The last two segments, where a number or a placeholder is any."""
    return ".".join("{}" if part.isdigit() or part[:1] == "{" else part for part in name.rsplit(".", 2)[-2:])


def _filled(templates: Sequence[str], numbers: Numbers) -> tuple[str, ...]:
    return tuple(fill(template, numbers) for template in templates)


def _place(
    step: Step,
    available: Mapping[str, TensorInfo],
    targets: Mapping[str, Shape],
    claimed: dict[str, str],
    plan: Plan,
) -> None:
    """Adds the step to the plan, or the reasons why it cannot be carried out."""
    here = [available[name] for name in step.sources if name in available]
    key = here[0].shown
    faults = [
        f"{key}: expected a tensor {name} beside it, found none" for name in step.sources if name not in available
    ]
    faults += [f"{key}: expected a model that has {name}, found none" for name in step.targets if name not in targets]
    faults += [
        f"{info.shown}: expected floating-point weights, found {str(info.dtype).removeprefix('torch.')}"
        for info in here
        if info.dtype not in FLOATS
    ]
    faults += [
        f"{key}: expected one tensor for {target}, found also {claimed[target]}"
        for target in step.targets
        if target in claimed
    ]
    claimed.update(dict.fromkeys(step.targets, key))
    shapes: list[Shape] | str = [] if faults else step.rule.shapes([info.shape for info in here])
    if isinstance(shapes, str):
        faults.append(f"{key}: {shapes}")
    if faults or isinstance(shapes, str):
        plan.faults += faults
        return
    wrong = [
        Mismatch(here[0], target, here[0].shape if len(here) == 1 else shape, targets[target])
        for target, shape in zip(step.targets, shapes, strict=True)
        if shape != targets[target]
    ]
    plan.mismatched += wrong
    if not wrong:
        plan.steps.append(step)


def _dismiss(name: str, info: TensorInfo, reason: str, table: Sequence[TableRow], plan: Plan) -> None:
    """Files away a key that no step uses: an excused drop, a refusal, or unknown."""
    for row in table:
        if isinstance(row, Refuse | Drop) and match(row.key, name) is not None:
            if isinstance(row, Refuse):
                plan.faults.append(f"{info.shown}: {row.why}")
            else:
                plan.dropped[name] = row.why
            return
    plan.unknown[name] = reason

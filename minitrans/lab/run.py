"""The order of things: for each variant the gate, then the other sections; every row is kept at once, and found again.

results.jsonl holds a row for each variant, section and seed; its "key" is the hash of all that the row depends on: variant,
section, its options, seed, model, data and code. A row that is there under its key is not measured again. "configuration" is
the same without the code, by which results of two commits are compared. run.json says what the last run was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minitrans.attention.registry import load
from minitrans.files import write_json
from minitrans.lab.bench import Bench
from minitrans.lab.machine import code_digest, digest, where_and_when
from minitrans.lab.sections import SECTIONS, files_of
from minitrans.lab.specs import Subject, sources

Row = dict[str, Any]
EXACT = Subject("full", "full")
RESULTS, RUN = "results.jsonl", "run.json"


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        subjects: the variants.
        sections: out of `SECTIONS`, in their order.
        options: of each section.
        seeds: how many, where they change anything.
        out: the folder for what is found.
        model: as the user calls it; None where nothing is measured on one.
        command: that does it again.
    """

    subjects: list[Subject]
    sections: list[str]
    options: Mapping[str, Mapping[str, Any]]
    seeds: int
    out: Path
    model: str | None
    command: str

    @property
    def work(self) -> list[tuple[Subject, list[str], int]]:
        """Variant, sections, seeds; before those asked for the exact attention, where a section compares with it."""
        compared = [section for section in self.sections if SECTIONS[section].with_exact]
        asked = [(subject, self.sections, self.seeds) for subject in self.subjects]
        seeds = {section: 1 if SECTIONS[section].of_model else self.seeds for section in compared}  # the model is one
        return asked if EXACT in self.subjects else [*((EXACT, [name], count) for name, count in seeds.items()), *asked]

    @property
    def steps(self) -> int:
        """How many sections there are in all."""
        return sum(len(sections) for _, sections, _ in self.work)


def run(plan: Plan, bench: Bench, advance: Callable[[int], None]) -> Iterator[Row]:
    """Measures what is not known yet; yields the rows of each variant as they come, those known already too.

    `advance` is called with the steps done, of `plan.steps`.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    place = where_and_when(bench.device)
    known = {row["key"]: row for row in read_rows(plan.out)}
    model, code = _model_digest(bench), code_digest()
    bench.keeps_exact = plan.out / f"exact-{_hash([model, code, digest(bench.files.values())])[:16]}.pt"
    write_json(
        plan.out / RUN, {"command": plan.command, "model": plan.model, "data": sorted(bench.files), **place}
    )  # fmt: skip
    _drop_cut_row(plan.out / RESULTS)
    with (plan.out / RESULTS).open("a", encoding="utf-8") as file:
        for subject, sections, seeds in plan.work:
            asked = seeds > 1 and any(SECTIONS[name].seeds == "drawn" for name in sections)
            draws = asked and _is_random(bench, subject)
            failed = False
            for name in sections:
                section, options = SECTIONS[name], plan.options[name]
                several = section.seeds == "all" or (section.seeds == "drawn" and draws)
                for seed in range(seeds if several else 1):
                    if failed:
                        break
                    read = [bench.files[each] for each in files_of(name, options)]
                    asked_for = [subject.spec, name, options, seed, digest(read), model if section.of_model else ""]
                    key = _hash([asked_for, digest(sources(subject)), code])
                    row = known.get(key)
                    if row is None:
                        row = {"variant": subject.name, "spec": subject.spec, "section": name, "options": dict(options)}
                        row |= {"seed": seed, "key": key, "configuration": _hash(asked_for)}
                        row |= _measured(load(section.measure), bench, subject, seed, options) | place
                        file.write(json.dumps(row) + "\n")
                        file.flush()
                    failed = row["status"] == "failed" and name == "gate"
                    yield row
                advance(1)


def read_rows(place: Path) -> list[Row]:
    """The rows of a folder, or of a file: of each variant, section and seed the last. None where nothing was measured yet."""
    path = place / RESULTS if place.is_dir() else place
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1]]  # what follows the last newline was cut off in the middle
    return list({(row["variant"], row["section"], row["seed"]): row for row in rows}.values())


def _drop_cut_row(path: Path) -> None:
    """So that the next row begins a line."""
    if path.exists():
        content = path.read_bytes()
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _measured(
    measure: Callable[..., Row], bench: Bench, subject: Subject, seed: int, options: Mapping[str, Any]
) -> Row:
    """What a section finds; a variant is anybody's code, and whatever goes wrong in it belongs into its row."""
    start, busy = time.perf_counter(), time.process_time()
    try:
        found = {"status": "ok", **measure(bench, subject, seed, **options)}
    except Exception as error:
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    seconds, on_cpu = time.perf_counter() - start, time.process_time() - busy
    return {**found, "seconds": round(seconds, 2), "cpu_seconds": round(on_cpu, 2)}  # the machine may have been shared


def _is_random(bench: Bench, subject: Subject) -> bool:
    """Whether another seed makes another variant."""
    if subject.takes_seed:
        return True
    states = []
    for seed in (0, 1):
        with bench.swapped(subject.spec, seed):
            states.append({name: tensor.clone() for name, tensor in bench.encoder.model.state_dict().items()})
    return any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _model_digest(bench: Bench) -> str:
    """Of the numbers of the weights; "" where there are none."""
    if bench.model is None:
        return ""
    found = hashlib.sha256()
    for name, tensor in sorted(bench.encoder.model.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

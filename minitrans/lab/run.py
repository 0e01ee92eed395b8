"""The order of things: for each variant the gate, then the other sections; every row is kept at once, and found again.

results.jsonl holds a row for each variant, section and seed; its "key" is the hash of all that the row depends on: variant,
section, seed, model, data and code. A row that is there under its key is not measured again. run.json says what the last run was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minitrans.files import write_json
from minitrans.lab.bench import Bench
from minitrans.lab.gate import gate
from minitrans.lab.machine import code_digest, digest, where_and_when
from minitrans.lab.specs import Subject, sources
from minitrans.lab.swap import layers, swap

Row = dict[str, Any]
Section = Callable[[Bench, Subject, int], Row]
SECTIONS: dict[str, Section] = {"gate": gate, "swap": swap, "layers": layers}
USUAL = ("gate", "swap")
RESULTS, RUN = "results.jsonl", "run.json"


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        subjects: the variants.
        sections: out of `SECTIONS`, in their order.
        seeds: how many, for variants that draw at random.
        out: the folder for what is found.
        model: as the user calls it.
        command: that does it again.
    """

    subjects: list[Subject]
    sections: list[str]
    seeds: int
    out: Path
    model: str
    command: str


def run(plan: Plan, bench: Bench, advance: Callable[[int], None]) -> Iterator[Row]:
    """Measures what is not known yet; yields the rows of each variant as they come, those known already too.

    `advance` is called with the steps done, of `steps(plan)`.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    place = where_and_when(bench.encoder.device)
    known = {row["key"]: row for row in read_rows(plan.out)}
    common = [_model_digest(bench), digest([bench.file]), code_digest()]
    exact = bench.exact[0]
    write_json(
        plan.out / RUN,
        {
            "command": plan.command, "model": plan.model, "data": bench.file.name,
            "pairs": len(bench.pairs), "layers": bench.layers, "exact": exact, **place,
        },
    )  # fmt: skip
    with (plan.out / RESULTS).open("a", encoding="utf-8") as file:
        for subject in plan.subjects:
            seeds = range(plan.seeds) if plan.seeds > 1 and _is_random(bench, subject) else range(1)
            failed = False
            for section in plan.sections:
                for seed in seeds if section != "gate" else range(1):
                    own = [subject.spec, section, seed, digest(sources(subject))]
                    key = hashlib.sha256(json.dumps([own, common], sort_keys=True).encode()).hexdigest()
                    if failed:
                        continue
                    row = known.get(key)
                    if row is None:
                        row = {
                            "variant": subject.name,
                            "spec": subject.spec,
                            "section": section,
                            "seed": seed,
                            "key": key,
                        }
                        row |= _measured(SECTIONS[section], bench, subject, seed) | place
                        file.write(json.dumps(row) + "\n")
                        file.flush()
                    failed = row["status"] == "failed"
                    yield row
                advance(1)


def steps(plan: Plan) -> int:
    """How many there are."""
    return len(plan.subjects) * len(plan.sections)


def read_rows(out: Path) -> list[Row]:
    """The rows of a folder: of each variant, section and seed the last. None where nothing was measured yet."""
    path = out / RESULTS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1]]  # what follows the last newline was cut off in the middle
    if lines[-1]:
        path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    return list({(row["variant"], row["section"], row["seed"]): row for row in rows}.values())


def _measured(section: Section, bench: Bench, subject: Subject, seed: int) -> Row:
    """What a section finds; a variant is anybody's code, and whatever goes wrong in it belongs into its row."""
    start = time.perf_counter()
    try:
        found = {"status": "ok", **section(bench, subject, seed)}
    except Exception as error:
        found = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    return {**found, "seconds": round(time.perf_counter() - start, 2)}


def _is_random(bench: Bench, subject: Subject) -> bool:
    """Whether another seed makes another variant."""
    if subject.takes_seed:
        return True
    states = []
    for seed in (0, 1):
        with bench.swapped(subject.spec, seed):
            states.append({name: tensor.clone() for name, tensor in bench.encoder.model.state_dict().items()})
    return any(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def _model_digest(bench: Bench) -> str:
    """Of the numbers of the weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(bench.encoder.model.state_dict().items()):
        found.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()

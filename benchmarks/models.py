"""BERT, whole: inference and a training step, minitrans beside transformers, on batches with the lengths of real texts.

    python -m benchmarks.models            (on a GPU; on a CPU it runs a tiny model, to try the code)

Weights are random, token ids too; lengths are drawn from those of SST-2 and of XQuAD's question-paragraph pairs
(`lengths.json` says how they were counted). A call runs several batches, each padded to its own longest text. Rates count real
tokens only, so that computing padding is no merit. A training step is masked language modelling (15% of the tokens) in
bfloat16: forward, backward and AdamW. Checked first, without dropout, against transformers' eager attention in float32: the
hidden states of real tokens, the loss, and the gradient of the token table, which every layer feeds.
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.measuring import Budget, Call, interleaved_ms, peak_bytes, quantiles
from benchmarks.options import Only, Results, Resume, Seconds, Small
from benchmarks.record import RESULTS, Record, Row, chosen_device, open_record
from benchmarks.runs import path_of, verdict
from benchmarks.sweep import Job, sweep
from minitrans.cli import errors
from minitrans.files import read_json

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
LENGTHS = Path(__file__).resolve().parent / "lengths.json"
LABELLED = 0.15
BATCHES = 2
SIZES = {
    "bert-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "bert-large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "bert-tiny": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 99,
    },
}  # fmt: skip
# our own: (padding, backend); those of transformers: (its name of the attention, whether compiled)
OURS = {"minitrans": ("remove", "triton"), "minitrans padded": ("keep", "triton"), "minitrans sdpa": ("keep", "sdpa")}
PEERS = {
    "transformers eager": ("eager", False),
    "transformers sdpa": ("sdpa", False),
    "transformers sdpa compiled": ("sdpa", True),
}
COMPILED_MODELS = ("bert-base",)  # compiling the larger one takes a good part of the whole benchmark
# bfloat16 runs may err twice as much as transformers' eager attention in bfloat16, in gradients three times
FACTORS = {"hidden": 2.0, "loss": 2.0, "gradient": 3.0}


@dataclass(frozen=True)
class Case:
    """A model on texts of some data set, `batch` of them at a time."""

    model: str
    data: str
    mode: str  # inference, train
    batch: int
    longest: int

    @property
    def key(self) -> Row:
        """What names the case in a result."""
        return {"case": f"{self.model} {self.data} {self.mode}", "B": self.batch}


@dataclass(frozen=True)
class Batch:
    """(B, T) each; labels are -100 where nothing is asked."""

    ids: Tensor
    mask: Tensor
    labels: Tensor


def cases(*, small: bool) -> list[Case]:
    """The most important first."""
    if small:
        return [Case("bert-tiny", data, mode, 4, 24) for data in ("sst2", "xquad") for mode in ("train", "inference")]
    return [
        Case(model, data, mode, batch if mode == "train" else 2 * batch, 384)
        for model in ("bert-base", "bert-large")
        for data, batch in (("xquad", 64), ("sst2", 512))
        for mode in ("train", "inference")
    ]


def draw_lengths(data: str, count: int, longest: int) -> list[int]:
    """`count` lengths in the proportions of the data set, cut to `longest`; the same each time."""
    counts: dict[str, int] = read_json(LENGTHS)[data]["counts"]
    drawn = random.Random(0).choices([int(length) for length in counts], list(counts.values()), k=count)
    return [min(length, longest) for length in drawn]


def batches_of(case: Case, vocab: int, device: torch.device) -> list[Batch]:
    """`BATCHES` of them, padded to the longest text of each, rounded up to a multiple of 8 as collators for GPUs do."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(draw_lengths(case.data, BATCHES * case.batch, case.longest)).view(BATCHES, case.batch)
    found = []
    for each in lengths:
        width = -(-int(each.max()) // 8) * 8
        mask = (torch.arange(width) < each[:, None]).long()
        ids = torch.randint(5, vocab, mask.shape, generator=generator) * mask
        asked = (torch.rand(mask.shape, generator=generator) < LABELLED) & mask.bool()
        asked[:, 1] = True  # every text has one, however short
        found.append(Batch(*(tensor.to(device) for tensor in (ids, mask, ids.where(asked, -100)))))
    return found


def model_flops(config: Any, batch: Batch) -> float:
    """Of the body over the real tokens: projections and attention."""
    width, layers = config.hidden_size, config.num_hidden_layers
    lengths = batch.mask.sum(dim=1).double()
    projections = 2 * (4 * width**2 + 2 * width * config.intermediate_size) * lengths.sum().item()
    attention = 4 * width * (lengths**2).sum().item()
    return float(layers * (projections + attention))


def head_flops(config: Any, batch: Batch) -> float:
    """Of the head over the labelled tokens."""
    labelled = int((batch.labels != -100).sum())
    return float(2 * labelled * config.hidden_size * (config.hidden_size + config.vocab_size))


@lru_cache(maxsize=1)
def build(model: str, device: torch.device) -> tuple[Any, Callable[[str], nn.Module]]:
    """transformers' model in float32, eager, and a function that makes each provider's copy of it in `dtype_of(device)`."""
    from transformers import BertConfig, BertForMaskedLM

    from minitrans.models import bert

    torch.manual_seed(0)
    # the usual fresh weights leave attention nearly uniform; with wider ones a wrong mask shows
    config = BertConfig(**SIZES[model], initializer_range=0.05)
    config._attn_implementation = "eager"
    with device:
        reference = BertForMaskedLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        ours = bert.BertForMaskedLM.from_pretrained(folder, device=device)

    def make(name: str) -> nn.Module:
        if name in OURS:
            padding, backend = OURS[name]
            own = copy.deepcopy(ours)
            own.set_padding(padding)
            own.set_attention(backend=backend)
            return own.to(dtype_of(device)).eval()
        peer = copy.deepcopy(reference)
        peer.set_attn_implementation(PEERS[name][0])
        return peer.to(dtype_of(device)).eval()

    return reference, make


def dtype_of(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def body(model: nn.Module) -> nn.Module:
    """The model below the head, whichever library made it."""
    return model.get_submodule("bert")


def results(model: Any, batch: Batch) -> dict[str, Tensor]:
    """What is compared: hidden states of the real tokens, loss, gradient of the token table; without dropout."""
    with torch.no_grad():
        hidden = body(model)(batch.ids, attention_mask=batch.mask).last_hidden_state[batch.mask.bool()]
    loss = model(batch.ids, attention_mask=batch.mask, labels=batch.labels).loss
    (gradient,) = torch.autograd.grad(loss, [model.get_input_embeddings().weight])
    return {"hidden": hidden, "loss": loss.detach(), "gradient": gradient}


def distances(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Root mean square difference over root mean square, of each."""
    return {
        name: ((found[name].double() - value.double()).norm() / value.double().norm()).item()
        for name, value in exact.items()
    }


def check(
    name: str, make: Callable[[str], nn.Module], known: dict[str, Any], case: Case, batches: list[Batch]
) -> tuple[Call | None, Row]:
    """What is timed, or None, and a row that says how large the errors are."""
    model = make(name)
    errors = distances(results(model, batches[0]), known["exact"])
    allowed: dict[str, float] = known["allowed"]
    row = verdict(errors, allowed)
    if OURS.get(name, ("", ""))[1] == "triton":
        row |= path_of(known["exact"]["hidden"])
    if "status" in row:
        return None, row
    call = inference(model, name, batches) if case.mode == "inference" else training(model, name, batches)
    return call, row


def inference(model: nn.Module, name: str, batches: list[Batch]) -> Call:
    """The body over every batch."""
    run: Any = body(model)
    if name in PEERS and PEERS[name][1]:
        run = torch.compile(run, dynamic=True)

    def call() -> None:
        with torch.inference_mode():
            for batch in batches:
                run(batch.ids, attention_mask=batch.mask)

    return call


def training(model: nn.Module, name: str, batches: list[Batch]) -> Call:
    """A step of AdamW for every batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=batches[0].ids.is_cuda)
    run: Any = torch.compile(model, dynamic=True) if name in PEERS and PEERS[name][1] else model

    def call() -> None:
        for batch in batches:
            run(batch.ids, attention_mask=batch.mask, labels=batch.labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return call


def refusals(case: Case, device: torch.device) -> dict[str, str]:
    """Who does not serve a case, and why."""
    found = {}
    for name, (_, is_compiled) in PEERS.items():
        if is_compiled and device.type != "cuda":
            found[name] = "left out on a CPU"
        elif is_compiled and case.model not in COMPILED_MODELS:
            found[name] = "left out: compiling it takes too long"
    return found


def job(case: Case, device: torch.device, record: Record, only: list[str]) -> Job:
    """The case with its models, for `sweep`."""
    reference, make = build(case.model, device)
    config = reference.config
    batches = batches_of(case, config.vocab_size, device)
    known: dict[str, Any] = {}

    def begin() -> None:
        exact = results(reference, batches[0])
        plain = make("transformers eager") if dtype_of(device) != torch.float32 else None
        rounding = dict.fromkeys(exact, 1e-05) if plain is None else distances(results(plain, batches[0]), exact)
        known.update(exact=exact, allowed={name: FACTORS[name] * max(rounding[name], 1e-5) for name in exact})

    def timing(ready: dict[str, Call]) -> dict[str, dict[str, Row]]:
        known.clear()
        tokens = sum(int(batch.mask.sum()) for batch in batches)
        flops = sum(model_flops(config, batch) for batch in batches)
        if case.mode == "train":
            flops = 3 * (flops + sum(head_flops(config, batch) for batch in batches))
        places = sum(batch.mask.numel() for batch in batches)
        rows: dict[str, dict[str, Row]] = {}
        peaks = {name: peak_bytes(call, device) for name, call in ready.items()}
        seconds = 0.5 * len(ready) if device.type == "cuda" else 0.0  # a CPU only tries the code
        for name, ms in interleaved_ms(ready, device, seconds).items():
            times = quantiles(ms)
            tflops = flops / times["median"] / 1e9
            rows[name] = {
                case.mode: {
                    "ms": times, "peak_bytes": peaks[name], "tokens": tokens, "fill": tokens / places, "tflops": tflops,
                    "tokens_per_second": tokens / times["median"] * 1e3, "mfu": tflops / record.limits["matmul_tflops"],
                }
            }  # fmt: skip
        return rows

    refused = refusals(case, device)
    names = [name for name in only if name not in refused]
    checks = {name: partial(check, name, make, known, case, batches) for name in names}
    return Job(case.key, begin, {name: why for name, why in refused.items() if name in only}, checks, timing)


def warm_up(device: torch.device) -> None:
    """Runs what is compiled once, so that a later process finds it on disk."""
    compiled = [name for name, (_, is_compiled) in PEERS.items() if is_compiled]
    for case in cases(small=False):
        for name in compiled:
            if name not in refusals(case, device):
                reference, make = build(case.model, device)
                batches = batches_of(case, reference.config.vocab_size, device)
                (inference if case.mode == "inference" else training)(make(name), name, batches)()


@app.command()
def main(
    small: Small = False,
    only: Only = None,
    seconds: Seconds = 3600,
    results_folder: Results = RESULTS,
    resume: Resume = False,
    compile_only: Annotated[bool, typer.Option(help="Only fill the caches of the compilers.")] = False,
) -> None:
    """Time every provider on every model and data set; print a table of each and write a dated JSON file.

    Milliseconds are those of all batches, tokens per second count real tokens only.

    Examples:

        python -m benchmarks.models --only "minitrans,transformers sdpa"

        python -m benchmarks.models --small
    """
    budget = Budget.of(seconds)
    device, small = chosen_device(small)
    known = [*OURS, *PEERS]
    names = known if only is None else only.split(",")
    if not set(names) <= set(known):
        raise ValueError(f"unknown providers {sorted(set(names) - set(known))}; known: {', '.join(known)}")
    from transformers import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if compile_only:
        warm_up(device)
        return
    settings = {"small": small, "batches": BATCHES, "labelled": LABELLED, "dtype": str(dtype_of(device))}
    record = open_record("models", device, results_folder, resume=resume, **settings)
    sweep(record, ((case.key, partial(job, case, device, record, names)) for case in cases(small=small)), budget)


if __name__ == "__main__":
    sys.exit(errors.run(app, "python -m benchmarks.models"))

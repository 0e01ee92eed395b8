"""One output: every process adds its windows to the parts, and the first one joins them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from minitrans.embedding.encoder import Encoder
from minitrans.embedding.jobs.lines import LineFile, Window
from minitrans.embedding.jobs.parts import Parts
from minitrans.embedding.jobs.writers import WRITERS, check_name
from minitrans.files import printable, require_writable
from minitrans.models.config_object import ConfigObject

LOOK_AGAIN = 0.2  # seconds
MAX_PROCESSES = 100_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """Embeds the lines of a file into another file.

    Attributes:
        source: the texts, one a line; "-" is standard input.
        target: a .npy, .jsonl or .parquet file.
        resume: go on with a run that was killed.
        join: only join what other processes have done.
        force: replace an output that exists.
        wait: seconds after which the first process gives up on the others, counted from their last sign of life.
        rank, size: which of how many processes this is; the environment says it, as torchrun sets it.
    """

    source: str
    target: Path
    resume: bool = False
    join: bool = False
    force: bool = False
    wait: float = 600
    rank: int = field(default_factory=lambda: rank_and_size()[0])
    size: int = field(default_factory=lambda: rank_and_size()[1])

    def run(
        self,
        load: Callable[[], Encoder],
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
        progress: Callable[[int], AbstractContextManager[Callable[[int], None]]],
        note: Callable[[str], None],
    ) -> tuple[int, int] | None:
        """Embeds this process's share; the first process writes the output when all of it is there.

        Args:
            load: gives the encoder, once it is clear that the output may be written.
            options: of `Encoder.encode_windows`.
            settings: what else the numbers depend on.
            progress: from the number of texts to a context in which a function is told of those that are done.
            note: told, in a line, what is worth knowing.

        Returns:
            (N, D) of what was written; None where that is for another process.

        Raises:
            ValueError: for a mistake of the user. OSError: for one of the disk. What has been done stays to be resumed.
        """
        parts = Parts(self.target)
        shared = self.size > 1
        continues = parts.begun() and (self.resume or self.join or shared)
        if self.rank > 0 and self.target.exists() and not parts.begun() and not self.force:
            note(f"{printable(self.target)}: there already, nothing to do for rank {self.rank}")
            return None
        self._check(parts, continues)
        lines = LineFile(self.source)
        if self.join:
            with parts.locked(shared=True):
                parts.agree({**parts.manifest(), "input": lines.identity()})
                return self._finish(parts, lines)
        encoder = load()
        wanted = manifest(lines, encoder, options, settings)  # a mistake in the options leaves nothing behind
        with parts.locked(shared=shared):
            if not continues and not shared:
                parts.sweep()
            parts.agree(wanted)
            try:
                self._add_windows(parts, lines, encoder, options, progress, note)
                return self._finish(parts, lines) if self.rank == 0 else None
            except BaseException:
                if not shared and parts.empty():
                    parts.clear()
                raise

    def _check(self, parts: Parts, continues: bool) -> None:
        """Raises ValueError, before any work is done, for an output that cannot or must not be written."""
        check_name(self.target)
        if self.join and self.resume:
            raise ValueError("give --resume or --join, got both")
        if self.size > 1 and self.source == "-":
            raise ValueError("FILE: expected a file that every process can read, got standard input")
        if self.join and not parts.begun():
            raise ValueError(f"{parts.name}: expected the parts of a run, found none")
        if parts.begun() and not continues and not self.force:
            raise ValueError(
                f"{parts.name}: expected no unfinished run, found one; --resume goes on with it, --force begins anew"
            )
        require_writable(self.target, force=self.force or continues, source=self.source)

    def _add_windows(
        self, parts: Parts, lines: LineFile, encoder: Encoder, options: Mapping[str, Any], progress: Any, note: Any
    ) -> None:
        """Computes the windows of this process that are not there yet."""
        mine = [(number, window) for number, window in enumerate(lines.windows) if number % self.size == self.rank]
        todo = _missing(parts, mine)
        texts = sum(window.lines for _, window in todo)
        total = sum(window.lines for _, window in mine)
        with progress(total) as advance:
            advance(total - texts)
            blocks = encoder.encode_windows((lines.read(window) for _, window in todo), advance=advance, **options)
            for (number, _), block in zip(todo, blocks, strict=True):
                parts.write(number, block.numpy())
        if encoder.truncated:
            note(encoder.truncation_note(texts))

    def _finish(self, parts: Parts, lines: LineFile) -> tuple[int, int]:
        """Makes the output of the parts, when all are there, in one step, and removes them."""
        self._await_others(parts, lines)
        dimension, dtype = parts.shape()
        with parts.publishing() as path:
            blocks = self._blocks(parts, lines)
            WRITERS[self.target.suffix](path, blocks, (lines.lines, dimension), dtype)
        parts.clear()
        return lines.lines, dimension

    def _await_others(self, parts: Parts, lines: LineFile) -> None:
        """Returns when every window is there. Raises ValueError when nothing has been added for `wait` seconds."""
        wait = 0 if self.join else self.wait
        missing = _missing(parts, list(enumerate(lines.windows)))
        deadline = time.monotonic() + wait
        while missing:
            time.sleep(min(LOOK_AGAIN, wait))
            left = _missing(parts, missing)
            if len(left) < len(missing):
                missing, deadline = left, time.monotonic() + wait
            elif time.monotonic() > deadline:
                ranks = sorted({number % self.size for number, _ in missing}) if self.size > 1 else []
                whose = f" (of rank {', '.join(map(str, ranks[:8]))})" if ranks else ""
                raise ValueError(
                    f"{parts.name}: expected {len(lines.windows)} windows, {len(missing)} are missing{whose}; "
                    "run embed with --resume for these, then with --join"
                )

    def _blocks(self, parts: Parts, lines: LineFile) -> Iterator[tuple[list[str], np.ndarray]]:
        shape = parts.shape()
        for number, window in enumerate(lines.windows):
            block = parts.read(number, window.lines, *shape)
            if block is None:
                raise ValueError(f"{parts.name}: window {number} is gone, or something else; --resume makes it again")
            yield [] if self.target.suffix == ".npy" else lines.read(window), block


def _missing(parts: Parts, windows: list[tuple[int, Window]]) -> list[tuple[int, Window]]:
    shape = parts.shape()
    return [(number, window) for number, window in windows if parts.read(number, window.lines, *shape) is None]


def manifest(
    lines: LineFile, encoder: Encoder, options: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the bytes of a window depend on."""
    device = encoder.model.device
    on_gpu = device.type == "cuda"
    return {
        "input": lines.identity(),
        "model": fingerprint(encoder),
        "options": {
            **options,
            **settings,
            "precision": encoder.precision,
            "model dtype": str(encoder.model.dtype).removeprefix("torch."),
            "machine": torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
            "device": device.type,
        },
        "vectors": {
            "dimension": encoder.dimension_of(options["pooling"]),
            "dtype": str(encoder.vector_dtype).removeprefix("torch."),
        },
        "versions": {name: version(name) for name in ("minitrans", "numpy", "tokenizers", "torch")},
    }


def fingerprint(encoder: Encoder) -> dict[str, str]:
    """What the numbers of an encoder depend on: SHA-256 of configuration, weights, tokenizer, and recipe with its layers."""
    tokenizer, config = encoder.tokenizer, encoder.model.config
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    del pipeline["truncation"], pipeline["padding"]  # the last call's
    return {
        "config": _hash_json(
            {name: value for name, value in config.fields().items() if name not in ConfigObject.steering}
        ),
        "weights": _hash_weights(encoder.model),
        "tokenizer": _hash_json([pipeline, tokenizer.model_input_names, tokenizer.truncation_side, encoder.max_length]),
        "recipe": _hash_json([asdict(encoder.recipe), _hash_weights(encoder.head)]),
    }


def _hash_json(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous().flatten()
        digest.update(memoryview(values.view(torch.uint8).numpy()) if values.numel() else b"")
    return digest.hexdigest()


def rank_and_size() -> tuple[int, int]:
    """RANK and WORLD_SIZE of the environment, as torchrun sets them. Raises ValueError for numbers that do not fit."""
    size = _number("WORLD_SIZE", 1, 1, MAX_PROCESSES)
    return _number("RANK", 0, 0, size - 1), size


def local_device(device: str) -> str:
    """ "cuda" of several processes on one machine is a card for each."""
    _, size = rank_and_size()
    if device != "cuda" or size == 1 or "LOCAL_RANK" not in os.environ:
        return device
    return f"cuda:{_number('LOCAL_RANK', 0, 0, size - 1)}"


def _number(name: str, usual: int, least: int, most: int) -> int:
    text = os.environ.get(name, str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise ValueError(
            f"{name}: expected a number from {least} to {most} in the environment, found {printable(text)!r}"
        )
    return int(text)

"""Compiles a recorded launch and reads the binary: registers, spills, shared memory, matrix instructions.

Nothing here needs a device: `ptxas` says what it allocated, Triton what shared memory it laid out, `nvdisasm` which
instructions came out.
"""

from __future__ import annotations

import io
import re
import subprocess
import tempfile
import warnings
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import triton
from triton import knobs
from triton.compiler import ASTSource

from minitrans_kernels.inspection.recording import Launch, target

# the instruction of each generation's matrix unit; UTC?MMA is what PTX calls tcgen05.mma
MATRIX_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}
_OPCODE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_.a-z]*)", re.MULTILINE)
# wgmma and tcgen05.mma multiply at least so many rows; Triton gives smaller products to sm_80's instruction
_ROWS = 64
_DOT = re.compile(r"= tt\.dot [^:]*?(?:inputPrecision = (\w+) )?: tensor<(\d+)x\d+x(\w+)>")


class Dot(NamedTuple):
    """A product of matrices in the source: rows of its tile, element type, precision; precision None = true float32."""

    rows: int
    element: str
    precision: str | None

    def instruction(self, architecture: str) -> str | None:
        """What the matrix unit should do it with; None in true float32, which it cannot."""
        if self.element == "f32" and self.precision is None:
            return None
        return MATRIX_INSTRUCTION[architecture if self.rows >= _ROWS else "sm_80"]


@dataclass(frozen=True)
class Binary:
    """What one compiled launch needs and uses.

    Attributes:
        registers: 32-bit registers a thread.
        stack: bytes of stack a thread.
        spill_stores: bytes a thread writes to memory because registers ran out.
        spill_loads: bytes it reads back.
        shared: bytes of shared memory a program, without the 1 KB that the system reserves from sm_90 on.
        tensor_memory: columns of sm_100's tensor memory a program.
        warps: warps a program.
        dots: the matrix products of the source.
        instructions: instructions by opcode without modifiers.
        remarks: what the compiler warned of.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    tensor_memory: int
    warps: int
    dots: tuple[Dot, ...]
    instructions: Counter[str]
    remarks: tuple[str, ...]

    @property
    def matrix_instructions(self) -> dict[str, int]:
        """Instructions of any generation's matrix unit."""
        return {name: self.instructions[name] for name in MATRIX_INSTRUCTION.values() if self.instructions[name]}

    @property
    def asynchronous_copies(self) -> int:
        """Copies from global to shared memory that run beside the arithmetic: zero where no loop is pipelined."""
        return self.instructions["LDGSTS"] + self.instructions["UTMALDG"]


def compile_launch(launch: Launch) -> Binary:
    """Compiles a launch for its architecture, whatever the cache holds, and reads the binary.

    Raises what Triton raises when the kernel does not compile.
    """
    source = ASTSource(launch.function, launch.signature, launch.constants, launch.attributes)
    log = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        knobs.cache.scope(),
        knobs.compilation.scope(),
        knobs.nvidia.scope(),
        warnings.catch_warnings(record=True) as caught,
        redirect_stdout(log),
    ):
        warnings.simplefilter("always")
        knobs.cache.dir = folder
        knobs.compilation.always_compile = True
        knobs.nvidia.dump_ptxas_log = True
        kernel = triton.compile(source, target=target(launch.architecture), options=launch.options)
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        command = [knobs.nvidia.nvdisasm.path, "-c", str(cubin)]
        assembly = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report = log.getvalue()
    return Binary(
        registers=_number(r"Used (\d+) registers", report),
        stack=_number(r"(\d+) bytes stack frame", report),
        spill_stores=_number(r"(\d+) bytes spill stores", report),
        spill_loads=_number(r"(\d+) bytes spill loads", report),
        shared=kernel.metadata.shared,
        tensor_memory=kernel.metadata.tmem_size,
        warps=kernel.metadata.num_warps,
        dots=dots(kernel.asm["ttir"]),
        instructions=opcodes(assembly),
        remarks=(*(str(warning.message) for warning in caught), *_remarks(report)),
    )


def dots(ttir: str) -> tuple[Dot, ...]:
    """The matrix products in Triton's intermediate code."""
    return tuple(Dot(int(rows), element, precision or None) for precision, rows, element in _DOT.findall(ttir))


def opcodes(assembly: str) -> Counter[str]:
    """Instructions of a disassembly, counted by opcode without modifiers."""
    return Counter(opcode.partition(".")[0] for opcode in _OPCODE.findall(assembly))


def _number(pattern: str, report: str) -> int:
    found = re.search(pattern, report)
    if found is None:
        raise ValueError(f"ptxas reported no {pattern!r}:\n{report}")
    return int(found[1])


def _remarks(report: str) -> list[str]:
    """Lines of ptxas that are no plain information, such as matrix instructions that had to wait for each other."""
    return [line for line in report.splitlines() if re.search("warning|Potential", line)]

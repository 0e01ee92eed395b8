"""Kernels compiled ahead of time: registers do not spill, shared memory suffices, each generation's matrix unit is used.

A part of what `make kernels-compile` covers, and tests of the tools that look.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

import triton
import triton.language as tl
from minitrans_kernels import runtime
from minitrans_kernels.attention import configs
from minitrans_kernels.inspection import cases
from minitrans_kernels.inspection.compilation import Binary, Dot, compile_launch, dots, opcodes
from minitrans_kernels.inspection.faults import faults
from minitrans_kernels.inspection.occupancy import Occupancy, occupancy
from minitrans_kernels.inspection.recording import Launch, recording
from minitrans_kernels.inspection.survey import Finding, launches, survey
from minitrans_kernels.inspection.table import BEGIN, END, table, write
from triton.runtime.driver import driver

CASES = dict(cases.every_case())
CHOSEN = {
    "sm_80": ("plain, K 64, bf16", "relative bias, K 64, bf16", "packed window, K 64, bf16", "plain, K 64, fp32"),
    "sm_90": (
        "plain, K 64, bf16",
        "causal, K 128, bf16",
        "plain, K 64, fp32",
        "bias, K 64, bf16",
        "relative bias, K 64, bf16",
        "packed dropout, K 64, bf16",
        "packed window, K 64, bf16",
        "window, global tokens, K 64, bf16",
        "plain, T and S 128, K 64, bf16",
        "add_dropout_layer_norm 768 bfloat16 dropout 0.1",
        "embedding_layer_norm 768 bfloat16 dropout 0.1",
        "rms_norm 768 bfloat16",
        "bias_gelu 768 bfloat16 tanh",
        "masked_lm_loss 768 bfloat16 bias True",
    ),
    "sm_100": ("plain, K 64, bf16",),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "case"), [(architecture, case) for architecture, names in CHOSEN.items() for case in names]
)
def test_binaries_have_no_fault(architecture: str, case: str):
    work = launches([(case, CASES[case])], [architecture])
    assert work
    found = {finding.launch.name: finding.faults for finding in survey(work, processes=1) if finding.faults}
    assert not found


def test_every_row_of_the_table_is_compiled(monkeypatch: pytest.MonkeyPatch):
    asked, look_up = set(), configs.look_up

    def noting(architecture: str, which: configs.Pass, kind: configs.Kind, width: int) -> configs.Configuration:
        asked.add((architecture, which, kind, next(bound for bound in configs.WIDTHS if width <= bound)))
        return look_up(architecture, which, kind, width)

    monkeypatch.setattr(configs, "look_up", noting)
    launches(cases.attention_cases(), runtime.ARCHITECTURES)
    in_full = {row for row in asked if row[1] in configs.PASSES}
    assert in_full == set(product(runtime.ARCHITECTURES, configs.PASSES, configs.KINDS, configs.WIDTHS))
    assert configs._TABLE.keys() <= {row[:3] for row in asked}


@triton.jit
def matmul_kernel(
    left,
    right,
    out,
    count,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    precision: tl.constexpr,
):
    rows, columns, inner = tl.arange(0, block_m), tl.arange(0, block_n), tl.arange(0, block_k)
    total = tl.zeros([block_m, block_n], tl.float32)
    for start in range(0, count, block_k):
        a = tl.load(left + rows[:, None] * count + (start + inner)[None, :])
        b = tl.load(right + (start + inner)[:, None] * block_n + columns[None, :])
        total = tl.dot(a, b, total, input_precision=precision)
    tl.store(out + rows[:, None] * block_n + columns[None, :], total)


def matmul(
    architecture: str, dtype: torch.dtype, precision: str = "ieee", offset: int = 0, most_registers: int | None = None
) -> Launch:
    left, right = (torch.empty(64 * 1024 + offset, dtype=dtype)[offset:] for _ in range(2))
    tiles = {"block_m": 64, "block_n": 64, "block_k": 32}
    options = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True, "maxnreg": most_registers}
    with recording(architecture) as recorded:
        matmul_kernel[(1,)](left, right, torch.empty(64, 64), 1024, precision=precision, **tiles, **options)
    return recorded[0]


compiled = cache(lambda *arguments, **options: compile_launch(matmul(*arguments, **options)))


@pytest.mark.parametrize(
    ("architecture", "instruction"), [("sm_80", "HMMA"), ("sm_90", "HGMMA"), ("sm_100", "UTCHMMA")]
)
def test_the_matrix_instruction_of_each_generation(architecture: str, instruction: str):
    launch, binary = matmul(architecture, torch.bfloat16), compiled(architecture, torch.bfloat16)
    assert set(binary.matrix_instructions) == {instruction}
    assert binary.asynchronous_copies
    assert 0 < binary.registers <= 255
    assert not faults(launch, binary)


def test_true_float32_needs_no_matrix_instruction():
    launch, binary = matmul("sm_90", torch.float32), compiled("sm_90", torch.float32)
    assert not binary.matrix_instructions
    assert binary.instructions["FFMA"]
    assert not faults(launch, binary)


def test_float32_may_use_the_matrix_unit_when_asked():
    assert set(compiled("sm_90", torch.float32, "tf32").matrix_instructions) == {"HGMMA"}


def test_a_spill_is_seen():
    launch, binary = (make("sm_80", torch.bfloat16, most_registers=40) for make in (matmul, compiled))
    assert binary.registers <= 40
    assert binary.spill_stores
    assert binary.instructions["STL"]  # store to local memory
    assert any(fault.startswith("spills") for fault in faults(launch, binary))


def test_alignment_is_part_of_what_is_compiled():
    """A pointer off its 16 bytes cannot be copied asynchronously in pieces of 16: another binary, not pipelined alike."""
    straight, crooked = matmul("sm_90", torch.bfloat16), matmul("sm_90", torch.bfloat16, offset=1)
    assert straight.key != crooked.key
    assert straight.attributes[(0,)] == [["tt.divisibility", 16]]
    assert not crooked.attributes.get((0,))
    assert compiled("sm_90", torch.bfloat16, offset=1).asynchronous_copies == 0


def test_loops_that_wait_for_memory_are_seen():
    launch, binary = matmul("sm_90", torch.bfloat16, offset=1), compiled("sm_90", torch.bfloat16, offset=1)
    assert "no asynchronous copy: its loops are not pipelined" in faults(launch, binary)
    assert not faults(replace(launch, options={**launch.options, "num_stages": 1}), binary)


HEALTHY = Binary(
    registers=128, stack=0, spill_stores=0, spill_loads=0, shared=64 * 1024, tensor_memory=0, warps=8,
    dots=(Dot(64, "bf16", None),), instructions=Counter(HGMMA=8, LDGSTS=4), remarks=(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"spill_stores": 4}, "spills: 4 bytes stored, 0 loaded"),
        ({"spill_loads": 8}, "spills: 0 bytes stored, 8 loaded"),
        ({"stack": 16}, "uses 16 bytes of stack"),
        ({"shared": 227 * 1024}, None),
        ({"shared": 227 * 1024 + 1}, "needs 232449 bytes of shared memory, sm_90 has 232448"),
        ({"instructions": Counter(HMMA=8, LDGSTS=4)}, "matrix instructions are {'HMMA': 8}, expected HGMMA"),
        ({"instructions": Counter(HMMA=1, HGMMA=7, LDGSTS=4)}, "matrix instructions are {'HMMA': 1, 'HGMMA': 7}, expected HGMMA"),
        ({"instructions": Counter(FFMA=8, LDGSTS=4)}, "matrix instructions are none, expected HGMMA"),
        ({"instructions": Counter(HGMMA=8)}, "no asynchronous copy: its loops are not pipelined"),
        ({"dots": (Dot(64, "f32", None),)}, "matrix instructions are {'HGMMA': 8}, expected none"),
        ({"dots": (Dot(64, "f32", "tf32"),)}, None),
        ({"dots": (Dot(32, "bf16", None),)}, "matrix instructions are {'HGMMA': 8}, expected HMMA"),
        ({"dots": (Dot(32, "bf16", None), Dot(64, "bf16", None))}, "matrix instructions are {'HGMMA': 8}, expected HGMMA and HMMA"),
        ({"dots": (), "instructions": Counter()}, None),
        ({"remarks": ("wgmma serialized",)}, "wgmma serialized"),
    ],
)  # fmt: skip
def test_each_fault_is_named(change: dict[str, object], fault: str | None):
    launch = matmul("sm_90", torch.bfloat16)
    assert faults(launch, replace(HEALTHY, **change)) == (() if fault is None else (fault,))


@pytest.mark.parametrize(
    ("architecture", "change", "expected"),
    [
        ("sm_90", {}, Occupancy(2, 0.25, "registers")),  # 8 warps × 32 × 128 registers: half the file
        ("sm_90", {"registers": 129}, Occupancy(1, 0.125, "registers")),  # 129 × 32 is given as 4352: 15 warps, so 12
        ("sm_90", {"registers": 32}, Occupancy(3, 0.375, "shared memory")),  # (64 + 1) KB of 228
        ("sm_80", {"registers": 32}, Occupancy(2, 0.25, "shared memory")),  # of 164
        ("sm_90", {"registers": 32, "shared": 0}, Occupancy(8, 1.0, "registers")),
        ("sm_90", {"registers": 24, "shared": 0}, Occupancy(8, 1.0, "warps")),
        ("sm_90", {"registers": 24, "shared": 0, "warps": 1}, Occupancy(32, 0.5, "programs")),
        ("sm_100", {"registers": 32, "tensor_memory": 256}, Occupancy(2, 0.25, "tensor memory")),
        ("sm_80", {"shared": 164 * 1024}, Occupancy(0, 0.0, "shared memory")),
    ],
)
def test_occupancy(architecture: str, change: dict[str, object], expected: Occupancy):
    assert occupancy(replace(HEALTHY, **change), architecture) == expected


def test_opcodes_are_counted_without_modifiers_and_predicates():
    assembly = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R3], desc[UR4][R8.64] ;
        /*0020*/         @P2 LDGSTS.E [R3], desc[UR4][R8.64] ;
        /*0030*/             @UP0 UIADD3 UR4, UR4, 0x1, URZ ;
        /*0040*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8], R24 ;
"""
    assert opcodes(assembly) == Counter(LDC=1, LDGSTS=2, UIADD3=1, HGMMA=1)


def test_dots_are_read_with_their_precision():
    code = """
    %s = tt.dot %q, %k, %zero, inputPrecision = tf32 : tensor<128x64xbf16> * tensor<64x64xbf16> -> tensor<128x64xf32>
    %t = tt.dot %p, %v, %acc : tensor<64x32xf32> * tensor<32x64xf32> -> tensor<64x64xf32>
    %u = tt.dot %p, %v, %acc, inputPrecision = tf32x3 : tensor<64x32xf32> * tensor<32x64xf32> -> tensor<64x64xf32>
"""
    assert dots(code) == (Dot(128, "bf16", "tf32"), Dot(64, "f32", None), Dot(64, "f32", "tf32x3"))


def test_recording_runs_nothing_and_leaves_no_trace():
    before, architecture = driver._active, runtime.architecture
    out = torch.full((64, 64), 7.0)
    with recording("sm_100") as recorded:
        assert cases.launch.choose.__globals__["architecture"](torch.device("meta")) == "sm_100"
        operand = torch.ones(64 * 64)
        matmul_kernel[(1,)](operand, operand, out, 64, block_m=64, block_n=64, block_k=32, precision="ieee")
    assert len(recorded) == 1
    assert recorded[0].architecture == "sm_100"
    assert recorded[0].arguments == {"block_m": 64, "block_n": 64, "block_k": 32, "precision": "ieee"}
    assert torch.equal(out, torch.full((64, 64), 7.0))
    assert driver._active is before
    assert cases.launch.choose.__globals__["architecture"] is architecture


def test_a_kernel_that_does_not_compile_is_a_finding():
    launch = matmul("sm_90", torch.bfloat16)
    broken = replace(launch, constants={**launch.constants, (4,): 48})  # no power of two
    [finding] = survey([("broken", broken)], processes=1)
    assert finding.binary is None
    assert "does not compile" in finding.faults[0]
    assert "power of 2" in finding.faults[0]


def test_the_table_is_written_between_its_markers(tmp_path: Path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    finding = Finding("plain", matmul("sm_90", torch.bfloat16), HEALTHY, ())
    text = table([finding], ("sm_80", "sm_90"))
    write(text, page)
    written = page.read_text(encoding="utf-8")
    assert written == f"before\n{BEGIN}\n{text}{END}\nafter\n"
    assert "| plain |" in written
    assert "64x64x32, 4 w, 3 s: 128 r, 64 KB, 2 (25%), HGMMA" in written
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="must hold the lines"):
        write(text, page)

"""How many programs an SM holds at once, from registers, shared memory and warps."""

from __future__ import annotations

from dataclasses import dataclass

from minitrans_kernels.inspection.compilation import Binary


@dataclass(frozen=True)
class Limits:
    """One SM. Source: CUDA Programming Guide, Compute Capabilities, table of technical specifications.

    Attributes:
        shared: bytes of shared memory.
        shared_per_program: bytes one program may have of it.
        reserved_per_program: bytes of it the system takes for each program.
        tensor_memory: columns of tensor memory (PTX ISA, tcgen05.alloc).
        registers: 32-bit registers.
        warps: resident at once.
        programs: resident at once.
    """

    shared: int
    shared_per_program: int
    reserved_per_program: int = 1024
    tensor_memory: int = 0
    registers: int = 65536
    warps: int = 64
    programs: int = 32


LIMITS = {
    "sm_80": Limits(shared=164 * 1024, shared_per_program=163 * 1024),
    "sm_90": Limits(shared=228 * 1024, shared_per_program=227 * 1024),
    "sm_100": Limits(shared=228 * 1024, shared_per_program=227 * 1024, tensor_memory=512),
}
# registers are given to a warp in units of 256, and warps lie on four schedulers
_REGISTER_UNIT = 256
_SCHEDULERS = 4


@dataclass(frozen=True)
class Occupancy:
    """Programs an SM holds, the share of its warps that they are, and what sets the bound."""

    programs: int
    share: float
    bound: str


def occupancy(binary: Binary, architecture: str) -> Occupancy:
    """How many programs of this binary an SM of its architecture holds."""
    limits = LIMITS[architecture]
    registers_a_warp = -(-binary.registers * 32 // _REGISTER_UNIT) * _REGISTER_UNIT
    warps_by_registers = limits.registers // registers_a_warp // _SCHEDULERS * _SCHEDULERS
    candidates = {
        "registers": warps_by_registers // binary.warps,
        "shared memory": limits.shared // (binary.shared + limits.reserved_per_program),
        "warps": limits.warps // binary.warps,
        "programs": limits.programs,
    }
    if binary.tensor_memory:
        candidates["tensor memory"] = limits.tensor_memory // binary.tensor_memory
    bound = min(candidates, key=lambda name: candidates[name])
    programs = candidates[bound]
    return Occupancy(programs, programs * binary.warps / limits.warps, bound)

"""What a compiled launch must not do: spill, ask for more than there is, miss the matrix unit, wait for memory."""

from __future__ import annotations

from minitrans_kernels.inspection.compilation import Binary
from minitrans_kernels.inspection.occupancy import LIMITS, occupancy
from minitrans_kernels.inspection.recording import Launch


def faults(launch: Launch, binary: Binary) -> tuple[str, ...]:
    """What is wrong with a binary, one sentence each; nothing if all is well."""
    return (*_resources(launch, binary), *_matrix_unit(launch, binary), *binary.remarks)


def _resources(launch: Launch, binary: Binary) -> list[str]:
    found = []
    if binary.spill_stores or binary.spill_loads:
        found.append(f"spills: {binary.spill_stores} bytes stored, {binary.spill_loads} loaded")
    elif binary.stack:
        found.append(f"uses {binary.stack} bytes of stack")
    limit = LIMITS[launch.architecture].shared_per_program
    if binary.shared > limit:
        found.append(f"needs {binary.shared} bytes of shared memory, {launch.architecture} has {limit}")
    elif occupancy(binary, launch.architecture).programs < 1:
        found.append(f"does not fit: {occupancy(binary, launch.architecture).bound}")
    return found


def _matrix_unit(launch: Launch, binary: Binary) -> list[str]:
    expected = {dot.instruction(launch.architecture) for dot in binary.dots} - {None}
    found = []
    if binary.matrix_instructions.keys() != expected:
        wanted = " and ".join(sorted(map(str, expected))) or "none"
        found.append(f"matrix instructions are {binary.matrix_instructions or 'none'}, expected {wanted}")
    if expected and launch.options["num_stages"] > 1 and not binary.asynchronous_copies:
        found.append("no asynchronous copy: its loops are not pipelined")
    return found

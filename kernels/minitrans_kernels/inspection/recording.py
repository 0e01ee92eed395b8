"""Collects kernel launches instead of making them, so that they can be compiled where there is no device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from minitrans_kernels import runtime


@dataclass(frozen=True, eq=False)
class Launch:
    """One specialisation of a kernel, as Triton would compile it at the call.

    Attributes:
        function: the `triton.jit` function.
        architecture: a row of `runtime.ARCHITECTURES`.
        signature: type of each argument by name.
        constants: values of the constexpr arguments, by position.
        attributes: what Triton knows of an argument beyond its type (divisible by 16), by position.
        options: num_warps, num_stages and the other options of the compiler.
    """

    function: Any
    architecture: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """The kernel's name, with the modules of this package that lead to it."""
        module = str(self.function.__module__).removeprefix("minitrans_kernels.")
        return f"{module}.{self.function.__name__}"

    @property
    def arguments(self) -> dict[str, Any]:
        """The constexpr arguments by name, without those inside a tuple."""
        return {self.function.arg_names[path[0]]: value for path, value in self.constants.items() if len(path) == 1}

    @property
    def tile(self) -> str:
        """Its block sizes, warps and stages."""
        blocks = [str(value) for name, value in self.arguments.items() if name.lower().startswith("block")]
        return f"{'x'.join(blocks) or '-'}, {self.options['num_warps']} w, {self.options['num_stages']} s"

    @property
    def key(self) -> str:
        """Equal for two launches that share a binary."""
        options = sorted((name, str(value)) for name, value in self.options.items())
        return str((self.function, self.architecture, self.signature, self.constants, self.attributes, options))


def target(architecture: str) -> GPUTarget:
    """Triton's name of an architecture, for instance sm_90."""
    return GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)


class _Driver:
    """Stands in for the driver of a device that is not here."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return target(self.architecture)

    def get_current_device(self) -> str:
        return self.architecture

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def recording(architecture: str) -> Iterator[list[Launch]]:
    """Collects the kernels launched inside, as launched on `architecture`, without running them.

    Tensors may lie on the CPU, or on the meta device when they are large; what the kernels would have written stays
    unwritten. Triton's own launch path chooses the specialisation, so it is the one of a real launch with 16-byte aligned
    tensors. Kernels that this process already launched on a device are recorded all the same.
    """
    launches: list[Launch] = []

    def record(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        options = json.loads(compile["specialization_data"])["options"]
        launches.append(
            Launch(
                function=fn.jit_function,
                architecture=architecture,
                signature=compile["signature"],
                constants=compile["constants"],
                attributes=compile["configs"][0],
                options={name: tuple(value) if isinstance(value, list) else value for name, value in options.items()},
            )
        )
        return True  # Triton then neither compiles nor runs it

    # modules hold the function under their own name once they have imported it
    askers = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("minitrans_kernels") and getattr(module, "architecture", None) is runtime.architecture
    ]
    before = driver._active
    driver.set_active(_Driver(architecture))
    patches = [mock.patch.object(module, "architecture", return_value=architecture) for module in askers]
    try:
        with knobs.runtime.scope():
            knobs.runtime.jit_cache_hook = record
            for patch in patches:
                patch.start()
            yield launches
    finally:
        for patch in patches:
            patch.stop()
        driver.set_active(before)

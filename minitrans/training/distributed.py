"""One training on several processes: who takes part, how gradients meet, and how all of them end when one fails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minitrans.layers.stack import Stack
from minitrans.training.objective import Batch, Objective


class Learner(nn.Module):
    """A model and its objective as one module: its forward gives the sums of the losses, and nothing else.

    Where the objective is a module too (a generator, a teacher), its parameters are among those of the learner.

    Args:
        model: what learns.
        objective: what is learnt.
    """

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch) -> Tensor:
        """See `Objective.losses`."""
        return self.objective.losses(self.model, batch)


class Ranks:
    """The processes of a training; one, where it was not started by torchrun.

    Args:
        device: where the model is.
        timeout: seconds that a rank waits for the others, before it fails.
    """

    def __init__(self, device: torch.device, timeout: float) -> None:
        self.device, self.rank, self.size = device, 0, 1
        self._store: Any = None
        if not dist.is_available() or not (dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1):
            return
        if not dist.is_initialized():
            wait = timedelta(seconds=timeout)
            self._store, rank, size = next(iter(rendezvous("env://", timeout=wait)))
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=self._store, rank=rank, world_size=size, timeout=wait)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def wrap(self, learner: Learner, parallel: str) -> nn.Module:
        """The learner as several ranks run it: copies whose gradients are averaged, or shards of one ("fsdp").

        Raises:
            ValueError: where it cannot be sharded.
        """
        if self.size == 1:
            return learner
        if parallel == "ddp":
            return DistributedDataParallel(learner, find_unused_parameters=True)
        if isinstance(learner.objective, nn.Module):
            raise ValueError("an objective with parameters of its own cannot be sharded: use parallel='ddp'")
        stacks = [module for module in learner.modules() if isinstance(module, Stack)]
        if any(stack.layer_drop for stack in stacks):
            raise ValueError("ranks would leave out different layers, and wait for each other: use parallel='ddp'")
        # its hooks dislike views among a model's outputs; nobody here writes to outputs in place
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self.device.type, (self.size,))
        for block in (block for stack in stacks for block in stack.layer):
            fully_shard(block, mesh=mesh)
        fully_shard(learner.model, mesh=mesh)
        return learner

    def sum(self, values: Tensor) -> Tensor:
        """Of all ranks."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def largest(self, value: int) -> int:
        """Of all ranks."""
        held = torch.tensor(value, device=self.device)
        if self.size > 1:
            dist.all_reduce(held, dist.ReduceOp.MAX)
        return int(held)

    def require_same(self, identity: Mapping[str, int]) -> None:
        """Raises ValueError, naming a key, where ranks have other values of 63 bits."""
        if self.size == 1:
            return
        mine = torch.tensor(list(identity.values()), device=self.device)
        lead = mine.clone()
        dist.broadcast(lead, 0)
        differs = self.sum((mine != lead).long())
        for name, count in zip(identity, differs.tolist(), strict=True):
            if count:
                raise ValueError(f"{name} is not the same on all ranks: {count} of {self.size} differ from rank 0")

    def from_lead(self, value: Any) -> Any:
        """What rank 0 has."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, 0, device=self.device)
        return held[0]

    def merged(self, mine: Mapping[str, Any]) -> dict[str, Any]:
        """What all ranks have together."""
        held: list[Any] = [mine]
        if self.size > 1:
            held = [None] * self.size
            dist.all_gather_object(held, mine)
        return {name: value for each in held for name, value in each.items()}

    def wait(self) -> None:
        """For all."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def one_message(self) -> Iterator[None]:
        """In which the first rank that fails raises its error, and the others end without a word and with status 1.

        A rank that is lost is noticed by the others when its connection closes, or else after the timeout.
        """
        try:
            yield
        except Exception as error:
            if self._is_first_to_fail():
                if self.size > 1:
                    error.add_note(
                        f"rank {self.rank} of {self.size}; if it waited for another one, that was lost or took too long"
                    )
                raise
            raise SystemExit(1) from None

    def _is_first_to_fail(self) -> bool:
        if self.size == 1 or self._store is None:
            return True
        try:
            return int(self._store.add("minitrans/failures", 1)) == 1
        except RuntimeError:  # the store was in the process that was lost: the lowest that is left speaks
            return self.rank == 1


@contextmanager
def micro_batch(module: nn.Module, *, last: bool) -> Iterator[None]:
    """The forward and backward of one: gradients add up, and those of all ranks meet with the last one of a step."""
    sharded = isinstance(module, Learner) and isinstance(module.model, FSDPModule)
    if sharded:
        cast("FSDPModule", cast("Learner", module).model).set_requires_gradient_sync(last)
    apart = isinstance(module, DistributedDataParallel) and not last
    with cast("DistributedDataParallel", module).no_sync() if apart else nullcontext():
        yield


def gradient_norm(parameters: Iterable[nn.Parameter], limit: float | None) -> float:
    """The norm of all gradients together, shards of other ranks included; they are scaled down to `limit` if it is beyond."""
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([cast("Tensor", parameter.grad) for parameter in learning])
    value = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if limit is not None and limit < value < float("inf"):
        nn.utils.clip_grads_with_norm_(learning, limit, norm)
    return value


@contextmanager
def ready_to_read(model: nn.Module) -> Iterator[None]:
    """In which all of a model answers, and not its `forward` alone; afterwards its shards are apart, as a step leaves them."""
    if isinstance(model, FSDPModule):
        model.unshard()
    try:
        yield
    finally:
        if isinstance(model, FSDPModule):
            model.reshard()


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """All tensors of a model, put together from the shards; every rank must ask."""
    state = model.state_dict()
    return {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in state.items()}

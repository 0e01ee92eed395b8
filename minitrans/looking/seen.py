"""What was seen: tensors by point and layer, in memory or in files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitrans.errors import nearest
from minitrans.looking.sites import Site


@dataclass(eq=False)
class _Found:
    """One value: in memory, or in a file of its own."""

    tensor: Tensor | None
    file: Path | None
    shown: Any  # from the tensor that has a gradient to what is seen of it

    def value(self) -> Tensor:
        if self.tensor is not None:
            shown: Tensor = self.shown(self.tensor)
            return shown
        from safetensors.torch import load_file

        return load_file(self.file)["value"]  # type: ignore[arg-type]

    def gradient(self) -> Tensor | None:
        gradient = None if self.tensor is None else self.tensor.grad
        return None if gradient is None else self.shown(gradient)


class Seen:
    """`seen["pattern", 3]` is the value at layer 3 in the last call of the model; `seen["pattern"]` a tuple, a layer each.

    Of a pair with two halves names are `"encoder.pattern"` and `"decoder.pattern"`; of points without a layer
    `seen["logits"]` is the tensor.

    Args:
        sites: that are looked at.
        to: a device, or a folder; None = where they are.
    """

    def __init__(self, sites: Sequence[Site], to: str | Path | torch.device | None = None) -> None:
        self._sites = {(site.full_name, site.layer): site for site in sites}
        self._found: dict[tuple[str, int | None], list[_Found]] = {key: [] for key in self._sites}
        self._device, self._folder = None, None
        if isinstance(to, torch.device) or (isinstance(to, str) and to.split(":")[0] in ("cpu", "cuda", "mps", "xpu")):
            self._device = torch.device(to)
        elif to is not None:
            self._folder = Path(to)
            self._folder.mkdir(parents=True, exist_ok=True)

    def add(self, site: Site, tensor: Tensor, shown: Any, keep_graph: bool) -> None:
        """One value more."""
        key = (site.full_name, site.layer)
        if keep_graph:
            if tensor.requires_grad:
                tensor.retain_grad()
            self._found[key].append(_Found(tensor, None, shown))
            return
        value = shown(tensor.detach())
        if self._folder is None:
            value = value.clone() if self._device is None else value.to(self._device, copy=True)
            self._found[key].append(_Found(value, None, _as_it_is))
            return
        from safetensors.torch import save_file

        name = site.full_name if site.layer is None else f"{site.full_name}.{site.layer}"
        file = self._folder / f"{name}.{len(self._found[key])}.safetensors"
        save_file({"value": value.contiguous()}, file)
        self._found[key].append(_Found(None, file, _as_it_is))

    def __getitem__(self, name: str | tuple[str, int]) -> Any:
        """See the class. Raises KeyError for what was not looked at, LookupError for what no call came past."""
        found = [self._last(key).value() for key in self._keys(name)]
        return found[0] if isinstance(name, tuple) or self._keys(name)[0][1] is None else tuple(found)

    def calls(self, name: str, layer: int | None = None) -> list[Tensor]:
        """The value in every call, in their order, as of the steps of a generation."""
        (key,) = self._keys(name if layer is None else (name, layer))
        return [each.value() for each in self._found[key]]

    def grad(self, name: str, layer: int | None = None) -> Tensor | None:
        """The gradient of the last call's value, after a backward pass; None where none came.

        Raises:
            RuntimeError: where the values were not kept in the graph.
        """
        (key,) = self._keys(name if layer is None else (name, layer))
        found = self._last(key)
        if found.tensor is None or not found.tensor.requires_grad:
            raise RuntimeError("there are gradients with look(..., gradients=True), of a model outside torch.no_grad()")
        return found.gradient()

    def stack(self, name: str) -> Tensor:
        """(L, ...): the values of all layers."""
        return torch.stack([self._last(key).value() for key in self._keys(name)])

    def __iter__(self) -> Iterator[tuple[str, int | None]]:
        """The (name, layer) of each point that is looked at."""
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, name: object) -> bool:
        return any(name in (key, key[0]) for key in self._sites)

    def missing(self) -> list[str]:
        """What no call came past."""
        return [
            name if layer is None else f"{name} {layer}" for (name, layer), found in self._found.items() if not found
        ]

    def _keys(self, name: str | tuple[str, int]) -> list[tuple[str, int | None]]:
        keys = [key for key in self._sites if name in (key, key[0])]
        if not keys:
            word = name[0] if isinstance(name, tuple) else name
            raise KeyError(
                f"{name!r} was not looked at; the nearest is {nearest(word, {key[0] for key in self._sites})}"
            )
        return keys

    def _last(self, key: tuple[str, int | None]) -> _Found:
        if not self._found[key]:
            raise LookupError(f"the model has not come past {key[0]!r} at layer {key[1]}")
        return self._found[key][-1]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor

"""The lens: what the model would say if a layer were its last (nostalgebraist 2020; tuned: Belrose et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.stack import Stack
from minitrans.looking.look import look


class Lens(nn.Module):
    """Reads the stream after every layer by the model's own language-model head.

    A post-norm model (BERT) is read as it is; a pre-norm one (GPT-2) through its last norm. `tune` learns a map for each
    layer first, x + W x + b, at first the identity.

    Args:
        model: with a head that scores the vocabulary, at its `get_output_embeddings`.

    Raises:
        ValueError: for a model without one, or a pair.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = [model]  # not a submodule: its weights are not the lens's
        stacks = [module for module in model.modules() if isinstance(module, Stack)]
        if len(stacks) != 1 or not hasattr(model, "lm_head"):
            raise ValueError(f"{type(model).__name__} has no one stack with a head that scores the vocabulary")
        self.norm = [stacks[0].LayerNorm]
        weight = next(stacks[0].parameters())
        width, layers = int(cast("Any", model).config.hidden_size), len(stacks[0].order)
        self.maps = nn.ModuleList(
            nn.Linear(width, width, device=weight.device, dtype=weight.dtype) for _ in range(layers)
        )
        for each in self.maps:
            nn.init.zeros_(cast("nn.Linear", each).weight)
            nn.init.zeros_(cast("nn.Linear", each).bias)

    def forward(self, **batch: Any) -> Tensor:
        """(L, B, T, V): the scores after each layer; those after the last are the model's own, where nothing is tuned."""
        return torch.stack([self._read(layer, state) for layer, state in enumerate(self._states(batch))])

    def tune(self, batches: Iterable[Mapping[str, Tensor]], rate: float = 1e-3) -> list[float]:
        """One step of Adam a batch: the KL divergence of each layer's reading from the model's. Returns their means."""
        optimizer, losses = torch.optim.Adam(self.maps.parameters(), lr=rate), []
        for batch in batches:
            states = self._states(batch)
            with torch.no_grad():
                said = self._read(len(states) - 1, states[-1], tuned=False).log_softmax(-1)
            real = (
                batch["attention_mask"].bool()
                if "attention_mask" in batch
                else torch.ones_like(said[..., 0], dtype=torch.bool)
            )
            readings = (self._read(layer, state).log_softmax(-1)[real] for layer, state in enumerate(states[:-1]))
            loss = torch.stack(
                [F.kl_div(each, said[real], log_target=True, reduction="batchmean") for each in readings]
            ).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    def _states(self, batch: Mapping[str, Any]) -> list[Tensor]:
        with torch.no_grad(), look(self._model[0], "resid_post") as seen:
            self._model[0](**batch)
        return list(seen["resid_post"])

    def _read(self, layer: int, state: Tensor, tuned: bool = True) -> Tensor:
        if tuned:
            state = state + self.maps[layer](state)
        state = state if self.norm[0] is None else self.norm[0](state)
        scores: Tensor = self._model[0].lm_head(state)  # type: ignore[operator]
        return scores

"""What libraries that take a Hugging Face model ask of one besides its forward: Trainer, peft, accelerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from minitrans.errors import NotSupportedError
from minitrans.layers.stack import Stack

logger = logging.getLogger("minitrans")


class ForClients(nn.Module):
    """Sizes, recomputation in place of memory, and the attributes that libraries look at.

    Attributes:
        main_input_name: the first argument of the forward.
        supports_gradient_checkpointing: whether blocks can be computed twice.
    """

    config: Any
    main_input_name: ClassVar[str] = "input_ids"
    supports_gradient_checkpointing: ClassVar[bool] = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "ClampedBlock", "ClampedEnd"]  # what sharding wraps
    _keys_to_ignore_on_save: ClassVar[None] = None
    _hooks_for_gradients: tuple[RemovableHandle, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next(self.parameters()).device

    @property
    def num_labels(self) -> int:
        """The configuration's."""
        return int(self.config.num_labels)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether it has a `generate`: see `generative.py` for those that have."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """How many numbers the parameters hold; tied ones count once, with the table that they are tied to."""
        tables = {
            id(table.weight) for table in self.modules() if exclude_embeddings and isinstance(table, nn.Embedding)
        }
        counted = (p for p in self.parameters() if id(p) not in tables and (p.requires_grad or not only_trainable))
        return sum(parameter.numel() for parameter in counted)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the parameters, tied ones once, and of the buffers."""
        return sum(x.nbytes for x in (*self.parameters(), *(self.buffers() if return_buffers else ())))

    def gradient_checkpointing_enable(
        self,
        gradient_checkpointing_kwargs: Mapping[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """In training, blocks keep their input only and run again in the backward pass, with the same dropout (Chen et al. 2016).

        The numbers stay the same. A decoder returns no cache meanwhile; a call with a cache is not run again.

        Args:
            gradient_checkpointing_kwargs: of `torch.utils.checkpoint.checkpoint`. Its `use_reentrant` changes no number, and is
                False whatever is asked: the other way loses gradients that reach a block by other ways than its input.
            every_n_layers: 1.
            offload: False.

        Raises:
            NotSupportedError: for other values of the two.
        """
        options = {**(gradient_checkpointing_kwargs or {}), "use_reentrant": False}
        asked = {"every_n_layers": every_n_layers != 1, "offload=True": offload}
        if any(asked.values()):
            names = ", ".join(name for name, is_asked in asked.items() if is_asked)
            raise NotSupportedError(f"every block is run again, and its input stays where it is: leave out {names}")
        self._run_again(partial(checkpoint, **options))

    def gradient_checkpointing_disable(self) -> None:
        """Blocks keep everything again."""
        self._run_again(None)

    def _run_again(self, run: Any) -> None:
        for module in self.modules():
            if isinstance(module, Stack):
                module.gradient_checkpointing = run

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks run again."""
        return any(module.gradient_checkpointing is not None for module in self.modules() if isinstance(module, Stack))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        """The newer name of `gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable(activation_checkpointing_kwargs, **options)

    def activation_checkpointing_disable(self) -> None:
        """The newer name of `gradient_checkpointing_disable`."""
        self.gradient_checkpointing_disable()

    @property
    def is_activation_checkpointing(self) -> bool:
        """The newer name of `is_gradient_checkpointing`."""
        return self.is_gradient_checkpointing

    def enable_input_require_grads(self) -> None:
        """What leaves the token table requires a gradient, though the table be frozen: adapters further up may need it."""
        self.disable_input_require_grads()
        self._hooks_for_gradients = (self.get_input_embeddings().register_forward_hook(_require_gradient),)

    def disable_input_require_grads(self) -> None:
        """Takes that back."""
        for hook in self._hooks_for_gradients:
            hook.remove()
        self._hooks_for_gradients = ()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        raise NotImplementedError

    def warn_if_padding_and_no_attention_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> None:
        """Warns where a text without a mask begins or ends with padding; for forwards of one's own: ours guess nothing (M4)."""
        pad: Any = self.config.pad_token_id
        if attention_mask is None and pad is not None and bool((input_ids[:, [0, -1]] == pad).any()):
            logger.warning(
                "input_ids hold pad_token_id=%d and there is no attention_mask: padding is read as text", pad
            )


def _require_gradient(module: nn.Module, given: Any, out: Tensor) -> None:
    out.requires_grad_()

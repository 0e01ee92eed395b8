"""What makes a training tool save our models as checkpoints that both libraries open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


class SavesPretrained:
    """For `transformers.Trainer`, which calls `save_pretrained` only of models that derive from the reference's base class.

    Of any other it saves the bare state dict: without config.json, by our names, and not at all where two parameters are tied,
    as in a masked language model. Such a folder loads here with `config=...`. A trainer of this kind writes whole checkpoints,
    on the way and at the end, and resumes from them:

        class Trainer(SavesPretrained, transformers.Trainer): ...
    """

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        trainer: Any = self
        args, folder = trainer.args, Path(output_dir or trainer.args.output_dir)
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        model.save_pretrained(folder, state_dict=state_dict, is_main_process=args.should_save)
        if not args.should_save:
            return
        tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        torch.save(args, folder / "training_args.bin")

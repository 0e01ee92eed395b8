"""The reference's common tests of models, for every family; what a family has of its own beside them, where the checkout has it."""

from __future__ import annotations

import importlib
import os
import unittest
from typing import Any

import torch
from shim import OURS, install, is_there

from minitrans.families import FAMILIES

transformers: Any = install()
testing = importlib.import_module("transformers.testing_utils")
steady = testing.set_config_for_less_flaky_test


def set_what_can_be(config: Any) -> None:
    """Their helper sets every eps that a configuration may have, one that its class fixes too."""
    try:
        steady(config)
    except ValueError as error:
        if "is fixed by the class" not in str(error):
            raise


testing.set_config_for_less_flaky_test = set_what_can_be
common = importlib.import_module("tests.test_modeling_common")
WANTED = os.environ.get("PEERS_FAMILIES", "").split() or [
    family for family, row in FAMILIES.items() if "Model" in row.heads
]
SECOND_LABELS = {"Bert": "next_sentence_label", "Albert": "sentence_order_label"}


class Tester:
    """What their tests ask of a family: a small configuration, and a batch for it.

    Args:
        family: our model type.
        is_pair: whether it is an encoder and a decoder.
        fields: of the configuration, besides the sizes.
    """

    batch_size, seq_length, num_hidden_layers, hidden_size, num_attention_heads, num_choices = 5, 7, 2, 32, 4, 3
    is_training, vocab_size, num_labels, encoder_seq_length, key_length = True, 99, 2, 7, 7

    def __init__(self, family: str, is_pair: bool, **fields: Any) -> None:
        self.fields, self.is_encoder_decoder = fields, is_pair
        self.config_class: Any = getattr(transformers, f"{FAMILIES[family].prefix}Config")

    def get_config(self) -> Any:
        """Small, of the sizes above."""
        sizes = {
            "vocab_size": self.vocab_size, "hidden_size": self.hidden_size, "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads, "intermediate_size": 37, "max_position_embeddings": 50,
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
        }  # fmt: skip
        of_pairs = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 37, "d_kv": 8}
        own = {name: value for name, value in of_pairs.items() if hasattr(self.config_class, name)}
        if getattr(self.config_class, "pad_token_id", 0) is None:
            own["pad_token_id"] = 0  # by which classifiers of decoders find the end of a text
        return self.config_class(**{**sizes, **own, **self.fields})

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        """A configuration, and ids and a mask with padding at the end."""
        ids = torch.randint(3, self.vocab_size, (self.batch_size, self.seq_length))
        mask = torch.ones_like(ids)
        mask[1, 4:] = 0
        given = {"input_ids": ids, "attention_mask": mask}
        if self.is_encoder_decoder:
            ids[:, -1] = self.get_config().eos_token_id  # by which a text is classified
            given |= {"decoder_input_ids": ids.flip(1), "decoder_attention_mask": mask}
        return self.get_config(), given


def suite(family: str, *, decoders: bool) -> type[unittest.TestCase]:
    """Their common tests, of the encoders of a family, or of its decoders, which are configured as such."""
    row = FAMILIES[family]
    heads = [head for head in row.heads if (head == "ForCausalLM") is decoders]
    is_pair = "ForSeq2SeqLM" in row.heads and not decoders
    fields = {"is_decoder": True, "use_cache": False} if decoders else {}
    if decoders and "ForSeq2SeqLM" in row.heads:
        fields["is_encoder_decoder"] = False

    classes = tuple(getattr(transformers, row.class_name(head)) for head in heads)
    if OURS and (theirs := [each for each in classes if not each.__module__.startswith("minitrans.")]):
        raise RuntimeError(f"{theirs} are theirs")

    class Suite(common.ModelTesterMixin, unittest.TestCase):  # type: ignore[misc, name-defined]
        all_model_classes = classes
        is_encoder_decoder = is_pair

        def setUp(self) -> None:
            self.model_tester = Tester(family, is_pair=is_pair, **fields)

        def _prepare_for_class(self, inputs: dict[str, Any], model_class: type, return_labels: bool = False) -> Any:
            """With the labels of both losses, where a model is pretrained by two."""
            given = super()._prepare_for_class(inputs, model_class, return_labels)
            if return_labels and model_class.__name__.endswith("ForPreTraining"):
                given["labels"] = torch.zeros_like(given["input_ids"])
                if row.prefix in SECOND_LABELS:
                    given[SECOND_LABELS[row.prefix]] = torch.zeros(len(given["input_ids"]), dtype=torch.long)
            return given

    Suite.__name__ = Suite.__qualname__ = f"{row.prefix}{'Decoder' if decoders else 'Encoder'}Test"
    return Suite


for _family in WANTED:
    for _decoders in (False, True) if "ForCausalLM" in FAMILIES[_family].heads else (False,):
        _suite = suite(_family, decoders=_decoders)
        globals()[_suite.__name__] = _suite
    _own = f"tests.models.{_family.replace('-', '_')}.test_modeling_{_family.replace('-', '_')}"
    if is_there(_own):
        for _name, _value in vars(importlib.import_module(_own)).items():
            if isinstance(_value, type) and issubclass(_value, unittest.TestCase):
                globals()[f"Own{_name}"] = _value
del _suite

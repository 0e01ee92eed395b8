"""The table of families: whatever can be told from it is, and a family is a file, a table of weights and a row."""

from __future__ import annotations

import copy
import importlib
import json
import pickle
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import minitrans
from minitrans.checkpoints import convert
from minitrans.families import FAMILIES, HEADS, FamilyRow, auto_name, class_names
from minitrans.models import auto
from minitrans.models.auto import class_by_name
from minitrans.models.loading import family_of

ROOT = Path(__file__).resolve().parents[1]
TOY_MODEL = '''
"""A toy: BERT under another name."""
from dataclasses import dataclass
from typing import ClassVar

from minitrans.models import bert


@dataclass(kw_only=True)
class ToyConfig(bert.BertConfig):
    model_type: ClassVar[str] = "toy"


class ToyModel(bert.BertModel):
    config_class = ToyConfig
    base_model_prefix = "toy"


class ToyForSequenceClassification(bert.BertForSequenceClassification):
    config_class = ToyConfig
    base_model_prefix = "toy"
    body_class = ToyModel
'''
TOY_WEIGHTS = '''
"""The toy's names: BERT's body under "tower"."""
from weights_convert.families import bert
from weights_convert.families.family import Family
from weights_convert.rules import Rename


def _table(config):
    for row in bert.FAMILY.table(config):
        yield Rename(row.source.replace("encoder.", "tower."), row.target) if isinstance(row, Rename) else row


FAMILY = Family(
    prefix="toy", table=lambda config: tuple(_table(config)), fresh=bert.FAMILY.fresh
)
'''
SIZES = {"vocab_size": 7, "hidden_size": 6, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 5}


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if both files lay in the tree and the row stood in the table."""
    for package, content in (("minitrans.models", TOY_MODEL), ("weights_convert.families", TOY_WEIGHTS)):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "toy.py").write_text(content)
        home = importlib.import_module(package)
        monkeypatch.setattr(home, "__path__", [*home.__path__, str(folder)])
        monkeypatch.delitem(sys.modules, f"{package}.toy", raising=False)
    row = FamilyRow("toy", "Toy", "toy", "BertTokenizer", ("Model", "ForSequenceClassification"))
    monkeypatch.setitem(FAMILIES, "toy", row)
    return tmp_path


def test_a_family_is_a_file_a_table_of_weights_and_a_row(toy: Path) -> None:
    config: Any = class_by_name("ToyConfig")(**SIZES, num_labels=3)
    model = minitrans.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(toy / "saved")
    stored = json.loads((toy / "saved" / "config.json").read_text())
    assert (stored["model_type"], stored["architectures"]) == ("toy", ["ToyForSequenceClassification"])
    assert "toy.tower.layer.1.output.dense.weight" in load_file(toy / "saved" / "model.safetensors")

    again = minitrans.AutoModelForSequenceClassification.from_pretrained(toy / "saved", num_labels=3)
    assert type(again) is class_by_name("ToyForSequenceClassification")
    assert minitrans.AutoConfig.from_pretrained(toy / "saved") == config
    saved = model.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in again.state_dict().items())
    body = minitrans.AutoModel.from_pretrained(toy / "saved")
    assert torch.equal(
        body.encoder.layer[1].feed_forward.down.weight, saved["toy.encoder.layer.1.feed_forward.down.weight"]
    )

    convert(toy / "saved", toy / "clean")
    (toy / "clean" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n")
    assert type(minitrans.AutoTokenizer.from_pretrained(toy / "clean")).__name__ == "BertTokenizer"
    with pytest.raises(ValueError, match="'toy' has no such head; families that do: bert"):
        minitrans.AutoModelForMaskedLM.from_pretrained(toy / "saved")


def test_a_row_is_all_that_the_exports_need(toy: Path) -> None:
    spec = spec_from_file_location("minitrans_again", minitrans.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = module_from_spec(spec)
    spec.loader.exec_module(again)
    assert set(again.__all__) - set(minitrans.__all__) == {"ToyConfig", "ToyModel", "ToyForSequenceClassification"}
    assert again.ToyModel is class_by_name("ToyModel")


@pytest.mark.parametrize(("model_type", "row"), FAMILIES.items())
def test_every_row_is_true(model_type: str, row: FamilyRow) -> None:
    for name in row.class_names:
        cls = getattr(minitrans, name)
        assert cls is class_by_name(name)
        assert cls.__module__ == f"minitrans.models.{row.module}"
    assert class_by_name(row.class_names[0]).model_type == model_type
    assert family_of(model_type).prefix == class_by_name(f"{row.prefix}Model").base_model_prefix
    assert getattr(minitrans, row.tokenizer) is getattr(minitrans, f"{row.tokenizer}Fast")


def test_every_head_has_its_auto_class() -> None:
    assert {name for name in vars(auto) if name.startswith("AutoModel")} == {auto_name(head) for head in HEADS}


def test_every_file_has_a_row() -> None:
    weights = {path.stem for path in (ROOT / "weights_convert" / "families").glob("*.py")} - {"__init__", "family"}
    assert weights == {row.weights for row in FAMILIES.values()}
    public = {name for row in FAMILIES.values() for name in row.class_names}
    assert public == set(class_names())


def test_a_configuration_is_read_by_bert_s_names_and_by_its_own() -> None:
    config = minitrans.DistilBertConfig(dim=24, n_heads=3, n_layers=2, hidden_dim=20, activation="relu")
    for own, known in (config, pickle.loads(pickle.dumps(config))), (copy.copy(config), config.updated()):
        assert own == known
        assert (known.hidden_size, known.num_attention_heads, known.num_hidden_layers) == (24, 3, 2)
        assert (known.intermediate_size, known.hidden_act, known.embedding_size) == (20, "relu", 24)
        assert (known.type_vocab_size, known.is_decoder, known.use_cache) == (0, False, False)
        assert (known.position_embedding_type, known.layer_norm_eps) == ("absolute", 1e-12)
    assert minitrans.ElectraConfig(embedding_size=9).embedding_size == 9
    with pytest.raises(AttributeError, match="DistilBertConfig has no field 'hiden_size'"):
        _ = config.hiden_size
    assert minitrans.DistilBertConfig(hidden_size=24, num_attention_heads=3) == minitrans.DistilBertConfig(
        dim=24, n_heads=3
    )

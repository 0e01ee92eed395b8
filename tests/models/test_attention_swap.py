"""`convert_attention` on models in memory: what `from_pretrained` makes of the same weights, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import minitrans
from minitrans import AutoModel, AutoModelForMaskedLM, convert_attention
from minitrans.attention.registry import VARIANTS
from minitrans.lab.specs import read_subjects

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20,
    "max_position_embeddings": 18,
}  # fmt: skip
IDS = torch.randint(3, 40, (2, 9), generator=torch.Generator().manual_seed(1))


def tiny(family: str = "Bert", head: str = "ForMaskedLM") -> Any:
    torch.manual_seed(0)
    config = getattr(minitrans, f"{family}Config")(**SIZES, **({} if family == "Bert" else {"pad_token_id": 1}))
    made = getattr(minitrans, f"{family}{head}")(config).double().eval()
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


def scores(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, padding="keep").logits  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tiny")
    tiny().save_pretrained(place)
    return place


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_what_loading_makes(name: str, folder: Path) -> None:
    spec = read_subjects([name])[0].spec
    torch.manual_seed(7)
    loaded = AutoModelForMaskedLM.from_pretrained(folder, attention=spec)
    model = AutoModelForMaskedLM.from_pretrained(folder)
    before, weights = scores(model), dict(model.state_dict())
    torch.manual_seed(7)
    done = convert_attention(model, spec)
    assert torch.equal(scores(model), scores(loaded))
    assert sorted(done.fresh) == sorted(loaded.load_report.fresh)
    assert model.config == loaded.config
    done.undo()
    assert torch.equal(scores(model), before)
    assert model.config.attention == "full"
    assert set(model.state_dict()) == set(weights)


def test_the_report_says_how_parameters_begin() -> None:
    model = tiny()
    done = convert_attention(model, {"layers": {"0": "multi_latent", "1": "gated_output"}}, dropout=0.0)
    layers = "bert.encoder.layer."
    assert {name.removeprefix(layers): how for name, how in done.begins.items()} == {
        "0.attention.variants.0.down": "from the weights of its block",
        "0.attention.variants.0.up": "from the weights of its block",
        "0.attention.variants.0.offset": "from the weights of its block",
        "1.attention.variants.0.gate.weight": "as its row begins",
        "1.attention.variants.0.gate.bias": "as its row begins",
    }
    assert str(done) == f"5 fresh parameters of {2 * 32 * 32 + 32 + 16 * 16 + 16} numbers"
    assert model.config.attention_probs_dropout_prob == 0.0
    done.undo()
    assert model.config.attention_probs_dropout_prob == 0.1
    assert model.bert.encoder.layer[0].attention.dropout_p == 0.1


def test_back_to_what_was_learned() -> None:
    model = tiny()
    convert_attention(model, "gated_output")
    (gate,) = (v for v in model.bert.encoder.layer[1].attention.variants)
    gate.gate.bias.data += 1
    learned = scores(model)
    done = convert_attention(model, "sigmoid")
    assert not torch.equal(scores(model), learned)
    done.undo()
    assert model.bert.encoder.layer[1].attention.variants[0] is gate
    assert torch.equal(scores(model), learned)


@pytest.mark.parametrize(("family", "first"), [("Bert", 0), ("Roberta", 2)])
def test_positions_are_repeated(family: str, first: int, tmp_path: Path) -> None:
    model = tiny(family)
    short, table = scores(model), model.base_model.embeddings.position_embeddings.weight
    had = 18 - first
    done = convert_attention(model, {"name": "sliding_window", "window": 4}, longest=50)
    longer = model.base_model.embeddings.position_embeddings.weight
    assert done.longest == (had, 50)
    assert str(done).endswith(f"; positions for 50 tokens instead of {had}")
    assert len(longer) == first + 50
    assert torch.equal(longer[:18], table)
    for i in range(50):
        assert torch.equal(longer[first + i], table[first + i % had])
    long = torch.randint(3, 40, (1, 50), generator=torch.Generator().manual_seed(2))
    found = scores(model, long)
    model.save_pretrained(tmp_path)
    assert torch.equal(scores(AutoModelForMaskedLM.from_pretrained(tmp_path), long), found)
    model.set_attention("full")
    assert torch.equal(scores(model), short)
    done.undo()
    assert model.base_model.embeddings.position_embeddings.weight is table
    with pytest.raises(ValueError, match=f"50 tokens, the model has positions for {had}"):
        scores(model, long)


def test_a_row_with_a_table_of_places_gets_the_new_length() -> None:
    model = tiny(head="Model")
    convert_attention(model, "synthesizer_random", longest=40)
    assert model.encoder.layer[0].attention.variants[0].table.shape == (4, 40, 40)


def test_what_fails_changes_nothing() -> None:
    model = tiny()
    before, fields = scores(model), model.config.fields()
    for spec, longest in (("softmux", 60), ({"name": "sliding_window"}, 60), ("sigmoid", 4)):
        with pytest.raises((ValueError, TypeError)):
            convert_attention(model, spec, longest=longest)
        assert torch.equal(scores(model), before)
        assert model.config.fields() == fields
        assert model.bert.embeddings.position_embeddings.num_embeddings == 18


def test_relative_positions_are_not_repeated() -> None:
    config = minitrans.BertConfig(**SIZES, position_embedding_type="relative_key")
    model = AutoModel.from_config(config)
    with pytest.raises(ValueError, match="longest=64: .* has none, or relative ones besides"):
        convert_attention(model, "sigmoid", longest=64)

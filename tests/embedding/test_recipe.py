"""What a folder of sentence-transformers says, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from minitrans import CheckpointError, Encoder, NotSupportedError
from minitrans.embedding import Recipe, read_recipe
from minitrans.embedding.recipe import Module
from tests.embedding.conftest import PLACE, sentence_folder, write_dense


def test_the_real_recipe_is_read(minilm: Path):
    assert read_recipe(minilm) == Recipe(("mean",), 256, head=(Module("Normalize", "2_Normalize"),))


def test_a_plain_checkpoint_is_the_mean(body: str):
    assert read_recipe(body) == Recipe()


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_max_tokens": True, "pooling_mode_cls_token": True}, ("cls", "max")),
        ({"pooling_mode": "mean_sqrt_len_tokens", "pooling_mode_cls_token": True}, ("mean_sqrt_len",)),
        ({"pooling_mode": ["weightedmean", "cls"]}, ("weightedmean", "cls")),
        ({"pooling_mode_cls_token": False}, ("mean",)),
    ],
)
def test_the_folder_chooses_the_pooling(body: str, tmp_path: Path, pooling: dict, expected: tuple[str, ...]):
    length = {"max_seq_length": 5, "do_lower_case": True}
    folder = sentence_folder(body, tmp_path / "m", pooling, head=("Dense",), length=length)
    assert read_recipe(folder) == Recipe(expected, 5, True, (Module("Dense", "2_Dense"),))


def entry(kind: str, path: str = "") -> dict[str, str]:
    return {"type": PLACE + kind, "path": path}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "1_Pooling/config.json",
            {"pooling_mode_sum": True},
            "the pooling ['pooling_mode_sum'] is not offered, only mean",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "sum"}, "the pooling sum is not offered"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "the pooling 3 is not offered"),
        ("modules.json", [entry("Transformer"), entry("LSTM", "1_LSTM")], "models.LSTM' is not offered"),
        ("modules.json", [{"type": "os.Transformer", "path": ""}], "the module 'os.Transformer' is not offered"),
        ("modules.json", [entry("Transformer"), entry("Pooling", "../other")], "expected a path inside the folder"),
        ("modules.json", [entry("Transformer"), entry("Pooling", "/etc")], "expected a path inside the folder"),
        ("modules.json", [entry("Transformer"), entry("Pooling", "a//b")], "expected a path inside the folder"),
        ("modules.json", {"type": 1}, "expected a list of modules"),
        ("modules.json", [{"type": PLACE + "Transformer", "path": None}], "expected a list of modules"),
        ("modules.json", [{"type": PLACE + "Transformer"}], "expected a list of modules"),
        (
            "modules.json",
            [entry("Transformer", "absent"), entry("Pooling", "1_Pooling")],
            "a folder absent, found none",
        ),
        ("modules.json", [entry("Pooling", "1_Pooling")], "only one Transformer, then one Pooling"),
        ("modules.json", [entry("Transformer"), entry("Dense", "2_Dense"), entry("Pooling", "1_Pooling")], "at once"),
        ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length: expected a number above 2"),
        ("sentence_bert_config.json", {"do_lower_case": 1}, "do_lower_case: expected true or false"),
        ("config_sentence_transformers.json", {"prompts": {"q": 1}}, "prompts: expected texts by name"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt_name: expected one of"),
        ("2_Dense/config.json", {"in_features": 0}, "out_features: expected a number from 1"),
        ("2_Dense/config.json", {"in_features": 24, "out_features": 8}, "expected linear.weight (8, 24)"),
    ],
)
def test_recipes_that_are_refused(body: str, tmp_path: Path, file: str, content: object, message: str):
    folder = sentence_folder(body, tmp_path / "m", head=("Dense",))
    (folder / file).write_text(json.dumps(content))
    with pytest.raises((CheckpointError, NotSupportedError)) as caught:
        Encoder(folder)
    assert message in str(caught.value)
    assert Path(file).name in str(caught.value) or "model.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "os.system"}, "activation_function: expected one of torch.nn.modules.activation.Tanh"),
        ({"activation_function": ["x"]}, "activation_function"),
        ({"use_residual": True}, "use_residual: only False is offered, found True"),
        ({"module_input_name": "token_embeddings"}, "module_input_name: only 'sentence_embedding' is offered"),
    ],
)
def test_dense_layers_that_are_refused(body: str, tmp_path: Path, changes: dict, message: str):
    folder = sentence_folder(body, tmp_path / "m", head=("Dense",))
    write_dense(folder / "2_Dense", 24, 7, **changes)
    with pytest.raises(NotSupportedError, match=message):
        Encoder(folder)


def test_a_pooling_that_does_not_fit_the_head(body: str, tmp_path: Path):
    folder = sentence_folder(body, tmp_path / "m", {"pooling_mode": ["cls", "mean"]}, head=("Dense",), dense=(48, 5))
    encoder = Encoder(folder)
    assert encoder.encode("cat").shape == (5,)
    with pytest.raises(ValueError, match="cls gives 24 numbers, the Dense layer after it takes 48"):
        encoder.encode("cat", pooling="cls")


def test_a_body_in_a_folder_of_its_own(body: str, tmp_path: Path):
    folder = sentence_folder(body, tmp_path / "m")
    expected = Encoder(folder).encode(["the cat", "snow"])
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name != "modules.json":
            path.rename(folder / "0_Transformer" / path.name)
    modules = [entry("Transformer", "0_Transformer"), entry("Pooling", "1_Pooling")]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert torch.equal(Encoder(folder).encode(["the cat", "snow"]), expected)

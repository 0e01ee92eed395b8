"""Every word that a script passes when it loads or saves acts, changes nothing, or is refused with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import minitrans
from minitrans import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
)
from minitrans.errors import CheckpointError, NotSupportedError
from minitrans.models.words import LOADING, SAVING, TO_FOLDER

SIZES: Any = {
    "vocab_size": 37, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 33,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 5, 6, 7]])
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the reference, with a variant, a pickle and a folder inside it that hold other numbers."""
    root = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).save_pretrained(root)
    tensors = load_file(root / "model.safetensors")

    def times(factor: float) -> dict[str, torch.Tensor]:
        return {key: tensor * factor for key, tensor in tensors.items()}

    save_file(times(2.0), root / "model.fp16.safetensors", metadata={"format": "pt"})
    torch.save(times(3.0), root / "pytorch_model.bin")
    shutil.copytree(root, root / "inner")
    save_file(times(4.0), root / "inner" / "model.safetensors", metadata={"format": "pt"})
    return root


def load(folder: Path, **words: Any) -> BertForMaskedLM:
    return BertForMaskedLM.from_pretrained(folder, **words)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(IDS.to(model.device)).logits
    return scores


def factor(model: Any, folder: Path) -> float:
    """Which of the files in the folder a model was loaded from."""
    stored = load_file(folder / "model.safetensors")["cls.predictions.transform.dense.weight"]
    return round(float((model.lm_head.dense.weight.detach() / stored).mean()), 3)


def own_config(folder: Path) -> Any:
    return minitrans.AutoConfig.from_pretrained(folder)


# word -> what to pass, and what must be so of the model; a function of the folder where the value depends on it
ACTS: dict[str, tuple[Any, Callable[[Any, Path], bool]]] = {
    "dtype": ("float64", lambda model, _: model.dtype == torch.float64),
    "torch_dtype": (torch.bfloat16, lambda model, _: model.dtype == torch.bfloat16),
    "attention": ("sigmoid", lambda model, _: model.config.attention == "sigmoid"),
    "backend": ("eager", lambda model, _: model.bert.encoder.layer[0].attention.backend == "eager"),
    "attn_implementation": ("flex_attention", lambda model, _: model.bert.encoder.layer[0].attention.backend == "flex"),
    "padding": ("remove", lambda model, _: model.base_model.padding == "remove"),
    "config": (lambda at: own_config(at).updated(hidden_dropout_prob=0.3), lambda model, _: model.config.hidden_dropout_prob == 0.3),
    "ignore_mismatched_sizes": (True, lambda model, _: not model.load_report.fresh),
    "strict_config": (True, lambda model, at: factor(model, at) == 1.0),
    "trust_remote_code": (True, lambda model, at: factor(model, at) == 1.0),
    "device": ("meta", lambda model, _: model.device.type == "meta"),
    "device_map": ({"": "cpu"}, lambda model, _: model.device.type == "cpu"),
    "pretrained_model_name_or_path": (lambda at: at, lambda model, at: factor(model, at) == 1.0),
    "state_dict": (
        lambda at: {key: value * 5 for key, value in load_file(at / "model.safetensors").items()},
        lambda model, at: factor(model, at) == 5.0,
    ),
    "key_mapping": ({r"^cls\.": "cls."}, lambda model, at: factor(model, at) == 1.0),
    "variant": ("fp16", lambda model, at: factor(model, at) == 2.0),
    "use_safetensors": (False, lambda model, at: factor(model, at) == 3.0),
    "subfolder": ("inner", lambda model, at: factor(model, at) == 4.0),
}  # fmt: skip
IGNORED: dict[str, Any] = {
    "low_cpu_mem_usage": True, "offload_folder": "offload", "offload_state_dict": True, "offload_buffers": True,
    "weights_only": False, "disable_mmap": True, "resume_download": True, "mirror": "tuna", "tqdm_class": object,
    "user_agent": {}, "code_revision": "main", "allow_all_kernels": True, "experts_implementation": "eager",
    "_fast_init": True, "_commit_hash": "abc", "_from_auto": True, "_from_pipeline": "fill-mask",
}  # fmt: skip
# what the hub is asked: tests/test_hub.py shows that all of it arrives there
HUB: dict[str, tuple[Any, str]] = {
    "revision": ("v2", "revision"), "local_files_only": (True, "local_files_only"), "cache_dir": ("cache", "cache_dir"),
    "force_download": (True, "force_download"), "token": ("hf_x", "token"), "use_auth_token": ("hf_y", "token"),
}  # fmt: skip
# word -> the values that a script that means nothing by it passes, one that cannot be meant, and what is said then
REFUSED: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "use_flash_attention_2": ((False,), True, "attn_implementation='sdpa'"),
    "gradient_checkpointing": ((False,), True, r"model.gradient_checkpointing_enable\(\)"),
    "quantization_config": ((), {"load_in_4bit": True}, r"minitrans.cpu.prepare\(model, 'int8'\)"),
    "load_in_8bit": ((False,), True, "torchao.quantization.quantize_"),
    "load_in_4bit": ((False,), True, "torchao.quantization.quantize_"),
    "fusion_config": (({},), {"patch_embeddings": True}, r"minitrans.fuse\(model\)"),
    "use_kernels": ((False,), True, "backend='triton'"),
    "kernel_config": ((), SimpleNamespace(), "backend='triton'"),
    "max_memory": (({},), {0: "20GB"}, "to one device as a whole.*leave it out"),
    "tp_plan": ((), "auto", "DDP, FSDP2"),
    "tp_size": ((1,), 2, "DDP, FSDP2"),
    "device_mesh": ((), SimpleNamespace(), "DDP, FSDP2"),
    "distributed_config": ((), SimpleNamespace(), "DDP, FSDP2"),
    "from_tf": ((False,), True, "convert the checkpoint to PyTorch"),
    "from_flax": ((False,), True, "convert the checkpoint to PyTorch"),
    "gguf_file": ((), "x.gguf", "the checkpoint that the GGUF file was made from"),
    "adapter_kwargs": (({},), {"revision": "v2"}, "peft.PeftModel.from_pretrained"),
    "adapter_name": (("default",), "other", "peft.PeftModel.from_pretrained"),
    "proxies": (({},), {"https": "foo:3128"}, "HTTPS_PROXY"),
}
ELSEWHERE = {"output_loading_info", "add_pooling_layer", "generation_config"}  # in tests of their own, below


def test_every_word_of_loading_has_a_case():
    cases = [*ACTS, *IGNORED, *HUB, *REFUSED, *ELSEWHERE]
    assert sorted(cases) == sorted(LOADING)
    assert all(word.note for table in (LOADING, SAVING, TO_FOLDER) for word in table.values())


@pytest.mark.parametrize("word", ACTS)
def test_words_that_act(word: str, folder: Path):
    value, holds = ACTS[word]
    value = value(folder) if callable(value) else value
    place = () if word == "pretrained_model_name_or_path" else (folder,)
    assert holds(BertForMaskedLM.from_pretrained(*place, **{word: value}), folder)
    if word not in ("attention", "device", "trust_remote_code"):
        assert holds(AutoModelForMaskedLM.from_pretrained(*place, **{word: value}), folder)
    if word not in (
        "ignore_mismatched_sizes",
        "strict_config",
        "device_map",
        "pretrained_model_name_or_path",
        "key_mapping",
        "trust_remote_code",
    ):
        assert not holds(load(folder), folder), "the word makes no difference"


@pytest.mark.parametrize("word", IGNORED)
def test_words_that_change_nothing(word: str, folder: Path):
    assert torch.equal(logits(load(folder, **{word: IGNORED[word]})), logits(load(folder)))


@pytest.mark.parametrize("word", HUB)
@pytest.mark.parametrize("auto", [False, True])
def test_words_for_the_hub(word: str, auto: bool, folder: Path, monkeypatch: pytest.MonkeyPatch):
    value, name = HUB[word]
    asked: list[dict[str, Any]] = []

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.append(options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    cls: Any = AutoModelForMaskedLM if auto else BertForMaskedLM
    model = cls.from_pretrained("owner/name", **{word: value})
    assert len(asked) == 1 + auto
    assert all(options[name] == value for options in asked)
    assert model.name_or_path == "owner/name"


@pytest.mark.parametrize("word", REFUSED)
def test_words_that_cannot_be_meant(word: str, folder: Path):
    harmless, value, told = REFUSED[word]
    for nothing in (None, *harmless):
        load(folder, **{word: nothing})
    for cls in (BertForMaskedLM, AutoModelForMaskedLM):
        with pytest.raises(
            NotSupportedError, match=rf"(?s){cls.__name__}\.from_pretrained: {word}=.* is not offered: .*{told}"
        ):
            cls.from_pretrained(folder, **{word: value})


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ({"attn_implementation": "flash_attention_2"}, NotSupportedError, "eager, sdpa, flex_attention; say attn_implementation='sdpa'"),
        ({"attn_implementation": "kernels-community/flash-attn"}, NotSupportedError, "backend='triton'"),
        ({"device_map": {"bert": 0, "cls": "cpu"}}, NotSupportedError, "to one device as a whole"),
        ({"device_map": "disk"}, NotSupportedError, "to one device as a whole"),
        ({"device_map": {}}, NotSupportedError, "to one device as a whole"),
        ({"device_map": ["cpu"]}, NotSupportedError, "to one device as a whole"),
        ({"torch_dtype": "float16", "dtype": "float32"}, ValueError, "give dtype or torch_dtype, got both"),
        ({"attn_implementation": "sdpa", "backend": "eager"}, ValueError, "give backend or attn_implementation, got both"),
        ({"device": "cpu", "device_map": "cpu"}, ValueError, "give device or device_map, got both"),
        ({"dtype": "int8"}, ValueError, "dtype must be one of float16, bfloat16"),
        ({"variant": "../x"}, ValueError, "variant: expected a name such as 'fp16'"),
        ({"variant": "bf16"}, CheckpointError, "expected model.bf16.safetensors, model.safetensors.index.bf16.json, pytorch_model.bf16"),
        ({"subfolder": "../x"}, ValueError, "subfolder: expected a folder inside"),
        ({"subfolder": "nowhere"}, CheckpointError, "nowhere/config.json: expected a file, found nothing"),
        ({"key_mapping": {"(": ""}}, ValueError, "key_mapping: expected regular expressions"),
        ({"config": 3}, TypeError, "config: BertForMaskedLM needs a BertConfig or the folder of one, got int"),
        ({"state_dict": [1]}, TypeError, "state_dict: expected names and their tensors, got list"),
        ({"state_dict": {"model": {"x": torch.ones(1)}}}, TypeError, "model: expected a tensor, got dict; pass the mapping that stands"),
        ({"hidden_dropuot": 0.2}, TypeError, "BertConfig has no field 'hidden_dropuot'; the nearest is 'hidden_dropout_prob'"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_meant(words: dict[str, Any], kind: type[Exception], told: str, folder: Path):
    with pytest.raises(kind, match=told):
        load(folder, **words)


@pytest.mark.parametrize("device_map", ["cpu", "auto", "balanced", "sequential", torch.device("cpu"), {"": "cpu"}, {"bert": "cpu", "cls": "cpu"}])  # fmt: skip
def test_maps_that_mean_one_device(device_map: Any, folder: Path):
    expected = torch.accelerator.current_accelerator() if device_map in ("auto", "balanced", "sequential") else None
    assert load(folder, device_map=device_map).device.type == (expected or torch.device("cpu")).type


@pytest.mark.parametrize("dtype", ["auto", None])
def test_the_dtype_as_stored(dtype: Any, folder: Path, tmp_path: Path):
    load(folder, dtype="bfloat16").save_pretrained(tmp_path)
    assert load(tmp_path, dtype=dtype).dtype == torch.bfloat16


def test_the_dtype_of_a_configuration_that_is_given(folder: Path):
    """As in the reference: "auto" is what the configuration says, then what the file holds."""
    config = own_config(folder)
    assert load(folder, config=config.updated(dtype="float16")).dtype == torch.float16
    assert load(folder, config=config.updated(dtype="float16"), torch_dtype=torch.float64).dtype == torch.float64
    assert load(folder, config=config.updated(dtype=None)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["ours", "the reference's", "a folder", "a path", "a file", "fields"])
@pytest.mark.parametrize("auto", [False, True])
def test_a_configuration_in_every_form_by_position(kind: str, auto: bool, folder: Path, tmp_path: Path):
    """It stands for the folder's own, which need not be there."""
    weights = tmp_path / "weights"
    weights.mkdir()
    shutil.copy(folder / "model.safetensors", weights)
    config: Any = {
        "ours": own_config(folder),
        "the reference's": transformers.BertConfig.from_pretrained(folder),
        "a folder": str(folder),
        "a path": folder,
        "a file": str(folder / "config.json"),
        "fields": json.loads((folder / "config.json").read_text()),
    }[kind]
    cls: Any = AutoModelForMaskedLM if auto else BertForMaskedLM
    assert torch.equal(logits(cls.from_pretrained(weights, config)), logits(load(folder)))
    with pytest.raises(CheckpointError, match=r"config.json: expected a file, found nothing; .*pass config=\.\.\."):
        cls.from_pretrained(weights)


def test_what_the_example_scripts_pass(folder: Path):
    """The calls of run_glue.py, run_mlm.py and of the guides to tracing and sharing."""
    hub: Any = {"cache_dir": None, "revision": "main", "token": None, "trust_remote_code": False}
    config = minitrans.AutoConfig.from_pretrained(folder, num_labels=3, finetuning_task="mnli", **hub)
    assert (config.num_labels, config.finetuning_task) == (3, "mnli")
    model = minitrans.AutoModelForSequenceClassification.from_pretrained(
        folder, from_tf=bool(".ckpt" in str(folder)), config=config, ignore_mismatched_sizes=False, **hub
    )
    assert model.classifier.out_features == 3
    model = AutoModelForMaskedLM.from_pretrained(folder, config=config, dtype=None, low_cpu_mem_usage=True, **hub)
    assert torch.equal(logits(model), logits(load(folder)))
    assert torch.equal(logits(load(folder, torchscript=True, return_dict=True, use_cache=False)), logits(load(folder)))


def test_another_family_s_configuration_is_refused(folder: Path):
    with pytest.raises(TypeError, match="BertForMaskedLM needs a BertConfig or the folder of one, got RobertaConfig"):
        load(folder, config=minitrans.RobertaConfig(**SIZES))
    with pytest.raises(CheckpointError, match="model_type: expected bert"):
        load(folder, config=transformers.RobertaConfig(**SIZES))


def test_a_state_dict_needs_no_folder(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    expected = logits(load(folder))
    for cls in (BertForMaskedLM, AutoModelForMaskedLM):
        assert torch.equal(logits(cls.from_pretrained(None, config=own_config(folder), state_dict=tensors)), expected)
    with pytest.raises(TypeError, match="give a folder or a name on the hub, or config= and state_dict="):
        BertForMaskedLM.from_pretrained(state_dict=tensors)
    with pytest.raises(TypeError, match="give a folder or a name on the hub"):
        AutoModel.from_pretrained()


def test_key_mapping_makes_a_stranger_s_keys_the_reference_s(folder: Path, tmp_path: Path):
    """Of the expressions that occur in a key the first counts, as in the reference."""
    strange = {
        key.replace("bert.encoder.layer", "trunk.blocks").replace("cls.predictions", "top"): tensor
        for key, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(strange, tmp_path / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(folder / "config.json", tmp_path)
    mapping = {r"^trunk\.blocks\.(\d+)": r"bert.encoder.layer.\1", r"^top": "cls.predictions", r"\.blocks\.": ".never."}
    model = load(tmp_path, key_mapping=mapping)
    assert torch.equal(logits(model), logits(load(folder)))
    reference = transformers.BertForMaskedLM.from_pretrained(tmp_path, key_mapping=mapping)
    assert torch.equal(reference.state_dict()["cls.predictions.bias"], model.lm_head.decoder.bias)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("BertForPreTraining", "BertModel", {}),
        ("BertForPreTraining", "BertForMaskedLM", {}),
        ("BertModel", "BertForSequenceClassification", {"num_labels": 4}),
        ("BertForSequenceClassification", "BertForSequenceClassification", {"num_labels": 5, "ignore_mismatched_sizes": True}),
        ("RobertaForMaskedLM", "RobertaForTokenClassification", {}),
    ],
)  # fmt: skip
def test_output_loading_info_tells_what_the_reference_tells(
    source: str, target: str, words: dict[str, Any], tmp_path: Path
):
    cls = getattr(transformers, source)
    cls(cls.config_class(**SIZES)).save_pretrained(tmp_path)
    _, expected = getattr(transformers, target).from_pretrained(tmp_path, output_loading_info=True, **words)
    model, told = getattr(minitrans, target).from_pretrained(tmp_path, output_loading_info=True, **words)
    assert isinstance(model, getattr(minitrans, target))
    assert set(told) == set(expected)
    fresh = set(expected["missing_keys"]) | {key for key, *_ in expected["mismatched_keys"]}
    assert told["missing_keys"] == fresh, "heads have the reference's names here"
    assert told["unexpected_keys"] == set(expected["unexpected_keys"])
    assert {(key, tuple(found), tuple(wanted)) for key, found, wanted in expected["mismatched_keys"]} == told[
        "mismatched_keys"
    ]
    assert told["error_msgs"] == []


def test_add_pooling_layer(folder: Path):
    assert BertModel.from_pretrained(folder, add_pooling_layer=False).pooler is None
    assert AutoModel.from_pretrained(folder, add_pooling_layer=True).pooler is not None
    with pytest.raises(TypeError, match="add_pooling_layer"):
        load(folder, add_pooling_layer=False)


def test_code_that_a_checkpoint_names_is_refused_where_it_is_asked_for(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "with code")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "with code" / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "mine.Mine"}}))
    assert torch.equal(logits(load(tmp_path / "with code", trust_remote_code=False)), logits(load(folder)))
    with pytest.raises(NotSupportedError, match="the code that config.json names is never run.*leave the argument out"):
        load(tmp_path / "with code", trust_remote_code=True)


# -- from_config -----------------------------------------------------------------------------------------------------


def test_words_of_a_model_with_fresh_weights():
    config = BertConfig(**SIZES)
    model = AutoModelForMaskedLM.from_config(
        config, torch_dtype=torch.float64, attn_implementation="eager", attention="rotary", padding="keep", trust_remote_code=False
    )  # fmt: skip
    layer = model.base_model.encoder.layer[0].attention
    assert (model.dtype, layer.backend, model.config.attention, model.base_model.padding) == (
        torch.float64, "eager", "rotary", "keep",
    )  # fmt: skip
    assert config.attention == "full"
    assert BertModel.from_config(config).dtype == torch.float32
    with pytest.raises(TypeError, match="from_config has no argument 'num_labels'; change the configuration"):
        AutoModel.from_config(config, num_labels=3)
    with pytest.raises(TypeError, match="from_config has no argument 'revision'"):
        AutoModel.from_config(config, revision="main")


# -- saving ----------------------------------------------------------------------------------------------------------

SAVE_IGNORED: dict[str, Any] = {
    "save_function": torch.save, "save_peft_format": False, "save_original_format": False, "use_temp_dir": True,
}  # fmt: skip
SAVE_REFUSED: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "safe_serialization": ((True,), False, r"torch.save\(model.state_dict\(\), path\) writes"),
    "distributed_checkpoint": ((False,), True, "torch.distributed.checkpoint"),
    "repo_url": ((), "https://x", "repo_id='owner/name'"),
    "organization": ((), "x", "repo_id='owner/name'"),
    "tags": ((), ["x"], "README.md"),
}
SAVE_ACTS = {"state_dict", "is_main_process", "max_shard_size", "variant"}
COMMIT: dict[str, Any] = {
    "commit_message": "Trained", "commit_description": "For a day", "private": True, "token": "hf_x", "revision": "trained",
    "create_pr": True,
}  # fmt: skip


def test_every_word_of_saving_has_a_case():
    assert {*SAVE_IGNORED, *SAVE_REFUSED, *SAVE_ACTS, *COMMIT, "push_to_hub", "repo_id", "use_auth_token"} == {
        *TO_FOLDER,
        *SAVING,
    }


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("word", SAVE_IGNORED)
def test_words_that_change_nothing_on_the_disk(word: str, folder: Path, tmp_path: Path):
    model = load(folder)
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "word", **{word: SAVE_IGNORED[word]})
    assert held(tmp_path / "plain") == held(tmp_path / "word")


@pytest.mark.parametrize("word", SAVE_REFUSED)
def test_words_of_saving_that_cannot_be_meant(word: str, folder: Path, tmp_path: Path):
    harmless, value, told = SAVE_REFUSED[word]
    model = load(folder)
    for nothing in (None, *harmless):
        model.save_pretrained(tmp_path / "x", **{word: nothing})
    with pytest.raises(
        NotSupportedError, match=rf"BertForMaskedLM\.save_pretrained: {word}=.* is not offered: .*{told}"
    ):
        model.save_pretrained(tmp_path / "y", **{word: value})
    assert not (tmp_path / "y").exists()


def test_another_process_writes_nothing(folder: Path, tmp_path: Path):
    load(folder).save_pretrained(tmp_path / "x", is_main_process=False)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "names", ["ours", "the reference's", "of a wrapper", "of one process without the tied decoder"]
)
def test_a_state_dict_is_saved_instead_of_the_model_s(names: str, folder: Path, tmp_path: Path):
    """As `Accelerator.get_state_dict` gives it."""
    model = load(folder)
    state = {name: tensor * 2 for name, tensor in model.state_dict().items()}
    if names == "the reference's":
        state = {key: tensor * 2 for key, tensor in load_file(folder / "model.safetensors").items()}
    elif names == "of a wrapper":
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    elif names != "ours":
        del state["lm_head.decoder.weight"]
    model.save_pretrained(tmp_path, state_dict=state)
    again = load(tmp_path)
    assert not again.load_report.fresh
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor * 2), name
    transformers.BertForMaskedLM.from_pretrained(tmp_path)


def test_a_state_dict_that_is_not_the_model_s_is_refused(folder: Path, tmp_path: Path):
    model, state = load(folder), dict(load(folder).state_dict())
    del state["bert.encoder.layer.1.attention.query.bias"], state["lm_head.dense.bias"], state["lm_head.dense.weight"]
    with pytest.raises(CheckpointError, match=r"(?s)2 faults|layer.1.attention.query.bias: expected a tensor"):
        model.save_pretrained(tmp_path / "x", state_dict=state)
    body = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("bert.")}
    with pytest.raises(CheckpointError, match=r"lm_head.dense.weight: expected a tensor, found none"):
        model.save_pretrained(tmp_path / "x", state_dict=body)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", ["5GB", "4KB"])
def test_variants_stand_beside_each_other(size: str, folder: Path, tmp_path: Path):
    model = load(folder)
    model.save_pretrained(tmp_path, max_shard_size=size)
    plain = held(tmp_path)
    load(folder, variant="fp16").save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    assert {name: content for name, content in held(tmp_path).items() if name in plain} == plain
    assert factor(load(tmp_path), folder) == 1.0
    assert factor(load(tmp_path, variant="fp16"), folder) == 2.0
    back = transformers.BertForMaskedLM.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(back.cls.predictions.transform.dense.bias, load(folder, variant="fp16").lm_head.dense.bias)
    load(folder, variant="fp16").save_pretrained(tmp_path, variant="fp16")
    assert set(held(tmp_path)) == {*plain, "model.fp16.safetensors"}, "stale shards of the variant go, the others stay"


def test_a_word_that_nobody_knows_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(
        TypeError,
        match="BertForMaskedLM.save_pretrained has no argument 'max_shard'; it has state_dict, is_main_process",
    ):
        load(folder).save_pretrained(tmp_path / "x", max_shard="1GB")
    with pytest.raises(TypeError, match="BertForMaskedLM.push_to_hub has no argument 'state_dict'"):
        load(folder).push_to_hub("owner/name", state_dict={})


# -- the hub ---------------------------------------------------------------------------------------------------------


class FakeHub:
    """Keeps what it is told, and the files that would be in the repository."""

    calls: list[tuple[str, dict[str, Any]]]
    files: dict[str, bytes]

    def __init__(self, token: Any = None) -> None:
        self.calls.append(("login", {"token": token}))

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"me/{repo_id}")

    def create_branch(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_branch", {"repo_id": repo_id, **options}))

    def upload_folder(self, *, folder_path: Any, allow_patterns: list[str], **options: Any) -> str:
        self.files.update({name: (Path(folder_path) / name).read_bytes() for name in allow_patterns})
        self.calls.append(("upload_folder", options))
        return "commit"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeHub]:
    FakeHub.calls, FakeHub.files = [], {}
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    return FakeHub


def test_push_to_hub_uploads_what_a_save_writes(hub: type[FakeHub], folder: Path, tmp_path: Path):
    model = load(folder)
    assert model.push_to_hub("owner/name", max_shard_size="8KB", **COMMIT) == "commit"
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert hub.files == held(tmp_path)
    assert "model.safetensors.index.json" in hub.files
    told = dict(hub.calls)
    assert told["login"] == {"token": "hf_x"}
    assert told["create_repo"] == {"repo_id": "owner/name", "private": True, "exist_ok": True}
    assert told["create_branch"] == {"repo_id": "owner/name", "branch": "trained", "exist_ok": True}
    upload = told["upload_folder"]
    assert {name: upload[name] for name in ("commit_message", "commit_description", "revision", "create_pr")} == {
        "commit_message": "Trained", "commit_description": "For a day", "revision": "trained", "create_pr": True,
    }  # fmt: skip
    assert upload["repo_id"] == "owner/name"
    assert set(upload["delete_patterns"]) == {
        "model.safetensors",
        "model.safetensors.index.json",
        "model-*.safetensors",
    }


def test_save_pretrained_pushes_the_files_of_this_save_only(hub: type[FakeHub], folder: Path, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "optimizer.pt").write_text("gigabytes")
    load(folder).save_pretrained(tmp_path / "mine", push_to_hub=True, use_auth_token="hf_x")
    assert set(hub.files) == {"config.json", "model.safetensors"}
    told = dict(hub.calls)
    assert told["login"] == {"token": "hf_x"}
    assert told["create_repo"]["repo_id"] == "mine"
    assert told["upload_folder"]["repo_id"] == "me/mine"
    load(folder).save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="owner/x", variant="fp16")
    assert set(hub.files) == {"config.json", "model.safetensors", "model.fp16.safetensors"}
    assert hub.calls[-1][1]["repo_id"] == "owner/x"
    before = len(hub.calls)
    load(folder).save_pretrained(tmp_path / "mine", repo_id="owner/x")
    assert len(hub.calls) == before, "only where it is asked"


def test_what_the_hub_says_is_told(hub: type[FakeHub], folder: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub.errors import HfHubHTTPError

    class Forbidden(HfHubHTTPError):
        def __init__(self) -> None:
            Exception.__init__(self, "403 Forbidden")

        def __str__(self) -> str:
            return "403 Forbidden"

    def refuse(self: Any, repo_id: str, **options: Any) -> None:
        raise Forbidden

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(ValueError, match="owner/name: the Hugging Face hub refused: 403 Forbidden"):
        load(folder).push_to_hub("owner/name")


def test_a_model_knows_where_it_was_loaded_from(folder: Path):
    assert load(folder).name_or_path == str(folder)
    assert BertForSequenceClassification(BertConfig(**SIZES)).name_or_path == ""

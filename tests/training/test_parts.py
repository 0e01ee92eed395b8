"""The parts around the loop: groups, schedules, precision, averages, low-rank updates, stopping, logs, and how they go together."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

import minitrans
from minitrans.training import loop
from minitrans.training.data.source import Examples
from minitrans.training.ema import Ema
from minitrans.training.groups import freeze, layer_depths, parameter_groups
from minitrans.training.loop import Report, train
from minitrans.training.lora import add_lora, merge_lora
from minitrans.training.objective import HeadObjective
from minitrans.training.optimization import SCHEDULES, get_schedule, go_on
from minitrans.training.precision import NonFiniteError, Precision
from minitrans.training.settings import RANGES, TrainingSettings
from minitrans.training.stopping import Best
from tests.training.heads import examples_of, model_with


def run(model: Any = None, head: str = "class", evaluate: Any = None, out: Path | None = None, **told: Any) -> Report:
    model = model or model_with(head)
    base = {"batch_size": 3, "epochs": 2, "learning_rate": 1e-2}
    settings = TrainingSettings(**{**base, **told})  # type: ignore[arg-type]
    return train(model, HeadObjective(model), Examples(examples_of(head)), settings, evaluate=evaluate, out=out)


def rates(name: str, warmup: int, total: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_schedule(name, optimizer, warmup, total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


REFERENCES: dict[str, Any] = {
    "constant": lambda o, warmup, total: transformers.get_constant_schedule_with_warmup(o, warmup),
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "inverse_sqrt": lambda o, warmup, total: transformers.get_inverse_sqrt_schedule(o, warmup),
    "wsd": lambda o, warmup, total: transformers.get_wsd_schedule(
        o, warmup, (total - warmup) // 5, num_training_steps=total, decay_type="linear"
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_equal_the_reference_and_go_on_anywhere(name: str) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = REFERENCES[name](optimizer, 5, 25)
    expected = []
    for _ in range(25):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(name, 5, 25) == pytest.approx(expected, rel=1e-12)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    go_on(get_schedule(name, optimizer, 5, 25), 17)
    assert optimizer.param_groups[0]["lr"] == rates(name, 5, 25)[17]


def test_an_unknown_schedule() -> None:
    with pytest.raises(
        ValueError, match="schedule must be one of constant, linear, cosine, inverse_sqrt, wsd, got 'steps'"
    ):
        run(schedule="steps")


def test_vectors_do_not_decay_and_layers_below_learn_slower() -> None:
    model = model_with("class")
    groups = parameter_groups(model, TrainingSettings(learning_rate=0.8, weight_decay=0.1, layer_decay=0.5))
    of = {id(each): group for group in groups for each in group["params"]}
    found = {name: (of[id(each)]["lr"], of[id(each)]["weight_decay"]) for name, each in model.named_parameters()}
    assert found["classifier.weight"] == (0.8, 0.1)
    assert found["bert.pooler.dense.bias"] == (0.8, 0.0)
    assert found["bert.encoder.layer.1.attention.query.weight"] == (0.4, 0.1)
    assert found["bert.encoder.layer.0.attention_LayerNorm.weight"] == (0.2, 0.0)
    assert found["bert.embeddings.word_embeddings.weight"] == (0.1, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_depths_of_shared_layers_and_of_pairs() -> None:
    shared = layer_depths(model_with("order"))
    assert {depth for name, depth in shared.items() if ".layer." in name} == {2}  # one block that makes both layers
    pair = layer_depths(model_with("target"))
    assert {depth for name, depth in pair.items() if ".layer.0." in name} == {1}
    assert {depth for name, depth in pair.items() if "word_embeddings" in name} == {0}


def test_what_is_frozen_stays() -> None:
    model = model_with("class")
    before = {name: each.clone() for name, each in model.named_parameters()}
    run(model, freeze=("*embeddings*", "*.layer.0.*"))
    same = {name for name, each in model.named_parameters() if torch.equal(each, before[name])}
    assert same == {name for name in before if "embeddings" in name or ".layer.0." in name}
    with pytest.raises(ValueError, match=r"no name matches '\*embedings\*'; the nearest is 'bert\.embeddings"):
        freeze(model, ["*embedings*"])


def test_layers_begin_to_learn_from_above() -> None:
    def learnt(steps: int) -> set[int]:
        model = model_with("class")
        before = {name: each.clone() for name, each in model.named_parameters()}
        run(model, unfreeze_every=2, max_steps=steps, epochs=9, weight_decay=0.5)
        depths = layer_depths(model)
        return {depths[name] for name, each in model.named_parameters() if not torch.equal(each, before[name])}

    assert [learnt(steps) for steps in (2, 4, 6, 8)] == [{3}, {2, 3}, {1, 2, 3}, {0, 1, 2, 3}]


def test_low_rank_updates_learn_alone_and_merge_without_a_difference() -> None:
    model = model_with("class").eval()
    batch = HeadObjective(model).collate(examples_of("class"))
    first = model(**batch).logits
    add_lora(model, 3, 6.0, ["*query", "*value"], ["classifier*"])
    assert torch.equal(model(**batch).logits, first)
    learning = {name for name, each in model.named_parameters() if each.requires_grad}
    assert len(learning) == 2 * 2 * 2 + 2
    for name, each in model.named_parameters():
        if name.endswith("up"):
            nn.init.normal_(each)
    changed = model(**batch).logits
    assert not torch.equal(changed, first)
    merge_lora(model)
    assert torch.equal(model(**batch).logits, changed)
    assert model.state_dict().keys() == model_with("class").state_dict().keys()


def test_low_rank_updates_equal_peft() -> None:
    ours, theirs = model_with("class").eval(), model_with("class").eval()
    batch = HeadObjective(ours).collate(examples_of("class"))
    add_lora(ours, 3, 6.0, ["*query"], [])
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["query"], lora_dropout=0.0)
    other = peft.get_peft_model(theirs, config).double()
    given = dict(other.named_parameters())
    for name, each in ours.named_parameters():
        if name.endswith((".down", ".up")):
            nn.init.normal_(each)
            part = "lora_A" if name.endswith("down") else "lora_B"
            given[f"base_model.model.{name.split('.parametrizations')[0]}.{part}.default.weight"].data.copy_(each)
    for model in (ours, other):
        model(**batch).loss.backward()
    gradient = next(each.grad for name, each in ours.named_parameters() if name.endswith("down"))
    reference = next(each.grad for name, each in given.items() if "lora_A" in name)
    torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-16)


def test_lora_by_settings_leaves_an_ordinary_model(tmp_path: Path) -> None:
    model = model_with("class").float()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    run(model, lora_rank=2, lora_learns=("classifier*",), out=tmp_path)
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == {
        *(f"bert.encoder.layer.{n}.attention.{part}.weight" for n in (0, 1) for part in ("query", "value")),
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    again = minitrans.BertForSequenceClassification.from_pretrained(str(tmp_path))
    assert all(torch.equal(each, again.state_dict()[name]) for name, each in model.state_dict().items())


def test_the_average_is_evaluated_and_kept() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    ema = Ema({"w": weight}, 0.75)
    weight.data.fill_(5.0)
    ema.update()
    with ema.applied():
        assert weight.item() == 2.0  # 0.75 · 1 + 0.25 · 5
    assert weight.item() == 5.0
    ema.keep()
    assert weight.item() == 2.0


def test_training_ends_where_nothing_gets_better_with_the_best_weights(tmp_path: Path) -> None:
    values = iter([3.0, 2.0, math.nan, 4.0, 1.0])
    seen: list[torch.Tensor] = []

    def evaluate(model: Any) -> dict[str, float]:
        assert not model.training
        seen.append(model.classifier.weight.clone())
        return {"loss": next(values)}

    model = model_with("class")
    report = run(model, evaluate=evaluate, out=tmp_path, evaluate_every=1, patience=2, epochs=9, keep=1)
    assert (report.ended, report.steps, report.best) == ("patience", 4, (2, 2.0))
    assert torch.equal(model.classifier.weight, seen[1])
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000002", "step-00000004"]
    with pytest.raises(ValueError, match="best='acuracy' is no metric of the evaluation; the nearest is 'accuracy'"):
        Best("acuracy", maximize=True, patience=None).see({"accuracy": 1.0, "f1": 0.5}, 1)


def test_the_scale_of_fp16() -> None:
    precision = Precision("fp16", torch.device("cpu"))
    assert precision.scale == 65536
    assert not precision.accepts(math.inf)
    assert not precision.accepts(math.nan)
    assert precision.scale == 16384
    assert all(precision.accepts(1.0) for _ in range(2000))
    assert precision.scale == 32768
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.tensor([32768.0])
    precision.unscale([weight])
    assert weight.grad.item() == 1
    precision.scale = 1.0
    with pytest.raises(NonFiniteError):
        precision.accepts(math.inf)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_stays_near(precision: str) -> None:
    exact = run(model_with("class").float()).losses
    near = run(model_with("class").float(), precision=precision).losses
    assert near != exact
    assert near == pytest.approx(exact, rel=0.02)  # bf16 rounds by 2^-9, and four steps of Adam add up


def test_blocks_computed_twice_change_no_bit() -> None:
    def losses(**told: Any) -> list[float]:
        model = model_with("class")
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        return run(model, **told).losses

    assert losses(gradient_checkpointing=True) == losses()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph for all sizes; the backend that writes C++ takes minutes, and is torch's to test."""
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **told: real(self, backend="aot_eager", **told))
    losses = run(head="masked", compile=True).losses
    torch.compiler.reset()
    assert losses == pytest.approx(run(head="masked").losses, rel=1e-12)


def test_fields_out_of_range() -> None:
    for name, (low, _) in RANGES.items():
        with pytest.raises(ValueError, match=f"{name} must be between"):
            TrainingSettings(**{name: low - 1})
    assert set(RANGES) < set(TrainingSettings.__dataclass_fields__)


def test_logs(tmp_path: Path) -> None:
    run(out=tmp_path, log_every=3, tensorboard=True, evaluate=lambda model: {"loss": 1.0, "f1": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 4]
    assert lines[0] == {"step": 2, "epoch": 0, "evaluation": {"loss": 1.0, "f1": 0.5}}
    assert lines[1].keys() == {"step", "epoch", "loss", "tokens_per_second", "memory", "norm", "learning_rate"}
    assert any((tmp_path / "tensorboard").iterdir())


def test_the_loop_is_short() -> None:
    assert len(Path(loop.__file__).read_text(encoding="utf-8").splitlines()) <= 200

"""Losses and gradients against formulas written out once more in float64, and the same under any cut of a batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.layers.losses import IGNORED
from minitrans.models.bart import BartConfig, BartForConditionalGeneration
from minitrans.models.bert import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)
from minitrans.models.electra import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining
from minitrans.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitrans.training.objective import Objective
from minitrans.training.objectives.classes import Classes, balanced
from minitrans.training.objectives.contrastive import InBatchNegatives, Similarity
from minitrans.training.objectives.distillation import MINILM, MINILM_V2, FromTeacher, Relations
from minitrans.training.objectives.masked import Masked
from minitrans.training.objectives.r_drop import RDrop
from minitrans.training.objectives.replaced import Electra, Replaced, sampled

V, C, MASK = 23, 3, 4
WITHOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SIZES = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}


class Tokens:
    """Of a tokenizer, what masks look at."""

    mask_token_id, all_special_ids = MASK, (0, 1, 2, 3, 4)

    def __len__(self) -> int:
        return V


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bert(kind: type = BertForTokenClassification, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return spread(kind(BertConfig(**{**SIZES, **WITHOUT, "num_labels": C, **changes})))


def spread(model: nn.Module) -> Any:
    """In float64 and training mode, with weights large enough that distributions are not flat."""
    model = model.double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(parameter.numel()), dtype=torch.float64))
    return model


LENGTHS = (7, 4, 9, 5, 6)


def texts(labels: str = "tokens") -> list[dict[str, Any]]:
    found = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(5, V, (length,), generator=seeded(number)).tolist()
        tags = torch.randint(C, (length,), generator=seeded(number + 50))
        tags[: number % 3] = IGNORED
        example: dict[str, Any] = {"input_ids": ids}
        if labels == "tokens":
            example["labels"] = tags.tolist()
        elif labels == "texts":
            example["labels"] = number % C
        elif labels == "targets":
            example["labels"] = ids[: 2 + number]
        found.append(example)
    return found


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def agree(model: nn.Module, ours: Tensor, naive: Tensor) -> None:
    """Of values and gradients."""
    torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-12)
    one, other = gradients(model, ours), gradients(model, naive)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(
            one[name], other[name], rtol=1e-8, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}"
        )


def batch_of(objective: Objective, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return objective.collate([objective.prepare(each, seeded(number)) for number, each in enumerate(examples)])


def mean(objective: Objective, model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """The loss of a step in micro-batches."""
    items = torch.stack([objective.items(batch) for batch in batches]).sum(dim=0)
    return torch.stack([objective.losses(model, batch) for batch in batches]).sum(dim=0).div(items).sum()


def bart() -> Any:
    torch.manual_seed(0)
    return spread(BartForConditionalGeneration(BartConfig(
        vocab_size=V, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=12, decoder_ffn_dim=12, max_position_embeddings=32, dropout=0.0, attention_dropout=0.0,
    )))  # fmt: skip


def gpt2() -> Any:
    torch.manual_seed(0)
    return spread(GPT2LMHeadModel(GPT2Config(
        vocab_size=V, n_embd=8, n_layer=1, n_head=2, n_positions=32, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )))  # fmt: skip


def electra(**generator: Any) -> Any:
    torch.manual_seed(0)
    shared = {**SIZES, **WITHOUT, "embedding_size": 6}
    return spread(Electra(
        ElectraForMaskedLM(ElectraConfig(**{**shared, "hidden_size": 4, **generator})),
        ElectraForPreTraining(ElectraConfig(**shared)),
    ))  # fmt: skip


def spoken(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    return [
        {"input_ids": each["input_ids"], "other_ids": texts()[-1 - at]["input_ids"], **options}
        for at, each in enumerate(texts())
    ]


# objective -> the model, the objective for it, its examples
CASES: dict[str, Callable[[], tuple[nn.Module, Any, list[dict[str, Any]]]]] = {
    "tags": lambda: (model := bert(), Classes(model, weights=[1, 2, 0.5], smoothing=0.1), texts()),
    "classes": lambda: (
        model := bert(BertForSequenceClassification),
        Classes(model, weights=[1, 2, 3]),
        texts("texts"),
    ),
    "next tokens": lambda: (model := gpt2(), Classes(model, smoothing=0.1), texts("none")),
    "targets": lambda: (model := bart(), Classes(model, smoothing=0.2), texts("targets")),
    "r-drop": lambda: (model := bert(), RDrop(model, alpha=2.0, smoothing=0.1), texts()),
    "masked": lambda: (model := bert(BertForMaskedLM), Masked(model, Tokens()), texts("none")),
    "replaced": lambda: (model := electra(), Replaced(model, Tokens()), texts("none")),
    "teacher": lambda: (model := bert(), FromTeacher(Classes(model), bert(seed=1)), texts()),
    "relations": lambda: (model := bert(BertModel), Relations(model, bert(BertModel, 1)), texts("none")),
    "similarity": lambda: (model := bert(BertModel), Similarity(model), spoken(model, labels=0.5)),
}


@pytest.mark.parametrize("name", CASES)
def test_any_cut_of_a_step_has_the_same_gradients(name: str):
    model, objective, examples = CASES[name]()
    made = [objective.prepare(each, seeded(number)) for number, each in enumerate(examples)]
    whole = mean(objective, model, [objective.collate(made)])
    cut = mean(objective, model, [objective.collate(part) for part in (made[:1], made[1:4], made[4:])])
    assert float(whole.detach()) > 0
    agree(model, whole, cut)


def test_weights_and_smoothing_by_hand():
    model, objective, examples = CASES["tags"]()
    batch, weights = batch_of(objective, examples), torch.tensor([1, 2, 0.5], dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    logits, labels = model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"]
    for row, column in (labels != IGNORED).nonzero().tolist():
        log_p = logits[row, column] - torch.logsumexp(logits[row, column], dim=0)
        label = labels[row, column]
        total = total - weights[label] * (0.9 * log_p[label] + 0.1 * log_p.mean())
    assert objective.items(batch).tolist() == [int((labels != IGNORED).sum())]
    agree(model, objective.losses(model, batch).sum(), total)
    counts = balanced([0, 0, 0, 1], 3)
    assert counts == pytest.approx([4 / 6, 2, 0])
    assert sum(counts[label] for label in (0, 0, 0, 1)) == pytest.approx(4)


def test_a_decoder_is_smoothed_as_by_torch():
    model, objective, examples = CASES["targets"]()
    batch = batch_of(objective, examples)
    logits = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).logits
    naive = F.cross_entropy(logits.transpose(1, 2), batch["labels"], label_smoothing=0.2, reduction="sum")
    agree(model, objective.losses(model, batch)[0], naive)


def test_what_has_no_classes_is_refused():
    with pytest.raises(TypeError, match="BertForQuestionAnswering has labels of more than one kind"):
        Classes(bert(BertForQuestionAnswering, num_labels=2))
    with pytest.raises(ValueError, match="a weight for each of 3 classes, got 2"):
        Classes(bert(), weights=[1, 2])
    with pytest.raises(ValueError, match="smoothing must be at least 0"):
        Classes(bert(), smoothing=1.0)


def test_r_drop_by_hand():
    model = bert(BertForSequenceClassification, hidden_dropout_prob=0.3)
    objective = RDrop(model, alpha=1.5)
    batch = batch_of(objective, texts("texts"))
    torch.manual_seed(5)
    ours = objective.losses(model, batch)[0]
    torch.manual_seed(5)
    p, q = (model(batch["input_ids"], batch["attention_mask"]).logits.softmax(dim=-1) for _ in range(2))
    naive = torch.zeros((), dtype=torch.float64)
    for row, label in enumerate(batch["labels"].tolist()):
        naive = naive - p[row, label].log() - q[row, label].log()
        for c in range(C):
            naive = naive + 1.5 / 2 * (
                p[row, c] * (p[row, c] / q[row, c]).log() + q[row, c] * (q[row, c] / p[row, c]).log()
            )
    assert float((p - q).detach().abs().max()) > 1e-3
    agree(model, ours, naive)


def test_electra_by_hand():
    """The discriminator judges what the generator said; no gradient goes from the one to the other."""
    model, objective, examples = CASES["replaced"]()
    batch = batch_of(objective, examples)
    labels, draws = batch["labels"], batch["draws"]
    assert set(batch["input_ids"][labels != IGNORED].tolist()) == {MASK}
    scores = model.generator(batch["input_ids"], batch["attention_mask"]).logits
    written, replaced = batch["input_ids"].clone(), torch.zeros_like(labels)
    guess = torch.zeros((), dtype=torch.float64)
    for row, column in (labels != IGNORED).nonzero().tolist():
        p = scores[row, column].softmax(dim=0)
        guess = guess - p[labels[row, column]].log()
        total, token = 0.0, 0
        while (total := total + float(p[token].detach())) <= float(draws[row, column]):
            token += 1
        written[row, column], replaced[row, column] = token, int(token != labels[row, column])
    logits = model.discriminator(written, batch["attention_mask"]).logits
    judged = torch.zeros((), dtype=torch.float64)
    for row, column in batch["attention_mask"].nonzero().tolist():
        right = logits[row, column] if replaced[row, column] else -logits[row, column]
        judged = judged + (1 + (-right).exp()).log()
    assert 0 < int(replaced.sum()) <= int((labels != IGNORED).sum())
    assert objective.items(batch).tolist() == [int((labels != IGNORED).sum()), sum(LENGTHS)]
    agree(model, objective.losses(model, batch).sum(), guess + 50 * judged)


def test_embeddings_of_electra_are_shared():
    model = electra()
    ours, theirs = (
        each.base_model.embeddings.word_embeddings.weight for each in (model.generator, model.discriminator)
    )
    assert ours is theirs is model.generator.lm_head.decoder.weight
    apart = electra(embedding_size=4)
    assert apart.generator.base_model.embeddings.word_embeddings.weight.shape[1] == 4
    with pytest.raises(ValueError, match="one vocabulary, got 9 and 23 tokens"):
        electra(vocab_size=9)


def test_draws_choose_by_probability():
    scores = torch.tensor([2.0, 0.5, -1.0, 1.0]).expand(20_000, 4)
    found = sampled(scores, torch.rand(20_000, generator=seeded(0)))
    for token, share in enumerate(scores[0].softmax(dim=0).tolist()):
        assert abs(int((found == token).sum()) - 20_000 * share) <= 3 * (20_000 * share * (1 - share)) ** 0.5
    edges = sampled(torch.tensor([[-math.inf, 0.0, -math.inf]] * 2), torch.tensor([0.0, 1 - 2**-24]))
    assert edges.tolist() == [1, 1]  # what has no probability is never said


@pytest.mark.parametrize("kind", ["tokens", "texts"])
def test_a_teacher_by_hand(kind: str):
    head = BertForTokenClassification if kind == "tokens" else BertForSequenceClassification
    model, teacher = bert(head), bert(head, 1, hidden_dropout_prob=0.5)
    objective = FromTeacher(Classes(model), teacher, temperature=3.0, weights=(5.0, 2.0, 0.7))
    batch = batch_of(objective, texts(kind))
    s, t = (each(batch["input_ids"], batch["attention_mask"], output_hidden_states=True) for each in (model, teacher))
    rows = batch["attention_mask"].nonzero().tolist()
    soft = hard = turned = torch.zeros((), dtype=torch.float64)
    for place in rows if kind == "tokens" else [[row] for row in range(len(LENGTHS))]:
        p, q = ((each.logits[tuple(place)] / 3).softmax(dim=0) for each in (t, s))
        soft = soft + 9 * sum(p[c] * (p[c] / q[c]).log() for c in range(C))
        label = batch["labels"][tuple(place)]
        if label != IGNORED:
            hard = hard - s.logits[tuple(place)].softmax(dim=0)[label].log()
    for row, column in rows:
        a, b = s.hidden_states[-1][row, column], t.hidden_states[-1][row, column]
        turned = turned + 1 - (a @ b) / (a.norm() * b.norm())
    naive = torch.stack([5 * soft, 2 * hard, 0.7 * turned])
    ours = objective.losses(model, batch)
    torch.testing.assert_close(ours, naive, rtol=1e-10, atol=1e-12)
    labels = int((batch["labels"] != IGNORED).sum())
    assert objective.items(batch).tolist() == [len(rows) if kind == "tokens" else len(LENGTHS), labels, len(rows)]
    agree(model, ours.sum(), naive.sum())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    narrow = FromTeacher(Classes(model), bert(head, 1, hidden_size=12), weights=(1.0, 1.0, 0.0))
    assert float(narrow.losses(model, batch)[2].detach()) == 0


@pytest.mark.parametrize(("relations", "heads", "width"), [(MINILM, None, 8), (MINILM, None, 12), (MINILM_V2, 4, 12)])
def test_relations_by_hand(relations: Any, heads: int | None, width: int):
    model, teacher = bert(BertModel), bert(BertModel, 1, hidden_size=width)
    objective = Relations(model, teacher, relations=relations, heads=heads)
    batch = batch_of(objective, texts("none"))
    heads = heads or 2
    sums = []
    for one, other in relations:
        total = torch.zeros((), dtype=torch.float64)
        for example in texts("none"):  # one by one: there is no padding
            p, q = (_relation(each, example["input_ids"], one, other, heads) for each in (teacher, model))
            total = total + (p * (p / q).log()).sum() / heads
        sums.append(total)
    ours = objective.losses(model, batch)
    torch.testing.assert_close(ours, torch.stack(sums), rtol=1e-9, atol=1e-12)
    assert objective.items(batch).tolist() == [sum(LENGTHS)] * len(relations)
    agree(model, ours.sum(), torch.stack(sums).sum())
    if width == 8:
        same = Relations(model, copy.deepcopy(model), relations=relations)
        torch.testing.assert_close(same.losses(model, batch), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="give heads="):
        Relations(model, bert(BertModel, 1, num_attention_heads=4))
    with pytest.raises(ValueError, match="has 2 attention layers, not one number 5"):
        Relations(model, teacher, student_layer=5)


def _relation(model: Any, ids: list[int], one: str, other: str, heads: int) -> Tensor:
    """(H, T, T) of the last layer, from the states before it."""
    states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-2][0]
    attention = model.encoder.layer[-1].attention
    parts = [getattr(attention, name)(states).chunk(heads, dim=-1) for name in (one, other)]
    return torch.stack([(a @ b.T / a.shape[-1] ** 0.5).softmax(dim=-1) for a, b in zip(*parts, strict=True)])


@pytest.mark.parametrize("negatives", [False, True])
def test_in_batch_negatives_by_hand(negatives: bool):
    model = bert(BertModel)
    objective = InBatchNegatives(model, scale=7.0)
    examples = spoken(model)
    if negatives:
        examples = [{**each, "negative_ids": [9, 8, 7]} for each in examples]
    batch = batch_of(objective, examples)
    a, b = ([_vector(model, each[side]) for each in examples] for side in ("input_ids", "other_ids"))
    c = [_vector(model, [9, 8, 7]) for _ in examples] if negatives else []
    naive = torch.zeros((), dtype=torch.float64)
    for place, one in enumerate(a):
        scores = torch.stack([7 * (one @ other) / (one.norm() * other.norm()) for other in (*b, *c)])
        naive = naive - scores.softmax(dim=0)[place].log()
    assert objective.items(batch).tolist() == [len(a)]
    agree(model, objective.losses(model, batch)[0], naive)


def test_similarity_by_hand():
    model = bert(BertModel)
    objective = Similarity(model)
    examples = [{**each, "labels": number / 5} for number, each in enumerate(spoken(model))]
    naive = torch.zeros((), dtype=torch.float64)
    for each in examples:
        one, other = _vector(model, each["input_ids"]), _vector(model, each["other_ids"])
        naive = naive + ((one @ other) / (one.norm() * other.norm()) - torch.tensor(each["labels"])) ** 2
    agree(model, objective.losses(model, batch_of(objective, examples))[0], naive)


def _vector(model: Any, ids: list[int]) -> Tensor:
    states: Tensor = model(torch.tensor([ids])).last_hidden_state[0]
    return states.mean(dim=0)

"""Real tasks by linear probes: the regression, the readers, the scores, and what a swap changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from minitrans.embedding import Encoder
from minitrans.lab.bench import Bench
from minitrans.lab.probe import DECAY, fit
from minitrans.lab.sections import find_files
from minitrans.lab.specs import read_subjects
from minitrans.lab.sst2 import read_sentences, sst2
from minitrans.lab.wnut17 import TAGS, _vectors, entities, f1, read_tagged, wnut17
from tests.cli.conftest import body, tiny  # noqa: F401 (fixtures)

SENTENCES = [
    (["the", "cat", "sat"], ["O", "B-person", "O"]),
    (["on", "the", "mat", "here"], ["O", "B-location", "I-location", "O"]),
    (["a", "dog"], ["O", "B-group"]),
]


@pytest.fixture
def bench(body: str, tmp_path: Path) -> Bench:  # noqa: F811
    (tmp_path / "sst2").mkdir()
    lines = [
        f"{place % 2}\t{'the cat sat' if place % 2 else 'a dog on the mat'} {'here ' * (place // 2)}"
        for place in range(12)
    ]
    for name in ("train", "dev"):
        (tmp_path / "sst2" / f"{name}.tsv").write_text("\n".join(["label\tsentence", *lines]) + "\n")
    text = "\n\t\n".join("\n".join(f"{word}\t{tag}" for word, tag in zip(*each, strict=True)) for each in SENTENCES)
    for name in ("wnut17train.conll", "emerging.test.annotated"):
        (tmp_path / name).write_text(text + "\n\n")
    return Bench(Encoder(body), find_files(["sst2", "wnut17"], tmp_path))


def test_the_probe_is_the_logistic_regression_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(90, 4, generator=generator)
    labels = (vectors[:, 0] + torch.randn(90, generator=generator) > 0).long() + (vectors[:, 1] > 1).long()
    probe = fit(vectors, labels, 3)
    scaled = (vectors.double() - probe.mean) / probe.deviation
    peer = LogisticRegression(C=1 / (2 * DECAY * 90), tol=1e-10, max_iter=10_000).fit(scaled.numpy(), labels.numpy())
    ours = torch.softmax(scaled @ probe.weight[:-1] + probe.weight[-1], dim=-1)
    torch.testing.assert_close(ours, torch.from_numpy(peer.predict_proba(scaled.numpy())), atol=2e-3, rtol=0)
    assert probe(vectors).tolist() == peer.predict(scaled.numpy()).tolist()


def test_entities_are_whole():
    tags = ["B-person", "I-person", "B-person", "O", "I-group", "I-location", "B-group"]
    assert entities(tags) == {(0, 2, "person"), (2, 3, "person"), (4, 5, "group"), (5, 6, "location"), (6, 7, "group")}
    assert entities(["O"]) == set()
    gold, found = [{(0, 2, "person"), (3, 4, "group")}, set()], [{(0, 2, "person")}, {(0, 1, "group")}]
    assert f1(found, gold) == pytest.approx(50.0)  # one right, of two found and of two there
    assert f1([set()], [set()]) == 0.0


def test_files_that_are_something_else_are_named(tmp_path: Path):
    file = tmp_path / "file.tsv"
    file.write_text("label\tsentence\n1\tfine\n2\tno\n")
    with pytest.raises(ValueError, match="line 3: expected a label of 0, 1"):
        read_sentences(file)
    file.write_text("word\tO\nword\tB-nothing\n")
    with pytest.raises(ValueError, match="line 1: expected a label of O.*found .B-nothing"):
        read_tagged(file)


def test_real_files_have_their_published_sizes(shared_data: Path):
    sentences, labels = read_sentences(shared_data / "sst2" / "dev.tsv")
    assert (len(sentences), int(labels.sum())) == (872, 444)
    tagged = read_tagged(shared_data / "wnut17" / "emerging.test.annotated")
    assert (len(tagged), sum(len(words) for words, _ in tagged)) == (1287, 23394)
    assert sum(len(entities(tags)) for _, tags in tagged) == 1079


def test_a_word_has_the_vector_of_its_first_token_in_its_own_place(bench: Bench):
    vectors = _vectors(bench, SENTENCES)
    assert len(vectors) == 9
    alone = torch.cat([_vectors(bench, [each]) for each in SENTENCES])
    torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=0)
    tokenizer = bench.encoder.tokenizer
    ids = tokenizer([SENTENCES[0][0]], is_split_into_words=True, return_tensors="pt")
    states = bench.encoder.model.base_model(input_ids=ids["input_ids"]).last_hidden_state[0]
    tokens = [ids.word_ids(0).index(word) for word in range(3)]
    torch.testing.assert_close(vectors[:3], states[tokens], atol=1e-5, rtol=0)


@pytest.mark.parametrize("section", [sst2, wnut17])
def test_a_swap_that_changes_nothing_scores_what_the_model_does(bench: Bench, section):
    full, uniform = read_subjects(["full", '{"name": "synthesizer_random"}'])
    found = section(bench, full, 0)
    assert found["score"] == found["refitted"] == found["exact"] == 100.0  # the same examples to fit and to score
    assert found["fitted_to"] == (12 if section is sst2 else 9)
    before = bench.encoder.encode(["the cat"])
    section(bench, uniform, 0)
    assert torch.equal(bench.encoder.encode(["the cat"]), before)
    assert len(TAGS) == 13

"""The tasks for training from scratch: every label agrees with an evaluator that was written without looking at them."""

from __future__ import annotations

import gzip
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from minitrans.lab.tasks.listops import OPERATORS
from minitrans.lab.tasks.table import TASKS, make_task
from minitrans.lab.tasks.task import NOT_ASKED, Examples

GENERATED = [name for name, row in TASKS.items() if not row.files]


def draw(name: str, count: int = 40, length: int = 64, seed: int = 0) -> Examples:
    return make_task(name, {}).train(count, length, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", GENERATED)
def test_seeds_say_everything_and_labels_are_classes(name: str):
    task = make_task(name, {})
    one, two, other = draw(name), draw(name), draw(name, seed=1)
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.labels, two.labels)
    assert one.ids.shape != other.ids.shape or not torch.equal(one.ids, other.ids)
    asked = one.labels[one.labels != NOT_ASKED]
    assert len(asked) > 0
    assert 0 <= int(asked.min()) <= int(asked.max()) < task.classes
    assert 0 <= int(one.ids.min()) <= int(one.ids.max()) < task.vocabulary
    assert one.labels.shape == (one.ids.shape if task.per_token else one.ids.shape[:1])


def test_recall_asks_every_key_once_for_the_value_that_followed_it():
    examples = draw('{"name": "mqar", "pairs": 5, "vocabulary": 40}', 60, 33)
    for ids, labels in zip(examples.ids.tolist(), examples.labels.tolist(), strict=True):
        known = dict(zip(ids[0:10:2], ids[1:10:2], strict=True))
        assert len(known) == 5
        places = [place for place, label in enumerate(labels) if label != NOT_ASKED]
        assert min(places) >= 10
        assert sorted(ids[place] for place in places) == sorted(known)
        assert all(labels[place] == known[ids[place]] for place in places)
        assert all(ids[place] == 0 for place in range(10, 33) if place not in places)
        assert max(known) < 20 <= min(known.values())


def test_near_questions_are_more_frequent():
    places = (draw("mqar", 800).labels != NOT_ASKED).sum(dim=0)[16:]
    assert places[0] > 3 * places[20] > 0


@pytest.mark.parametrize("length", [16, 17])
def test_copies_are_copies(length: int):
    examples = draw("copy", length=length)
    half = (length + 1) // 2
    for ids, labels in zip(examples.ids.tolist(), examples.labels.tolist(), strict=True):
        assert ids[half] == 0
        assert labels == [NOT_ASKED] * half + ids[: length - half]
        assert ids[half + 1 :] == labels[half:-1]


def test_what_followed_the_marker_is_asked_at_the_end():
    for ids, labels in zip(*(part.tolist() for part in (draw("induction").ids, draw("induction").labels)), strict=True):
        assert Counter(ids)[0] == 2
        assert ids[-1] == 0
        assert labels[:-1] == [NOT_ASKED] * (len(ids) - 1)
        assert labels[-1] == ids[ids.index(0) + 1]


WORDS = ["pad", *map(str, range(10)), "]", *(f"[{name}" for name in OPERATORS)]


def value_of(words: list[str]) -> int:
    """A stack of open brackets, the functions by numpy: nothing here is shared with the generator but the names."""
    functions = {"[MIN": np.min, "[MAX": np.max, "[MED": np.median, "[SM": lambda values: np.sum(values) % 10}
    open_nodes: list[tuple[str, list[int]]] = [("", [])]
    for word in words:
        if word.startswith("["):
            open_nodes.append((word, []))
        elif word == "]":
            name, values = open_nodes.pop()
            open_nodes[-1][1].append(int(functions[name](values)))
        else:
            open_nodes[-1][1].append(int(word))
    assert len(open_nodes) == 1
    return open_nodes[0][1][0]


def test_lists_have_the_value_that_an_evaluator_finds_and_the_published_shape():
    examples = draw("listops", 60, 200)
    assert examples.real is not None
    operators: Counter[str] = Counter()
    for ids, real, label in zip(examples.ids, examples.real, examples.labels.tolist(), strict=True):
        words = [WORDS[token] for token in ids[real].tolist()]
        assert 50 < len(words) < 200
        assert bool((ids[~real] == 0).all())
        assert value_of(words) == label
        operators.update(word for word in words if word.startswith("["))
        deepest = depth = 0
        for word in words:
            depth += word.startswith("[") - (word == "]")
            deepest = max(deepest, depth)
        assert deepest <= 9
    assert set(operators) == {"[MIN", "[MAX", "[MED", "[SM"}


def test_the_evaluator_knows_published_lists():
    assert value_of(["[MAX", "2", "9", "[MIN", "4", "7", "]", "0", "]"]) == 9  # Nangia & Bowman 2018, figure 1
    assert value_of(["[MED", "1", "2", "4", "9", "]"]) == 3
    assert value_of(["[SM", "9", "9", "[MED", "0", "9", "5", "]", "]"]) == 3


def test_reviews_are_bytes_and_the_last_tenth_is_held_out(tmp_path: Path):
    texts = {
        f"movie_reviews/{kind}/cv{number}00_1.txt": f"{kind} {number}é" for kind in ("neg", "pos") for number in (0, 9)
    }
    with zipfile.ZipFile(tmp_path / "movie_reviews.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    task = make_task("reviews", {"movie_reviews.zip": tmp_path / "movie_reviews.zip"})
    for source, number in ((task.train, 0), (task.held_out, 9)):
        examples = source(2, 100, torch.Generator())
        assert examples.real is not None
        found = {
            (bytes(byte - 1 for byte in ids[real].tolist()).decode(), label)
            for ids, real, label in zip(examples.ids, examples.real, examples.labels.tolist(), strict=True)
        }
        assert found == {(f"neg {number}é", 0), (f"pos {number}é", 1)}
        assert source(5, 3, torch.Generator()).ids.shape == (5, 3)


def test_masked_bytes_are_asked_and_no_others(tmp_path: Path):
    file = tmp_path / "text.gz"
    text = bytes(range(256)) * 20
    file.write_bytes(gzip.compress(text))
    task = make_task("masked", dict.fromkeys(TASKS["masked"].files, file))
    examples = task.train(30, 50, torch.Generator().manual_seed(0))
    hidden = examples.ids == 256
    assert torch.equal(hidden, examples.labels != NOT_ASKED)
    assert 0.12 < hidden.double().mean() < 0.18
    whole = examples.ids.where(~hidden, examples.labels)
    assert bool(((whole[:, 1:] - whole[:, :-1]) % 256 == 1).all())


@pytest.mark.parametrize(
    "text", ["nonsense", '{"name": "mqar", "pears": 3}', '{"name": "mqar", "pairs": "3"}', "{", "{}"]
)
def test_a_task_that_is_none_is_refused(text: str):
    with pytest.raises(ValueError, match=r"mqar|pairs"):
        make_task(text, {})


def test_too_many_pairs_are_refused():
    with pytest.raises(ValueError, match="8 pairs need 24 tokens"):
        draw("mqar", 1, 23)


def test_real_texts_have_their_published_sizes(shared_data: Path):
    task = make_task("reviews", {"movie_reviews.zip": shared_data / "nltk" / "movie_reviews.zip"})
    examples = task.held_out(200, 20_000, torch.Generator())
    assert examples.real is not None
    assert int(examples.labels.sum()) == 100
    sizes = torch.cat(
        [
            source(count, 20_000, torch.Generator()).real.sum(dim=1)
            for source, count in ((task.train, 1800), (task.held_out, 200))
        ]
    )  # type: ignore[union-attr]
    assert (int(sizes.sort().values[1000]), int(sizes.max())) == (3624, 14957)  # the upper median
    files = {name: shared_data / name for name in TASKS["masked"].files}
    assert make_task("masked", files).held_out(2, 100, torch.Generator()).ids.shape == (2, 100)

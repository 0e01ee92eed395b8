"""Every task against `transformers.pipeline`, in float64: the same names, the same shapes, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import minitrans
from tests.pipelines.conftest import NAMES, their_tokenizer

TEXTS = [
    "the cat , ada lovelace was born in paris and london , dog and snow .",
    "Ada walked",
    "zebra , a film about walking cats ? the old city in france was bad .",
    "snow",
]
PREFIXES = {"BertTokenizerFast": "Bert", "RobertaTokenizerFast": "Roberta"}


def pair(task: str, folder: str, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Our pipeline and theirs."""
    tokenizer = their_tokenizer(folder)
    transformers = pytest.importorskip("transformers")
    ours = minitrans.pipeline(task, folder, dtype="float64", **options)
    name = type(ours.model).__name__
    model = getattr(transformers, name).from_pretrained(folder).double().eval()
    return ours, transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu", **options)


def same(found: Any, expected: Any, tolerance: float) -> None:
    """Equal in shape, keys and all that is no number, and in numbers up to the tolerance."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            same(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other, tolerance)
    elif hasattr(expected, "dtype"):
        same(found if isinstance(found, float | int) else found.tolist(), expected.tolist(), tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
    else:
        assert found == expected


FLOAT32 = 1e-7  # the reference turns logits into float32 before it scores them, and softmax does not enlarge the error
EXACT = 1e-12  # float64 on both sides


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"num_labels": 3}, {}),
        ({"num_labels": 3}, {"function_to_apply": "sigmoid"}),
        ({"num_labels": 3}, {"function_to_apply": "none"}),
        ({"num_labels": 1}, {}),
        ({"num_labels": 1, "problem_type": "regression"}, {}),
        ({"num_labels": 3, "problem_type": "multi_label_classification"}, {}),
    ],
)
def test_text_classification(tiny, config: dict[str, Any], options: dict[str, Any]):
    folder = tiny("BertForSequenceClassification", "-".join(map(str, ["sc", *config.values()])), **config)
    ours, theirs = pair("text-classification", folder)
    tolerance = FLOAT32 * (50 if options.get("function_to_apply") == "none" or config["num_labels"] == 1 else 1)
    two = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for given in (TEXTS[0], TEXTS, [TEXTS[0]], two, [two, {"text": "snow"}]):
        for top_k in ({}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}):
            same(ours(given, **top_k, **options), theirs(given, **top_k, **options), tolerance)
    long = TEXTS[0] * 4
    same(ours(long, truncation=True, max_length=20), theirs(long, truncation=True, max_length=20), FLOAT32 * 50)
    assert ours.truncated == 1


def test_options_may_be_given_once_for_all(tiny):
    folder = tiny("BertForSequenceClassification", "sc-3", num_labels=3)
    ours, theirs = pair("sentiment-analysis", folder, top_k=2)
    for given in (TEXTS[0], TEXTS):
        same(ours(given), theirs(given), FLOAT32)
        same(ours(given, top_k=1), theirs(given, top_k=1), FLOAT32)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("family", ["tiny", "byte_level"])
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_token_classification(request: pytest.FixtureRequest, family: str, strategy: str):
    name = {"tiny": "BertForTokenClassification", "byte_level": "RobertaForTokenClassification"}[family]
    folder = request.getfixturevalue(family)(name, num_labels=len(NAMES), id2label=NAMES)
    ours, theirs = pair("ner", folder, aggregation_strategy=strategy)
    for given in (TEXTS[0], TEXTS, TEXTS[:1]):
        for more in ({}, {"ignore_labels": []}, {"ignore_labels": ["PER", "B-PER"]}):
            same(ours(given, **more), theirs(given, **more), EXACT)
    same(ours(TEXTS[0] * 4), theirs(TEXTS[0] * 4), EXACT)
    for stride in (0, 3, 11) if strategy != "none" else ():  # the reference refuses these two together
        for more in ({}, {"ignore_labels": []}):
            long = [TEXTS[0] * 4, TEXTS[1], f"{TEXTS[2]} {TEXTS[0]} " * 3]
            same(ours(long, stride=stride, **more), [theirs(each, stride=stride, **more) for each in long], EXACT)


@pytest.mark.parametrize("family", ["tiny", "byte_level"])
def test_fill_mask(request: pytest.FixtureRequest, family: str):
    name = {"tiny": "BertForMaskedLM", "byte_level": "RobertaForMaskedLM"}[family]
    ours, theirs = pair("fill-mask", request.getfixturevalue(family)(name))
    mask = ours.tokenizer.mask_token
    one, two = f"paris is the {mask} of france .", f"the {mask} sat on {mask} [PAD] ."
    for given in (one, [one], two, [one, two, f"a {mask}"]):
        for more in ({}, {"top_k": 2}, {"targets": ["cat", "dog"]}, {"targets": "walk", "top_k": 3}):
            same(ours(given, **more), theirs(given, **more), EXACT)
    long = one + " snow" * 40
    cut = {"tokenizer_kwargs": {"truncation": True, "max_length": 16}}
    same(ours(long, **cut), theirs(long, **cut), EXACT)


@pytest.mark.parametrize("family", ["tiny", "byte_level"])
def test_feature_extraction(request: pytest.FixtureRequest, family: str):
    folder = request.getfixturevalue(family)({"tiny": "BertModel", "byte_level": "RobertaModel"}[family])
    ours, theirs = pair("feature-extraction", folder)
    for given in (TEXTS[0], TEXTS, [TEXTS[0]]):
        same(ours(given), theirs(given), EXACT)
        same(ours(given, return_tensors=True), theirs(given, return_tensors=True), EXACT)
    cut = {"tokenize_kwargs": {"max_length": 7}, "truncation": True}
    same(ours(TEXTS, **cut), theirs(TEXTS, **cut), EXACT)


# -- the reference's question answering, which its version 5 gave up: by plain loops -------------------------------------


def their_answers(folder: str, question: str, context: str, **options: Any) -> Any:
    """What version 4 of the reference answers."""
    top_k, longest = options.get("top_k", 1), options.get("max_answer_len", 15)
    length = options.get("max_seq_len", 32)
    tokenizer = minitrans.AutoTokenizer.from_pretrained(folder)
    model = minitrans.AutoModelForQuestionAnswering.from_pretrained(folder, dtype="float64")
    windows = tokenizer(
        question, context, truncation="only_second", max_length=length, stride=options.get("doc_stride", length // 2),
        return_overflowing_tokens=True,
    )  # fmt: skip
    answers: list[dict[str, Any]] = []
    nothing = 1e6
    for row, ids in enumerate(windows["input_ids"]):
        fields = {
            name: torch.tensor([windows[name][row]]) for name in ("input_ids", "token_type_ids") if name in windows
        }
        with torch.no_grad():
            out = model(**fields)
        parts = windows.sequence_ids(row)
        wanted = [parts[i] == 1 or ids[i] == tokenizer.cls_token_id for i in range(len(ids))]
        sides = []
        for logits in (out.start_logits[0], out.end_logits[0]):
            scores = [float(logits[i]) if wanted[i] else -10000.0 for i in range(len(ids))]
            sides.append(torch.tensor(scores, dtype=torch.float64).softmax(0).tolist())
        nothing = min(nothing, sides[0][0] * sides[1][0])
        sides[0][0] = sides[1][0] = 0.0
        pairs = [
            (sides[0][i] * sides[1][j], i, j) for i in range(len(ids)) for j in range(i, min(i + longest, len(ids)))
        ]
        aligned = options.get("align_to_words", True)
        for score, i, j in sorted(pairs, key=lambda each: -each[0])[: 2 * top_k + 10 if aligned else top_k]:
            if score == 0.0:
                continue
            start, end = windows.token_to_chars(row, i).start, windows.token_to_chars(row, j).end
            if aligned:
                start = windows.word_to_chars(row, windows.token_to_word(row, i), 1).start
                end = windows.word_to_chars(row, windows.token_to_word(row, j), 1).end
            for answer in answers:
                if answer["answer"].lower() == context[start:end].lower():
                    answer["score"] += score
                    break
            else:
                answers.append({"score": score, "start": start, "end": end, "answer": context[start:end]})
    if options.get("handle_impossible_answer"):
        answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
    best = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
    return best[0] if len(best) == 1 else best


QUESTION = "where was ada born ?"
CONTEXTS = ["Ada Lovelace was born in London .", "the cat sat on the mat , " * 5 + "ada walked in london , a city"]


@pytest.mark.parametrize("family", ["tiny", "byte_level"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 4},
        {"top_k": 3, "align_to_words": False},
        {"max_answer_len": 2, "top_k": 5},
        {"handle_impossible_answer": True, "top_k": 4},
        {"max_seq_len": 24, "doc_stride": 4, "top_k": 3},
    ],
)
def test_question_answering(request: pytest.FixtureRequest, family: str, options: dict[str, Any]):
    name = {"tiny": "BertForQuestionAnswering", "byte_level": "RobertaForQuestionAnswering"}[family]
    folder = request.getfixturevalue(family)(name)
    ours = minitrans.pipeline("question-answering", folder, dtype="float64")
    if family == "byte_level":
        options = {"max_seq_len": 34, "doc_stride": 5, **options}
    else:
        options = {"doc_stride": 8, **options}
    question = "ada ?" if family == "byte_level" else QUESTION
    expected = [their_answers(folder, question, context, **options) for context in CONTEXTS]
    for context, answers in zip(CONTEXTS, expected, strict=True):
        same(ours(question=question, context=context, **options), answers, EXACT)
    items = [{"question": question, "context": context} for context in CONTEXTS]
    same(ours(items, **options), expected, EXACT)
    same(ours(items[0], **options), expected[0], EXACT)
    same(ours(question=[question] * 2, context=CONTEXTS, **options), expected, EXACT)
    same(ours(question=[question] * 2, context=CONTEXTS[0], **options), [expected[0]] * 2, EXACT)
    same(ours(items[:1], **options), expected[0], EXACT)

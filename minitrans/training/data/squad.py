"""SQuAD files, versions 1.1 and 2.0: questions about paragraphs, and where in them the answers stand
(Rajpurkar et al. 2016; 2018, "Know What You Don't Know").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minitrans.files import printable, read_json
from minitrans.training.data.records import Records


def read_squad(path: str | Path) -> Records:
    """Rows of `id`, `question`, `context` and `answers`: {"text": [...], "answer_start": [...]}, empty where there is none.

    `answer_start` counts characters of the context.

    Raises:
        ValueError: naming the question with a part missing, or with an answer that does not stand where it says.
    """
    return Records(printable(path), list(_questions(path)))


def _questions(path: str | Path) -> Iterator[dict[str, Any]]:
    place = "data"
    try:
        for number, article in enumerate(read_json(path)["data"]):
            for place_in, paragraph in enumerate(article["paragraphs"]):
                place = f"data[{number}].paragraphs[{place_in}]"
                context = paragraph["context"]
                for asked in paragraph["qas"]:
                    place = f"{place.partition(': ')[0]}: question {printable(asked['id'], 40)}"
                    answers, starts = [], []
                    for answer in [] if asked.get("is_impossible") else asked["answers"]:
                        answers.append(answer["text"])
                        starts.append(answer["answer_start"])
                        _check(context, answers[-1], starts[-1])
                    yield {
                        "id": asked["id"], "question": asked["question"], "context": context,
                        "answers": {"text": answers, "answer_start": starts},
                    }  # fmt: skip
    except (KeyError, TypeError) as error:
        what = f"a field {error}" if isinstance(error, KeyError) else f"SQuAD's lists and objects ({error})"
        raise ValueError(f"{printable(path)}: {place}: expected {what}") from None
    except _WrongPlaceError as error:
        raise ValueError(f"{printable(path)}: {place}: {error}") from None


class _WrongPlaceError(Exception):
    """An answer does not stand where its file says."""


def _check(context: str, answer: str, start: int) -> None:
    found = context[start : start + len(answer)] if start >= 0 else ""
    if found != answer or not answer:
        raise _WrongPlaceError(
            f"expected {printable(answer, 40)!r} at character {start}, found {printable(found, 40)!r}"
        )

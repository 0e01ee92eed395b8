"""Every format is read as it is meant, and what is malformed is said with its file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from minitrans.training.data.conll import read_conll
from minitrans.training.data.hugging_face import from_dataset
from minitrans.training.data.parallel import read_parallel
from minitrans.training.data.plain import read_documents, read_texts
from minitrans.training.data.squad import read_squad
from minitrans.training.data.table import read_table


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_tables_are_one_thing_in_three_forms(tmp_path: Path):
    rows = [{"text": 'say "a, b"', "label": "1"}, {"text": "two\u2028parts", "label": "0"}]
    tsv = "text\tlabel\r\n" + "".join(f"{row['text']}\t{row['label']}\r\n" for row in rows)
    quoted = "text,label\n" + "".join('"{}",{}\n'.format(row["text"].replace('"', '""'), row["label"]) for row in rows)
    lines = "\n\n".join(json.dumps(row) for row in rows)
    files = [
        written(tmp_path, "a.tsv", "\ufeff" + tsv),
        written(tmp_path, "a.csv", quoted),
        written(tmp_path, "a.jsonl", lines),
        written(tmp_path, "a.b.csv.gz", gzip.compress(quoted.encode())),
    ]
    read = [read_table(path) for path in files]
    assert all(list(each) == rows for each in read)
    assert [each.lines for each in read] == [[2, 3], [2, 3], [1, 3], [2, 3]]


def test_a_quoted_field_of_several_lines_is_one_row(tmp_path: Path):
    records = read_table(written(tmp_path, "a.csv", '"one\ntwo",0\n\nthree,1\n'), columns=("text", "label"))
    assert [row["text"] for row in records] == ["one\ntwo", "three"]
    assert records.lines == [1, 4]


def test_tags_come_in_columns(tmp_path: Path):
    text = "-DOCSTART- X O\n\nEU NNP B-ORG\nrejects VBZ O\n \nPeter NNP B-PER\n"
    records = read_conll(written(tmp_path, "a.conll", text))
    assert list(records) == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter"], "tags": ["B-PER"]},
    ]
    assert records.where(1).endswith("line 6")
    middle = read_conll(written(tmp_path, "b.conll", "no word\tO\tB-x\n"), word=0, tag=1)
    assert list(middle) == [{"words": ["no word"], "tags": ["O"]}]  # a tab parts columns, a blank does not


def test_sides_go_together_line_by_line(tmp_path: Path):
    one, other = written(tmp_path, "x.en", "a\n\nb\n"), written(tmp_path, "x.de.gz", gzip.compress(b"A\nB\nC\n"))
    records = read_parallel(one, other)
    assert list(records) == [{"source": "a", "target": "A"}, {"source": "b", "target": "C"}]
    with pytest.raises(ValueError, match=r"y\.de: line 2: expected as many lines"):
        read_parallel(one, written(tmp_path, "y.de", "A\n"))


def test_documents_end_at_blank_lines_or_headings(tmp_path: Path):
    path = written(tmp_path, "a.txt", " one .\ntwo .\n\n\nthree .\n")
    assert [row["sentences"] for row in read_documents(path)] == [["one .", "two ."], ["three ."]]
    headed = written(tmp_path, "b.txt", " \n = Title = \n \n one .\n = = Part = = \n two .\n = Other = \nthree .\n")
    found = read_documents(headed, r"\s*= [^=].*")
    assert [row["sentences"] for row in found] == [["one .", "= = Part = =", "two ."], ["three ."]]
    assert [row["text"] for row in read_texts(path)] == ["one .", "two .", "three ."]


def squad(**change: object) -> str:
    question = {"id": "q1", "question": "who?", "answers": [{"text": "cat", "answer_start": 2}], **change}
    return json.dumps({"data": [{"paragraphs": [{"context": "a cat", "qas": [question]}]}]})


def test_questions_have_the_form_of_the_hub(tmp_path: Path):
    (row,) = read_squad(written(tmp_path, "a.json", squad()))
    assert row["answers"] == {"text": ["cat"], "answer_start": [2]}
    (row,) = read_squad(written(tmp_path, "a.json", squad(is_impossible=True)))
    assert row["answers"] == {"text": [], "answer_start": []}


def test_a_dataset_is_read_as_it_stands():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    assert list(from_dataset(data)) == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    with pytest.raises(TypeError, match=r"expected one split, got train: give dataset\[...\]"):
        from_dataset(datasets.DatasetDict({"train": data}))
    with pytest.raises(TypeError, match="without streaming"):
        from_dataset(data.to_iterable_dataset())


# reader, file name, content, the message
MALFORMED = {
    "too few fields": (read_table, "a.tsv", "x\ty\n1\t2\n3\n", r"a\.tsv: line 3: expected 2 fields \(x, y\), found 1"),
    "header twice": (read_table, "a.tsv", "x\tx\n1\t2\n", r"a\.tsv: line 1: the names of columns must differ"),
    "open quote": (read_table, "a.csv", 'x\n1\n"2\n', r"a\.csv: line 3: expected quoted fields"),
    "no json": (read_table, "a.jsonl", '{"x": 1}\n{"x": \n', r"a\.jsonl: line 2: expected JSON"),
    "a list": (read_table, "a.jsonl", "[1]", r"a\.jsonl: line 1: expected a JSON object, found list"),
    "header only": (read_table, "a.tsv", "x\ty\n", r"a\.tsv: expected at least one row, found none"),
    "empty": (read_table, "a.csv", "", r"a\.csv: expected at least one row"),
    "unknown ending": (read_table, "a.xlsx", "x", r"a\.xlsx: expected a table with an ending of \.tsv, \.csv, \.jsonl"),
    "latin-1": (read_table, "a.tsv", b"x\nok\ncaf\xe9\n", r"a\.tsv: line 3: expected UTF-8 text, found byte 0xe9 at 3"),
    "utf-16": (read_texts, "a.txt", "ab".encode("utf-16"), r"a\.txt: line 1: expected UTF-8 text, found byte 0xff at 0"),
    "zero byte": (read_texts, "a.txt", b"a\nb\0\n", r"a\.txt: line 2: expected text, found a zero byte"),
    "cut gzip": (read_texts, "a.txt.gz", gzip.compress(b"a\n" * 9)[:-9], r"a\.txt\.gz: after line \d+: expected gzip data"),
    "no gzip": (read_texts, "a.txt.gz", b"hello", r"a\.txt\.gz: after line 0: expected gzip data"),
    "columns": (read_conll, "a.conll", "a\tO\nb\n", r"a\.conll: line 2: expected 2 columns"),
    "no tags": (read_conll, "a.conll", "a\n", r"a\.conll: line 1: expected 2 columns"),
    "blank": (read_documents, "a.txt", " \n\n", r"a\.txt: expected at least one row"),
    "wrong place": (
        read_squad, "a.json", squad(answers=[{"text": "cat", "answer_start": 1}]),
        r"a\.json: data\[0\]\.paragraphs\[0\]: question q1: expected 'cat' at character 1, found ' ca'",
    ),
    "no start": (read_squad, "a.json", squad(answers=[{"text": "cat"}]), r"question q1: expected a field 'answer_start'"),
    "no list": (read_squad, "a.json", '{"data": 3}', r"a\.json: data: expected SQuAD's lists"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_said_with_its_place(name: str, tmp_path: Path):
    reader, file, content, message = MALFORMED[name]
    with pytest.raises(ValueError, match=message):
        reader(written(tmp_path, file, content))


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ValueError, match="expected a file, found nothing"):
        read_table(tmp_path / "a.tsv")


def test_real_files(shared_data: Path):
    assert len(read_table(shared_data / "sst2" / "train.tsv")) == 67_349
    assert len(read_table(shared_data / "stsb" / "stsb-en-train.csv", columns=("a", "b", "score"))) == 5_749
    assert len(read_conll(shared_data / "wnut17" / "emerging.dev.conll")) == 1_009
    assert len(read_squad(shared_data / "xquad" / "xquad.en.json")) == 1_190
    sides = (shared_data / "multi30k" / f"val.{side}.gz" for side in ("en", "de"))
    assert len(read_parallel(*sides)) == 1_014
    articles = read_documents(shared_data / "wikitext2" / "valid.txt.gz", r" = [^=].* = ")
    assert len(articles) == 60

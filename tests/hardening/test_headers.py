"""Groups A (truncated or foreign file), B (lying header), C (bad entries) of the weights file."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

FIRST = "embeddings.LayerNorm.bias"  # the first tensor of the file
Damage = Callable[[Any], Any]


def rewrite(change: Callable[[bytes], bytes]) -> Damage:
    return lambda case: case.path().write_bytes(change(case.path().read_bytes()))


def header_end(raw: bytes) -> int:
    return 8 + int(struct.unpack("<Q", raw[:8])[0])


def length(value: int) -> Damage:
    return rewrite(lambda raw: struct.pack("<Q", value) + raw[8:])


def raw_header(change: Callable[[bytes], bytes]) -> Damage:
    def damage(case: Any) -> None:
        raw = case.path().read_bytes()
        end = header_end(raw)
        case.write_header(change(raw[8:end].rstrip()), raw[end:])

    return damage


def zipped(raw: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("evil.py", "raise SystemExit")
    return raw + out.getvalue()


def sparse(size: int, header: int | None = None) -> Damage:
    def damage(case: Any) -> None:
        with case.path().open("r+b") as file:
            if header is not None:
                file.write(struct.pack("<Q", header))
            file.truncate(size)

    return damage


def entry(**changes: Any) -> Damage:
    """The first tensor's entry with keys changed; None takes a key away."""

    def damage(case: Any) -> None:
        header, data = case.header()
        header[FIRST].update(changes)
        header[FIRST] = {key: value for key, value in header[FIRST].items() if value is not None}
        case.write_header(header, data)

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(case: Any) -> None:
        entries, data = case.header()
        change(entries)
        case.write_header(entries, data)

    return damage


def same_bytes(case: Any) -> None:
    entries, data = case.header()
    first = entries[FIRST]
    case.write_header({f"t{number}": first for number in range(60_000)}, data)


def with_duplicate(other: bool) -> Damage:
    def damage(case: Any) -> None:
        raw = case.path().read_bytes()
        end = header_end(raw)
        entries = json.loads(raw[8:end])
        again = {**entries[FIRST], "dtype": "I32"} if other else entries[FIRST]
        text = json.dumps(entries)[:-1] + f', "{FIRST}": {json.dumps(again)}}}'
        case.write_header(text.encode(), raw[end:])

    return damage


def swapped_offsets(entries: dict[str, Any]) -> None:
    entries[FIRST]["data_offsets"].reverse()


def overlapping(entries: dict[str, Any]) -> None:
    names = sorted((n for n in entries if n != "__metadata__"), key=lambda n: entries[n]["data_offsets"])
    begin, end = entries[names[1]]["data_offsets"]
    entries[names[1]]["data_offsets"] = [begin - 4, end - 4]


def holed(case: Any) -> None:
    entries, data = case.header()
    for name, info in entries.items():
        if name != "__metadata__":
            info["data_offsets"] = [offset + 64 for offset in info["data_offsets"]]
    case.write_header(entries, b"\0" * 64 + data)


def metadata(value: Any) -> Damage:
    return header(lambda entries: entries.update({"__metadata__": value}))


NAME = "model.safetensors: "
ROWS: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("A empty", rewrite(lambda raw: b""), (NAME, "found 0")),
    ("A cut in the length", rewrite(lambda raw: raw[:5]), (NAME, "at least 8 bytes, found 5")),
    ("A cut in the header", rewrite(lambda raw: raw[:100]), (NAME, "found a file of 100", "truncated")),
    ("A cut after the header", rewrite(lambda raw: raw[: header_end(raw)]), (NAME, "bytes of tensors", "found 0")),
    ("A cut in the middle", rewrite(lambda raw: raw[: len(raw) // 2]), (NAME, "bytes of tensors")),
    ("A last byte gone", rewrite(lambda raw: raw[:-1]), (NAME, "bytes of tensors")),
    ("A one byte too many", rewrite(lambda raw: raw + b"\0"), (NAME, "bytes of tensors")),
    ("A zip appended", rewrite(zipped), (NAME, "bytes of tensors")),
    ("A git-lfs pointer", rewrite(lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"), (NAME, "run `git lfs pull`")),
    ("A HTML page", rewrite(lambda raw: b"<!DOCTYPE html>\n<title>404</title>"), (NAME, "an HTML page")),
    ("A HTML page after blanks", rewrite(lambda raw: b"\n  <html><body>429</body></html>"), (NAME, "an HTML page")),
    ("A JSON error page", rewrite(lambda raw: b'{"error":"Repository not found"}'), (NAME, "expected a header")),
    ("A zeros", rewrite(lambda raw: b"\0" * len(raw)), (NAME, "begins with '{'")),
    ("A noise", rewrite(lambda raw: bytes(range(1, 256)) * 9), (NAME, "header")),
    ("A gzip", rewrite(lambda raw: b"\x1f\x8b\x08" + b"\0" * 99), (NAME,)),
    ("A GGUF", rewrite(lambda raw: b"GGUF\3\0\0\0" + b"\0" * 99), (NAME, "header")),
    ("A HDF5", rewrite(lambda raw: b"\x89HDF\r\n\x1a\n" + b"\0" * 99), (NAME, "header")),
    ("A numpy", rewrite(lambda raw: b"\x93NUMPY\1\0v\0{'descr'" + b"\0" * 99), (NAME, "header")),
    ("B length 0", length(0), (NAME, "begins with '{'")),
    ("B length 1", length(1), (NAME, "JSON header")),
    ("B length past the end", length(10**6), (NAME, "1000008", "truncated")),
    ("B length 2^63", length(2**63), (NAME, str(2**63))),
    ("B length 2^64-1", length(2**64 - 1), (NAME, str(2**64 - 1))),
    ("B length that wraps", length(2**64 - 8), (NAME, str(2**64 - 8))),
    ("B length one short", rewrite(lambda raw: struct.pack("<Q", header_end(raw) - 9) + raw[8:]), (NAME, "header")),
    ("B 101 MB of header, sparse", sparse(102_000_000, 101_000_000), (NAME, "101000000")),
    ("B 31 MB of NUL as header, sparse", sparse(32_000_000, 31_000_000), (NAME, "JSON header")),
    ("B 60,000 tensors on the same bytes", same_bytes, (NAME, "t1: expected to begin at byte 96")),
    ("B not UTF-8", raw_header(lambda raw: raw.replace(b"pooler", b"p\xff\xfeler", 1)), (NAME, "JSON header")),
    ("B UTF-16", raw_header(lambda raw: raw.decode().encode("utf-16-le")), (NAME, "header")),
    ("B byte order mark", raw_header(lambda raw: b"\xef\xbb\xbf" + raw), (NAME, "begins with '{'")),
    ("B not JSON", raw_header(lambda raw: raw[:-1] + b",}"), (NAME, "JSON header")),
    ("B a list", raw_header(lambda raw: b"[" + raw + b"]"), (NAME, "begins with '{'")),
    ("B a number", raw_header(lambda raw: b"7"), (NAME, "begins with '{'")),
    ("B NUL padding", raw_header(lambda raw: raw + b"\0" * 8), (NAME, "JSON header")),
    ("B two documents", raw_header(lambda raw: raw + raw), (NAME, "JSON header")),
    ("B nested 10^5", raw_header(lambda raw: b'{"a":' * 10**5 + b"1" + b"}" * 10**5), (NAME, "JSON header")),
    ("B lists nested 10^5", raw_header(lambda raw: b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), (NAME,)),
    ("B no tensors", lambda case: case.write_header({}, b""), (NAME, "expected tensors, found none")),
    ("B only metadata", lambda case: case.write_header({"__metadata__": {"format": "pt"}}, b""), (NAME, "found none")),
    ("B key twice, the same", with_duplicate(False), (NAME, FIRST, "twice")),
    ("B key twice, another dtype", with_duplicate(True), (NAME, FIRST, "twice")),
    ("B metadata a number", metadata({"format": 1}), (NAME, "__metadata__")),
    ("B metadata a list", metadata(["pt"]), (NAME, "__metadata__")),
    ("B metadata nested", metadata({"format": {"a": "b"}}), (NAME, "__metadata__")),
    ("B a constant that is no JSON", raw_header(lambda raw: raw.replace(b"[24]", b"[NaN]", 1)), (NAME,)),
    ("B 10^5 digits", raw_header(lambda raw: raw.replace(b"[24]", b"[" + b"9" * 10**5 + b"]", 1)), (NAME, "JSON header")),
    ("C no dtype", entry(dtype=None), (NAME, FIRST, "dtype")),
    ("C no shape", entry(shape=None), (NAME, FIRST, "shape")),
    ("C no offsets", entry(data_offsets=None), (NAME, FIRST, "data_offsets")),
    ("C one key too many", entry(evil=1), (NAME, FIRST, "evil")),
    ("C entry a list", header(lambda entries: entries.update({FIRST: ["F32", [24], [0, 96]]})), (NAME, FIRST, "dtype")),
    ("C entry null", header(lambda entries: entries.update({FIRST: None})), (NAME, FIRST, "dtype")),
    ("C dtype unknown", entry(dtype="F31"), (NAME, FIRST, "F31", "F32")),
    ("C dtype in small letters", entry(dtype="f32"), (NAME, FIRST, "f32")),
    ("C dtype a number", entry(dtype=32), (NAME, FIRST, "32")),
    ("C dtype of another size", entry(dtype="F64"), (NAME, FIRST, "expected 192 bytes", "found 96")),
    ("C shape a number", entry(shape=24), (NAME, FIRST, "shape", "24")),
    ("C shape text", entry(shape=["24"]), (NAME, FIRST, "shape")),
    ("C shape true", entry(shape=[True]), (NAME, FIRST, "shape", "True")),
    ("C shape a fraction", entry(shape=[24.0]), (NAME, FIRST, "24.0")),
    ("C shape negative", entry(shape=[-24]), (NAME, FIRST, "-24")),
    ("C shape of two negatives", entry(shape=[-4, -6]), (NAME, FIRST, "-4")),
    ("C shape 2^60", entry(shape=[2**60]), (NAME, FIRST, str(2**62), "found 96")),
    ("C shape that overflows to 96 bytes", entry(shape=[2**63, 2, 24]), (NAME, FIRST, "found 96")),
    ("C shape of 10^5 dimensions", entry(shape=[1] * 10**5), (NAME, FIRST, "shape")),
    ("C shape null", entry(shape=[None]), (NAME, FIRST, "shape")),
    ("C offsets a number", entry(data_offsets=96), (NAME, FIRST, "data_offsets", "96")),
    ("C one offset", entry(data_offsets=[96]), (NAME, FIRST, "data_offsets")),
    ("C three offsets", entry(data_offsets=[0, 96, 96]), (NAME, FIRST, "data_offsets")),
    ("C offset negative", entry(data_offsets=[-96, 0]), (NAME, FIRST, "-96")),
    ("C offset a fraction", entry(data_offsets=[0, 96.5]), (NAME, FIRST, "96.5")),
    ("C offset 2^60", entry(data_offsets=[2**60, 2**60 + 96]), (NAME, "expected to begin")),
    ("C offset past 64 bits", entry(data_offsets=[0, 2**65]), (NAME, FIRST, str(2**65))),
    ("C offsets reversed", header(swapped_offsets), (NAME, FIRST, "expected 96 bytes", "found -96")),
    ("C offsets overlapping", header(overlapping), (NAME, "expected to begin at byte")),
    ("C offsets past the end", header(lambda e: e[FIRST].update(shape=[10**6], data_offsets=[0, 4 * 10**6])), (NAME, "expected to begin")),
    ("C a hole", holed, (NAME, "expected to begin at byte 0 of the data, found 64")),
    ("C escape codes in a bad tensor's name", header(lambda e: e.update({"\x1b[2J\x07" + "x" * 10**6: 3})), (NAME, r"\x1b[2J")),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_refused(damage: Damage, words: tuple[str, ...], case: Any, refused: Any) -> None:
    damage(case)
    refused(*words)


def extra(name: str, info: dict[str, Any]) -> Damage:
    return header(lambda entries: entries.update({name: info}))


HARMLESS: list[tuple[str, Damage, tuple[str, ...]]] = [
    ("C extra tensor of shape [0, 2^62]", lambda case: _append(case, "more", [0, 2**62]), ("more",)),
    ("C extra tensor of no elements", lambda case: _append(case, "more", [0]), ("more",)),
    ("B header padded with spaces", raw_header(lambda raw: raw + b" " * 1000), ()),
    ("B length that begins as a pickle", raw_header(lambda raw: raw.ljust((len(raw) // 256 + 1) * 256 + 0x80)), ()),
]


def _append(case: Any, name: str, shape: list[int]) -> None:
    entries, data = case.header()
    end = max(info["data_offsets"][1] for key, info in entries.items() if key != "__metadata__")
    entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end]}
    case.write_header(entries, data)


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in HARMLESS], ids=[row[0] for row in HARMLESS])
def test_harmless(damage: Damage, words: tuple[str, ...], case: Any, harmless: Any) -> None:
    damage(case)
    harmless(*words)


def test_the_guard_sees(case: Any, tmp_path: Any, opened: Any) -> None:
    """What the suite relies on: a process that reads elsewhere, writes, grows or hangs is caught."""
    import sys

    guarded = sys.modules[type(case).__module__].guarded
    outside = tmp_path / "outside"
    outside.write_text("x")
    calls = {
        "read": lambda: outside.read_text(),
        "write": lambda: (case.folder / "x").write_text("y"),
        "make": lambda: os.mkdir(case.canary),
        "grow": lambda: bytearray(10**9),
    }
    found = guarded(calls, [case.folder], tmp_path / "converted")
    assert [line.split()[0] for line in found.forbidden] == ["read", "wrote", "os.mkdir"]
    assert found.errors["grow"][0] == "MemoryError"

"""What a broken or hostile vocabulary file must not do. A basement: nothing here is needed to understand a tokenizer.

The `tokenizers` library parses the files and refuses what it does not know. Here is the rest: its panics, and what it
lets pass although the first text would fail, hang, or get ids that the file does not state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unicodedata import normalize

from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from minitrans.errors import CheckpointError
from minitrans.files import printable, read_json, read_text
from minitrans.tokenizers.patterns import slowness

MODELS = ("WordPiece", "BPE", "Unigram", "WordLevel")
_PROBE = ("Hello, wörld! 你好 \U0001f917 <mask>", "a  b \U00013000\U00016880")  # the last: in no vocabulary
_POSITION = re.compile(r" at line 1 column \d+$")  # in the text that the library was given, which is not the file's
_FILLER = re.compile(
    r"<[^<>]*>|\[[^\[\]]*\]|madeupword\d{4}"
)  # BPE tokens that no merge makes: specials, fairseq's padding


def fault(origin: object, what: str) -> CheckpointError:
    """The error that blames the file `origin`."""
    return CheckpointError(f"{printable(origin)}: {what}")


def refuse_first(origin: object, faults: Iterable[str]) -> None:
    """Raises CheckpointError for the first of the faults of the file `origin`, if there is one."""
    for what in faults:
        raise fault(origin, what)


def is_panic(error: BaseException) -> bool:
    """Whether `error` is a panic of Rust code, which is not an `Exception`."""
    return type(error).__name__ == "PanicException"


@contextmanager
def blamed_on(origin: object) -> Iterator[None]:
    """Turns whatever the library raises inside the block into a CheckpointError that names the file `origin`."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, CheckpointError) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        did = "panicked on" if is_panic(error) else "refused"
        what = printable(_POSITION.sub("", str(error)), 200)
        raise fault(origin, f"the tokenizers library {did} it: {what}") from None


def token_and_id(backend: Backend, token: str) -> tuple[str, int]:
    """A token of the vocabulary, declared before, with its id."""
    return token, cast(int, backend.token_to_id(token))


def probe(backend: Backend, origin: object) -> None:
    """Encodes a short text and a pair, so that a vocabulary which fails at the first text fails when it is loaded."""
    with blamed_on(origin):
        backend.encode(_PROBE[0])
        backend.encode(*_PROBE)


def read_if_there(path: Path) -> dict[str, Any]:
    """The JSON object in a file, an empty one if there is no such file."""
    return read_json(path) if os.path.lexists(path) else {}


def read_lines(path: str | Path, what: str, is_right: Callable[[str], object]) -> list[str]:
    """The lines of a file that lists `what`, one a line, blanks at their ends removed.

    Raises:
        CheckpointError: naming the first line that is wrong or stands twice.
    """
    lines = [line.rstrip() for line in read_text(path).removesuffix("\n").split("\n")]
    first: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not is_right(line):
            found = repr(printable(line)) if line else "a blank line" if lines[1:] else "an empty file; is it cut?"
            raise fault(path, f"line {number}: expected {what}, found {found}")
        if first.setdefault(line, number) != number:
            once = f"expected each once, found it on line {first[line]} already"
            raise fault(path, f"line {number}: {printable(line)!r}: {once}")
    return lines


def faults_of_ids(vocabulary: Mapping[str, int]) -> Iterator[str]:
    """Says of the ids if they are not 0 .. n-1, each once: in a hole the next added token takes a used id."""
    if not vocabulary:
        yield "expected a vocabulary, found no token"
    owner: dict[int, str] = {}
    for token, index in vocabulary.items():
        if type(index) is not int or not 0 <= index < len(vocabulary):
            hole = min(set(range(len(vocabulary))) - set(vocabulary.values()))
            what = f"expected ids 0 to {len(vocabulary) - 1} without holes, found {printable(index)} but no {hole}"
            yield f"{printable(token)!r}: {what}"
        if owner.setdefault(index, token) != token:
            what = f"expected an id of its own, found id {index}, which belongs to {printable(owner[index])!r}"
            yield f"{printable(token)!r}: {what}"


def faults_of_merges(
    vocabulary: Mapping[str, int], merges: list[tuple[str, str]], specials: Collection[str], merges_file: object
) -> Iterator[str]:
    """Says of a byte-level BPE if one of its two files is cut, or they do not belong together."""
    made = set(pre_tokenizers.ByteLevel.alphabet())
    for missing in sorted(made - vocabulary.keys()):
        yield f"expected a symbol for each of the 256 bytes, found none for {missing!r}: the text's bytes would vanish"
    for left, right in merges:
        for token in sorted({token for token in (left, right, left + right) if token not in vocabulary}):
            merge = f"the merge {printable(f'{left} {right}')!r} of {printable(merges_file)}"
            yield f"expected the tokens of {merge}, found no {printable(token)!r}"
        made.add(left + right)
    for token in sorted(vocabulary.keys() - made - set(specials)):
        if not _FILLER.fullmatch(token):
            yield f"expected a merge in {printable(merges_file)} that makes {printable(token)!r}, found none; is it cut?"


def faults_of_size(backend: Backend, by_caller: set[str], model_config: Path) -> Iterator[str]:
    """Says of the ids, those of the caller's tokens aside, if config.json beside them has too small a `vocab_size`."""
    size = read_if_there(model_config).get("vocab_size")
    ids = {index: token for token, index in backend.get_vocab().items() if token not in by_caller}
    if type(size) is int and max(ids, default=-1) >= size:
        what = f"expected an id below {size}, the vocab_size of {printable(model_config)}, found {max(ids)}"
        yield f"{printable(ids[max(ids)])!r}: {what}"


def objects(part: object) -> Iterator[dict[str, Any]]:
    """Every object inside a piece of JSON, however deep."""
    pending = [part]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield node
        pending += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _growth(normalizer: object) -> float:
    """How much longer the steps of a normalizer may make a text, each finding again what the others have put in."""
    kinds = [part.get("type") for part in objects(normalizer)]
    replaced = [
        [normalize("NFKD", str(text)).casefold() for text in (part["pattern"].get("String", ""), part.get("content"))]
        for part in objects(normalizer)
        if isinstance(part.get("pattern"), dict)
    ]
    growth = 4.0 ** min(99, kinds.count("ByteLevel") + kinds.count("Precompiled"))
    for old, new in replaced:
        if any(other in new for other, _ in replaced):
            growth *= max(1.0, len(new) / max(1, len(old)))
    return growth


def faults_before(document: Mapping[str, Any], kind: str | None) -> Iterator[str]:
    """Says of a tokenizer.json what the library must not see, or would name badly; `kind`: the model's, None for any."""
    model = document.get("model")
    found = model.get("type") if isinstance(model, dict) else f"model: {type(model).__name__}"
    if found not in ((kind,) if kind else MODELS):
        wanted = f"{kind} (is it another family's tokenizer?)" if kind else f"one of {', '.join(MODELS)}"
        yield f"model.type: expected {wanted}, found {printable(found)!r}"
    vocabulary = model["vocab"] if isinstance(model, dict) and isinstance(model.get("vocab"), dict) else {}
    for token, index in vocabulary.items():
        if type(index) is not int or not 0 <= index < 2**31:
            yield f"{printable(token)!r}: expected an id from 0 to 2^31 - 1, found {printable(index)}"
    unknown = model.get("unk_token") if isinstance(model, dict) else None
    if found != "Unigram" and str(unknown) not in vocabulary and (unknown is not None or found != "BPE"):
        yield f"model.vocab: expected the unk_token {printable(unknown)!r} in it, found no such token"
    growth = _growth(document.get("normalizer"))
    if growth > 1e6:
        yield f"normalizer: expected steps that keep a text's length, found some that multiply it by {growth:.0f}"
    slow = 0.0
    for section in ("normalizer", "pre_tokenizer", "decoder"):
        for pattern in (part["Regex"] for part in objects(document.get(section)) if "Regex" in part):
            slow += slowness(str(pattern))
            if not slow <= 1:
                what = "is not known to run in linear time at each place of a text"
                yield f"{section}: the regular expression {printable(pattern)!r} {what}"


def template_of(document: Mapping[str, Any]) -> dict[str, tuple[list[str], list[int]]]:
    """Name -> tokens and ids of what the template of a tokenizer.json, which the library has parsed, puts in."""
    stated: dict[str, tuple[list[str], list[int]]] = {}
    named: set[str] = set()
    for part in objects(document.get("post_processor")):
        stated |= {part[key][0]: ([part[key][0]], [part[key][1]]) for key in ("sep", "cls") if key in part}
        stated |= {name: (new["tokens"], new["ids"]) for name, new in part.get("special_tokens", {}).items()}
        named |= {part["SpecialToken"]["id"]} if "SpecialToken" in part else set()
    return {**dict.fromkeys(named, ([], [])), **stated}


def faults_after(document: Mapping[str, Any], backend: Backend) -> Iterator[str]:
    """Says of a tokenizer.json that the library has parsed where it got other ids than the file states."""
    yield from faults_of_ids(backend.get_vocab())
    for position, token in enumerate(document.get("added_tokens") or ()):
        found = backend.token_to_id(token["content"])
        if found != token["id"]:
            what = f"expected id {found}, found {token['id']}"
            yield f"added_tokens[{position}]: {printable(token['content'])!r}: {what}"
    for name, (tokens, ids) in sorted(template_of(document).items()):
        expected = [backend.token_to_id(token) for token in tokens]
        if not ids or ids != expected:
            what = f"expected the vocabulary's ids {expected} of {printable(tokens)}, found {ids}"
            yield f"post_processor: {printable(name)!r}: {what}"


def faults_of_template(
    document: Mapping[str, Any],
    special_tokens: Mapping[str, str | None],
    extra: Collection[str],
    presumed: Collection[str],
) -> Iterator[str]:
    """Says if the settings rename [CLS] or [SEP] (family templates are made of the `presumed`), the template does not."""
    named = {token for tokens, _ in template_of(document).values() for token in tokens}
    for name in ("cls_token", "sep_token"):
        token = special_tokens.get(name)
        foreign = named - {*special_tokens.values(), *extra}
        if named and token is not None and token not in named and (name in presumed or foreign):
            found = printable(sorted(named))
            yield f"post_processor: expected the {name} of the settings, {printable(token)!r}, found {found}"

"""Runs the tests that `transformers` has for its own models and tokenizers against our classes, and prints what passes.

    python tests/peers/run.py CHECKOUT [--families bert roberta] [--tokenizers FOLDER] [--reference] [-- -k word]

CHECKOUT is a clone of transformers, or its source distribution unpacked (`pip download --no-deps --no-binary :all:
transformers`), of the version that is installed; of it only the folder `tests` is read, and nothing is copied from there.
Their suites need the package `parameterized`. Tokenizers are tried
where FOLDER has published vocabularies, as `bert-base-uncased/vocab.txt`, `roberta-base/{vocab.json,merges.txt}`,
`xlm-roberta-base/sentencepiece.bpe.model`; models need no files. `--reference` runs the same on the reference's own classes: the measure of the
measure. What is left out on purpose stands in `left_out.py`, with the reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COLUMNS = ("passed", "failed", "left out", "skipped")


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 where nothing fails."""
    asked = parse(arguments)
    if not (asked.checkout / "tests" / "test_modeling_common.py").is_file():
        print(
            f"{asked.checkout}: expected a checkout of transformers, with tests/test_modeling_common.py",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        suites = [str(HERE / f"{kind}_suite.py") for kind in (["tokenizers"] if asked.tokenizers else ["models"])]
        command = [
            sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(HERE), "--import-mode=importlib",
            "-p", "no:cacheprovider", "-p", "shim", "-W", "ignore", f"--junitxml={results}", *suites, *asked.pytest,
        ]  # fmt: skip
        path = [HERE, asked.checkout, ROOT, ROOT / "kernels", *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "PEERS_TOKENIZERS": str(asked.tokenizers),
            "PEERS_FAMILIES": " ".join(asked.families),
            "PEERS_CLASSES": "reference" if asked.reference else "ours",
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(command, env=environment, cwd=folder, check=False)
        if not results.is_file():
            return done.returncode
        counts = count(results)
    print(table(counts))
    return int(any(row["failed"] for row in counts.values()))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; what stands after `--` goes to pytest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkout", type=lambda text: Path(text).resolve())
    parser.add_argument("--families", nargs="+", default=[], help="as our model types name them; all unless given")
    parser.add_argument(
        "--tokenizers", type=lambda text: Path(text).resolve(), help="tests of tokenizers, on these files"
    )
    parser.add_argument("--reference", action="store_true", help="run the reference's own classes instead of ours")
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:cut])
    asked.pytest = given[cut + 1 :]
    return asked


def count(results: Path) -> dict[str, Counter[str]]:
    """By class of tests, in their order: how many passed, failed, were left out on purpose, and skipped themselves."""
    counts: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(results).iter("testcase"):
        row = counts.setdefault(case.get("classname", "").rpartition(".")[2], Counter())
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            row["failed"] += 1
        elif skipped is None:
            row["passed"] += 1
        else:
            row["left out" if "left out: " in (skipped.get("message") or "") else "skipped"] += 1
    return counts


def table(counts: dict[str, Counter[str]]) -> str:
    """In Markdown, with the sums last."""
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    lines = [f"| tests | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    return "\n".join(
        [*lines, *(f"| {name} | {' | '.join(str(row[each]) for each in COLUMNS)} |" for name, row in rows)]
    )


if __name__ == "__main__":
    raise SystemExit(main())

"""The script that runs a peer's tests, on a checkout made for it: whose classes are tested, and what its table counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
COMMON = """
import transformers

class ModelTesterMixin:
    def test_one(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            assert getattr(transformers, model_class.__name__) is model_class
            given = self._prepare_for_class(inputs, model_class, return_labels=True)
            assert ("next_sentence_label" in given) == (model_class.__name__ == "BertForPreTraining")
            if model_class.__name__.endswith("Model"):
                assert model_class(config).eval()(**given).last_hidden_state.shape == (5, 7, 32)

    def test_whose(self):
        assert self.all_model_classes[0].__module__.startswith("transformers.")

    def test_tied_weights_keys(self):
        raise AssertionError("left out on purpose")

    def test_not_for_all(self):
        self.skipTest("for others")

    def _prepare_for_class(self, inputs, model_class, return_labels=False):
        return dict(inputs)
"""


def run(*arguments: object) -> tuple[int, list[str]]:
    """The exit status, and the lines of the table."""
    command = [sys.executable, str(HERE / "run.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("| ")] or [done.stderr]


@pytest.mark.parametrize(("whose", "row", "status"), [([], "1 | 1 | 1 | 1", 1), (["--reference"], "2 | 1 | 0 | 1", 1)])
def test_the_table(tmp_path: Path, whose: list[str], row: str, status: int) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_modeling_common.py").write_text(COMMON)
    code, lines = run(tmp_path, "--families", "bert", *whose, "--", "-k", "Encoder")
    assert code == status
    assert lines[0] == "| tests | passed | failed | left out | skipped |"
    assert lines[1] == f"| BertEncoderTest | {row} |"


def test_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    code, lines = run(tmp_path)
    assert code == 2
    assert "expected a checkout of transformers, with tests/test_modeling_common.py" in lines[0]

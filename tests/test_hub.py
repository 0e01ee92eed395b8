"""From a name or a path to a folder: what is asked of the hub, and where the files are looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from minitrans.hub import local_folder


def test_every_option_reaches_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[dict[str, Any]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    where: Any = {
        "revision": "v2", "local_files_only": True, "cache_dir": tmp_path / "cache", "force_download": True, "token": "hf_x",
    }  # fmt: skip
    assert local_folder("owner/name", patterns=["*.json", "model*"], **where) == tmp_path
    assert local_folder("owner/name", patterns=["*.json", "model*"], subfolder="a/b/", **where) == tmp_path / "a" / "b"
    assert asked == [
        {"name": "owner/name", "allow_patterns": ["*.json", "model*"], **where},
        {"name": "owner/name", "allow_patterns": ["a/b/*.json", "a/b/model*"], **where},
    ]


def test_a_folder_here_is_taken_as_it_is_or_its_subfolder(tmp_path: Path):
    assert local_folder(tmp_path, patterns=[]) == tmp_path
    assert local_folder(tmp_path, patterns=[], revision="v2", subfolder=None) == tmp_path
    assert local_folder(tmp_path, patterns=[], subfolder="inner") == tmp_path / "inner"


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc", "a//b", "c:\\x"])
def test_a_subfolder_leads_nowhere_else(subfolder: str, tmp_path: Path):
    with pytest.raises(ValueError, match="subfolder: expected a folder inside the checkpoint's"):
        local_folder(tmp_path, patterns=[], subfolder=subfolder)

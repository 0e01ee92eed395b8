"""A page in a real browser without a head: what a script behind it writes to `data-measured`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def measured(page: str, folder: Path, width: int, milliseconds: int = 0) -> dict[str, Any]:
    """Skips where there is no browser; fails where the page complains."""
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: {', '.join(NAMES)}")
    file = folder / "measured.html"
    file.write_text(page, encoding="utf-8")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    command = [
        browser, "--headless", "--no-sandbox", *quiet.split(), f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},1200", "--enable-logging=stderr", "--dump-dom", file.as_uri(),
        *([f"--virtual-time-budget={milliseconds}"] if milliseconds else []),
    ]  # fmt: skip
    home = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=home)
    assert ":CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'data-measured="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[-2000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    return seen

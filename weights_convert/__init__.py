"""Hugging Face checkpoints <-> minitrans models: read, check, convert, write, compare.

    model, report = load_model(BertModel, "bert-base-uncased")
    save_model(model, "folder")

    from weights_convert.verify import verify; verify("folder").summary()

One table of names per family lies in `weights_convert/families/`; everything else works for all of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weights_convert.configs import read_config as read_config
    from weights_convert.configs import write_config as write_config
    from weights_convert.conversion import convert as convert
    from weights_convert.inspection import inspect as inspect
    from weights_convert.load import load_model as load_model
    from weights_convert.report import ConversionReport as ConversionReport
    from weights_convert.save import save_model as save_model

_EXPORTS = {
    "convert": "weights_convert.conversion",
    "ConversionReport": "weights_convert.report",
    "inspect": "weights_convert.inspection",
    "load_model": "weights_convert.load",
    "read_config": "weights_convert.configs",
    "save_model": "weights_convert.save",
    "write_config": "weights_convert.configs",
}
__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)

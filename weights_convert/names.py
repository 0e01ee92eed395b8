"""Bringing the keys of a checkpoint to one spelling: no wrapper prefixes, no TensorFlow-era names.

Files of one architecture differ in how they wrap it: the body alone (""), inside a headed model ("bert."), inside a
training wrapper ("model.", DistributedDataParallel's "module.", torch.compile's "_orig_mod.") and stacks of these (C1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from minitrans.files import printable

WRAPPERS = ("model", "module", "_orig_mod")
# B8: only these exact endings; older readers renamed every "gamma" and "beta" and ate parameters of users.
LEGACY_ENDINGS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def bare_name(key: str, wrappers: Collection[str]) -> str:
    """`key` without any leading wrapper segments and with the legacy names of LayerNorm's parameters made new."""
    start = 0
    while (dot := key.find(".", start)) > 0 and key[start:dot] in wrappers:
        start = dot + 1
    name = key[start:]
    for old, new in LEGACY_ENDINGS.items():
        if name == old or name.endswith("." + old):
            return name[: -len(old)] + new
    return name


def bare_names(
    keys: Iterable[str], prefixes: Iterable[str], key_mapping: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """The bare name of each key: ({bare name: key}, faults). Two keys with one bare name are a fault, none is chosen.

    Before that, `key_mapping` (regular expression -> what to put in its place) makes a stranger's keys the reference's;
    of the expressions that occur in a key the first counts.
    """
    wrappers = {*prefixes, *WRAPPERS}
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(bare_name(_mapped(key, key_mapping or {}), wrappers), []).append(key)
    faults = [
        f"{printable(group[0])}: expected one key for this tensor, found also {', '.join(printable(key) for key in group[1:4])}"
        for group in groups.values()
        if len(group) > 1
    ]
    return {name: group[0] for name, group in groups.items()}, faults


def _mapped(key: str, key_mapping: Mapping[str, str]) -> str:
    for pattern, replacement in key_mapping.items():
        try:
            name, count = re.subn(pattern, replacement, key)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"key_mapping: expected regular expressions and replacements, got {pattern!r}: {error}"
            ) from None
        if count:
            return name
    return key

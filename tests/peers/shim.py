"""A plugin of pytest: puts our classes where the reference's suites look for theirs, and leaves out what is not for us."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
from left_out import MODELS, TOKENIZERS

# Parts of their test folder that a source distribution lacks, and the name that the rest imports from each
ABSENT = {
    "tests.exporters.test_export": ["ExportTesterMixin"],
    "tests.generation.test_utils": ["GenerationTesterMixin"],
    "tests.utils.test_configuration_utils": ["config_common_kwargs"],
}
# What their suites look for on a class of theirs, and no user does
MARKS: dict[str, object] = {
    "_supports_sdpa": True, "_supports_flash_attn": False, "_supports_flex_attn": False, "_supports_attention_backend": False,
    "_can_set_attn_implementation": classmethod(lambda cls: False),
    "_can_set_experts_implementation": classmethod(lambda cls: False), "_compatible_flash_implementations": None,
    "_keep_in_fp32_modules": set(), "_keep_in_fp32_modules_strict": set(), "_tied_weights_keys": None, "_tp_plan": None,
    "_from_config": classmethod(lambda cls, config, **options: cls(config)), "_keys_to_ignore_on_load_missing": None,
    "vocab_size": property(lambda model: model.config.vocab_size), "_hf_peft_config_loaded": False, "_can_record_outputs": None, "_input_embed_layer": "word_embeddings",
}  # fmt: skip
CONFIG_MARKS: dict[str, object] = {
    "sub_configs": {}, "base_model_tp_plan": None,
    "__iter__": lambda config: iter(config.to_dict()),
}  # fmt: skip
OURS = os.environ.get("PEERS_CLASSES", "ours") == "ours"


sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def stand_in(name: str, contents: list[str]) -> None:
    """An empty class for each name, in a module of this name and the packages above it."""
    parts = name.split(".")
    for end in range(2, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    for each in contents:
        setattr(sys.modules[name], each, type(each, (), {}))


def is_there(name: str) -> bool:
    """Whether the module can be found."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def install() -> ModuleType:
    """Before anything of theirs is imported: returns their library, with our classes in the place of its own."""
    for name, contents in ABSENT.items():
        if not is_there(name):
            stand_in(name, contents)
    library = importlib.import_module("transformers")
    if OURS:
        import minitrans
        from minitrans.models.config import ModelConfig
        from minitrans.models.pretrained import PreTrainedModel

        for owner, marks in ((PreTrainedModel, MARKS), (ModelConfig, CONFIG_MARKS)):
            for name in marks.keys() - vars(owner).keys():
                setattr(owner, name, marks[name])
        shared = [name for name in minitrans.__all__ if name[0].isupper() and hasattr(library, name)]
        library = sys.modules["transformers"]  # another object, since the first of its names was asked for
        shared = [name for name in shared if hasattr(library, name)]
        for name in shared:  # after all were asked for: asking loads, and loading sets others
            setattr(library, name, getattr(minitrans, name))
        if strangers := [name for name in shared if getattr(library, name) is not getattr(minitrans, name)]:
            raise RuntimeError(f"these are still theirs: {strangers}")
    return library


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is left out."""
    table = MODELS if "models" in item.path.name else TOKENIZERS
    for pattern, reason in table.items() if OURS else ():
        if fnmatch(getattr(item, "originalname", None) or item.name, pattern):
            pytest.skip(f"left out: {reason}")

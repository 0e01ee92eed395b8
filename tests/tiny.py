"""What tiny models of some families need besides the sizes that a test gives to all."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from minitrans.checkpoints.verification import without_float32

# ids that fit small vocabularies; each token has one that is no padding within reach: rows that see nothing mean nothing (M2)
NEEDED: dict[str, dict[str, Any]] = {
    "modernbert": {"pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2, "local_attention": 8},
}
TURNING = ("modernbert", "nomic_bert", "roformer")  # pairs of columns, so that heads are of even width


def fitted(model_type: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields by BERT's names, and what the family needs; the width is enlarged where heads would be of odd width."""
    fields = {**NEEDED.get(model_type, {}), **fields}
    if model_type == "fnet":  # has no attention
        fields = {name: value for name, value in fields.items() if "attention" not in name}
    if model_type in TURNING and "hidden_size" in fields:
        pairs = 2 * fields.get("num_attention_heads", 1)
        fields["hidden_size"] = -(-fields["hidden_size"] // pairs) * pairs
    return fields


def exactly(kind: type) -> AbstractContextManager[None]:
    """In which the reference, if a model is its, does not round to float32 what it would."""
    return without_float32() if kind.__module__.startswith("transformers") else nullcontext()

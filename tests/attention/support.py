"""What each row of the registry cannot be asked for, by the names of `minitrans.testing.contract.FORMS`; all others can all."""

from __future__ import annotations

CANNOT: dict[str, frozenset[str]] = {
    **dict.fromkeys(("big_bird", "document", "key_shift", "forgetting", "selective"), frozenset({"cache"})),
    **dict.fromkeys(("differential_v1", "aft"), frozenset({"probabilities"})),
    "longformer": frozenset({"probabilities", "cache"}),
    "multi_token": frozenset({"patterns", "cache"}),
    **dict.fromkeys(
        ("landmarks", "linformer", "nystromformer", "fnet"),
        frozenset({"causal", "patterns", "bias", "probabilities", "cache"}),
    ),
}

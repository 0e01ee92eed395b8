"""The checkpoints of the translator's tests."""

from tests.weights_convert.conftest import reference

__all__ = ["reference"]

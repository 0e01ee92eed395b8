"""Fast inference on a CPU: `prepare(model)`, of encoders, decoders and pairs.

No model needs this package, and none of their readers.
"""

from minitrans.cpu.prepare import DTYPES, prepare

__all__ = ["DTYPES", "prepare"]

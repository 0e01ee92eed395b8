"""Fast inference of encoders on a CPU: `prepare(model)`. No model needs this package, and none of their readers."""

from minitrans.cpu.prepare import DTYPES, prepare

__all__ = ["DTYPES", "prepare"]

"""The models: one file per family, on the shared engine in `encoder.py` and the task heads in `tasks.py`."""

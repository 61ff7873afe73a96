# Everyday tasks. You need only Python 3.10 to 3.13 and make: targets create .venv if they need it.
#
#     make adapt CORPUS=legal            adapt the default model to a corpus: text in, adapter and report out
#     make adapt CORPUS=texts/ ARGS="--model smollm2 --max-tokens 30000"
#     make test                          lint, types, fast tests

PYTHON ?= python3
CORPUS ?= legal
ARGS   ?=
# More options for pip, such as an index of PyTorch's CPU wheels, which are smaller than those with CUDA.
PIP_ARGS ?=
# Two processes with one thread each: faster than one process with two threads, since the tests' tensors are small.
# `worksteal` first gives each process one half of the tests, in order, so that a run that a module's tests share is
# rarely done twice. Bytecode is kept, even if the environment forbids it: tests start many processes.
PYTEST ?= OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

# Tests and benchmarks pass lists of arguments (f(*tensors, **options)), which mypy cannot follow, so it does not check
# their calls.
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

test: lint types  ## Run lint, types and the fast tests
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/.installed-dev  ## Run the slow tests: whole runs, a wheel, several processes
	$(PYTEST) -m slow

lint: $(VENV)/.installed-dev  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## Fix style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-dev  ## Check the type hints
	$(BIN)/mypy
	MYPYPATH=$(TEST_PATH) $(BIN)/mypy $(LOOSE) benchmarks/*.py benchmarks/kernels/*.py tests/*.py tests/*/*.py tests/*/*/*.py
	MYPYPATH=benchmarks:benchmarks/tasks $(BIN)/mypy $(LOOSE) benchmarks/tasks/*.py
	MYPYPATH=benchmarks $(BIN)/mypy $(LOOSE) --explicit-package-bases benchmarks/adaptation/*.py

bench: $(VENV)/.installed-dev  ## Measure speed and memory, compared with transformers + PEFT
	$(BIN)/domain-ft bench training $(ARGS)

bench-kernels: $(VENV)/.installed-dev  ## Count the Triton kernels' traffic and compile them for four chips, without a GPU
	$(BIN)/domain-ft bench kernels -- --traffic --compile $(ARGS)

bench-memory: $(VENV)/.installed-dev  ## Measure the peak memory of a step by tokens, compared with PEFT
	$(BIN)/domain-ft bench memory -- $(ARGS)

clean:  ## Remove the environment, builds and the tools' caches; runs/ is kept
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The environment: created once, updated when the dependencies change ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "domain-ft needs Python 3.10 to 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Use another one: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[dev]'
	@touch $(VENV)/.installed $@

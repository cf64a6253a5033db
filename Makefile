# What a person types. Needs Python 3.11 or newer, make and git, nothing else: every
# target makes the virtual environment it runs in and installs only when the list of
# dependencies has changed.

PYTHON ?= python3
VENV ?= .venv
# The demo's size: "demo" (minutes) or "smoke" (seconds, to see whether it runs).
VARIANT ?= demo
PYTEST_ARGS ?=
# QUICK=1 leaves out the tests named in tests/slow.txt.
QUICK ?=
# Test files run so many at a time: most of the time is XLA compiling on one core.
TEST_JOBS ?= 2
BENCH_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEPENDENCIES := setup.cfg pyproject.toml

# Programs compiled once are found again by the next run on this machine.
export JAX_COMPILATION_CACHE_DIR ?= $(abspath $(VENV))/jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.5

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) \
	  | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

demo: $(VENV)/.installed-train ## Meta-train on digits, evaluate at unseen widths.
	$(BIN)/python -m meta_train --config=configs/mulo_digits.py:$(VARIANT) \
	  --workdir=runs/$(VARIANT)
	$(BIN)/python -m evaluate --config=configs/evaluate/demo.py:$(VARIANT) \
	  --theta=runs/$(VARIANT)/theta --workdir=runs/$(VARIANT)_eval

test: $(VENV)/.installed-dev ## Run the tests; QUICK=1 the fast ones, PYTEST_ARGS="-k mup" some.
	$(BIN)/python -m pytest --numprocesses=$(TEST_JOBS) --dist=loadfile \
	  --no-loadscope-reorder $(if $(QUICK),--quick) $(PYTEST_ARGS)

check: $(VENV)/.installed-dev ## Formatting, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

bench: $(VENV)/.installed-dev ## Time it, beside the peers that are importable.
	$(BIN)/python -m benchmarks.meta_train_throughput $(BENCH_ARGS)

clean: ## Remove the environment, caches and builds; runs/ stays.
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# jax[cpu]: a GPU machine adds the extra "cuda" by hand; see README.md.
$(VENV)/.installed-train: $(DEPENDENCIES) | $(BIN)/python
	$(PIP) install --quiet --editable '.[train]' 'jax[cpu]'
	@touch $@

$(VENV)/.installed-dev: $(DEPENDENCIES) | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev,data]' 'jax[cpu]'
	@touch $@ $(VENV)/.installed-train

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("mulo needs Python 3.11 or newer, but $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12 ..." % v[:2])'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

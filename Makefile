# `make help` lists what there is. Each target does its own set-up, from a machine with
# only git, make and Python 3.11 or newer; another Python: make PYTHON=python3.13 test

PYTHON ?= python3
PYTEST_ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart test verify lint setup clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

quickstart: setup  ## train three models on digits, attack them, print the table
	@$(BIN)/python launch/quickstart.py --workdir=runs/quickstart

# worksteal deals the tests out in file order, so that neighbours share what is compiled,
# and lets the worker that is done first take over from the other.
test: lint  ## check the code and run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal --durations 15 $(PYTEST_ARGS)

verify: lint  ## run all tests, the long ones too, and the benchmarks
	@$(PYTHON) launch/set_up.py --extras test,bench
	@$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt torchattacks \
	  adversarial-robustness-toolbox
	@XLA_FLAGS= $(BIN)/python -m pytest -m 'verify or not verify' -n 2 --dist worksteal \
	  -rs --durations 15 $(PYTEST_ARGS)
	@set -e; for script in benchmarks/[!_]*.py; do \
	  echo "== $$script"; $(BIN)/python $$script; done

lint: setup  ## check format, style and types
	@$(BIN)/ruff format --check --quiet . || \
	  { echo 'Not in ruff format: run .venv/bin/ruff format .'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary

setup:
	@command -v '$(PYTHON)' > /dev/null || \
	  { echo 'There is no $(PYTHON) here. mmc_jax needs Python 3.11 or newer:' \
	    'install it, or name one: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(v < (3, 11) and "mmc_jax needs Python 3.11 or newer, and $(PYTHON) is " \
	  "%d.%d. Name another: make PYTHON=/path/to/python3" % v[:2])'
	@$(PYTHON) launch/set_up.py

clean:  ## remove the environment and everything built; leave runs/ alone
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

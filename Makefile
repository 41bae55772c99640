# The two commands of the README, and what the project needs beside them. Everything happens in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types bench clean

demo: $(VENV)/demo
	$(BIN)/asyncdicom demo

test: $(VENV)/dev dcmtk
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings

# Orthanc and OpenSSL's headers (libssl-dev) are used where they are, too.
bench: $(VENV)/bench dcmtk
	$(BIN)/python -m benchmarks

# DCMTK is the referee of the interoperability tests, which are skipped without it.
.PHONY: dcmtk
dcmtk:
	@command -v storescu >/dev/null \
	|| { command -v apt-get >/dev/null && { test "$$(id -u)" = 0 && SUDO= || SUDO="sudo -n"; \
	     $$SUDO apt-get update -qq && $$SUDO env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y dcmtk; } >/dev/null 2>&1; } \
	|| echo "DCMTK is not installed and could not be: its tests are skipped (apt-get install dcmtk)"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) \
	|| { echo "a virtual environment needs Debian's package python3-venv: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[cli]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/demo

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

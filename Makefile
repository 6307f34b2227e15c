# Two commands set up everything in .venv and need nothing else: `make demo`, `make test`.
PYTHON ?= python3
# The torch to install; any build from 2.11 works. Empty: keep the one that is there.
TORCH ?= torch==2.13.0
# Further arguments for pip when it installs torch, such as an index of CPU-only builds (README, "Installation").
TORCH_ARGS ?=
BIN := .venv/bin

.PHONY: install demo test studio-test check clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=25" "setuptools>=77"
	$(if $(TORCH),$(BIN)/pip install --quiet $(TORCH_ARGS) "$(TORCH)")
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: .venv/installed
	$(BIN)/adaflow demo --out demo

check: .venv/installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

test: check
	$(BIN)/pytest --numprocesses auto

# Studio and study in a real browser, with pictures of every state in build/pages; needs the system's Chromium.
studio-test: .venv/installed
	mkdir -p build/pages
	ADAFLOW_PICTURES=$(CURDIR)/build/pages $(BIN)/pytest tests/test_studio.py tests/test_studio_attacks.py tests/test_studio_browser.py tests/test_study.py tests/test_study_browser.py

clean:
	rm -rf .venv demo build dist .pytest_cache .mypy_cache .ruff_cache

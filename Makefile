# Everything starts here: `make demo` shows it, `make test` proves it. Both do the set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo test lint clean
help:
	@echo "make demo   set up and show the whole life of a fingerprint (ARGS='--arch llama2' …)"
	@echo "make test   set up and run lint, types and every test"
	@echo "make setup  set up only"
	@echo "make clean  remove what was built (not .venv)"

setup:
	@$(PYTHON) scripts/set_up.py

demo: setup
	@$(BIN)/fpvec demo $(ARGS)

lint:
	@$(PYTHON) scripts/set_up.py --extra test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache

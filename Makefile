# The commands to remember: demo, test, check, bench, docs. Each does its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench docs clean

demo: $(READY)  ## a study on real data in a minute on two CPU cores; prints where the report is
	$(BIN)/batchcliff run digits

test: $(READY)  ## the tests, warnings as errors
	$(BIN)/python -m pytest -n auto

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

bench: $(READY)  ## what this machine can measure
	$(BIN)/python benchmarks/bench_training.py

docs: $(READY)  ## write every figure in README and docs from the records in results/
	$(BIN)/python docs/write_figures.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

# constraints.txt wins over everything that is pulled in: without it pip may fetch gigabytes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $@

# The commands to remember: demo, test, check, bench, docs. Each does its own set-up.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench bench-report docs gates soak fuzz audit lock clean

demo: $(READY)  ## a study on real data in a minute on two CPU cores; prints where the report is
	$(BIN)/batchcliff run digits

test: $(READY)  ## the tests, warnings as errors
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: $(READY)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

bench: $(READY)  ## what this machine can measure
	$(BIN)/python benchmarks/bench_peers.py
	$(BIN)/python benchmarks/bench_models.py
	$(BIN)/python benchmarks/bench_startup.py

bench-report: $(READY)  ## how long a report over 10,000 records takes, with a profile: minutes
	$(BIN)/python benchmarks/bench_report.py

docs: $(READY)  ## write every figure in README and docs from the records in results/
	$(BIN)/python docs/write_figures.py

# Now and then. docs/reliability.md says what they hold.

gates: $(READY)  ## the reliability and security gates at their middle size: some twenty minutes
	BATCHCLIFF_GATES=ci OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto tests/gates tests/study tests/report/test_browser.py

soak: $(READY)  ## the same at the large size, for hours; dated result in benchmarks/
	$(BIN)/python soak/run.py

fuzz: $(READY)  ## a minute of fuzzing for each reader of strangers' bytes
	$(BIN)/python fuzz/run.py --seconds 60

# --strict: a package that the index says nothing about is a failure, not a pass.
audit: $(READY)  ## known vulnerabilities of what is locked (asks pypi.org), and its hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --requirement locks/cp311-linux-x86_64.txt

lock: $(READY)  ## the hashes of what constraints.txt resolves to on this platform
	$(BIN)/python locks/write_lock.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache

# constraints.txt wins over everything that is pulled in: without it pip may fetch gigabytes.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $@

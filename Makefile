# make demo       environment, phantom corpus, the whole graph, one report
# make ui         Dagster UI and MLflow UI on localhost
# make test       environment and the test suite        make test-slow   crashes, several processes, real data
# make lint       ruff and pyright                      make audit       known vulnerabilities in dependencies

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
WORKERS ?= 2

.PHONY: demo ui test test-slow lint audit clean
.DEFAULT_GOAL := demo

.venv/.ready: pyproject.toml constraints.txt
	@echo "Installing into .venv (once, some minutes) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

.venv/.ready-dev: .venv/.ready
	@echo "Installing what the tests need …"
	@$(PIP) -e '.[dev]'
	@touch $@

demo: .venv/.ready
	@$(BIN)/dentsight run

ui: .venv/.ready
	@$(BIN)/dentsight ui

# One thread for each of two test processes: OpenMP threads that wait for each other by spinning make both crawl. By file,
# since xdist 3.8 finds no groups under pytest 9.2.
test test-slow: export OMP_NUM_THREADS = 1
test test-slow: export OMP_WAIT_POLICY = PASSIVE

test: .venv/.ready-dev
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --durations=15

test-slow: .venv/.ready-dev
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --durations=20

lint: .venv/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

audit: .venv/.ready-dev
	$(BIN)/pip-audit --skip-editable

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache

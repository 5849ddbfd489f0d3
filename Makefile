# `make quickstart` and `make test` set up everything they need in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart demo results test check install clean

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	$(BIN)/python -m compileall -q compressor passes targets benchmarks demos  # as pip does with wheels, and not with what is editable
	touch $@

quickstart: .venv/installed
	rm -rf runs/quickstart
	$(BIN)/compressor run plans/quickstart.yaml --out runs/quickstart --export runs/quickstart/export

demo: .venv/installed
	test -f runs/quickstart/report.json || $(MAKE) quickstart
	$(BIN)/compressor demo runs/quickstart

# docs/results/quickstart.md, measured anew: about an hour on a machine that does nothing else
results: .venv/installed
	$(BIN)/python -m benchmarks.studies.quickstart

# a test that hangs ends the run after ten minutes, with the stacks of its threads
HANGS := --max-worker-restart 0 -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

test: .venv/installed
	$(BIN)/pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(HANGS)

check: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv runs

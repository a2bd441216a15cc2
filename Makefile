# The commands for people: make demo, make ui, make test, make bench. Each sets up what it needs.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
UV_LOCK := locks/uv.txt
UV := $(BIN)/uv
DEMO_DIR ?= data/demo
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder
# The processes of the tests share the cores. Threads of OpenBLAS without a core spin, which took a quarter of the time.
PYTEST = OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -q $(PARALLEL)
STAMP := $(VENV)/.installed-$(EXTRA)

# The installer leaves no bytecode. Where the environment forbids to write it, every process would compile 1,700 modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo ui setup test test-fast all-tests fast-tests lint bench bench-quick docs examples screenshots clean

demo: setup
	@$(BIN)/stash-sense demo --data-dir $(DEMO_DIR)

ui: setup
	@$(BIN)/stash-sense ui --data-dir $(DEMO_DIR)

setup: $(STAMP)

# Debian without python3-venv cannot put pip into a new environment; its own pip can do it from outside.
$(UV):
	@command -v python3 >/dev/null || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 2; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, this is $$(python3 --version)"; exit 2; }
	@if python3 -c 'import ensurepip' 2>/dev/null; then python3 -m venv $(VENV); else python3 -m venv --without-pip $(VENV); fi
	@if [ -x $(BIN)/pip ]; then $(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $(UV_LOCK); \
	elif python3 -m pip --version >/dev/null 2>&1; then python3 -m pip --python $(BIN)/python install -q --disable-pip-version-check --require-hashes -r $(UV_LOCK); \
	else echo "pip is needed: apt-get install python3-venv"; rm -rf $(VENV); exit 2; fi

# The second try is for networks with certificates that only the system knows.
$(STAMP): $(UV) locks/$(EXTRA).txt pyproject.toml
	@echo "Installing the locked dependencies into $(VENV) ..."
	@export VIRTUAL_ENV=$(VENV); install() { \
	  $(UV) pip sync -q $$1 --require-hashes locks/$(EXTRA).txt && \
	  $(UV) pip install -q $$1 --no-deps --no-build-isolation -e .; }; \
	install || { echo "Trying again with the system's certificates ..."; install --system-certs; }
	@rm -f $(VENV)/.installed-*
	@touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Types are checked beside the tests, which wait for other programs a third of their time.
test: setup
	@$(MAKE) --no-print-directory -j 2 lint all-tests

test-fast: setup
	@$(MAKE) --no-print-directory -j 2 lint fast-tests

# Each process takes whole files: the fixtures of a file are made once. The order is that of conftest.py.
all-tests: setup
	$(PYTEST)

fast-tests: setup
	$(PYTEST) -m "not slow and not postgres"

bench: setup
	$(BIN)/python -m stash_sense_pipeline_tests.bench

# The benchmarks that together take some five minutes.
bench-quick: setup
	$(BIN)/python -m stash_sense_pipeline_tests.bench --quick

# The pages that are made from the code, and the site into site/.
docs: setup
	$(BIN)/python -m stash_sense_pipeline_tests.tools.generated_docs
	$(BIN)/python -m stash_sense_pipeline_tests.tools.frames_page
	$(BIN)/mkdocs build -q

# docs/examples, which the page of commands shows: every command is run on the data of a demo. `make docs` after it.
examples: setup
	$(BIN)/python -m stash_sense_pipeline_tests.tools.documented_commands

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The pictures of the README and the documentation, from the same browser test that checks the UI.
screenshots: setup
	STASH_SENSE_SCREENSHOTS=docs $(BIN)/pytest -q stash_sense_pipeline_tests/orchestration/test_ui.py stash_sense_pipeline_tests/review/test_browser.py

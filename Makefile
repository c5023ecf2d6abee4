# Everything runs from .venv, which each target sets up by itself the first time (no sudo, nothing outside this folder).
#
#   make sweep                                          search K, the gate and the prompt length on this machine
#   make sweep SEARCH=search_spaces/other.yaml ARGS="--resume"
#   make test PYTEST_ARGS="tests/test_layout.py -x"
#   make PYTHON=python3.12 setup                        use another Python (3.10 or newer) for .venv
#
# pip keeps its own configuration (pip.conf, PIP_*): to take torch without its CUDA libraries on a machine that has no
# GPU, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds for the first run.

PYTHON ?= python3
VENV ?= .venv
SEARCH ?= search_spaces/gating.yaml
RESULTS ?= results
PORT ?= 5000
KILLS ?= 200
ARGS ?=
PYTEST_ARGS ?=
LOCK_ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.promptfleet-ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

.DEFAULT_GOAL := help
.PHONY: help setup sweep train ui test test-fast cluster-test bench chaos lint format lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## make .venv and install the pinned versions and this package into it

sweep: $(READY) ## run a hyperparameter search (SEARCH=file, ARGS="more arguments")
	$(BIN)/python jobs/tune.py --search $(SEARCH) $(ARGS)

train: $(READY) ## run one federation (ARGS="its arguments")
	$(BIN)/python jobs/train.py $(ARGS)

ui: $(READY) ## look at the results in the browser (PORT=5000, this machine only)
	@$(BIN)/python jobs/ui.py "$(RESULTS)" --port $(PORT)

test: $(READY) ## run every test (PYTEST_ARGS="tests/x.py -k name")
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(READY) ## run the tests that take seconds
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

cluster-test: $(READY) ## two hosts on this machine, a Ray cluster on them, sweeps there (as root; some minutes)
	$(BIN)/python clusters/test/run.py

bench: $(READY) ## measure speed and memory (some 20 minutes; results and figure in $(RESULTS)/benchmarks)
	@mkdir -p "$(RESULTS)/benchmarks"
	@set -e; for name in encoder encode round engine startup sweep; do \
	  echo "benchmarks/$$name.py ..." >&2; \
	  $(BIN)/python benchmarks/$$name.py --json | tail -n 1 > "$(RESULTS)/benchmarks/$$name.json"; \
	done
	$(BIN)/python benchmarks/figure.py "$(RESULTS)/benchmarks" --out "$(RESULTS)/benchmarks/figure.png"

bench-scale: $(READY) ## measure 10 to 1,000 clients and 100,000 experts (some 7 minutes; also in $(RESULTS)/benchmarks)
	@mkdir -p "$(RESULTS)/benchmarks"
	@set -e; for name in scale selection; do \
	  $(BIN)/python benchmarks/$$name.py --json | tail -n 1 > "$(RESULTS)/benchmarks/$$name.json"; \
	done
	$(BIN)/python benchmarks/scale_figure.py "$(RESULTS)/benchmarks/scale.json" --out "$(RESULTS)/benchmarks/scale.png"

chaos: $(READY) ## shoot at processes of running jobs at random, see that nothing is lost (KILLS=200; half an hour)
	$(BIN)/python benchmarks/chaos.py --kills $(KILLS)

lint: $(READY) ## check style and formatting, change nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## refresh requirements.lock after a change in pyproject.toml (LOCK_ARGS=--upgrade: newest)
	@set -e; tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv "$$tmp/venv"; "$$tmp/venv/bin/pip" install --quiet --disable-pip-version-check uv; \
	cp requirements.lock "$$tmp/lock.txt"; \
	UV_PYTHON_DOWNLOADS=never "$$tmp/venv/bin/uv" pip compile --quiet --universal --python-version 3.10 --extra dev \
	  --no-header --no-annotate $(LOCK_ARGS) --output-file "$$tmp/lock.txt" pyproject.toml; \
	{ sed -n '/^#/p' requirements.lock; grep -Ev '^(nvidia-|cuda-|triton=)' "$$tmp/lock.txt"; } > "$$tmp/new"; \
	cp "$$tmp/new" requirements.lock; echo "requirements.lock: $$(grep -c == requirements.lock) pins"

clean: ## delete .venv and caches (results/ and data/ stay)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last: an interrupted installation is taken up again by the next make.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "promptfleet needs Python 3.10 or newer, '$(PYTHON)' is not: try make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu the package python3-venv brings it." >&2; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV); the first time takes some minutes (torch is large) ..."
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --editable .
	@touch $@

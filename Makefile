# make        lists the targets
# ARGS=...    goes to train and sweep:  make train ARGS="schedule=full seed=1"
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train test test-fast test-cluster lint format sweep report docs bench clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the tested versions, if it is missing

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "stagetune needs Python 3.11 or newer; say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "setting up .venv (once, about two minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

train: $(READY) ## run +experiment=siamese_staged (ARGS="key=value ..." overrides)
	@$(BIN)/python train.py +experiment=siamese_staged $(ARGS)

# two at a time, each on one thread: most tests wait for a process to start
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(READY) ## run the whole test suite
	@$(PYTEST)

test-fast: $(READY) ## run the tests that take seconds
	@$(PYTEST) -m "not slow and not cluster"

test-cluster: $(READY) ## install the wheel into an environment of its own and use it there
	@$(BIN)/python -m pytest -m cluster

lint: $(READY) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "files need formatting: make format"; exit 1; }
	@$(BIN)/mypy

format: $(READY) ## format the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

sweep: $(READY) ## compare three schedules over two seeds on small digits, and report (ARGS="key=value,value ..." adds)
	@$(BIN)/python train.py -m +experiment=siamese_staged +sweep=small $(ARGS); status=$$?; \
	  $(BIN)/stagetune report && exit $$status

report: $(READY) ## compare the runs of the newest sweep: report.html (ARGS="folder --baseline schedule=full")
	@$(BIN)/stagetune report $(ARGS)

docs: $(READY) ## build the documentation into docs/_build
	@$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build

bench: $(READY) ## run one staged job under stagetune, Lightning and finetuning-scheduler (an hour on two cores)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	@$(BIN)/python -m benchmarks.peers

clean: ## remove caches and .venv; outputs/ stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis dist docs/_build
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Every target sets itself up: a fresh clone, Python 3.11 or newer and make are all it takes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# for every install: a later one without it would swap the tested versions for others
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
WORKERS ?= 2
TESTS ?= tests
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install run test test-all check format bench results frontier ablation robust cost preparation ncf packed compress wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## .venv with the package (editable) and its tools

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11; name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,joblib]'
	@touch $@

run: install ## the main job on made-up data, about a minute; ARGS='model=fm data=criteo' for another
	$(BIN)/python -m dnis_lightning $(ARGS)

test: install ## lint, types, and the tests but the slow ones
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(TESTS)

test-all: install ## lint, types, and all tests
	$(MAKE) --no-print-directory check
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS)

check: install ## lint and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## time training, search and loading on this machine (writes outputs/bench)
	$(BIN)/python -m benchmarks.speed $(if $(ONLY),--only $(ONLY)) $(ARGS)

results: install ## the runs behind docs/results.md (an hour or more; DNIS_DATA names the folder of the raw data)
	$(BIN)/python -m benchmarks.results $(ARGS)

frontier: install ## test metric against bytes, for 29 contenders (hours; DNIS_DATA names the folder of the raw data)
	$(BIN)/python -m benchmarks.frontier $(ARGS)

ablation: install ## what each ingredient of the default recipe is worth (an hour; DNIS_DATA names the folder of the raw data)
	$(BIN)/python -m benchmarks.ablation $(ARGS)

robust: install ## the search without retuning, on other seeds, widths, blocks, batches, rows (hours; DNIS_DATA the folder of the raw data)
	$(BIN)/python -m benchmarks.robust $(ARGS)

cost: install ## what the paper's tables cost at full size: time of an epoch, memory (writes outputs/cost)
	$(BIN)/python -m benchmarks.cost $(ARGS)

preparation: install ## time, memory and disk from Criteo's text to batches (writes outputs/preparation)
	$(BIN)/python -m benchmarks.preparation $(ARGS)

ncf: install ## GMF, MLP and NeuMF against NCF's figures (an hour; ARGS=ncf_test_negatives.csv, DNIS_DATA the folder of the raw data)
	$(BIN)/python -m benchmarks.ncf $(ARGS)

packed: install ## time and memory of looking rows up in packed tables (three minutes)
	$(BIN)/python -m benchmarks.packed $(ARGS)

compress: install ## compress() on a model of plain torch (most of an hour; DNIS_DATA the folder of the raw data)
	$(BIN)/python -m benchmarks.compress $(ARGS)

wheel: install ## build the wheel into dist/
	$(BIN)/python -m build --wheel --outdir dist .

clean: ## remove .venv, caches and build output; runs in outputs/ stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info

# Needs only Python 3.11 with venv, make and a package registry; everything else is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.ready
PORT ?= 5000
CONFIG ?= atac/pendulum
# The dataset that the default run learns from; other configs name their own.
DATA := $(if $(filter atac/pendulum,$(CONFIG)),data/minari/pendulum/mixed-v0)
QUICK := $(addprefix tests/modules/,functional networks world_model algorithms) tests/commands/test_cli.py

# Small networks on few cores: one thread per process is fastest.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup fit test long quick slow lint mutate kill fuzz soak bench docs ui lock

help: ## this text
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## create .venv and install the locked versions

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==$(UV_VERSION)"
	@echo "installing the locked packages into .venv: about a minute and 6 GB, more where they must be downloaded"
	@# Where python may not write bytecode, every start would compile torch anew, for 6 s: compile all of it now.
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(if $(PYTHONDONTWRITEBYTECODE),--compile-bytecode) \
		--require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

fit: $(STAMP) | $(DATA) ## collect Pendulum data, train ATAC on it, evaluate; CONFIG=... for another run
	$(BIN)/reverie fit --config $(CONFIG)

data/minari/pendulum/mixed-v0: | $(STAMP)
	$(BIN)/reverie collect --config collect/pendulum

test: $(STAMP) ## all tests but the long and the slow ones
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

long: $(STAMP) ## tests of several seconds each: further processes, compilers, exports, kills
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "long and not slow"

quick: $(STAMP) ## formulas, networks, updates of each agent, command line: a minute, for the inner loop
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not long and not compile" --ignore-glob="*_learns.py" $(QUICK)

slow: $(STAMP) ## learning runs, and machine code of whole updates
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

mutate: $(STAMP) ## mutation testing of formulas and losses that changed; ONLY="returns popart" for some
	nice $(BIN)/python benchmarks/mutate.py $(ONLY)
	$(BIN)/python benchmarks/report.py

kill: $(STAMP) ## kills runs at every call that changes a file, and compares what they become; CASES="atac dreamer", SHARD=1/4
	$(BIN)/python tests/kill/run.py $(if $(CASES),--cases $(CASES)) $(if $(KINDS),--kinds "$(KINDS)") $(if $(EACH),--each $(EACH)) --shard $(or $(SHARD),1/1)

fuzz: $(STAMP) ## changes configs, checkpoints and datasets at random and reads them, 10 minutes each; SECONDS=60, CHECKS="..."
	$(BIN)/python tests/fuzz/fuzz.py $(if $(CHECKS),--checks $(CHECKS)) --seconds $(or $(SECONDS),600)

soak: $(STAMP) ## trains for very long and watches memory, files and folders; goes on where it was; CASE=dreamer MINUTES=120
	nice $(BIN)/python benchmarks/soak.py $(if $(CASE),--case $(CASE)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(UPDATES),--updates $(UPDATES))
	$(BIN)/python benchmarks/report.py

bench: $(STAMP) ## speed benchmarks, written to benchmarks/RESULTS.md unless a ratio became worse by a tenth; ACCEPT=1 for all
	@set -e; mkdir -p build/bench; for name in bench_atac bench_fit bench_sampling bench_moe bench_dreamer bench_collection bench_replay bench_prioritized bench_files; do echo "== $$name"; \
		$(BIN)/python benchmarks/$$name.py > build/bench/$$name.jsonl; cat build/bench/$$name.jsonl; done
	$(BIN)/python benchmarks/regressions.py build/bench $(if $(ACCEPT),--accept)
	$(BIN)/python benchmarks/report.py

docs: $(STAMP) ## the site of the documentation, with references and notebooks that are run, into build/site: open index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open build/site/index.html"

ui: $(STAMP) ## MLflow's pages on this machine only; PORT=..., TRACKING=... for another store
	@$(BIN)/reverie ui --port $(PORT) $(if $(TRACKING),--tracking_uri "$(TRACKING)")

lock: $(STAMP) ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o requirements.lock

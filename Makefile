# Two commands set everything up by themselves: `make demo` and `make test`.
#   make demo              train the toy agent, every stage, on CPU
#   make demo-seeds        the same for seeds 0, 1, 2, and the table of docs/demo.md
#   make test              the tests, under 12 minutes on 2 cores
#   make test-all          with the slow proofs
#   make soak              2,000 random steps while everything is killed (root,
#                          Docker; the same command goes on where it stopped)
#   make pods              compile the 7B for every pod; the tables of docs/pods.md
#   make lint | format     ruff
#   make clean             remove virtual environments and runs
# Another interpreter: make test PYTHON=python3.12 (with a .venv of its own).

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Extras of setup.py; `full` brings what every test needs.
EXTRAS ?= test
RUNS ?= runs
SEEDS ?= 0 1 2
# Two processes on two cores; a file's tests share what they set up.
PYTEST_FLAGS ?= -n 2 --dist loadfile

# glibc gives XLA's large temporaries back after every call otherwise, and the
# kernel clears their pages again: a training step took 1.3 times as long.
demo demo-seeds: export JAX_PLATFORMS = cpu
demo demo-seeds: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
demo demo-seeds: export MALLOC_MMAP_MAX_ = 0
demo demo-seeds: export MALLOC_TRIM_THRESHOLD_ = 1000000000000

.PHONY: demo demo-seeds test test-all soak pods lint format clean setup
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; try PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	  { echo "this Python has no venv: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(BIN)/python -m mlagent_jax.tasks prepare --config=configs/toy.py
	$(BIN)/python -m mlagent_jax.train --config=configs/toy.py \
	  --workdir=$(RUNS)/demo

demo-seeds: setup
	$(BIN)/python -m mlagent_jax.tasks prepare --config=configs/toy.py
	for seed in $(SEEDS); do \
	  $(BIN)/python -m mlagent_jax.train --config=configs/toy.py \
	    --config.seed=$$seed --workdir=$(RUNS)/demo-seed$$seed || exit 1; \
	done
	$(BIN)/python benchmarks/demo_table.py \
	  $(foreach seed,$(SEEDS),$(RUNS)/demo-seed$(seed)) --out=docs/demo.md

test: setup
	$(BIN)/python -m pytest -m 'not slow' $(PYTEST_FLAGS)

test-all: setup
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

soak: setup
	launch/docker_engine.sh
	launch/task_image/build.sh
	$(BIN)/python -m mlagent_jax.tasks prepare --all
	$(BIN)/python benchmarks/soak/soak.py --out $(RUNS)/soak \
	  --docs docs/reliability.md

pods: setup
	$(BIN)/python benchmarks/pods.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* $(RUNS) build *.egg-info

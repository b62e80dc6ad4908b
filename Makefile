# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv, installs what
# requirements.lock names, and does its work; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_FLAGS := --dataset=digits_fgsm_attack --mix_ratio=0.5 --epsilon=0.1 --prune_percent=35 \
              --prune_iterations=8 --end_iter=10 --runs_dir=demo/runs --cache_dir=demo/cache

.PHONY: demo test quick experiments soak slurm lint clean
.DELETE_ON_ERROR:

# lt and reinit on half clean, half attacked digits, three seeds each; ends with the path of a picture
demo: $(READY)
	for seed in 0 1 2; do for type in lt reinit; do \
	    $(BIN)/python main.py --prune_type=$$type --seed=$$seed $(DEMO_FLAGS) || exit 1; \
	done; done
	$(BIN)/python plots.py demo/runs/* -o demo/plots
	@echo "look at: demo/plots/digits-fc1-attacked.png"

# all of them, a process a core: each is bound to one thread
JOBS ?= $(shell nproc)
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist=worksteal

# the edit loop: the laws that need no other process and no long training
quick: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist=worksteal -m 'not soak and not slow'

# the seven questions and the appendices; SCALE=small is MNIST, SCALE=long trains nets to their end, SCALE=paper
# wants a GPU (experiments/scale.sh)
SCALE ?= smoke
experiments: $(READY)
	for script in experiments/exp*.sh experiments/frankle.sh experiments/cosentino.sh experiments/large.sh experiments/black_images.sh; do \
	    SCALE=$(SCALE) PYTHON=$(BIN)/python bash $$script || exit 1; \
	done
	@echo "look at: $${REPORT:-report}/report.html"

# opt-in: Ray, three of its nodes of which one dies, and KILLS random kills of a study's processes
KILLS ?= 6
soak: $(READY)
	$(BIN)/python -m pip install --quiet -r requirements-grid.txt
	$(BIN)/python -m pytest -m soak
	$(BIN)/python benchmarks/soak.py --quick --kills=$(KILLS)

# opt-in, as root: docs/runs.md's recipe on a Slurm of one node, which apt installs
slurm: $(READY)
	PYTHON=$(BIN)/python bash benchmarks/slurm.sh

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo

# the lock was made for Python 3.11 on Linux x86-64; elsewhere, or where a file of it is gone, the lower bounds serve
$(READY): requirements.lock requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock || $(BIN)/python -m pip install --quiet -r requirements.txt
	touch $(READY)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test test-all test-faults test-notebooks test-mutants test-mutants-sample notebooks quickstart bench lint clean

# One virtual environment serves every target; it is made anew when the requirements change.
$(VENV)/ready: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

test: $(VENV)/ready lint
	$(BIN)/python -m pytest -n auto --dist loadfile

# The slow tests compile for TPUs that are not here; the TPU compiler comes with the extra.
test-all: $(VENV)/notebooks lint
	$(BIN)/python -m pip install --quiet --editable '.[test,tpu]'
	$(BIN)/python -m pytest -n auto --dist loadfile -m ''

# 25 kills a stage, 12,300 cases of fuzzing, 500 flipped bits a file: some 15 minutes.
test-faults: export RLHF_JAX_KILLS ?= 25
test-faults: export RLHF_JAX_FUZZ ?= 30
test-faults: export RLHF_JAX_BITS ?= 500
test-faults: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --dist loadfile -rP -m '' tests/faults

# Every wrong edit of tests/mutants/ on a copy, and the test that must notice it; goes on after a
# stop with what is left.
test-mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutants --jobs 2

# 300 edits of objectives/ and stages/ drawn by cosmic-ray, seeded; goes on after a stop.
test-mutants-sample: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,mutation]'
	$(BIN)/python -m tests.mutants.sample --jobs 2

$(VENV)/notebooks: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,notebooks]'
	touch $@

test-notebooks: $(VENV)/notebooks
	$(BIN)/python -m pytest -m '' tests/notebooks

# Writes notebooks/*.ipynb, outputs included, from the .py beside them.
notebooks: $(VENV)/notebooks
	$(BIN)/python notebooks/execute.py

quickstart: $(VENV)/ready
	$(BIN)/rlhf-jax run experiments/quickstart.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/ppo_iteration.py
	$(BIN)/python benchmarks/checkpointing.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info

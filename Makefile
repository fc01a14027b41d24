PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test test-all test-gpu test-faults test-notebooks test-mutants test-mutants-sample notebooks quickstart bench lint clean

# All targets use one virtual environment; it is rebuilt when the requirements change.
$(VENV)/ready: setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

test: $(VENV)/ready lint
	$(BIN)/python -m pytest -n auto --dist loadfile

# The slow tests compile for TPUs without having any; the extra `tpu` installs the TPU compiler.
test-all: $(VENV)/notebooks lint
	$(BIN)/python -m pip install --quiet --editable '.[test,tpu]'
	$(BIN)/python -m pytest -n auto --dist loadfile -m ''

# What needs an NVIDIA GPU: cuDNN's attention against float64 loops.
test-gpu: export JAX_PLATFORMS = cuda
test-gpu: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,cuda]'
	$(BIN)/python -m pytest -m '' tests/models/test_fused.py

# 25 kills per stage and 200 of the labelling page, 14,100 fuzzing cases, 10,150 requests to the
# labelling page, 500 flipped bits per file: about 20 minutes.
test-faults: export RLHF_JAX_KILLS ?= 25
test-faults: export RLHF_JAX_LABEL_KILLS ?= 200
test-faults: export RLHF_JAX_FUZZ ?= 30
test-faults: export RLHF_JAX_BITS ?= 500
test-faults: $(VENV)/ready
	$(BIN)/python -m pytest -n auto --dist loadfile -rP -m '' tests/faults

# Applies every wrong edit of tests/mutants/ to a copy and runs the test that must fail. If it is
# stopped, the next call continues with the remaining edits.
test-mutants: $(VENV)/ready
	$(BIN)/python -m tests.mutants --jobs 2

# The same with 300 random edits of objectives/ and stages/ by cosmic-ray (fixed seed).
test-mutants-sample: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,mutation]'
	$(BIN)/python -m tests.mutants.sample --jobs 2

$(VENV)/notebooks: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[test,notebooks]'
	touch $@

test-notebooks: $(VENV)/notebooks
	$(BIN)/python -m pytest -m '' tests/notebooks

# Writes notebooks/*.ipynb, with outputs, from the .py files beside them.
notebooks: $(VENV)/notebooks
	$(BIN)/python notebooks/execute.py

quickstart: $(VENV)/ready
	$(BIN)/rlhf-jax run experiments/quickstart.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/ppo_iteration.py
	$(BIN)/python benchmarks/checkpointing.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/labelling.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info

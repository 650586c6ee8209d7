# Two commands do everything, set-up included:
#   make quickstart   pretrain, fine-tune and train by reinforcement a small model, on this machine
#   make test         the test suite, end-to-end runs included
#   make test-all     that, and the longest whole runs
# Variables: PYTHON (interpreter for the virtual environment), TORCH_INDEX (where the CPU build of torch is
# taken from when the configured package index has none), SEED and RUN (of the quick start).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
SEED ?= 0
RUN ?= quickstart

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# Where uv is there it installs in seconds; pip takes over what it cannot do.
UV := $(shell command -v uv)
PACKAGES := $(shell grep -c == requirements-cpu.lock)
# pip's own output is a page a package: a line for every twentieth.
TELL := '/^Collecting/ { if (++n % 20 == 0) print "  fetched " n " of " total } \
	/^Installing collected/ { print "  fetched all; unpacking (a minute or two)" } { fflush() }'
TORCH := $(shell sed -n 's/^torch==//p' requirements-cpu.lock)
PROTOS := $(sort $(wildcard proto/rlserve/v1/*.proto))
PROTOC := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m grpc_tools.protoc -Iproto --python_out=OUT --grpc_python_out=OUT --mypy_out=quiet:OUT --mypy_grpc_out=quiet:OUT

.PHONY: help install quickstart test test-all lint format proto lock bench clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -7

install: $(STAMP)

$(STAMP): requirements-cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rlserve needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch $(TORCH) (about 200 MB)"
	@$(PIP) install -qq --no-deps 'torch==$(TORCH)' 2>$(VENV)/torch.log \
		|| $(PIP) install -qq --no-deps --timeout 15 --retries 2 --index-url $(TORCH_INDEX) 'torch==$(TORCH)' 2>>$(VENV)/torch.log \
		|| { tail -n 20 $(VENV)/torch.log; \
		     echo "no source has torch==$(TORCH): set TORCH_INDEX to an index with CPU builds,"; \
		     echo "or PIP_FIND_LINKS to a folder that holds the wheel"; exit 1; }
	@echo "installing $(PACKAGES) packages of requirements-cpu.lock"
	@$(if $(UV),$(UV) pip install --python $(BIN)/python --no-deps -r requirements-cpu.lock || echo "uv cannot; pip tries";)
	@$(PIP) install --no-deps -r requirements-cpu.lock 2>&1 | tee $(VENV)/install.log | awk -v total=$(PACKAGES) $(TELL) \
		|| { grep -v 'is ignored' $(VENV)/install.log | tail -n 20; echo "the whole log is $(VENV)/install.log"; exit 1; }
	@rm -rf rlserve.egg-info  # of an earlier install: its entry points would be found before the new ones
	@$(PIP) install -qq --no-deps --no-build-isolation --editable . 2>>$(VENV)/install.log \
		|| { tail -n 20 $(VENV)/install.log; exit 1; }
	@touch $@

quickstart: $(STAMP)
	$(BIN)/rlserve run configs/quickstart.toml --set seed=$(SEED) --set name=$(RUN) --overwrite

# Two files at once: most tests wait for processes. A file's tests share the engines and servers that it starts.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test: $(STAMP)
	$(PYTEST)

test-all: $(STAMP)
	$(PYTEST) -m ''

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd rlserve/sandbox/inside && MYPYPATH=. $(abspath $(BIN))/mypy --strict --explicit-package-bases *.py
	@rm -rf build/proto && mkdir -p build/proto
	@$(subst OUT,build/proto,$(PROTOC)) $(PROTOS)
	diff -r -x __init__.py -x __pycache__ build/proto/rlserve/v1 rlserve/v1
	$(BIN)/python proto/compatibility.py check

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(STAMP)
	$(subst OUT,.,$(PROTOC)) $(PROTOS)
	$(BIN)/python proto/compatibility.py accept

lock: $(STAMP)
	@sed -n '/^#/p;/^torch==/p' requirements-cpu.lock > build/lock
	@$(PIP) freeze --all --exclude-editable | grep -viE '^(torch|torchvision|torchaudio|torchcodec|triton|pip)==' >> build/lock
	mv build/lock requirements-cpu.lock

bench: $(STAMP)
	$(BIN)/rlserve bench all

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

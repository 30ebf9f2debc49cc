SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Python keeps what it compiles, whatever the user's setting: each process of the tests would compile it anew.
unexport PYTHONDONTWRITEBYTECODE
UV_VERSION := 0.13.8
# What torch brings along for GPUs, 4 GB: no test and no demo uses one (tests/support/cuda_stand_ins.py).
NVIDIA := cuda-bindings cuda-pathfinder nvidia-cublas nvidia-cuda-cccl nvidia-cudnn-cu13 nvidia-cufft \
  nvidia-cufile nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
  nvidia-nvshmem-cu13 nvidia-nvtx triton
RUN_READY := $(VENV)/.ready-run
READY := $(VENV)/.ready
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
VENV_PACKAGE := "$(PYTHON) -c 'import ensurepip'" python3-venv

.PHONY: help
help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 20

# What the commands need, and no more; by hash, the project itself editable.
$(RUN_READY): worker/requirements.txt worker/build-requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=<a Python >= 3.11>" >&2; exit 1; }
	@tests/support/debian_packages.sh $(VENV_PACKAGE)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(INSTALL) --no-deps --require-hashes -r worker/requirements.txt -r worker/build-requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# And what the tests need beside it.
$(READY): $(RUN_READY) tests/requirements.txt tests/support/stand_ins.txt tests/support/cuda_stand_ins.py
	$(INSTALL) --no-deps --require-hashes -r tests/requirements.txt
	$(INSTALL) --no-cache --target $(VENV)/stand_ins --require-hashes -r tests/support/stand_ins.txt
	PYTHONPATH=$(VENV)/stand_ins $(BIN)/python tests/support/cuda_stand_ins.py $(VENV)/lib/python*/site-packages
	rm -rf $(VENV)/stand_ins
	@touch $@

.PHONY: environment
environment: $(READY)  ## Make the Python environment of the tests (.venv)

DEMO := out/demo

.PHONY: demo
demo: $(RUN_READY)  ## Make a dataset, annotate it, validate and show it (into out/demo; no GPU, no network)
	rm -rf $(DEMO)
	$(BIN)/annotationrun demo $(DEMO)

# The tests decode with every backend: Debian's ffmpeg brings the program and the libraries that torchcodec loads.
.PHONY: packages
packages:
	@tests/support/debian_packages.sh $(VENV_PACKAGE) "command -v ffmpeg" ffmpeg "command -v git" git

.PHONY: test
test: packages $(READY)  ## What must hold on any Linux, in minutes: no root, no cluster, nothing built
	$(BIN)/python -m tests.suites --level test

.PHONY: test-cluster
test-cluster: packages $(READY)  ## All the rest: real Kubernetes, vLLM, LeRobot, S3, kills (root, about 28 GB the first time)
	$(BIN)/python -m tests.suites --level test-cluster

.PHONY: durations
durations: $(READY)  ## Where the seconds went, by suite, file and test, the last time that each suite ran
	$(BIN)/python -m tests.durations

# make SUITE ARGS="-k spans": arguments for pytest.
ARGS :=
SUITES := lint types unit component docs fuzz \
  storage faults scale frames-exact mutants interop vllm chart gitops operator cluster
.PHONY: $(SUITES)
lint:  ## ruff, and the contracts of the imports
types:  ## mypy, strict
unit:  ## Tests of pure code, and of the layout
component:  ## Tests with real decoding, real HTTP, real parquet
docs:  ## The README's commands
fuzz:  ## Damaged files, objects and answers of every kind; FUZZ_COUNT=2000 for that many of each
storage:  ## Component tests on a real S3 server, on Azurite, and on disks that are full or read-only
faults:  ## Runs and workers that are killed, at each named point of the code and at seeded moments
scale:  ## 10,000 episodes: seconds and memory of each step
frames-exact:  ## Every frame of the reference dataset against the code in its pixels
mutants:  ## Faults put in on purpose, in copies of the source: the tests must find each
interop:  ## LeRobot itself loads what we wrote, and rejects what was damaged (2.5 GB under ~/.cache)
vllm:  ## Runs against a real vLLM on CPUs, with a model of a few parameters (2.5 GB under ~/.cache)
chart:  ## The Helm chart, linted and rendered by helm itself
gitops:  ## What Argo CD and Flux make of a run: their Lua, CEL and kstatus
operator:  ## The operator against a real API server; the tests play the Jobs
cluster:  ## Runs on a real Kubernetes, some with a real vLLM: booted here, or the one that KUBECONFIG names
$(filter-out lint types unit,$(SUITES)): packages
$(SUITES): $(READY)
	$(BIN)/python -m tests.suites $@ -- $(ARGS)

.PHONY: bench-pipeline
bench-pipeline: packages $(READY)  ## Our pipeline beside LeRobot's own, in one run: a table, and JSON in out/
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.pipeline --json out/bench-pipeline.json

.PHONY: bench-balance
bench-balance: packages $(READY)  ## Four workers on episodes of very different lengths: makespan against its lower bound
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.balance --json out/bench-balance.json

.PHONY: bench-relabel
bench-relabel: packages $(READY)  ## Relabeling 200 episodes on a Hub: requests, bytes and seconds of what changed alone
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.relabel --json out/bench-relabel.json

.PHONY: bench-frames
bench-frames: packages $(READY)  ## Decoding: our backends, the seed's method, PyAV and torchcodec in process, side by side
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.frames --json out/bench-frames.json

.PHONY: frames-stress
frames-stress: packages $(READY)  ## 16 threads on one provider, a minute for each backend
	$(BIN)/python -m tests.component.worker.video.frames_stress --seconds 60

.PHONY: check
check: $(READY)  ## At each save: lint, types, unit
	$(BIN)/python -m tests.suites lint types unit -- $(ARGS)

.PHONY: format
format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

.PHONY: crds
crds: $(READY)  ## Generate the CRD, its reference and the runbook from the models
	$(BIN)/python -m annotationrun_api.crd_schema > crds/annotationruns.yaml.new
	mv crds/annotationruns.yaml.new crds/annotationruns.yaml
	cp crds/annotationruns.yaml helm/annotationrun/files/annotationruns.yaml
	$(BIN)/python -m annotationrun_api.reference > crds/README.md.new
	mv crds/README.md.new crds/README.md
	$(BIN)/python -m annotationrun_api.runbook > operator/RUNBOOK.md.new
	mv operator/RUNBOOK.md.new operator/RUNBOOK.md

PIP_AUDIT_VERSION := 2.10.1
.PHONY: audit
audit: $(READY)  ## Compare the lock files with the advisories of PyPI (needs the network)
	for lock in worker/requirements.txt worker/build-requirements.txt operator/requirements.txt tests/requirements.txt; do \
	  $(BIN)/uv tool run pip-audit@$(PIP_AUDIT_VERSION) --disable-pip --require-hashes -r $$lock; \
	done

# The operator has no command line of its own.
.PHONY: lock
lock:  ## Lock the requirements again (hashes, no URLs)
	uv_flags="--quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header"; \
	$(BIN)/uv pip compile pyproject.toml $$uv_flags --extra dev --excludes <(printf '%s\n' $(NVIDIA)) \
	  --output-file tests/requirements.txt; \
	$(BIN)/uv pip compile <(printf '%s\n' pyelftools ziglang) $$uv_flags --output-file tests/support/stand_ins.txt; \
	compile="$(BIN)/uv pip compile pyproject.toml $$uv_flags --constraint tests/requirements.txt"; \
	$$compile --extra operator --excludes <(echo typer) --output-file operator/requirements.txt; \
	$$compile --extra run --output-file worker/requirements.txt; \
	$(BIN)/uv pip compile <(printf '%s\n' editables hatchling) $$uv_flags --constraint tests/requirements.txt \
	  --output-file worker/build-requirements.txt

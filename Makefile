SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.8
READY := $(VENV)/.ready

.PHONY: help
help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/' | expand -t 20

# The environment: Python packages by hash from tests/requirements.txt, the project itself editable.
# All is compiled here: where PYTHONDONTWRITEBYTECODE is set, each process would compile what it imports.
# A Python without the venv module (Debian splits it off) gets it through apt.
$(READY): tests/requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; set PYTHON=<a Python >= 3.11>" >&2; exit 1; }
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get -q update && apt-get -q install -y python3-venv; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r tests/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q crds operator worker tests
	@touch $@

.PHONY: environment
environment: $(READY)  ## Make the Python environment (.venv)

DEMO := out/demo

.PHONY: demo
demo: $(READY)  ## Make a dataset, annotate it, validate and show it (into out/demo; no GPU, no network)
	rm -rf $(DEMO)
	$(BIN)/annotationrun demo $(DEMO)

# The tests decode with every backend: Debian's ffmpeg brings the CLI and the libraries that torchcodec loads.
.PHONY: ffmpeg
ffmpeg:
	@command -v ffmpeg >/dev/null || { apt-get -q update && apt-get -q install -y --no-install-recommends ffmpeg; }

.PHONY: test
test: $(READY) ffmpeg  ## Everything that must hold, with a table of counts and seconds
	$(BIN)/python -m tests.suites

SUITES := lint types unit component faults scale frames-exact mutants interop vllm chart gitops operator cluster docs
component faults frames-exact interop mutants vllm: ffmpeg
.PHONY: $(SUITES)
lint:  ## ruff and the import contracts
types:  ## mypy, strict
unit:  ## Tests of pure code, and of the layout
component:  ## Tests with real decoding, real HTTP, real parquet
faults:  ## Runs and workers that are killed, at each named point of the code and at seeded moments
scale:  ## 10,000 episodes: seconds and memory of each step
frames-exact:  ## Every frame of the reference dataset against the code in its pixels
mutants:  ## Faults put in on purpose: the tests must find each
interop:  ## LeRobot itself loads what we wrote, and rejects what was damaged (5.8 GB under ~/.cache)
vllm:  ## Runs against a real vLLM on CPUs, with a model of a few parameters (2.5 GB under ~/.cache)
chart:  ## The Helm chart, linted and rendered by helm itself
gitops:  ## What Argo CD and Flux make of a run: their Lua, CEL and kstatus
operator:  ## The operator against a real API server; the tests play the Jobs
cluster:  ## Runs on a real Kubernetes, some with a real vLLM: booted here, or the one that KUBECONFIG names
docs:  ## The README's commands
$(SUITES): $(READY)
	$(BIN)/python -m tests.suites $@

.PHONY: bench-pipeline
bench-pipeline: $(READY) ffmpeg  ## Our pipeline beside LeRobot's own, in one run: a table, and JSON in out/
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.pipeline --json out/bench-pipeline.json

.PHONY: bench-balance
bench-balance: $(READY) ffmpeg  ## Four workers on episodes of very different lengths: makespan against its lower bound
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.balance --json out/bench-balance.json

.PHONY: bench-relabel
bench-relabel: $(READY) ffmpeg  ## Relabeling 200 episodes on a Hub: requests, bytes and seconds of what changed alone
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.relabel --json out/bench-relabel.json

.PHONY: bench-frames
bench-frames: $(READY) ffmpeg  ## Decoding: our backends, the seed's method, PyAV and torchcodec in process, side by side
	mkdir -p out
	$(BIN)/python -m tests.benchmarks.frames --json out/bench-frames.json

.PHONY: frames-stress
frames-stress: $(READY) ffmpeg  ## 16 threads on one provider, a minute for each backend
	$(BIN)/python -m tests.component.worker.frames.frames_stress --seconds 60

.PHONY: check
check: $(READY)  ## What is quick: lint, types, unit
	$(BIN)/python -m tests.suites lint types unit

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

.PHONY: lock
lock:  ## Lock the requirements again (hashes, no URLs)
	uv_flags="--quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header"; \
	$(BIN)/uv pip compile pyproject.toml $$uv_flags --extra dev --output-file tests/requirements.txt; \
	compile="$(BIN)/uv pip compile pyproject.toml $$uv_flags --constraint tests/requirements.txt"; \
	$$compile --extra operator --output-file operator/requirements.txt; \
	$$compile --extra worker --excludes <(echo torch) --output-file worker/requirements.txt  # Debian's, in the image

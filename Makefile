# `make lab` and `make test` set everything up by themselves.
PYTHON ?= python3
BIN := .venv/bin
# How OpenMP threads wait for each other; mnistlab/__init__.py says why.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 50000

.PHONY: help lab app test bench model notebooks

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

lab: .venv/ready  ## open JupyterLab on the notebooks
	$(BIN)/python tools/serve.py lab notebooks

app: .venv/ready  ## serve the drawing pad as a web page on 127.0.0.1
	$(BIN)/python tools/serve.py app notebooks/04_draw.ipynb

test: .venv/ready  ## check the style and run every test and notebook
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/pytest -q \
	  --numprocesses auto --dist loadfile --no-loadscope-reorder

bench: .venv/ready  ## measure how fast training, one prediction and the pad are
	$(BIN)/python tools/bench.py

model: .venv/ready  ## train the shipped network anew: replaces artifacts/best_model.*
	$(BIN)/python tools/make_model.py

notebooks: .venv/ready  ## run every notebook and keep its outputs
	$(BIN)/python tools/refresh_notebooks.py notebooks/*.ipynb

# An environment that is already there is kept (a light CPU torch, say), and
# nothing is installed again before the two lists change.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mnistlab needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]' \
	  --constraint constraints.txt
	touch $@

# make demo   train on the embedded digits, evaluate, sample: a few minutes on 2 cores
# make test   the tests; make test-slow, those that take minutes each; make test-targets, compiles for accelerators; make lint, style and types
# make docs   the API reference, from the docstrings: docs/api/index.html
# Each makes its own environment in .venv the first time. PYTHON chooses the interpreter, 3.11 or later.

PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo test test-slow test-targets lint docs clean

demo: .venv/installed
	$(BIN)/python bin/train.py demo --run $(RUN) --resume
	$(BIN)/python bin/evaluate.py --run $(RUN) --json $(RUN)/test.json
	$(BIN)/python bin/sample.py --run $(RUN) --count 64
	@echo "Curve:   $(RUN)/curves.png"

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -n 2 -m slow

test-targets: .venv-targets/installed
	JAX_PLATFORMS=cpu .venv-targets/bin/python -m pytest tests/test_targets.py -m slow

lint: .venv/installed-test .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: .venv/installed .venv/installed-docs
	$(BIN)/python -m pdoc --docformat google --output-directory docs/api rgen

.venv/created:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "rgen needs Python 3.11 or later; give one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-%: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[$*]"
	@touch $@

# Of its own: where these plugins are installed, JAX looks for their devices at every start
.venv-targets/installed: .venv/created pyproject.toml
	$(PYTHON) -m venv .venv-targets
	.venv-targets/bin/pip install --quiet --disable-pip-version-check -e ".[test,targets]"
	@touch $@

clean:
	rm -rf .venv .venv-targets

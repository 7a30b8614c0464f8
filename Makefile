# make demo   train on the embedded digits, evaluate, sample: a few minutes on 2 cores
# make test   the tests; make test-slow, those that take minutes each; make test-targets, compiles for accelerators; make lint, style and types
# make test-lowest PYTHON=python3.11   a part of the tests with the lowest versions that pyproject.toml allows
# make docs   the API reference, from the docstrings: docs/api/index.html
# Each makes its own environment in .venv the first time. PYTHON chooses the interpreter, 3.11 or later.

PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo

.PHONY: demo test test-slow test-targets test-lowest lint docs clean

demo: .venv/installed
	$(BIN)/python bin/train.py demo --run $(RUN) --resume
	$(BIN)/python bin/evaluate.py --run $(RUN) --json $(RUN)/test.json --overwrite
	$(BIN)/python bin/sample.py --run $(RUN) --count 64
	@echo "Curve:   $(RUN)/curves.png"

test: .venv/installed-test
	$(BIN)/python -m pytest -n 2

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -n 2 -m slow

test-targets: .venv-targets/installed
	JAX_PLATFORMS=cpu .venv-targets/bin/python -m pytest tests/test_targets.py -m slow

test-lowest: .venv-lowest/installed
	.venv-lowest/bin/python -m pytest -n 2 -W ignore $(addprefix tests/test_,golden.py data.py pictures.py sample.py run.py resume.py optimizer.py)
	.venv-lowest/bin/python -m pytest -n 2 -W ignore tests/test_strangers.py -k "equinox or haiku or nnx"

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

.venv-lowest/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "The lowest versions are those for Python 3.11; give it: make test-lowest PYTHON=python3.11")'
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e ".[test]"
	@touch $@

# And what the tests compiled, which grows with every change of the engine
clean:
	rm -rf .venv .venv-targets .venv-lowest "$${XDG_CACHE_HOME:-$$HOME/.cache}/rgen/tests"

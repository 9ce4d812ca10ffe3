# `make demo` shows the main job, `make test` passes the tests. Both need Python and make alone:
# they install what they use into .venv.

PYTHON ?= python3
VENV ?= .venv
BROKER ?=
DATABASE ?=
ARGS ?=

export BROKER DATABASE

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.demo

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest $(ARGS)

lint: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the demo needs into $(VENV) ..."
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,servers]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the tests need into $(VENV) ..."
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,servers,test]'
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/bin/python
	@echo "Installing the linters into $(VENV) ..."
	$(VENV)/bin/python -m pip install --quiet --editable '.[demo,servers,test,lint]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-lint .venv-tox .tox var build dist *.egg-info

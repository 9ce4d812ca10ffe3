# `make demo` shows the main job, `make bench` measures it, `make test` passes the tests, `make faults`
# breaks servers and workers under it, `make screenshots` takes the pictures. `make demo` needs Python
# and make; CONTRIBUTING.md says what the others need. All install the packages that they use into
# .venv, from the package index that pip is set up for.

PYTHON ?= python3
VENV ?= .venv
BROKER ?=
DATABASE ?=
ARGS ?=
# How many processes run the tests: one per core. 0 runs them in pytest's own.
JOBS ?= auto

export BROKER DATABASE

# Tests start a hundred processes, each of which would compile the package again. Containers often set it.
unexport PYTHONDONTWRITEBYTECODE

comma := ,

.PHONY: demo bench test faults screenshots docs lint ruff mypy workflows words clean

demo: $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.demo

bench: $(VENV)/.bench
	$(VENV)/bin/python -m benchmarks $(ARGS)

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

faults: $(VENV)/.faults
	$(VENV)/bin/python -m pytest tests/faults --durations 0 --durations-min 10 $(ARGS)

screenshots: $(VENV)/.test
	$(VENV)/bin/python -m benchmarks.demo.screenshots

# A page for each document, in build/docs.
docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --quiet -b html docs build/docs
	@echo "Open build/docs/index.html."

# The hooks of pre-commit call each of these by itself.
lint: ruff mypy workflows words

ruff: $(VENV)/.lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

mypy: $(VENV)/.lint
	$(VENV)/bin/mypy

workflows: $(VENV)/.lint
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(VENV)/bin/zizmor -qq --offline .github

words: $(VENV)/.lint
	$(VENV)/bin/codespell --dictionary - --dictionary .words.txt

# Quiet, unless it fails. Some releases of Python come with a pip that can't install what flit builds as
# editable; for others the first step does nothing.
define install
	@echo "Installing what this needs into $(VENV) ..."
	@{ $(VENV)/bin/python -m pip install 'pip>=21.3' \
		&& $(VENV)/bin/python -m pip install --editable '.[$(1)]'; } >$(VENV)/install.log 2>&1 \
		|| { cat $(VENV)/install.log; exit 1; }
	@touch $@
endef

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)servers)

$(VENV)/.bench: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)servers$(comma)bench)

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)servers$(comma)test)

$(VENV)/.faults: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)servers$(comma)test$(comma)faults)

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)docs)

$(VENV)/.lint: pyproject.toml | $(VENV)/bin/python
	$(call install,demo$(comma)servers$(comma)test$(comma)lint)

clean:
	rm -rf $(VENV) .venv-faults .venv-lint .venv-bench .venv-tox .tox var build dist *.egg-info

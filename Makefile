# Two commands do all the set-up on a bare machine with Python 3.11 or newer:
#   make demo   create .venv, install, train on digits with backprop, DFA and shallow, write a report
#   make test   the same environment, then the tests
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
# Processes of the tests: auto is one for each CPU core.
JOBS   ?= auto
RUN    := $(VENV)/bin/python
# A data root with the upstream files; without it tests that need real data are skipped.
export FEEDALIGN_DATA

.PHONY: demo test test-slow check format clean
demo: $(VENV)/.demo
	$(RUN) -m feedalign demo

test: $(VENV)/.dev
	$(RUN) -m pytest -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.dev
	$(RUN) -m pytest -m slow --timeout 7200

check: $(VENV)/.dev
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

format: $(VENV)/.dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet $(TORCH)
	@touch $@

# torch comes first: asked for by a range, pip would fetch a build with gigabytes of CUDA.
$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[vision]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(RUN) -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

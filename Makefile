# `make` alone says what there is. It makes .venv and out here; models lie in the user's cache, or in $EL4NER_CACHE.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup tools assets demo test bench faults lint format docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/installed ## a virtual environment with the tested versions, in .venv

.venv/installed: requirements/cpu.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
	  { echo 'setup: Python 3.11 to 3.14 is needed: make setup PYTHON=python3.11'; exit 1; }
	@test -x $(BIN)/pip || { echo 'setup: making the virtual environment .venv'; $(PYTHON) -m venv .venv; }
	@echo 'setup: installing the versions in requirements/ (some minutes and 3 GB the first time)'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  -r requirements/cpu.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

tools: .venv/tools ## what tests, linters and the documentation need beside that

.venv/tools: requirements/dev.txt requirements/docs.txt .venv/installed
	@echo 'tools: installing the versions in requirements/dev.txt and requirements/docs.txt'
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps \
	  -r requirements/dev.txt -r requirements/docs.txt
	@touch $@

assets: setup ## the small models that are bundled, ready in the user's cache or $EL4NER_CACHE
	@$(BIN)/el4ner models prepare

demo: setup assets ## annotate the example documents with the three small models and show some
	$(BIN)/el4ner annotate examples/corpus.jsonl --pool examples/pool.jsonl --output out/demo --profile tiny-cpu
	$(BIN)/el4ner evaluate out/demo --gold examples/gold.jsonl

# Two at a time: a run with scripted engines waits for half of its time. Clusters of several nodes, which Ray gives 30 s to
# start, and the real models want the machine for themselves.
ALONE := tests/integration/test_cluster.py tests/integration/test_jobs.py tests/integration/test_real_models.py

test: tools assets ## all tests
	$(BIN)/pytest -n 2 --dist loadfile $(addprefix --ignore ,$(ALONE))
	$(BIN)/pytest $(ALONE)

bench: tools assets ## speed and cost against their floors (benchmarks/scenarios.yaml); hours. Some: make bench ONLY=retrieval
	$(BIN)/python -m benchmarks.bench $(addprefix --only ,$(ONLY))

faults: tools ## kill, hang, fill and change things at random moments and compare; about an hour
	$(BIN)/python -m tests.faults

lint: tools ## style, layout and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: tools ## lay the code out and mend what ruff can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: tools ## the documentation as a site, in out/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'docs: open out/site/index.html; its search needs a server: $(BIN)/python -m http.server -d out/site'

clean: ## remove what runs and tools left; .venv and the models stay
	rm -rf out build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

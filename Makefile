# Every command of the project. `make` alone lists them.
PORT ?= 8000
DATA ?= data
KINDS ?=
CATALOGUE ?=
SITE ?=
ADMIN_TOKEN ?=
PYTHON ?= python3
BIN := .venv/bin
INPUTS := pyproject.toml requirements/locked.txt requirements/install

.DEFAULT_GOAL := help
.PHONY: help run test test-all test-cluster lint bench docs lock schema

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: .venv/run.ready ## run the hub on this machine (PORT=8000 DATA=data KINDS="notebook desktop" or KINDS=all SITE=demo/site.yaml CATALOGUE=demo/catalogue ADMIN_TOKEN=1)
	@requirements/programs $(KINDS)
	@$(BIN)/python -m canfar_hub demo --port "$(PORT)" --data "$(DATA)" --kinds "$(KINDS)" $(if $(SITE),--site "$(SITE)") $(if $(CATALOGUE),--catalogue "$(CATALOGUE)") $(if $(ADMIN_TOKEN),--admin-token)

test: .venv/test.ready ## run the core tests, under 10 minutes
	@requirements/system --optional chromium fonts-dejavu-core postgresql
	@requirements/helm
	@requirements/promtool $(BIN)/promtool
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -m "not slow and not cluster"

test-all: test ## run the core tests, install every kind's programs, and run the slow tests too
	@requirements/programs all
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -m "slow and not cluster"

test-cluster: .venv/test.ready ## run the tests on the cluster of KUBECONFIG, from where its pods can be reached
	@requirements/helm
	PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -m cluster

lint: .venv/lint.ready ## check style, types and shell scripts' syntax
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@for script in requirements/install requirements/system requirements/promtool requirements/programs requirements/lock requirements/helm .ci/run .ci/component images/*/test $(wildcard requirements/kinds/*); do bash -n $$script; done
	@for script in canfar_spawner/starts/*.sh; do sh -n $$script; done

bench: .venv/test.ready ## run the benchmarks and write bench/results
	@requirements/system --optional chromium fonts-dejavu-core
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m bench

docs: .venv/docs.ready ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

schema: .venv/test.ready ## write the schema of the chart's values, of the models in canfar_hub/chart.py
	$(BIN)/python -m canfar_hub.chart >helm/canfar-hub/values.schema.json

lock: ## raise every dependency to its newest version, into requirements/locked.txt
	requirements/lock "$(PYTHON)"

.venv/run.ready: $(INPUTS)
	@requirements/install "$(PYTHON)" embedded && touch $@
.venv/test.ready: $(INPUTS)
	@requirements/install "$(PYTHON)" embedded,cluster,test && touch $@
.venv/lint.ready: $(INPUTS)
	@requirements/install "$(PYTHON)" embedded,cluster,lint && touch $@
.venv/docs.ready: $(INPUTS)
	@requirements/install "$(PYTHON)" embedded,cluster,docs && touch $@

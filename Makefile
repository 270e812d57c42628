# Everything a newcomer needs. `make help` lists the targets; `make run` and `make test` do their own set-up.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
UV := $(VENV)-uv/bin/uv
PYTHON ?= python3
SOURCE ?=
ONCE ?=
AIRFLOW_PORT ?= 8080
MLFLOW_PORT ?= 5000
SCORER_PORT ?= 8000
BACKUPS ?= ./backups
export BACKUPS
KEEP ?=
FROM ?=
REPLACE ?=
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
STACK = $(COMPOSE) --file docker-compose.yml --file docker-compose.backup.yml
# It stands on Airflow's, which a new machine has not yet. One that is there stays: newer code would migrate the catalogue under a running stack.
BACKUP_IMAGE = docker image inspect dermanet-airflow >/dev/null 2>&1 || $(STACK) build airflow-setup; $(STACK) build backup

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'
	@echo
	@echo "  make run SOURCE=~/HAM10000        real images: a folder, a CSV, or s3://bucket/prefix"
	@echo "  make run ONCE=1                   end after the first prediction"
	@echo "  make run AIRFLOW_PORT=8081 MLFLOW_PORT=5001 SCORER_PORT=8001"

run: $(VENV)/installed ## start Airflow, MLflow and the scorer here, retrain, predict, stay up until Ctrl-C
	@exec $(BIN)/dermanet run $(if $(SOURCE),"$(SOURCE)") $(if $(filter-out 0 no false,$(ONCE)),--once) \
		--airflow-port $(AIRFLOW_PORT) --mlflow-port $(MLFLOW_PORT) --scorer-port $(SCORER_PORT)

backup: ## copy all that the stack cannot make again to BACKUPS (./backups), while it runs; KEEP=7 keeps the last seven
	test -d "$(BACKUPS)" || install -d -m 1777 "$(BACKUPS)"
	$(BACKUP_IMAGE)
	$(STACK) run --rm backup backup /backups $(if $(KEEP),--keep $(KEEP))

restore: ## put a backup back: the last of BACKUPS, or FROM=NAME; REPLACE=1 replaces what is there
	$(BACKUP_IMAGE)
	$(STACK) stop
	@$(STACK) run --rm backup restore /backups$(if $(FROM),/$(FROM)) $(if $(filter-out 0 no false,$(REPLACE)),--replace); status=$$?; \
		case $$status in \
			0) ;; \
			2) echo "nothing was changed; starting the stack again" ;; \
			*) echo "the stack stays stopped: call this again, or start it as it is with $(COMPOSE) up --detach"; exit $$status ;; \
		esac; \
		$(COMPOSE) up --detach && exit $$status

# One process more than there are cores, four at most, runs the tests: nearly half of their time is waiting, for servers, clocks and retries.
# The threads of OpenBLAS beside them would only wait for one another.
test: $(VENV)/installed ## run the tests
	OPENBLAS_NUM_THREADS=1 PYTEST_XDIST_AUTO_NUM_WORKERS=$$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') $(BIN)/python -m pytest

test-jax: $(VENV)-jax/installed ## run the tests of training over several processes, in .venv-jax
	$(VENV)-jax/bin/python -m pytest -n 0 tests/test_distribution.py

test-spark: $(VENV)-spark/installed ## run the tests of scoring in bulk by Spark, in .venv-spark; needs Java 17
	$(VENV)-spark/bin/python -m pytest -n 0 tests/test_spark.py

test-workers: $(VENV)-workers/installed ## run the tests of Celery's workers and of Kubernetes's pods, in .venv-workers; needs redis-server and PostgreSQL
	$(VENV)-workers/bin/python -m pytest -n 0 tests/test_scaling.py tests/test_celery.py

secrets: ## write .env for docker-compose.yml: what is in it already stays
	@$(PYTHON) docker/write_secrets.py

stack-test: $(VENV)/installed ## bring docker-compose.yml up for itself and try it whole; SOURCE=FOLDER for images of yours
	$(BIN)/python -m drills.whole $(if $(SOURCE),"$(SOURCE)")

drills: $(VENV)/installed ## break the stack of docker-compose.yml in every known way, and see it mend: up to two hours; ONLY=WORD for some
	$(BIN)/python -m drills.faults $(if $(ONLY),--only "$(ONLY)")

lint: $(VENV)/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## measure speed, as ratios within one run
	$(BIN)/python -m benchmarks

install: $(VENV)/installed ## make .venv from requirements.lock

COMPILE = $(UV) pip compile --quiet --universal --generate-hashes --upgrade --python-version 3.11

lock: $(UV) ## renew requirements.lock, those of the extras, those of the images, and bootstrap.lock
	$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	$(COMPILE) --extra jax --no-emit-package tensorflow --constraint requirements.lock pyproject.toml -o requirements-jax.lock
	$(COMPILE) --extra spark --constraint requirements.lock pyproject.toml -o requirements-spark.lock
	$(COMPILE) --extra stack --constraint requirements.lock pyproject.toml -o requirements-stack.lock
	$(COMPILE) --extra kubernetes --constraint requirements-stack.lock pyproject.toml -o requirements-kubernetes.lock
	$(COMPILE) --group scorer --constraint requirements.lock -o requirements-scorer.lock
	$(COMPILE) --group mlflow --constraint requirements.lock -o requirements-mlflow.lock
	printf 'uv\nsetuptools\n' | $(COMPILE) --constraint requirements.lock - -o bootstrap.lock

clean: ## remove .venv and those of the extras; data in .dermanet stays
	rm -rf $(VENV) $(VENV)-jax $(VENV)-spark $(VENV)-workers $(VENV)-uv

# uv comes from the package index like everything else, pinned with its hash; nothing outside this folder is touched.
$(UV): bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "CPython 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@touch $@

# Compiled at once, on every core: else each first command does it alone, and every command where Python may not write beside its sources.
# TensorFlow has wheels for CPython 3.11 to 3.13; where the machine has only a newer one, uv fetches a 3.13 beside it.
$(VENV)/installed: requirements.lock pyproject.toml | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python '>=3.11,<3.14' $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(BIN)/python requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

# requirements-jax.lock is whole but for TensorFlow, at the versions of requirements.lock: alone it serves a machine that trains on JAX only.
$(VENV)-jax/installed: requirements.lock requirements-jax.lock pyproject.toml | $(UV)
	test -x $(VENV)-jax/bin/python || $(UV) venv --quiet --python '>=3.11,<3.14' $(VENV)-jax
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)-jax/bin/python requirements.lock requirements-jax.lock
	$(UV) pip install --quiet --python $(VENV)-jax/bin/python --no-deps --no-build-isolation -e .
	@touch $@

# PySpark is a download of 400 MB that only scoring in bulk wants: it has an environment of its own, and is in no other.
$(VENV)-spark/installed: requirements.lock requirements-spark.lock pyproject.toml | $(UV)
	test -x $(VENV)-spark/bin/python || $(UV) venv --quiet --python '>=3.11,<3.14' $(VENV)-spark
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)-spark/bin/python requirements.lock requirements-spark.lock
	$(UV) pip install --quiet --python $(VENV)-spark/bin/python --no-deps --no-build-isolation -e .
	@touch $@

# What the stack of docker-compose.yml runs, and the provider for Kubernetes: what a worker past this machine needs.
$(VENV)-workers/installed: requirements.lock requirements-stack.lock requirements-kubernetes.lock pyproject.toml | $(UV)
	test -x $(VENV)-workers/bin/python || $(UV) venv --quiet --python '>=3.11,<3.14' $(VENV)-workers
	$(UV) pip sync --quiet --compile-bytecode --require-hashes --python $(VENV)-workers/bin/python requirements.lock requirements-stack.lock requirements-kubernetes.lock
	$(UV) pip install --quiet --python $(VENV)-workers/bin/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: help run backup restore test test-jax test-spark test-workers secrets stack-test drills lint format bench install lock clean

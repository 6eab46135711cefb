# On a fresh clone `make demo` and `make test` need no other command before them. They create
# a virtual environment, and install into it again only when its sources (setup.py,
# pyproject.toml, those of sample_app) have changed.
#
#   PYTHON=python3.12   the Python that creates the environment (3.10 or newer)
#   VENV=.venv-3.12     the folder of the environment
#   PROCESSES=1         number of processes that run the tests; most tests wait most of the time

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 5
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

# what the environments are made from; sample_app's may have either file or both
SOURCES = setup.py pyproject.toml $(wildcard sample_app/setup.py sample_app/pyproject.toml)
LINTED = setup.py tgext tests $(wildcard sample_app benchmarks docs)

# ONCE=1 and ONCE=fail run one job and stop; without it the application serves until Ctrl-C
DEMO_ONCE_1 = --once
DEMO_ONCE_fail = --once=fail
DEMO_OPTIONS = $(DEMO_ONCE_$(ONCE))

# make mutants: ONLY=savepoint, words of a name or a file; all of them otherwise
# make bench-versions: OLDER='../before ../long_before', folders made by git worktree
# make crash: DB=sqlite,postgresql,mariadb  LONG=1 or ANSWERS=1  MUTANT=fence or split  SEED=1
CRASH_OPTIONS = $(if $(DB),--db $(DB)) $(if $(LONG),--long) $(if $(ANSWERS),--answers) $(if $(MUTANT),--mutant $(MUTANT)) \
  $(if $(SEED),--seed $(SEED))

# Hundreds of processes import the package: compiled each time, that is most of what they do.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL = help
.PHONY: help demo dist test fast check lint types docs screenshots texts mutants crash bulk clocks bench bench-sql bench-celery bench-web bench-plans bench-scale bench-bulk bench-latecomer bench-wal bench-profiles bench-endurance bench-versions clean browser
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:
	@echo 'make demo             serve the sample application on 127.0.0.1; prints the address'
	@echo 'make demo ONCE=1      run one upload-to-thumbnails job in it, and stop'
	@echo 'make demo ONCE=fail   run a job that fails; demo.py exits with status 1, make with its own'
	@echo 'make dist             build the wheel and the source distribution in dist/'
	@echo 'make test             check style, types and docs, and run all tests; must pass before a merge'
	@echo 'make fast             check style, and run the tests that are not marked slow; for use while you work'
	@echo 'make check            check style, types and docs only'
	@echo 'make docs             build the documentation as HTML in docs/_build/html'
	@echo 'make screenshots      take the pictures in docs/pictures again, with Chromium'
	@echo 'make texts            write asyncjob.pot again, the texts of the pages for translators'
	@echo 'make mutants          break the library in one line at a time and check that a test fails; ONLY=savepoint'
	@echo 'make crash            kill workers on each database and check that no job is lost or doubled (docs/crash.rst)'
	@echo 'make crash LONG=1     20,000 jobs and 200 kills on each; DB=sqlite: one database; SEED=2: other kills'
	@echo 'make crash ANSWERS=1  5,000 jobs; the answer of every 20th COMMIT is lost'
	@echo 'make crash MUTANT=fence   or MUTANT=split: break the library on purpose; the test must detect it'
	@echo 'make timeouts         check what a worker leaves open after timeouts; LONG=1: 10,000 of each kind; DB=mariadb'
	@echo 'make bulk             retry 100,000 failed jobs by one action, and kill the worker that does it; DB=mariadb'
	@echo 'make clocks           set the clocks of databases and machine while jobs run (docs/crash.rst)'
	@echo 'make bench            compare benchmarks/memory.py and executors.py with other packages; BENCH=--quick: short run'
	@echo 'make bench-sql        run benchmarks/sql.py and neighbours.py; takes some 13 minutes; BENCH=--quick: short run'
	@echo 'make bench-celery     compare jobs on a Celery fleet with plain Celery and own workers; BENCH=--quick: short run'
	@echo 'make bench-web        time the pages beside 1,000,000 jobs (benchmarks/web.py); BENCH=--quick: short run'
	@echo 'make bench-plans      count the rows that each statement reads beside 1,000,000 jobs (benchmarks/plans.py)'
	@echo 'make bench-scale      throughput by worker threads and processes, drawn to scale.png; BENCH=--quick: short run'
	@echo 'make bench-bulk       100,000 jobs in one transaction, with PgQueuer and COPY; BENCH=--quick: short run'
	@echo 'make bench-latecomer  jobs of a new key or owner beside 100,000 of another one; BENCH=--quick: short run'
	@echo 'make bench-wal        bytes and commits that a job costs the log of PostgreSQL, with peers; BENCH=--quick: short run'
	@echo 'make bench-profiles   where the time goes in the work of bench and bench-sql; BENCH=--quick: short run'
	@echo 'make bench-endurance  10,000,000 jobs through PostgreSQL, twenty minutes; BENCH=--held: beside a snapshot'
	@echo 'make bench-endurance BENCH="--held --minutes 10"   300 jobs a second beside a report of ten minutes'
	@echo 'make bench-versions OLDER=../before   compare the hot path with that of an older checkout, or of several'
	@echo 'make clean            remove everything that these targets create'
	@echo
	@echo 'Each target creates the virtual environment VENV=$(VENV) with PYTHON=$(PYTHON)'

demo: $(VENV)/.made-demo
	$(BIN)/python sample_app/demo.py $(DEMO_OPTIONS)

# build/ is what setuptools has left of another version: it would get into the wheel.
dist: | $(BIN)/python
	$(PIP) install --quiet build
	rm -rf build dist
	$(BIN)/python -m build --quiet
	rm -rf build
	@echo "pip install '$$(ls dist/*.whl)[turbogears,sqlalchemy]'"

# `make check` is three of the tests here: it needs one core, and they wait most of the time.
# As a second argument its file would not be seen: it is in the folder that is the first.
TESTS = tests -o python_files='test_*.py project_checks.py'

test: $(VENV)/.made-test browser
	$(BIN)/python -m pytest -n $(PROCESSES) $(TESTS) $(PYTEST)

# Every contract on every backend, with fewer examples; no browser, no kills, no other servers, and
# of `make check` only style: mypy and Sphinx take as long as five hundred of the tests.
fast: $(VENV)/.made-test
	FAST=1 $(BIN)/python -m pytest -n $(PROCESSES) -m 'not slow' $(TESTS) $(PYTEST)

check: lint types docs

lint: $(VENV)/.made-test
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/ruff check $(LINTED)

types: $(VENV)/.made-test
	$(BIN)/mypy

# Sphinx reads only pages that have changed. It would warn of the others no more: what has failed
# is read anew.
docs: $(VENV)/.made-test
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -d docs/_build/doctrees docs docs/_build/html \
	  || { rm -rf docs/_build; exit 1; }

# CI: what is missing is an error. The pictures are committed, so that docs needs no browser.
screenshots: $(VENV)/.made-test $(VENV)/bootstrap.min.css
	CI=1 SCREENSHOTS=$(CURDIR)/docs/pictures BOOTSTRAP=$(CURDIR)/$(VENV)/bootstrap.min.css \
	  $(BIN)/python -m pytest -q tests/sample_app/test_screenshots.py

texts: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python tests/texts_template.py

# The pages of a quickstart application take this file from the network; the pictures must not.
$(VENV)/bootstrap.min.css: | $(BIN)/python
	@command -v npm >/dev/null || { echo 'npm is missing: the pictures of the tutorial need Bootstrap.' \
	  'Debian: apt-get install npm'; exit 1; } >&2
	npm pack --silent --pack-destination $(VENV) bootstrap@5.3.3
	tar -xzOf $(VENV)/bootstrap-5.3.3.tgz package/dist/css/bootstrap.min.css >$@

mutants: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python -m mutants $(ONLY)

crash: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python -m crash $(CRASH_OPTIONS)

timeouts: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python -m crash.timeouts $(if $(DB),--db $(DB)) $(if $(LONG),--long)

bulk: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python -m crash.bulk $(if $(DB),--db $(DB)) $(if $(JOBS),--jobs $(JOBS))

clocks: $(VENV)/.made-test
	PYTHONPATH=tests $(BIN)/python -m crash.clocks $(if $(DB),--db $(DB))

bench: $(VENV)/.made-bench
	$(BIN)/python benchmarks/memory.py $(BENCH)
	$(BIN)/python benchmarks/executors.py $(BENCH)

bench-sql: $(VENV)/.made-bench
	$(BIN)/python benchmarks/sql.py $(BENCH)
	$(BIN)/python benchmarks/neighbours.py $(BENCH)

bench-celery: $(VENV)/.made-test
	$(BIN)/python benchmarks/celery.py $(BENCH)

bench-web: $(VENV)/.made-test
	$(BIN)/python benchmarks/web.py $(BENCH)

bench-scale: $(VENV)/.made-bench
	$(BIN)/python benchmarks/scale.py --picture scale.png $(BENCH)

bench-plans: $(VENV)/.made-test
	$(BIN)/python benchmarks/plans.py $(BENCH)

bench-bulk: $(VENV)/.made-bench
	$(BIN)/python benchmarks/bulk.py $(BENCH)

bench-wal: $(VENV)/.made-bench
	$(BIN)/python benchmarks/wal.py $(BENCH)

bench-profiles: $(VENV)/.made-bench
	$(BIN)/python benchmarks/profiles.py $(BENCH)

bench-endurance: $(VENV)/.made-test
	$(BIN)/python benchmarks/endurance.py $(BENCH)

bench-latecomer: $(VENV)/.made-test
	$(BIN)/python benchmarks/latecomer.py $(BENCH)

bench-versions: $(VENV)/.made-test
	$(BIN)/python benchmarks/versions.py $(addprefix --older ,$(OLDER)) $(BENCH)

clean:
	rm -rf $(VENV) .bench build dist docs/_build *.egg-info sample_app/build sample_app/dist sample_app/*.egg-info
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that is too old, or Debian's without its venv package, says so before pip does.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo '$(PYTHON) is missing.' \
	  'Debian: apt-get install python3 python3-venv. Or name one: make PYTHON=python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo \
	  'Python 3.10 or newer is needed, $(PYTHON) is older. Name another: make PYTHON=python3.12'; exit 1; } >&2
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo '$(PYTHON) comes without' \
	  'its venv module. Debian: apt-get install python3-venv'; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)

$(VENV)/.made-demo: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV); this takes about a minute.'
	$(PIP) install --quiet --editable '.[all]' --editable sample_app
	@touch $@

# uWSGI is compiled beside the rest; where that cannot be, its tests say that it is missing. It is
# compiled for these tests: with Python as its only plugin and unoptimised, which takes a third of
# the time, and pip does not keep it for others.
# --no-compile: most of what is installed here is never imported. What is, one process compiles
# here, beside the compiler; else all processes of the tests would do it, each for itself.
# setuptools is there before the rest, which is then built without an environment for each.
$(VENV)/.made-test: $(SOURCES) | $(BIN)/python
	@echo 'Installing into $(VENV); this takes two or three minutes.'
	@UWSGI_PROFILE=pyonly CFLAGS=-O0 $(PIP) wheel --quiet --no-cache-dir --no-deps \
	  --wheel-dir $(VENV)/wheels uWSGI >$(VENV)/uwsgi.log 2>&1 & \
	set -e; \
	$(PIP) install --quiet --no-compile 'setuptools>=77' wheel; \
	$(PIP) install --quiet --no-compile --no-build-isolation \
	  --editable '.[all,test,docs]' --editable sample_app; \
	$(BIN)/python -m pytest -q --collect-only $(TESTS) >/dev/null || true; \
	wait $$! && $(PIP) install --quiet --no-index --find-links $(VENV)/wheels uWSGI \
	  >>$(VENV)/uwsgi.log 2>&1 || { echo \
	  'uWSGI did not install, its tests cannot run ($(VENV)/uwsgi.log).' \
	  'Debian: apt-get install gcc python3-dev, then: make clean test'; } >&2
	@touch $@

$(VENV)/.made-bench: $(SOURCES) | $(BIN)/python
	$(PIP) install --quiet --editable '.[all,bench]'
	@touch $@

# The pages are tested in a real browser. On a laptop its tests are skipped by name.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { echo \
	  'chromium or chromedriver is missing: the tests of the pages need both.' \
	  'Debian: apt-get install chromium chromium-driver'; test -z "$$CI"; } >&2

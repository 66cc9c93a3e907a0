.POSIX:

PYTHON = python3
VENV = .venv
# Other packages would change what the tests of the broker alone see.
NEIGHBOURS_VENV = $(VENV)-neighbours
CANARY_VENV = $(VENV)-canary
CANARIES = Django asgiref celery kombu amqp billiard redis django-celery-results common-expression-language \
  djangorestframework django-ninja sentry-sdk
DOCS_VENV = $(VENV)-docs
ISSUES = https://github.com/request-broker/django-request-broker/issues
ARGS =
FUZZ_EXAMPLES = 2000
FUZZ_AT_LEAST = 100000
FUZZ_RUNS = 100000
FUZZ_CALLS = 1000
# Half of the tests wait for processes of their own, so there is work for more than the cores.
TEST_PROCESSES = 4
# Each process compiles all of this otherwise, if the environment says so, as it does in many containers.
BYTECODE = PYTHONDONTWRITEBYTECODE=
# The tests themselves say which of their files come first.
IN_PARALLEL = -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

BIN = $(VENV)/bin
CONSTRAINTS = $(wildcard constraints.txt)
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
# A venv begins with the pip of its Python; those before 25.1 know no dependency groups.
GROUP_INSTALL = $(PIP_INSTALL) 'pip>=25.1' && $(PIP_INSTALL) $(CONSTRAINTS:%=-c %) -e . --group

.PHONY: help demo test test-all test-neighbours canary fuzz bench chaos docs lint messages clean

help:
	@echo 'make demo    the example shop with workers, Flower and Valkey, at http://127.0.0.1:8000/'
	@echo 'make test    the tests'
	@echo 'make test-all   them, then all that drive processes on Redis or RabbitMQ beside PostgreSQL, with more requests'
	@echo 'make test-neighbours   the tests with packages that projects have beside the broker, in an environment of their own'
	@echo 'make canary   unit and integration tests with the pre-releases of what the broker is built on; may fail'
	@echo 'make fuzz    100,000 mutated inputs, and as many again for each parser (that needs Linux on x86-64)'
	@echo 'make bench   the measurements, side by side'
	@echo 'make chaos   requests while processes, servers, the network and views misbehave; nothing may be lost'
	@echo 'make docs    the documentation, into site/, with its links checked'
	@echo 'make lint    ruff, mypy and import-linter'
	@echo 'make messages   the catalogues of translations, from what is marked (needs GNU gettext)'
	@echo 'make clean   remove the environment, the caches and the data of the example'
	@echo
	@echo 'PYTHON=python3.12 picks the interpreter, VENV=.venv the environment,'
	@echo 'ARGS="..." goes to what is run: make demo ARGS=--asgi, make test ARGS="-k routing".'

# Ctrl-C reaches the whole process group, and SIGTERM to make is passed on; make does not pass on a SIGINT of its own.
demo: $(VENV)/.demo
	@exec $(BIN)/python example/manage.py broker_dev --migrate --exit-with-parent $(ARGS)

test: $(VENV)/.test
	@$(BYTECODE) exec $(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

test-all: test
	for broker in redis rabbitmq; do \
	  TEST_BROKER=$$broker TEST_DATABASE=postgres TEST_DISPATCHES=4000 TEST_REQUESTS=1000 REQUIRE_SERVERS=1 \
	    $(MAKE) test ARGS="tests/acceptance $(ARGS)" || exit; \
	done

test-neighbours:
	@$(MAKE) --no-print-directory VENV=$(NEIGHBOURS_VENV) $(NEIGHBOURS_VENV)/.neighbours
	$(BYTECODE) NEIGHBOURS=1 $(NEIGHBOURS_VENV)/bin/python -m pytest $(IN_PARALLEL) \
	  --ds tests.neighbours.settings --no-migrations tests/neighbours $(ARGS)

# Newer than our upper bounds allow, on purpose: pip warns, and goes on.
canary:
	@$(MAKE) --no-print-directory VENV=$(CANARY_VENV) $(CANARY_VENV)/.test
	$(CANARY_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --pre $(CANARIES)
	$(BYTECODE) $(CANARY_VENV)/bin/python -m pytest $(IN_PARALLEL) tests/unit tests/integration $(ARGS)

fuzz: $(VENV)/.fuzz
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) FUZZ_AT_LEAST=$(FUZZ_AT_LEAST) \
	  $(BIN)/python -m pytest --timeout 0 tests/fuzz --ignore tests/fuzz/test_openapi.py $(ARGS)
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then $(BIN)/python -m tests.fuzz.atheris --runs $(FUZZ_RUNS); \
	  else echo 'atheris has no wheel for this platform: its part is skipped.'; fi
	FUZZ_EXAMPLES=$(FUZZ_CALLS) FUZZ_AT_LEAST=0 REQUIRE_SERVERS=1 $(BIN)/python -m pytest --timeout 0 tests/fuzz/test_openapi.py $(ARGS)

bench: $(VENV)/.bench
	@exec $(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.test
	@exec $(BIN)/python -m chaos $(ARGS)

docs: $(DOCS_VENV)/.docs
	$(DOCS_VENV)/bin/zensical build --clean --strict

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs GNU gettext. sed restores what makemessages changes in the headers. New texts are left untranslated:
# tests/unit/broker_django/test_translations.py names them.
messages: $(VENV)/.test
	cd broker_django && $(abspath $(BIN))/django-admin makemessages --all --no-location --no-wrap --no-obsolete
	for each in broker_django/locale/*/LC_MESSAGES/django.po; do \
	  sed -e 's|^"Report-Msgid-Bugs-To:.*|"Report-Msgid-Bugs-To: $(ISSUES)\\n"|' -e '/^"POT-Creation-Date:/d' $$each >$$each.new \
	    && mv $$each.new $$each || exit; \
	done
	cd broker_django && $(abspath $(BIN))/django-admin compilemessages

clean:
	if test -f $(VENV)/.created; then rm -rf $(VENV); fi
	if test -f $(NEIGHBOURS_VENV)/.created; then rm -rf $(NEIGHBOURS_VENV); fi
	if test -f $(CANARY_VENV)/.created; then rm -rf $(CANARY_VENV); fi
	if test -f $(DOCS_VENV)/.created; then rm -rf $(DOCS_VENV); fi
	rm -rf build dist site .cache *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf .request-broker example/.request-broker example/*.sqlite3 example/*.sqlite3-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The group test includes demo, and the other groups include test.
$(VENV)/.demo: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing the demo into $(VENV), this once ...'
	@$(GROUP_INSTALL) demo
	@touch $@

$(VENV)/.test: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what the tests need into $(VENV), this once ...'
	@$(GROUP_INSTALL) test
	@touch $(VENV)/.demo $@

$(VENV)/.fuzz: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what the fuzzing needs into $(VENV), this once ...'
	@$(GROUP_INSTALL) fuzz
	@touch $(VENV)/.demo $(VENV)/.test $@

$(VENV)/.bench: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing what the measurements need into $(VENV), this once ...'
	@$(GROUP_INSTALL) bench
	@touch $(VENV)/.demo $(VENV)/.test $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing the development tools into $(VENV), this once ...'
	@$(GROUP_INSTALL) dev
	@touch $(VENV)/.demo $(VENV)/.test $@

$(VENV)/.neighbours: $(VENV)/.created pyproject.toml $(CONSTRAINTS)
	@echo 'Installing the neighbours into $(VENV), this once ...'
	@$(GROUP_INSTALL) neighbours
	@touch $@

# The package itself is not needed.
$(DOCS_VENV)/.docs: pyproject.toml $(CONSTRAINTS)
	@$(MAKE) --no-print-directory VENV=$(DOCS_VENV) $(DOCS_VENV)/.created
	@echo 'Installing what the documentation is built with into $(DOCS_VENV), this once ...'
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=-c %) --group docs
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo '$(PYTHON) was not found. Name a Python 3.11 or newer: make PYTHON=/path/to/python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1)."; \
	  echo 'Name another: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments: its ensurepip module is missing.'; \
	  echo 'On Debian or Ubuntu: sudo apt install python3-venv. Or name another: make PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

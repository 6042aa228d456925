# make serve and make test do all set-up that a fresh clone needs.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# The router that joins the chat's nodes; it brings 140 packages, which are to meet none of the others.
CROSSBAR_VENV := .venv-crossbar
CROSSBAR := $(CROSSBAR_VENV)/bin/crossbar
OLDEST_VENV := .venv-oldest
NEWEST_VENV := .venv-newest-python
# What the tests on other versions leave out: what is none of Twisted's and Python's, and what takes long
# and says what others say, too.
LEFT_OUT := docs/* command/test_installs.py core/test_negotiation.py peers/test_openssh.py protocols/websocket/test_load.py
ON_OTHERS := --numprocesses auto --dist loadfile $(LEFT_OUT:%='--ignore-glob=tests/%')

FUZZ_ARGS ?= --seconds 600 --keep

.PHONY: serve cluster crossbar test test-oldest test-newest-python mutants lint types docs man format benchmark fuzz clean

serve: $(INSTALLED)
	PYTHONPATH=examples $(VENV)/bin/upgrade-switch serve --class '/chat chat.Chat'

# The chat on several processes behind haproxy, on http://127.0.0.1:8090/chat/
cluster: $(INSTALLED) crossbar
	PYTHONPATH=examples $(VENV)/bin/python -m chat.cluster --crossbar $(CROSSBAR)

crossbar: $(CROSSBAR_VENV)/.installed

# A process a core: each has its own reactor.
test: $(INSTALLED)
	$(VENV)/bin/pytest --numprocesses auto --dist loadfile $(PYTEST_ARGS)

# On the oldest Twisted that pyproject.toml allows.
test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/pytest $(ON_OTHERS) $(PYTEST_ARGS)

# On the newest Python of this machine.
test-newest-python: $(NEWEST_VENV)/.installed
	$(NEWEST_VENV)/bin/pytest $(ON_OTHERS) $(PYTEST_ARGS)

# Whether the tests find the bugs of tests/mutants; MUTANTS names some of them, and options.
mutants: $(INSTALLED)
	$(VENV)/bin/python tests/mutants/run.py $(MUTANTS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(INSTALLED)
	$(VENV)/bin/mypy

# Into docs/_build/index.html, all of it anew: the command's options come from the command. A warning is
# an error.
docs: $(INSTALLED)
	$(VENV)/bin/sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going --nitpicky \
		docs docs/_build

# The manual page, from the command's options.
man: $(INSTALLED)
	$(VENV)/bin/python docs/manpage.py > docs/upgrade-switch.1

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

benchmark: $(INSTALLED)
	$(VENV)/bin/python benchmarks/switching.py
	$(VENV)/bin/python benchmarks/websocket.py

# Ten minutes for each of the fuzzers' targets; what is new goes into the corpus.
fuzz: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --editable '.[fuzz]'
	$(VENV)/bin/python fuzz/run.py $(FUZZ_ARGS)

clean:
	rm -rf $(VENV) $(CROSSBAR_VENV) $(OLDEST_VENV) $(NEWEST_VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

$(OLDEST_VENV)/.installed: pyproject.toml .ci/oldest.txt
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/pip install --quiet --upgrade pip
	$(OLDEST_VENV)/bin/pip install --quiet --constraint .ci/oldest.txt --editable '.[test]'
	touch $@

$(NEWEST_VENV)/.installed: pyproject.toml
	"$$(.ci/newest-python)" -m venv --clear $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/pip install --quiet --upgrade pip
	$(NEWEST_VENV)/bin/pip install --quiet --editable '.[test]'
	touch $@

$(CROSSBAR_VENV)/.installed:
	$(PYTHON) -m venv $(CROSSBAR_VENV)
	$(CROSSBAR_VENV)/bin/pip install --quiet --upgrade pip
	$(CROSSBAR_VENV)/bin/pip install --quiet crossbar
	touch $@

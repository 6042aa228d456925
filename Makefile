# make serve and make test do all set-up that a fresh clone needs.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
# The router that joins the chat's nodes; it brings 140 packages, which are to meet none of the others.
CROSSBAR_VENV := .venv-crossbar
CROSSBAR := $(CROSSBAR_VENV)/bin/crossbar
# What this project is compared with.
PEERS_VENV := .venv-peers
OLDEST_VENV := .venv-oldest
NEWEST_VENV := .venv-newest-python
# Several processes, as many as tests/conftest.py says: each has its own reactor, and takes whole modules, in
# the order that it gives them: the longest first.
ON_ALL_CORES := --numprocesses auto --dist loadfile --no-loadscope-reorder
# The tests for people at work: in memory and over TCP, without other programs.
FAST := tests/core tests/server tests/client tests/testing -k 'not (tls or unix or proxy)'
# What the tests on other versions leave out: what says nothing about Twisted's version or Python's.
LEFT_OUT := docs/* examples/* test_house.py test_waiting.py protocols/test_names.py \
	core/test_negotiation.py core/test_fuzz.py server/test_preface_table.py command/test_installs.py \
	command/test_completion.py command/test_manpage.py command/test_load.py \
	command/test_front_page_browser.py command/test_systemd_itself.py command/probe/test_mutants.py \
	protocols/websocket/test_load.py observe/test_status_browser.py peers/test_openssh.py \
	peers/test_cups.py peers/test_http2_browsers.py peers/test_websocket_clients.py peers/test_websocket_servers.py \
	peers/test_proxy_front_ends.py peers/test_proxy_websockets.py
# What depends on how a reactor treats connections and processes; not what starts new ones by itself.
ON_ASYNCIO := tests/core/test_polling.py tests/core/test_takeover.py tests/core/test_handover.py tests/core/test_reentrancy.py \
	tests/core/test_splice*.py tests/server/test_*takeover.py tests/server/test_take_over*.py \
	tests/server/test_ports.py tests/protocols/tunnel tests/http2/test_takeover.py tests/command \
	$(patsubst %,--ignore=tests/command/%,test_installs.py test_load.py test_completion.py test_manpage.py \
	test_extras.py test_front_page_browser.py test_systemd_itself.py)
ON_OTHERS := $(ON_ALL_CORES) $(LEFT_OUT:%='--ignore-glob=tests/%')

# What is compiled is kept, also where the environment says otherwise, as in many containers: else each of
# the programs that the tests run would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

FUZZ_ARGS ?= --seconds 600 --keep

.PHONY: serve cluster crossbar node docker test test-fast test-oldest test-newest-python test-asyncio \
	mutants lint types docs man \
	format benchmark conformance fuzz clean

serve: $(INSTALLED)
	PYTHONPATH=examples $(VENV)/bin/upgrade-switch serve --class '/chat chat.Chat'

# The chat on several processes behind haproxy, on http://127.0.0.1:8090/chat/
cluster: $(INSTALLED) crossbar
	PYTHONPATH=examples $(VENV)/bin/python -m chat.cluster --crossbar $(CROSSBAR)

crossbar: $(CROSSBAR_VENV)/.installed

# Node's ws, to which some of the tests talk.
node: $(INSTALLED)
	[ -d $(VENV)/node/node_modules/ws ] || npm install --silent --no-audit --no-fund --prefix $(VENV)/node ws@8

# Docker's client alone: Debian's package would bring an engine, too, and start it.
docker: $(INSTALLED)
	[ -x $(VENV)/docker/usr/bin/docker ] || { mkdir -p $(VENV)/docker && cd $(VENV)/docker && \
		{ apt-get download docker-cli || apt-get download docker.io; } && \
		dpkg-deb --fsys-tarfile docker*.deb | tar --extract ./usr/bin/docker && rm docker*.deb; }

test: $(INSTALLED)
	$(VENV)/bin/pytest $(ON_ALL_CORES) $(PYTEST_ARGS)

# What takes less than a minute.
test-fast: $(INSTALLED)
	$(VENV)/bin/pytest $(ON_ALL_CORES) $(FAST) $(PYTEST_ARGS)

# The takeover, tunnels and the command on asyncio's reactor.
test-asyncio: $(INSTALLED)
	PYTHONPATH=. $(VENV)/bin/pytest -p tests.kit.on_asyncio --reactor asyncio $(ON_ALL_CORES) $(ON_ASYNCIO) $(PYTEST_ARGS)

# Puts bugs into copies of the package, one at a time, and shows that some test finds each; MUTANTS names
# some of them, and options.
mutants: $(INSTALLED)
	$(VENV)/bin/python tests/mutants/run.py $(MUTANTS)

# On the oldest Twisted that pyproject.toml allows.
test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/pytest $(ON_OTHERS) $(PYTEST_ARGS)

# On the newest Python of this machine.
test-newest-python: $(NEWEST_VENV)/.installed
	$(NEWEST_VENV)/bin/pytest $(ON_OTHERS) $(PYTEST_ARGS)

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

# What all of it costs, beside other servers, into benchmarks/RESULTS.md, results.json and speed.svg: ten to
# fifteen minutes, or with QUICK=1 three. What is not installed is left out; BENCHMARK_ARGS='--only
# switching,tls' chooses.
benchmark: $(PEERS_VENV)/.installed
	$(PEERS_VENV)/bin/pip install --quiet --editable '.[benchmark]'
	! command -v npm >/dev/null || [ -d $(PEERS_VENV)/node/node_modules/http-proxy ] || \
		npm install --silent --no-audit --no-fund --prefix $(PEERS_VENV)/node http-proxy
	PATH="$$(echo $(CURDIR)/$(PEERS_VENV)/node/node_modules/node-*/bin):$$PATH" \
		NODE_PATH=$(CURDIR)/$(PEERS_VENV)/node/node_modules \
		$(PEERS_VENV)/bin/python benchmarks/everything.py $(if $(QUICK),--quick) $(BENCHMARK_ARGS)

# What the probe finds of this project and of others, into docs/topics/conformance.md. Go, nginx and haproxy
# (and Node, without npm) are left out where they are not installed. CONFORMANCE_ARGS='--only ours,node'
# chooses.
conformance: $(PEERS_VENV)/.installed
	PATH="$$(echo $(CURDIR)/$(PEERS_VENV)/node/node_modules/node-*/bin):$$PATH" \
		$(PEERS_VENV)/bin/python benchmarks/conformance.py $(CONFORMANCE_ARGS)

# Ten minutes for each of the fuzzers' targets; what is new goes into the corpus.
fuzz: $(INSTALLED)
	$(VENV)/bin/pip install --quiet --editable '.[fuzz]'
	$(VENV)/bin/python fuzz/run.py $(FUZZ_ARGS)

clean:
	rm -rf $(VENV) $(CROSSBAR_VENV) $(PEERS_VENV) $(OLDEST_VENV) $(NEWEST_VENV) build dist docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# pip would compile on one core, and what hardly anybody imports, too.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --no-compile --editable '.[dev]'
	$(VENV)/bin/python -m compileall -qq -j 0 -x '/(mypyc?|pygments|babel|sphinx)/|/tests?/' $(VENV)/lib
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

$(PEERS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/pip install --quiet --editable '.[peers]'
	# The newest Node, where there is any.
	! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix $(PEERS_VENV)/node \
		"node-$$(node -p 'process.platform + "-" + process.arch')"
	touch $@

$(CROSSBAR_VENV)/.installed:
	$(PYTHON) -m venv $(CROSSBAR_VENV)
	$(CROSSBAR_VENV)/bin/pip install --quiet --upgrade pip
	$(CROSSBAR_VENV)/bin/pip install --quiet crossbar
	touch $@

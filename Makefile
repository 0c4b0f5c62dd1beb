# What a person does with a checkout: `make` alone says it. All is installed into .venv, once.
#
#   PYTHON=python3.12 make install       another interpreter, for a new .venv
#   make test DENGINE_BUILD=debug        with bounds checks and assertions
#   make test TESTS="-k lease -x"        arguments of pytest

PYTHON ?= python3
DENGINE_BUILD ?= release
TESTS ?=
EVIDENCE ?= tests/evidence
RUN := .venv/bin/python
CORE := $(wildcard dengine/_core/*.pyx dengine/_core/*.pxd dengine/_core/*.h)
SIM := $(wildcard tests/*/*.pyx tests/*/*.pxd)

# Stamps. One for the tools, one for the package, one for each flavour of the compiled modules.
TOOLS := .venv/tools
INSTALLED := .venv/installed
BUILT := .venv/built-$(DENGINE_BUILD)
BUILT_TESTS := $(BUILT)-tests

export DENGINE_BUILD

.DELETE_ON_ERROR:
.PHONY: help install start-cluster start-node1 start-node2 start-node3 start-nginx test sim mutants \
        chaos torture life spec sanitize guard histories lint bench bench-peers wheel \
        docs clean

help: ## this list
	@echo "make ..."
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "  %-36s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(BUILT) $(INSTALLED) ## build dengine into .venv (bin/dengine, bin/python)

start-cluster: install ## three nodes; Ctrl-C stops all
	@exec $(RUN) -m dengine cluster --config config/n1.toml --config config/n2.toml \
		--config config/n3.toml

start-node1 start-node2 start-node3: start-node%: install ## one of them alone
	@exec $(RUN) -m dengine serve --config-path config/n$*.toml

start-nginx: ## Nginx before the three, in the foreground: config/nginx.conf
	@mkdir -p logs
	@exec nginx -p . -c config/nginx.conf -e stderr

test: $(BUILT_TESTS) $(INSTALLED) ## all tests; TESTS="-k name", DENGINE_BUILD=debug
	$(RUN) -m pytest --numprocesses 2 --dist loadfile $(TESTS)

# Campaigns add to the evidence; FROM= goes on where one ended. SEED= repeats one run of it.
chaos: $(BUILT_TESTS) $(INSTALLED) ## real nodes under faults, as root: MINUTES= RUNS= FROM= SEED=
	$(RUN) -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(FROM),--from $(FROM)) $(if $(SEED),--seed $(SEED),--evidence $(EVIDENCE)/chaos.json)

torture: $(BUILT_TESTS) $(INSTALLED) ## power cuts, kill -9, bad files: MINUTES= FROM= RUNS= ONLY=
	$(RUN) -m tests.torture $(if $(MINUTES),--minutes $(MINUTES)) $(if $(RUNS),--runs $(RUNS)) \
		$(if $(FROM),--from $(FROM)) $(if $(ONLY),--only "$(ONLY)") \
		--evidence $(EVIDENCE)/torture.json

life: $(BUILT_TESTS) $(INSTALLED) ## leaders that die or are cut off, members that come and go
	$(RUN) -m tests.life.once --evidence $(EVIDENCE)/life.json
	$(RUN) -m tests.life.once --nginx --evidence $(EVIDENCE)/life.json
	$(RUN) -m tests.life.handover --evidence $(EVIDENCE)/life.json
	$(RUN) -m tests.life.isolate --evidence $(EVIDENCE)/life.json
	$(RUN) -m tests.life.members --evidence $(EVIDENCE)/life.json
	$(RUN) -m tests.life.members --strategy DiskFirst --evidence $(EVIDENCE)/life.json

sim: $(BUILT_TESTS) $(INSTALLED) ## simulated clusters: SEEDS= FROM= WORKERS= MINUTES= SEED= TRACE=1
	$(RUN) -m tests.sim $(if $(SEEDS),--seeds $(SEEDS)) $(if $(FROM),--from $(FROM)) \
		$(if $(WORKERS),--workers $(WORKERS)) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(TRACE),--trace) $(if $(SEED),--seed $(SEED),--evidence $(EVIDENCE)/sim.json)

mutants: $(BUILT_TESTS) $(INSTALLED) ## planted bugs that the tests must notice: ONLY= SOME= SEEDS=
	$(RUN) -m tests.mutants $(if $(ONLY),--only $(ONLY)) $(if $(SOME),--some $(SOME)) \
		$(if $(SEEDS),--seeds $(SEEDS)) \
		$(if $(ONLY)$(SOME),,--evidence $(EVIDENCE)/mutants.json)

spec: $(BUILT_TESTS) .venv/spec ## the TLA+ specification, checked by TLC (needs java): ONLY=
	$(RUN) -m tests.spec $(if $(ONLY),--only "$(ONLY)",--evidence $(EVIDENCE)/spec.json)
	$(if $(ONLY),,$(RUN) -m tests.spec.traces --evidence $(EVIDENCE)/traces.json)

N ?= 10
OPERATIONS ?= 1000000
histories: $(BUILT_TESTS) $(INSTALLED) ## long histories of three nodes: N= OPERATIONS= SEED= FROM=
	$(RUN) -m tests.check.campaign --histories $(N) --operations $(OPERATIONS) \
		$(if $(SEED),--seed $(SEED)) $(if $(FROM),--from $(FROM)) \
		--evidence $(EVIDENCE)/histories.json

sanitize: $(BUILT_TESTS) $(INSTALLED) ## ASan, UBSan, TSan, Store of 8 threads: SECONDS= SHORT=1
	$(RUN) -m tests.sanitize $(if $(SHORT),--short) $(if $(SECONDS),--seconds $(SECONDS))

guard: $(BUILT_TESTS) $(INSTALLED) ## instructions of core operations against guard.json: UPDATE=1
	$(RUN) -m tests.guard $(if $(UPDATE),--update)

lint: $(INSTALLED) ## ruff, cython-lint, mypy
	$(RUN) -m ruff check .
	PATH="$(CURDIR)/.venv/bin:$$PATH" cython-lint dengine tests
	$(RUN) -m mypy dengine tests/typed_program.py tests/wheel_check.py

bench: install .venv/bench ## latency and throughput, with a table at the end
	$(RUN) -m pytest benchmarks/core_store.py --benchmark-enable --benchmark-columns=median,ops
	$(RUN) -m benchmarks.store
	$(RUN) -m benchmarks.snapshots
	$(RUN) -m benchmarks.sustained
	$(RUN) -m benchmarks.install
	$(RUN) -m benchmarks.durability
	$(RUN) -m benchmarks.cluster --mode embedded
	$(RUN) -m benchmarks.cluster --mode http
	$(RUN) -m benchmarks.failover
	$(RUN) -m benchmarks.overload
	$(RUN) -m benchmarks.forwarded
	$(RUN) -m benchmarks.idle

bench-peers: install .venv/bench ## against etcd, PySyncObj, lmdb, sqlite, RocksDB; a page of plots
	@mkdir -p build/bench
	$(RUN) -m benchmarks.peers --json build/bench/peers.json
	$(RUN) -m benchmarks.store --json build/bench/store.json
	$(RUN) -m benchmarks.scaling --json build/bench/scaling.json
	$(RUN) -m benchmarks.open_loop --json build/bench/open_loop.json
	$(RUN) -m benchmarks.page build/bench/*.json --out build/bench/index.html

wheel: $(INSTALLED) ## sdist and wheel into dist/
	rm -rf dist
	DENGINE_BUILD=release $(RUN) -m build --no-isolation

docs: $(INSTALLED) ## docs/configuration.md from dengine/schema.py
	$(RUN) -m dengine.config > docs/configuration.md

clean: ## remove logs and databases
	rm -rf db logs

# ---------------------------------------------------------------------------------- stamps
REQUIRES := import sys, tomllib; print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"])

$(TOOLS): pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv .venv
	$(RUN) -c '$(REQUIRES)' < pyproject.toml | tr ' ' '\n' > .venv/requires
	$(RUN) -m pip install --quiet --disable-pip-version-check -r .venv/requires
	@touch $@

$(BUILT): $(CORE) setup.py $(TOOLS)
	$(RUN) setup.py --quiet build_ext --inplace
	@find .venv -maxdepth 1 -name 'built-*' ! -name 'built-$(DENGINE_BUILD)*' -delete
	@touch $@

$(BUILT_TESTS): $(CORE) $(SIM) setup.py $(TOOLS)
	DENGINE_TESTS=1 $(RUN) setup.py --quiet build_ext --inplace
	@find .venv -maxdepth 1 -name 'built-*' ! -name 'built-$(DENGINE_BUILD)*' -delete
	@touch $@ $(BUILT)

# After the modules are built, with their line of progress each: pip would be silent.
$(INSTALLED): pyproject.toml setup.py $(TOOLS) | $(if $(filter test,$(MAKECMDGOALS)),$(BUILT_TESTS),$(BUILT))
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--editable '.[test,lint,wheel]'
	@touch $@

.venv/bench .venv/spec: .venv/%: $(INSTALLED)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation \
		--editable '.[$*]'
	@touch $@

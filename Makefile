# `make` lists the commands.

PYTHON ?= python
PYTHON_TSAN ?= python3.13

.PHONY: help
help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

.PHONY: dev
dev: ## install rcmgr in place, with all that tests and linters need
	$(PYTHON) -m pip install --editable '.[test,dev]' 'setuptools>=77' 'Cython>=3.3,<3.4'

.PHONY: build
build: ## compile the modules that changed
	$(PYTHON) setup.py --quiet build_ext --inplace

.PHONY: test
test: ## fast tests, without hosts and terminals
	$(PYTHON) -m pytest -q --ignore tests/e2e --ignore tests/cli --ignore tests/test_leaks.py

.PHONY: lint
lint: ## linters and type checkers
	ruff check .
	cython-lint src
	mypy src

.PHONY: prose
prose: ## find sentences that are hard to read
	scripts/prose

.PHONY: docs
docs: ## build the site in build/docs
	$(PYTHON) -m sphinx -W --keep-going -q docs build/docs

.PHONY: check
check: ## all that has to pass before a change lands
	.ci/run

.PHONY: instructions
instructions: ## compare the instructions of the hot paths with the recorded ones
	$(PYTHON) benchmarks/instructions.py --check

.PHONY: misses
misses: ## compare the cache misses of many peers with the recorded ones
	$(PYTHON) -m benchmarks.misses --check

.PHONY: bench
bench: ## all benchmarks, and their figures in README and docs: an hour
	$(PYTHON) -m benchmarks.report

.PHONY: sanitize
sanitize: ## tests under AddressSanitizer and UndefinedBehaviorSanitizer
	scripts/sanitize

.PHONY: threads
threads: ## tests under ThreadSanitizer, with the interpreter PYTHON_TSAN
	PYTHON=$(PYTHON_TSAN) scripts/sanitize thread

.PHONY: parallel
parallel: ## tests of limits and counting, each in three threads at once; needs pytest-run-parallel
	$(PYTHON) -m pytest -q -n0 --parallel-threads 3 -o thread_unsafe_fixtures=caplog tests/limits \
		$(addprefix tests/counting/test_,bucket_table.py denials.py groups.py token_bucket.py)

.PHONY: fuzz
fuzz: ## changed inputs for each reader of foreign bytes, five minutes each
	for reader in $$($(PYTHON) tests/fuzz_readers.py); do $(PYTHON) tests/fuzz_readers.py $$reader 300 || exit 1; done

.PHONY: faults
faults: ## tests on deliberate faults
	scripts/faults

.PHONY: coverage
coverage: ## lines of C, Cython and Python that the tests run
	scripts/coverage c
	scripts/coverage python

.PHONY: upstream
upstream: ## libp2p's own tests, on our resource manager
	.ci/run upstream

.PHONY: cross
cross: ## compile the C for Windows and macOS
	scripts/cross_compile

.PHONY: wheels
wheels: ## build and test a wheel for each Python that is here
	scripts/wheels

.PHONY: changelog
changelog: ## what the next release will say
	towncrier build --draft --version next

.PHONY: release
release: ## all gates of a release, on this machine
	scripts/release --dry-run

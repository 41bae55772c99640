# The two commands of the README, and what the project needs beside them. Everything happens in .venv.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint types bench clean

demo: $(VENV)/demo
	$(BIN)/asyncdicom demo

# A process for each core, and a file of tests in one of them; then those that want nothing beside them.
test: $(VENV)/dev dcmtk
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not alone" $(TESTS)
	$(BIN)/python -m pytest -m alone $(TESTS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python --warnings

# Orthanc and OpenSSL's headers (libssl-dev) are used where they are, too. A CPython that was built without profiles is a
# fifth slower than the distribution's: make bench PYTHON=/usr/bin/python3 VENV=.venv/distribution
bench: $(VENV)/bench dcmtk
	$(BIN)/python -m benchmarks

# DCMTK is the referee of the interoperability tests, which are skipped without it. Orthanc is a second one, and only
# .ci/run has it installed, and HAProxy and rsyslog: their packages bring services, which are kept from starting
# (policy-rc.d), though not from being started at the next boot.
.PHONY: dcmtk orthanc haproxy rsyslog
dcmtk: install = apt-get install -qq -y dcmtk
dcmtk:
	@command -v storescu >/dev/null || { $(apt); } >/dev/null 2>&1 \
	|| echo "DCMTK is not installed and could not be: its tests are skipped (apt-get install dcmtk)"

orthanc: program = Orthanc
haproxy: program = haproxy
rsyslog: program = rsyslogd
rsyslog: more = rsyslog-gnutls
orthanc haproxy rsyslog: install = policy=/usr/sbin/policy-rc.d; \
	test -e $$policy || { trap "rm -f $$policy" EXIT; printf "\043!/bin/sh\nexit 101\n" >$$policy; chmod +x $$policy; }; \
	apt-get install -qq -y --no-install-recommends $@ $(more)
orthanc haproxy rsyslog:
	@command -v $(program) >/dev/null || { $(apt); } >/dev/null 2>&1 \
	|| echo "$@ is not installed and could not be: its tests are skipped (apt-get install $@)"

apt = command -v apt-get && { test "$$(id -u)" = 0 && SUDO= || SUDO="sudo -n"; } && \
	$$SUDO sh -ec 'export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; $(install)'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) \
	|| { echo "a virtual environment needs Debian's package python3-venv: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/demo: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[cli]'
	@touch $@

$(VENV)/dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/demo

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

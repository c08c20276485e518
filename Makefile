# Everything a developer or a newcomer runs. The first target creates a virtual environment in .venv.
#   make demo        train, deploy, promote and redeploy on this machine; DEMO_EXIT=1 ends without a prompt
#   make test        all tests except the exhaustive ones    make test-unit   tests that take seconds
#   make test-containers   tests of tasks as containers, with podman and Docker's daemon where they work; needs root
#   make check       format, lint, types, imports, wording   make local       the local stack in the foreground
#   make fresh SUITE=trixie|bookworm   make demo and make test on an otherwise empty Debian; needs root
#   make docs        the pages of docs/ as a site, build/site

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# As installed: type checkers do not support setuptools' mapping of webhook/ into the package.
TREE := $(VENV)/tree
export PYTHONDONTWRITEBYTECODE ?= 1
# Tests in two processes: one waits for the stack while the other works (tests/conftest.py assigns them).
TWO := -n 2 --no-loadscope-reorder

.PHONY: setup tools tools-all docs pictures recording demo test test-unit test-all test-containers fresh bench bench-commands bench-serving bench-limits bench-webhook bench-runtimes bench-starts bench-flavors check format local clean docs-cli

setup: $(READY)

# Debian ships `venv` in a separate package.
$(READY): setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed; set PYTHON=python3.11")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy python3-venv && $(PYTHON) -m venv $(VENV); } || { \
	  echo "Could not create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install -q uv
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[local,webhook,demo,test]'
	touch $@

# A registry and a client to test images with, a container engine, a browser for the webhook service's page, and programs
# that verify Debian's signatures. Tests that need a missing tool are skipped with a reason.
tools:
	@for tool in docker-registry skopeo podman crun runc chromium gpgv sqv wrk; do command -v $$tool >/dev/null || missing=1; done; [ -z "$$missing" ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing docker-registry, skopeo, podman, crun, runc, chromium, gpgv, sqv and wrk for tests and benchmarks" && \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends docker-registry skopeo podman crun runc iptables nftables chromium gpgv sqv wrk; } >/dev/null 2>&1; } || true

# Tools for the exhaustive tests of images: another base, a sandbox, a builder of Dockerfiles.
tools-all: tools
	@for tool in debootstrap bwrap zstd buildah; do command -v $$tool >/dev/null || missing=1; done; [ -z "$$missing" ] || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing debootstrap, bubblewrap, zstd and buildah for the tests" && \
	  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends debootstrap bubblewrap zstd buildah; } >/dev/null 2>&1; } || true

# Strict: a broken link is an error. The site is build/site/index.html.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

# Screenshots in docs/; a test fails when they are out of date.
pictures: $(READY) tools
	$(BIN)/python tests/test_pictures.py

# Runs the demo (five minutes); `test` and `test-all` fail when its output has changed.
recording: $(READY)
	$(BIN)/python tests/support/recording.py

$(VENV)/.docs: $(READY)
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[docs]'
	touch $@

demo: $(READY)
	$(BIN)/python -m examples.demo

# 15 minutes, and 35 GB in build/. `make bench ONLY=ours,floor` measures these and keeps the other results.
bench: $(READY) bench-commands
	$(BIN)/python -m benchmarks.images --only "$(ONLY)"

# Two minutes: CPU seconds of the commands, beside their libraries alone and an earlier commit.
bench-commands: $(READY)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.commands

test-unit: $(READY)
	$(BIN)/python -m pytest -q -m "not slow and not end_to_end and not exhaustive"

# make test TESTS="tests/image tests/aws" runs these.
test: $(READY) tools
	$(BIN)/python -m pytest -q -m "not exhaustive" $(TWO) $(TESTS)

test-all: $(READY) tools-all
	$(BIN)/uv pip install -q --python $(BIN)/python -e '.[exhaustive]'
	$(BIN)/python -m pytest -q $(TWO)
	$(MAKE) test-containers

# The seed's services run in containers of podman, and single tasks also in those of a Docker daemon that the test starts.
SEED := test_document_classifiers.py test_digit_generators.py test_onnx_runtime.py::test_a_converted_image_classifier_returns_the_same_labels_as_the_network
test-containers: $(READY) tools-all
	TEST_ENGINE=podman $(BIN)/python -m pytest -q tests/local/test_container_*.py $(SEED:%=tests/end_to_end/%)
	TEST_ENGINE=docker $(BIN)/python -m pytest -q tests/local/test_container_runner.py

# Half an hour: checks the README's claims on a fresh system. With TESTS, runs only those, without the demo.
fresh:
	tests/fresh_system.sh "$(SUITE)" "$(TESTS)"

# 40 minutes, with nothing else running: the service, other servers of the same models, and the bare models.
# make bench-serving ARGS="--models linear --peers FastAPI" measures a part.
bench-serving: $(READY) tools
	$(BIN)/python -m benchmarks.serving $(ARGS)

# Fifteen minutes; needs podman and root: permitted requests that try to end containers of 512, 1024 and 2048 MiB.
bench-limits: $(READY)
	$(BIN)/python -m benchmarks.limits

# Two minutes, with nothing else running: signed events sent to the webhook service on one core.
bench-webhook: $(READY)
	$(BIN)/python -m benchmarks.webhook

# Five minutes: the image classifier with TensorFlow and with ONNX Runtime.
bench-runtimes: $(READY)
	$(BIN)/python -m benchmarks.runtimes

# Five minutes; needs podman and root: seconds of CPU until a container with one CPU is ready.
bench-starts: $(READY)
	$(BIN)/python -m benchmarks.starts

# Fifteen minutes with all libraries (make test-all installs them): a small model of each flavor, for docs/flavors.md.
bench-flavors: $(READY)
	$(BIN)/python -m benchmarks.flavors

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf $(TREE) && mkdir $(TREE) && cp -R mlflow_fargate $(TREE)/ && cp -R webhook $(TREE)/mlflow_fargate/
	cd $(TREE) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p mlflow_fargate
	$(BIN)/mypy service_template
	MYPYPATH=service_template $(BIN)/mypy onnx_converter
	$(BIN)/mypy -p examples
	$(BIN)/mypy -p benchmarks.images
	MYPYPATH=$(TREE) $(BIN)/mypy benchmarks/webhook.py
	$(BIN)/mypy benchmarks/runtimes.py benchmarks/starts.py benchmarks/flavors.py
	$(BIN)/mypy benchmarks/serving/*.py
	MYPYPATH=tests $(BIN)/mypy --follow-imports silent benchmarks/commands.py benchmarks/earlier_release.py
	$(BIN)/python tests/support/layers.py
	$(BIN)/codespell
	$(BIN)/python tests/support/wording.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes the current output of its commands to docs/cli.md; test-all compares.
docs-cli: $(READY)
	MLFLOW_FARGATE_WRITE_DOCS=1 $(BIN)/python -m pytest -q tests/end_to_end/test_cli_page.py

local: $(READY)
	$(BIN)/mlflow-fargate local up

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

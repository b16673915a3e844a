# Two commands are all the set-up there is: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo demo-real test soak check lint types format clean bench-edge bench-ingest bench-jobs bench-feed

install: $(INSTALLED)

# Everything is pinned in constraints.txt; torch there is the build without CUDA.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV) …"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch && \
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' && \
	echo "installation time       $$(( $$(date +%s) - start )) s"
	@touch $@

demo: install
	$(BIN)/fleetfeed demo $(ARGS)

# FLEETFEED_REAL_DATA names a folder with g1/ (LeRobot v2.1) and rosbag2/ (MCAP files).
demo-real: install
	@test -d "$(FLEETFEED_REAL_DATA)" || { echo "set FLEETFEED_REAL_DATA to a folder with g1/ and rosbag2/"; exit 2; }
	$(BIN)/fleetfeed demo --real "$(FLEETFEED_REAL_DATA)" $(ARGS)

# Two at a time: tests wait more than they work.
test: install
	$(BIN)/pytest -n 2 --dist loadscope $(ARGS)

# Five figures of the robot side with their goals: about seven minutes, best on an idle machine.
bench-edge: install
	$(BIN)/python -m benchmarks.bench_edge $(ARGS)

# What the server takes beside S3 alone, and what that costs: about eight minutes, best on an idle machine.
bench-ingest: install
	$(BIN)/python -m benchmarks.bench_ingest $(ARGS)

# What the jobs cost beside the least that each task needs: about twenty minutes, and .bench/ (8 GB, once) for LeRobot.
bench-jobs: install
	$(BIN)/python -m benchmarks.bench_jobs $(ARGS)

# Windows a second into training beside other libraries: about 12 minutes, and once about 20 more to fill .bench/.
bench-feed: install
	$(BIN)/python -m benchmarks.bench_feed $(ARGS)

check: lint types

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SOAKED := tests/edge/test_journal.py tests/edge/test_spool.py tests/edge/test_damage.py \
	tests/ingest_serve/test_revocations.py tests/dataset_catalog/test_distributed.py \
	tests/end_to_end/test_train_ray.py tests/end_to_end/test_demo.py

# The fault campaigns of the tests with all their trials: hours. FLEETFEED_SEED=n replays one; ARGS names tests.
soak: install
	FLEETFEED_SOAK=1 $(BIN)/pytest -s --timeout 0 $(or $(ARGS),tests/faults $(SOAKED))

clean:
	-$(BIN)/fleetfeed down
	rm -rf $(VENV) .bench .fleetfeed *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

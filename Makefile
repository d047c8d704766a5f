# The front door. The build itself is Meson's; each target here is one short line
# of work, so that hooks and CI can call `make` and nothing else.
BUILD  ?= build
SEEDS  ?= 1000
RUNS   ?= 100000
PREFIX ?= /usr/local
DESTDIR ?=
SECONDS ?= 300
export SEEDS RUNS
export BUILD := $(BUILD)

.DEFAULT_GOAL := build
.PHONY: help build run test check lint precommit fmt sim asan tsan valgrind coverage headers install uninstall deb deb-test clean \
        deps deps-test deps-bench deps-package differential
.NOTPARALLEL: # one package installation at a time; the tools run things side by side

help:
	@sed -n 's/^#: //p' $(MAKEFILE_LIST)

#: make              same as `make build`
#: make build        install what is missing (as root), build, leave build/oxbow
build: deps
	@tools/build $(BUILD)

#: make run          the main job: examples/orders, start to end
run: build
	@tools/run-script examples/orders

#: make test         every test of the plain build
test: deps-test build
	@tools/suite plain

#: make check        all that CI does: tests, lints, sanitizers, simulator, fuzz corpora
check:
	@.ci/run

#: make lint         floors, names, calls, headers, sizes, style, paths, format, tidy
lint: deps-test build
	@tools/lint/run

#: make precommit    the fast part of check: unit tests, and the lints but clang-tidy
precommit: deps-test build
	@meson test -C $(BUILD) --no-rebuild --suite unit --print-errorlogs --quiet
	@FAST=1 tools/lint/run

#: make fmt          format every C file
fmt: deps-test
	@tools/lint/format --fix

#: make asan         the tests under AddressSanitizer and UBSan (build-asan)
#: make tsan         the tests under ThreadSanitizer (build-tsan)
asan tsan: deps-test
	@tools/suite $@

#: make valgrind     the unit tests and contracts under valgrind's memcheck
valgrind: deps-test build
	@tools/suite valgrind

#: make coverage     which lines of src/log and src/core the tests reach (build-cov)
coverage: deps-test
	@tools/coverage

#: make sim SEEDS=n  n seeds of the simulator
sim: build
	@tools/run-script sim

#: make bench-NAME   bench/NAME (SCALE=…), its peers in the same run
bench-%: deps-bench build
	@tools/run-script bench/$*

#: make example-NAME examples/NAME
example-%: build
	@tools/run-script examples/$*

#: make differential SECONDS=300   random changes against PostgreSQL and MariaDB, killed on the way
differential: deps-test build
	@SECONDS=$(SECONDS) tools/differential

#: make fuzz-NAME RUNS=n   n runs of the fuzz target, then its coverage
fuzz-%: deps-test
	@tools/fuzz $* $(RUNS)

#: make install      DESTDIR and PREFIX (default /usr/local) are respected
install: build
	@meson configure $(BUILD) -Dprefix=$(PREFIX)
	@DESTDIR=$(DESTDIR) meson install -C $(BUILD)

#: make uninstall    takes away what the last `make install` of the build folder put there
uninstall:
	@ninja -C $(BUILD) uninstall

#: make deb          BUILD/oxbow_VERSION_ARCH.deb: program, unit for systemd, manual, completions
deb: deps-package build
	@tools/deb $(BUILD)

#: make deb-test     installs the package, runs it, takes it away again (as root: in the system)
deb-test: deb
	@python3 -B tests/package_test.py $(BUILD)

#: make clean        remove every build folder
clean:
	rm -rf build build-asan build-tsan build-fuzz build-cov

deps:
	@tools/deps build
deps-test:
	@tools/deps build test
deps-bench:
	@tools/deps build bench
deps-package:
	@tools/deps build package

# Everything here runs on a fresh clone on a fresh Debian 12 machine with Go:
# targets install what they miss. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

GO        ?= go
OUT       ?= out
FUZZTIME  ?= 30s
SEEDS     ?= 10000
FIRST     ?= 0
D         ?= 1h
HUGEPAGES ?= 256
# What `make bench` passes to tpa-bench compare.
BENCHFLAGS ?= --workload get --conns 50 --payload 64 --pipeline 1 --duration 5s --rounds 5

# DPDK and the C compiler for it: all that the benchmark needs.
BENCH_PACKAGES := gcc libc6-dev pkg-config libdpdk-dev
# The clients that the tests run against our servers, and a database, too.
PACKAGES := $(BENCH_PACKAGES) iproute2 iputils-ping util-linux redis-tools curl wrk hping3 nmap postgresql tcpdump python3-scapy iptables prometheus
# Tells Debian's PostgreSQL not to make a database, and so not to start: the tests
# have servers of their own. Another opinion of this machine's stays.
CLUSTER := /etc/postgresql-common/createcluster.conf
# Tells systemd not to start the Prometheus that comes with promtool.
MASK := /etc/systemd/system/prometheus.service

# These are looked up when a recipe runs, after `deps`.
SUDO = $(shell [ "$$(id -u)" = 0 ] || echo sudo)
TAGS = $(shell command -v gcc >/dev/null && pkg-config --atleast-version=22.11 libdpdk 2>/dev/null && echo dpdk)
TOOL = $(GO) tool -modfile=tools/go.mod
TEST = $(TOOL) gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg

# Packages whose tests wait for processes, pollers and the kernel in real time. On
# a machine that others use, too, up to three tests of a step may have bad luck:
# they run once more, and `make test` lists them at its end. A data race is never
# luck, and in all other packages nothing is.
REALTIME := accel net metrics link/dpdk link/packet link/xdp internal/follower internal/recorder internal/shard \
  cmd/tpa-bench cmd/tpa-bench/internal/process cmd/tpa-bench/internal/server
# Those that take minutes with the race detector.
SLOW := cmd/tpa-bench
REALTIME_TESTS := test/coexistence test/conformance test/interop
LUCK = --rerun-fails=1 --rerun-fails-max-failures=3 --rerun-fails-run-root-test --rerun-fails-abort-on-data-race \
  --rerun-fails-report=$(RERUNS)/$@
RERUNS := $(OUT)/reruns
# paths(directories) are their paths for the go command.
paths = $(addprefix ./,$(1))
# all_but(directories, pattern) are the paths of all packages but those.
all_but = $$($(GO) list ./... | sed 's,^github.com/gotpa/tpa/,./,' | grep -vxF $(addprefix -e ./,$(1)) | grep -vE '$(2)')

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that are missing
	@missing=(); for p in $(PACKAGES); do \
	  dpkg-query -W -f '$${db:Status-Status}' "$$p" 2>/dev/null | grep -qx installed || missing+=("$$p"); \
	done; \
	[ $${#missing[@]} -gt 0 ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
	  echo "This is not a Debian system. Install what these packages hold, then run make again: $${missing[*]}" >&2; exit 1; \
	fi; \
	if [ -n "$(SUDO)" ] && ! command -v sudo >/dev/null; then \
	  echo "These packages are missing, and there is no sudo. As root: apt-get install $${missing[*]}" >&2; exit 1; \
	fi; \
	echo "Installing $${missing[*]}"; \
	export DEBIAN_FRONTEND=noninteractive; \
	if [[ " $${missing[*]} " == *" postgresql "* && ! -e $(CLUSTER) ]]; then \
	  $(SUDO) mkdir -p $(dir $(CLUSTER)); \
	  echo "create_main_cluster = false" | $(SUDO) tee $(CLUSTER) >/dev/null; \
	fi; \
	if [[ " $${missing[*]} " == *" prometheus "* && ! -e $(MASK) ]]; then \
	  $(SUDO) mkdir -p $(dir $(MASK)); \
	  $(SUDO) ln -sfn /dev/null $(MASK); \
	fi; \
	$(SUDO) apt-get update -qq; \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 apt-get install -y -qq --no-install-recommends "$${missing[@]}" </dev/null

.PHONY: deps-bench
deps-bench:
	@$(MAKE) --no-print-directory deps PACKAGES="$(BENCH_PACKAGES)"

.PHONY: build
build: ## build bin/tpa-bench, with DPDK if libdpdk is there
	@if [ -n "$(TAGS)" ]; then \
	  echo "Building bin/tpa-bench with DPDK $$(pkg-config --modversion libdpdk)"; \
	else \
	  echo "Building bin/tpa-bench without DPDK: libdpdk 22.11 or newer is not installed (make deps installs it)"; \
	fi
	$(GO) build -tags '$(TAGS)' -o bin/ ./cmd/tpa-bench

.PHONY: bench
bench: deps-bench build ## compare accel with the kernel: a table, and a page with the curves
	@mkdir -p $(OUT)
	bin/tpa-bench compare $(BENCHFLAGS) -o html --out $(OUT)/bench.html
	@echo "The curves: $(OUT)/bench.html. More workloads: docs/benchmarks.md"

# The profile is of a GET load over memif, server and client together.
.PHONY: pgo
pgo: deps-bench build ## renew the profile that tpa-bench is optimised with
	@mkdir -p $(OUT); sock=$$(mktemp -u); \
	dev() { echo "net_memif0,role=$$1,socket=$$sock,socket-abstract=no"; }; \
	GOMAXPROCS=1 taskset -c 0 bin/tpa-bench serve --transport accel --dev "$$(dev server)" --ip 10.99.0.1/24 \
	  --listen :6379 --cpuprofile $(OUT)/serve.pprof & server=$$!; \
	trap 'kill $$server 2>/dev/null || :; rm -f $$sock' EXIT; \
	GOMAXPROCS=1 taskset -c 1 bin/tpa-bench run --transport accel --dev "$$(dev client)" --ip 10.99.0.2/24 \
	  --addr 10.99.0.1:6379 --workload get --conns 50 --duration 20s --cpuprofile $(OUT)/run.pprof; \
	kill $$server; wait $$server; \
	$(GO) tool pprof -proto $(OUT)/serve.pprof $(OUT)/run.pprof >cmd/tpa-bench/default.pgo

# The tests build without tpa-bench's profile: with it, everything that they
# have built already would be built once more, for each set of flags.
test: export GOFLAGS := $(GOFLAGS) -pgo=off
.PHONY: test
test: deps hugepages lint cross generated test-pure test-race test-sim test-attack test-soak test-asan test-valgrind test-fuzz test-guest-short ## run every test there is
	@again=$$(cd $(RERUNS) && grep -rE '\.(Test|Fuzz)[^/]*:' . || :); \
	echo "$$(grep -c . <<<"$$again") tests had to run again. One that needs luck twice needs a fix."; echo "$$again"
	@echo "All tests passed."

# Huge pages let the tests run DPDK both with and without them.
.PHONY: hugepages
hugepages:
	@free=/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages; \
	total=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages; \
	if [ ! -e $$free ] || [ "$$(cat $$free)" -ge $(HUGEPAGES) ]; then exit 0; fi; \
	if [ -w $$total ] && echo $$(( $$(cat $$total) - $$(cat $$free) + $(HUGEPAGES) )) 2>/dev/null >$$total; then \
	  echo "Reserved huge pages: $$(cat $$total) (sysctl -w vm.nr_hugepages=0 gives them back)"; \
	else \
	  echo "Cannot reserve huge pages: tests that need them are skipped (as root: make test)"; \
	fi

.PHONY: lint
lint: ## vet and staticcheck, with and without DPDK
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	@if [ -n "$(TAGS)" ]; then set -x; $(GO) vet -tags $(TAGS) ./... && $(TOOL) staticcheck -tags $(TAGS) ./...; fi

# The compiler is Debian 12's clang 14, which makes the same object everywhere.
# What a server imports builds on the systems where servers are written: there it
# serves through the kernel. vet type-checks the tests, too; nothing runs.
SERVER := ./accel ./accel/debug ./accel/acceltest ./net ./metrics ./link ./link/memory ./link/fault ./link/softnic
# One processor each: the workflow of the hosting site has the others, too.
CROSS := linux/arm64 darwin/arm64 freebsd/amd64 windows/amd64
.PHONY: cross
cross: ## build and vet what a server imports for other systems and processors
	@export CGO_ENABLED=0; set -x; \
	for target in $(CROSS); do GOOS=$${target%/*} GOARCH=$${target#*/} $(GO) vet $(SERVER); done

.PHONY: generated
generated: ## check that generated files are what their sources say
	@$(MAKE) --no-print-directory deps PACKAGES="clang llvm"
	$(GO) generate ./internal/bpf
	@git diff --exit-code -- internal/bpf || { echo "internal/bpf: commit what go generate makes of filter.c" >&2; exit 1; }

# As most users build: no tag, no C. What crosses packages runs once, below.
.PHONY: test-pure
test-pure:
	CGO_ENABLED=0 $(GO) build ./...
	@mkdir -p $(RERUNS); rm -f $(RERUNS)/$@
	CGO_ENABLED=0 $(TEST) --packages "$(call all_but,$(REALTIME),^./test/)"
	CGO_ENABLED=0 $(TEST) $(LUCK) --packages "$(call paths,$(REALTIME))"

# What waits in real time goes one package at a time: they share two cores, huge
# pages and the DPDK run-time folder, and the race detector makes them slow enough.
.PHONY: test-race
test-race:
	@mkdir -p $(RERUNS); rm -f $(RERUNS)/$@
	$(TEST) --packages "$(call all_but,$(REALTIME) $(REALTIME_TESTS),^./test/(sim|scenario|queues|attack|soak|guest)$$)" \
	  -- -race -tags '$(TAGS)' -timeout 20m
	$(TEST) $(LUCK) --packages "$(call paths,$(filter-out $(SLOW),$(REALTIME) $(REALTIME_TESTS)))" -- -race -tags '$(TAGS)' -p 1 -timeout 20m

# In virtual time one goroutine runs at a time by arrangement, which the race
# detector does not see.
.PHONY: test-sim
test-sim:
	SEEDS=2000 MATRIX=3 $(TEST) -- -timeout 20m ./test/sim
	$(TEST) -- -timeout 5m ./test/scenario ./test/queues

# These tests measure time and memory, which the race detector would change, or run
# whole processes, whose packages have tests of their own.
.PHONY: test-attack
test-attack:
	@mkdir -p $(RERUNS); rm -f $(RERUNS)/$@
	$(TEST) $(LUCK) --packages "./test/attack $(call paths,$(SLOW))" -- -tags '$(TAGS)' -p 1 -timeout 10m

.PHONY: test-soak
test-soak:
	$(TEST) -- -timeout 10m ./test/soak -args -soak.time 60s

# Guests boot Debian's kernels with cards that QEMU plays: see test/guest. The
# cells are chosen ones; ALL=1 runs all of them, TABLE=docs/nics.md writes their
# table. Packages of kernels come by apt into a cache and are not installed.
GUEST_PACKAGES := qemu-system-x86 busybox-static cpio xz-utils zstd iproute2 ethtool iputils-ping libcap2-bin util-linux
GUEST = $(GO) test -tags '$(TAGS)' -timeout 60m -v -count 1 ./test/guest -args -guest.table=$(abspath $(TABLE))

.PHONY: test-guest
test-guest: ## run servers in guests with other kernels and cards: ALL=1, TABLE=docs/nics.md
	@$(MAKE) --no-print-directory deps PACKAGES="$(GUEST_PACKAGES)"
	$(GUEST) -guest.cells=$(if $(ALL),all,chosen)

.PHONY: test-guest-short
test-guest-short:
	@$(MAKE) --no-print-directory deps PACKAGES="$(GUEST_PACKAGES)"
	$(GUEST) -guest.cells=short

.PHONY: test-asan
test-asan:
	@if [ -z "$(TAGS)" ]; then echo "No DPDK: the address sanitizer has no C code to watch"; exit 0; fi; \
	set -x; $(TEST) -- -asan -tags $(TAGS) -timeout 10m ./link/dpdk

# Go and C in one process are beyond valgrind. The C alone is not.
.PHONY: test-valgrind
test-valgrind:
	@$(MAKE) --no-print-directory deps PACKAGES=valgrind
	@if [ -z "$(TAGS)" ]; then echo "No DPDK: valgrind has no C code to watch"; exit 0; fi; \
	dir=$$(mktemp -d); trap 'rm -rf $$dir' EXIT; \
	gcc -g -O1 -Wall -rdynamic $$(pkg-config --cflags libdpdk) -o $$dir/main link/dpdk/testdata/valgrind/main.c link/dpdk/*.c \
	  $$(pkg-config --libs libdpdk) -lpthread; \
	valgrind --quiet --leak-check=full --num-callers=40 --error-exitcode=9 --suppressions=link/dpdk/testdata/valgrind/eal.supp $$dir/main $$dir

# Not strict: that Go is not ours to choose, and test/virtualtime may not fit it.
# A small part of the tests shows what a new Go breaks.
.PHONY: test-newest
test-newest: ## test with the newest Go that the module proxy has, if it can be had
	@version=$$(timeout 60 $(GO) list -m -f '{{.Version}}' go@latest 2>/dev/null) || \
	  { echo "The module proxy cannot be asked for the newest Go: not tested with it"; exit 0; }; \
	export GOTOOLCHAIN=go$$version TPA_TEST_STRICT=0; \
	timeout 300 $(GO) version || { echo "$$GOTOOLCHAIN cannot be had from the module proxy: not tested with it"; exit 0; }; \
	set -x; $(GO) build ./... && $(GO) test -v -run 'ParkedGoroutines|Clocks' ./test/virtualtime && \
	  SEEDS=200 PAIRS=20 $(GO) test -run 'Programs|SameSeed' ./test/sim && \
	  $(GO) test ./accel ./net ./internal/tcp ./test/queues

# The database of vulnerabilities is on the internet.
.PHONY: vuln
vuln: ## look for known vulnerabilities in what a server takes in, if their database can be reached
	@curl -sSf --max-time 20 -o /dev/null https://vuln.go.dev/index/db.json || \
	  { echo "The database of vulnerabilities cannot be reached: nothing was looked for"; exit 0; }; \
	set -x; $(TOOL) govulncheck ./...

.PHONY: test-fuzz
test-fuzz:
	@$(MAKE) --no-print-directory fuzz FUZZTIME=$(FUZZTIME)

# Targets run two at a time, on a processor each. What a target prints is shown
# when it ends. To make a find smaller may take 100 runs: by default it takes a
# minute each, and all of a target's time.
.PHONY: fuzz
fuzz: ## fuzz every target for FUZZTIME each
	@grep -roE '^func Fuzz\w+' --include='*_test.go' . | sort | sed 's,/[^/]*:func , ,' | \
	  GOMAXPROCS=1 xargs -P 2 -L 1 bash -c 'out=$$($(GO) test -tags "$(TAGS)" -run "^$$" -fuzz "^$$1\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$0" 2>&1) \
	    && echo "$$1 in $$0: $$(grep -E "^fuzz: .*execs" <<<"$$out" | tail -1 | sed "s/^fuzz: //")" || { echo "$$1 in $$0"; echo "$$out"; exit 255; }'

.PHONY: sim
sim: ## run SEEDS random programs in virtual time, from seed FIRST on
	SEEDS=$(SEEDS) FIRST=$(FIRST) $(GO) test -timeout 0 -v -run '^TestPrograms$$' ./test/sim

.PHONY: matrix
matrix: ## run every combination of device, stack and network settings
	MATRIX=1 $(GO) test -timeout 0 -v -run '^TestMatrix$$' ./test/sim

# The report is printed, and in JSON in out/soak.json.
.PHONY: soak
soak: ## run churn, restarts and a bad network for D, such as D=8h
	@mkdir -p $(OUT)
	$(GO) test -timeout 0 -v ./test/soak -args -soak.time $(D) -soak.out $(abspath $(OUT))/soak.json

.PHONY: cover
cover: ## write the coverage of all tests to out/coverage.html
	@mkdir -p $(OUT)
	$(GO) test -tags '$(TAGS)' -p 1 -timeout 20m -coverpkg ./... -coverprofile $(OUT)/coverage.out ./...
	$(GO) tool cover -html $(OUT)/coverage.out -o $(OUT)/coverage.html
	$(GO) tool cover -func $(OUT)/coverage.out | tail -1

# VERSION is the newest tag, or 0.0.0 and the commit. PACKAGE_DIR is absolute: nfpm
# runs in packaging, whose module brings it.
.PHONY: packages
packages: export VERSION ?= $(shell git describe --tags --match 'v*' 2>/dev/null || echo 0.0.0-$$(git rev-parse --short HEAD 2>/dev/null || echo local))
packages: export ARCH = $(shell $(GO) env GOARCH)
packages: export PACKAGE_DIR = $(abspath $(OUT))/package
packages: ## build a .deb and an .rpm of tpa-bench in out/
	@rm -rf $(PACKAGE_DIR); mkdir -p $(PACKAGE_DIR)/man $(PACKAGE_DIR)/completion
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $(PACKAGE_DIR)/ ./cmd/tpa-bench
	@tool=$(PACKAGE_DIR)/tpa-bench; \
	if [ "$(ARCH)" != "$$(env -u GOARCH $(GO) env GOARCH)" ]; then \
	  tool=$$(mktemp); trap 'rm -f $$tool' EXIT; env -u GOARCH $(GO) build -pgo=off -o $$tool ./cmd/tpa-bench; \
	fi; \
	$$tool man $(PACKAGE_DIR)/man; gzip -9n $(PACKAGE_DIR)/man/*.1; \
	$$tool completion bash >$(PACKAGE_DIR)/completion/tpa-bench.bash; \
	$$tool completion zsh >$(PACKAGE_DIR)/completion/_tpa-bench; \
	$$tool completion fish >$(PACKAGE_DIR)/completion/tpa-bench.fish
	@for p in deb rpm; do env -u GOARCH $(GO) -C packaging tool nfpm package -f nfpm.yaml -p $$p -t $(abspath $(OUT)); done

# The section of a version in CHANGELOG.md; it is an error if there is none.
.PHONY: notes
notes:
	@awk -v h="## $(VERSION)" 'index($$0, "## ") == 1 { on = $$0 == h || index($$0, h " ") == 1; next } on { print; n++ } END { exit n == 0 }' CHANGELOG.md \
	  || { echo "CHANGELOG.md has no section $(VERSION)" >&2; exit 1; }

# What is in packaging, but for the images: about a minute.
test-packaging: export GOFLAGS := $(GOFLAGS) -pgo=off
.PHONY: test-packaging
test-packaging:
	@$(MAKE) --no-print-directory deps PACKAGES="rpm man-db systemd"
	$(GO) -C packaging vet ./...
	$(GO) -C packaging test -timeout 20m ./...

# Builds both images from bases that mmdebstrap makes, and runs the one for AF_XDP:
# about five minutes, as root, without a registry.
.PHONY: test-images
test-images: ## build both container images, run one, and walk through docs/first-hour.md, as root
	@$(MAKE) --no-print-directory deps PACKAGES="buildah mmdebstrap ca-certificates redis-tools iproute2"
	packaging/container/test.sh
	packaging/container/first-hour.sh --check docs/first-hour.md

# Without a container engine this says what to do instead, and succeeds.
.PHONY: dashboard
dashboard: ## start Prometheus and Grafana with the dashboard, in containers
	@cd metrics/dashboards; \
	if docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; then compose="docker compose"; \
	elif podman info >/dev/null 2>&1 && podman compose version >/dev/null 2>&1; then compose="podman compose"; \
	else \
	  echo "There is no container engine here (docker or podman, with compose). By hand:"; \
	  echo "  1. prometheus --config.file=metrics/dashboards/prometheus.yml (Debian: apt-get install prometheus)"; \
	  echo "  2. In a Grafana of yours: Dashboards, New, Import, metrics/dashboards/tpa.json"; \
	  exit 0; \
	fi; \
	$$compose up --detach; \
	echo "Start a program that exports metrics on 127.0.0.1:9464, such as"; \
	echo "  bin/tpa-bench serve --transport accel --listen :6379 --http 127.0.0.1:9464"; \
	echo "Grafana: http://127.0.0.1:3000   Prometheus: http://127.0.0.1:9090"; \
	echo "Stop both: cd metrics/dashboards && $$compose down"

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(OUT)

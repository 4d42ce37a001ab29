#!/usr/bin/env python3
"""How many instructions a warm request costs, counted by valgrind: `make instructions`.

Counts do not depend on what else the machine does, so that a difference of some hundredths is a change of the program.
The gateway runs with one worker, on one processor. A GET and a POST share a connection with those before them; a new connection's
GET has one of its own; GETs over HTTP/2 are streams of one connection without TLS. Counting begins after some requests and
ends before the end, so that neither start nor end is in it. What other threads do (the allocator's, the metrics') they do by the
clock, as often as valgrind is slow; the figure is the serving thread's own.

Compares with what `expected.json` has for the Cargo profile of the environment's PROFILE, within its tolerance, and fails when
a request costs more; `--keep` writes new figures down.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
from plane import Plane  # noqa: E402

PROFILE = os.environ.get("PROFILE", "dist")
EXPECTED = pathlib.Path(__file__).with_name("expected.json")
WARM_UP, REQUESTS = 500, 2000
BODY = b"sixty bytes, which is what an answer to a health check has..\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\r\n" % len(BODY) + BODY
# What a browser sends: names, values, and where HPACK's table has the names.
FIELDS = [
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0)", 58), (b"accept", b"text/html,application/xhtml+xml", 19),
    (b"accept-language", b"en-US,en;q=0.5", 17), (b"accept-encoding", b"gzip, deflate", 16),
    (b"cookie", b"session=0123456789abcdef0123456789abcdef", 32),
]
LINES = b"".join(b"%s: %s\r\n" % (name, value) for name, value, _ in FIELDS)
GET = b"GET /small HTTP/1.1\r\nhost: bench.test\r\n%s\r\n" % LINES
GET_AND_CLOSE = b"GET /small HTTP/1.1\r\nhost: bench.test\r\n%sconnection: close\r\n\r\n" % LINES
# A string instruction counts once for each byte, and which copies use one differs from processor to processor.
TUNABLES = ":".join(f"glibc.cpu.x86_rep_{which}_threshold={1 << 30}" for which in ("movsb", "stosb"))
POST = b"POST /small HTTP/1.1\r\nhost: bench.test\r\nuser-agent: bench\r\ncontent-length: 100\r\n\r\n" + b"x" * 100


# --- clients: each has `exchange`, which sends a request and reads its response, whole ---


class Http1:
    """Requests one after another on one connection."""

    def __init__(self, port, process, message):
        self.stream, self.message = connect(port, process), message

    def exchange(self):
        self.stream.sendall(self.message)
        answer = b""
        while True:
            head, found, body = answer.partition(b"\r\n\r\n")
            if found:
                length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
                if len(body) >= length:
                    break
            part = self.stream.recv(65536)
            if not part:
                sys.exit(f"the gateway has closed the connection; it had said {answer!r}")
            answer += part
        if not answer.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"not answered: {answer!r}")

    def close(self):
        self.stream.close()


class Anew:
    """Each request on a connection of its own, which the gateway closes."""

    def __init__(self, port, process, message):
        connect(port, process).close()
        self.port, self.process, self.message = port, process, message

    def exchange(self):
        with connect(self.port, self.process) as stream:
            stream.sendall(self.message)
            answer = b""
            while part := stream.recv(65536):
                answer += part
        if not answer.startswith(b"HTTP/1.1 200 ") or not answer.endswith(BODY):
            sys.exit(f"not answered: {answer!r}")

    def close(self):
        pass


class Http2:
    """Streams one after another on one connection without TLS. Fields that were sent before are sent as their numbers."""

    DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
    END_STREAM, END_HEADERS, ACK = 1, 4, 1
    STATUS_200 = 0x88

    def __init__(self, port, process):
        self.stream, self.pending, self.next = connect(port, process), b"", 1
        # All responses together have room in the window.
        window = (1 << 30).to_bytes(4, "big")
        hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self.frame(self.SETTINGS, 0, 0, b"")
        self.stream.sendall(hello + self.frame(self.WINDOW_UPDATE, 0, 0, window))

    @staticmethod
    def frame(kind, flags, stream, payload):
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    def block(self):
        """The request's fields, by RFC 7541."""
        literals = [(4, b"/small"), (1, b"bench.test"), *((index, value) for _, value, index in FIELDS)]
        get, http = b"\x82", b"\x86"
        if self.next == 1:
            return get + http + b"".join(bytes([0x40 | name, len(value)]) + value for name, value in literals)
        # The newest entry of the table is 62.
        return get + http + bytes(0x80 | 62 + index for index in reversed(range(len(literals))))

    def receive(self):
        while len(self.pending) < 9 or len(self.pending) < 9 + int.from_bytes(self.pending[:3], "big"):
            part = self.stream.recv(65536)
            if not part:
                sys.exit("the gateway has closed the connection")
            self.pending += part
        end = 9 + int.from_bytes(self.pending[:3], "big")
        kind, flags, stream = self.pending[3], self.pending[4], int.from_bytes(self.pending[5:9], "big")
        payload, self.pending = self.pending[9:end], self.pending[end:]
        return kind, flags, stream, payload

    def exchange(self):
        self.stream.sendall(self.frame(self.HEADERS, self.END_STREAM | self.END_HEADERS, self.next, self.block()))
        status, body = None, b""
        while True:
            kind, flags, stream, payload = self.receive()
            if kind in (self.SETTINGS, self.PING) and not flags & self.ACK:
                self.stream.sendall(self.frame(kind, self.ACK, 0, payload if kind == self.PING else b""))
            if stream != self.next:
                continue
            if kind == self.HEADERS:
                # A change of the table's size may come before it.
                status = payload.lstrip(bytes(range(0x20, 0x40)))[0]
            elif kind == self.DATA:
                body += payload
            if kind in (self.HEADERS, self.DATA) and flags & self.END_STREAM:
                break
        if status != self.STATUS_200 or body != BODY:
            sys.exit(f"not answered: {status}, {body!r}")
        self.next += 2

    def close(self):
        self.stream.close()


# What is counted, by name.
CLIENTS = {
    "GET": lambda *where: Http1(*where, GET),
    "POST": lambda *where: Http1(*where, POST),
    "new connection": lambda *where: Anew(*where, GET_AND_CLOSE),
    "HTTP/2": Http2,
}


# --- the rest of the bench ---


def origin(listener):
    """Answers whatever has come whole."""

    def serve(stream):
        pending = b""
        while part := stream.recv(65536):
            pending += part
            head, found, body = pending.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            if found and len(body) >= (int(length[1]) if length else 0):
                pending = b""
                stream.sendall(ANSWER)

    while True:
        try:
            stream, _ = listener.accept()
        except OSError:
            return
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream,), daemon=True).start()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, process):
    for _ in range(600):
        try:
            stream = socket.create_connection(("127.0.0.1", port), 60)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream
        except OSError:
            if process.poll() is not None:
                sys.exit(f"the gateway has ended: {process.stderr.read()}")
            time.sleep(0.1)
    sys.exit("the gateway does not listen")


def control(process, *order):
    subprocess.run(["callgrind_control", *order, str(process.pid)], check=True, capture_output=True)


def instructions(binary, folder, client, plane, upstream):
    """Of one request, on the thread that serves it and on all others, and where the thread's profile is."""
    port = free_port()
    config, profile = folder / "wakegate.toml", folder / "profile"
    config.write_text(f"""
[log]
access = "off"
level = "error"
[admin]
address = "127.0.0.1:0"
observe = false
[[hypeman]]
url = "http://127.0.0.1:{plane}"
[[listener]]
address = "127.0.0.1:{port}"
[[route]]
host = "*.test"
instance = "bench"
port = {upstream}
""")
    command = ["taskset", "-c", "0", "valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={profile}", binary, "serve", "-c", config]
    environment = {**os.environ, "GLIBC_TUNABLES": TUNABLES}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        speaking = client(port, process)
        for count in range(WARM_UP + REQUESTS):
            if count == WARM_UP:
                control(process, "--zero")
            speaking.exchange()
        control(process, "--dump")
        speaking.close()
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    if process.returncode != 0:
        sys.exit(f"the gateway failed: {said}")
    # A file for each thread; what is counted after the dump is in files of their own.
    totals = {}
    for dumped in folder.glob("profile.1-*"):
        found = re.search(r"^(?:summary|totals): (\d+)", dumped.read_text(), re.MULTILINE)
        totals[dumped] = int(found[1]) if found else 0
    worker = max(totals, key=totals.get)
    return totals[worker] // REQUESTS, (sum(totals.values()) - totals[worker]) // REQUESTS, worker


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "ship" / PROFILE / "wakegate")
    parser.add_argument("--only", choices=CLIENTS, help="count this alone")
    parser.add_argument("--profile", type=pathlib.Path, help="keep valgrind's profile of what --only names, or of a GET, here")
    parser.add_argument("--keep", action="store_true", help="write the figures down as what is expected")
    arguments = parser.parse_args()
    plane = ThreadingHTTPServer(("127.0.0.1", 0), Plane)
    threading.Thread(target=plane.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=origin, args=(listener,), daemon=True).start()
    ports = plane.server_address[1], listener.getsockname()[1]
    counted = {}
    for name, client in CLIENTS.items():
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            counted[name], others, profile = instructions(arguments.binary, folder, client, *ports)
            print(f"{name}: {counted[name]:,} instructions for a warm request; other threads had {others:,} meanwhile", flush=True)
            if arguments.profile and name == (arguments.only or "GET"):
                shutil.copy(profile, arguments.profile)
    if "GET" in counted:
        for name in [name for name in counted if name != "GET"]:
            print(f"{name} / GET: {counted[name] / counted['GET']:.2f}")
    kept = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {"tolerance": 0.03, "instructions": {}}
    expected = kept["instructions"].setdefault(PROFILE, {})
    if arguments.keep:
        expected.update(counted)
        EXPECTED.write_text(json.dumps(kept, indent=2) + "\n")
        return
    unknown = [name for name in counted if name not in expected]
    dearer = []
    for name, figure in counted.items():
        if name in expected:
            change = figure / expected[name] - 1
            print(f"{name}: {change:+.1%} of the {expected[name]:,} in {EXPECTED.name} ({PROFILE})")
            if change > kept["tolerance"]:
                dearer.append(name)
    if dearer:
        sys.exit(f"{', '.join(dearer)}: dearer than before; find out why, or run with --keep and say why in the commit")
    if unknown:
        sys.exit(f"{EXPECTED.name} has no figures for {', '.join(unknown)} of the profile {PROFILE}: run with --keep")


main()

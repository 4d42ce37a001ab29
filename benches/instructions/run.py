#!/usr/bin/env python3
"""How many instructions a warm request costs, counted by valgrind: `make instructions`.

Counts do not depend on what else the machine does, so that a difference of some hundredths is a change of the program.
The gateway runs with one worker, on one processor, and one connection. Counting begins after some requests and ends before the end, so
that neither start nor end is in it.

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
# What a browser sends.
REQUEST = b"\r\n".join([
    b"GET /small HTTP/1.1", b"host: bench.test", b"user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)",
    b"accept: text/html,application/xhtml+xml", b"accept-language: en-US,en;q=0.5", b"accept-encoding: gzip, deflate",
    b"cookie: session=0123456789abcdef0123456789abcdef", b"", b"",
])
# A string instruction counts once for each byte, and which copies use one differs from processor to processor.
TUNABLES = ":".join(f"glibc.cpu.x86_rep_{which}_threshold={1 << 30}" for which in ("movsb", "stosb"))
POST = b"POST /small HTTP/1.1\r\nhost: bench.test\r\nuser-agent: bench\r\ncontent-length: 100\r\n\r\n" + b"x" * 100


def exchange(stream, message):
    """Sends a message and reads what comes back, whole."""
    stream.sendall(message)
    answer = b""
    while True:
        head, found, body = answer.partition(b"\r\n\r\n")
        if found:
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            if len(body) >= length:
                return answer
        part = stream.recv(65536)
        if not part:
            sys.exit(f"the gateway has closed the connection; it had said {answer!r}")
        answer += part


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
            return socket.create_connection(("127.0.0.1", port), 60)
        except OSError:
            if process.poll() is not None:
                sys.exit(f"the gateway has ended: {process.stderr.read()}")
            time.sleep(0.1)
    sys.exit("the gateway does not listen")


def control(process, *order):
    subprocess.run(["callgrind_control", *order, str(process.pid)], check=True, capture_output=True)


def instructions(binary, folder, message, plane, upstream):
    """Of one request; the profile is left in `folder`."""
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
    command = ["taskset", "-c", "0", "valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", binary, "serve", "-c", config]
    environment = {**os.environ, "GLIBC_TUNABLES": TUNABLES}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        stream = connect(port, process)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for count in range(WARM_UP + REQUESTS):
            if count == WARM_UP:
                control(process, "--zero")
            answer = exchange(stream, message)
            if not answer.startswith(b"HTTP/1.1 200 "):
                sys.exit(f"not answered: {answer!r}")
        control(process, "--dump")
        stream.close()
    finally:
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    if process.returncode != 0:
        sys.exit(f"the gateway failed: {said}")
    # What is counted after the dump is in a file of its own.
    dumped = folder / "profile.1"
    totals = re.search(r"^(?:summary|totals): (\d+)", dumped.read_text(), re.MULTILINE)
    return int(totals[1]) // REQUESTS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "ship" / PROFILE / "wakegate")
    parser.add_argument("--profile", type=pathlib.Path, help="keep valgrind's profile of a GET here, for callgrind_annotate")
    parser.add_argument("--keep", action="store_true", help="write the figures down as what is expected")
    arguments = parser.parse_args()
    plane = ThreadingHTTPServer(("127.0.0.1", 0), Plane)
    threading.Thread(target=plane.serve_forever, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=origin, args=(listener,), daemon=True).start()
    ports = plane.server_address[1], listener.getsockname()[1]
    counted = {}
    for name, message in {"GET": REQUEST, "POST": POST}.items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            counted[name] = instructions(arguments.binary, folder, message, *ports)
            print(f"{name}: {counted[name]:,} instructions for a warm request")
            if arguments.profile and name == "GET":
                shutil.copy(folder / "profile.1", arguments.profile)
    if arguments.keep:
        kept = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {"tolerance": 0.03, "instructions": {}}
        kept["instructions"][PROFILE] = counted
        EXPECTED.write_text(json.dumps(kept, indent=2) + "\n")
        return
    expected = json.loads(EXPECTED.read_text())
    if PROFILE not in expected["instructions"]:
        sys.exit(f"{EXPECTED.name} has no figures for the profile {PROFILE}: run with --keep")
    for name, figure in counted.items():
        before = expected["instructions"][PROFILE][name]
        change = figure / before - 1
        print(f"{name}: {change:+.1%} of the {before:,} in {EXPECTED.name} ({PROFILE})")
        if change > expected["tolerance"]:
            sys.exit(f"a warm {name} costs more than it did: find out why, or run with --keep and say why in the commit")


main()

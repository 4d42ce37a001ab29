#!/usr/bin/env python3
"""What wakegate costs as it grows: `make bench-scale`. Prints a table and draws docs/img/scale.svg.

From ten routes to a hundred thousand, from ten instances to ten thousand, beside idle connections and held requests; processor time for
each request as in benches/peers. Everything runs on loopback, bounded in time, and is ended by its own process id.
"""

import importlib.util
import pathlib
import signal
import socket
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("peers", ROOT / "benches" / "peers" / "run.py")
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)

ADDRESS = "127.0.0.1:21090"
SECONDS = 3


def configuration(folder, routes):
    # The first route is for instances, the others are for their number.
    more = "".join(f'[[route]]\nhost = "r{index}.example.org"\ninstance = "bench"\nport = 21000\n' for index in range(routes))
    path = folder / "scale.toml"
    path.write_text(f"""
[log]
access = "off"
level = "error"
[admin]
address = "{peers.ADMIN}"
observe = false
[server]
max_connections = 9500
max_connections_per_client = 9500
[upstream]
idle_timeout = "10m"
[wake]
unknown_per_client = "100000/s"
[[hypeman]]
url = "http://{peers.PLANE}"
[[listener]]
address = "{ADDRESS}"
[[route]]
host = "{{app}}.example.com"
instance = "{{app}}"
port = 21000
{more}""")
    return path


def metric(series):
    text = urllib.request.urlopen(f"http://{peers.ADMIN}/metrics", timeout=30).read().decode()
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(series + " ")), 0)


def reloads():
    return metric('wakegate_config_reloads_total{outcome="ok"}')


def wait_until(is_so, what):
    until = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > until:
            sys.exit(f"waited too long for {what}")
        time.sleep(0.01)


def running(folder, routes):
    """A gateway with so many routes, and how long it took to listen."""
    config, started, began = configuration(folder, routes), peers.Started(), time.monotonic()
    process = started.start(0, peers.SHIP / "wakegate", "serve", "-c", config)
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(ADDRESS.rsplit(":", 1)[1])), 1).close()
            return process, started, time.monotonic() - began
        except OSError:
            if process.poll() is not None:
                sys.exit("the gateway has ended")
            time.sleep(0.005)


def cost(folder, process, hosts):
    """Processor time of a request, in microseconds; requests go round among the hosts."""
    script = folder / "hosts.lua"
    script.write_text("local hosts = {%s}\nlocal at = 0\nfunction request() at = at %% #hosts + 1\n"
                      "return wrk.format('GET', '/small', {Host = hosts[at]}) end\n" % ",".join(f"'{host}'" for host in hosts))
    load = lambda seconds: peers.wrk(f"http://{ADDRESS}/small", seconds, 64, "-s", script)
    load(1)
    before = peers.processor_seconds(process.pid)
    requests = load(SECONDS)[0]
    return (peers.processor_seconds(process.pid) - before) / requests * 1e6


def routes(folder):
    rows = []
    for many in (10, 100, 1_000, 10_000, 100_000):
        process, started, start = running(folder, many)
        try:
            spent = cost(folder, process, [f"r{index}.example.org" for index in range(min(many, 100))])
            before, began = reloads(), time.monotonic()
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: reloads() > before, "the reload")
            rows.append((many, spent, start * 1e3, (time.monotonic() - began) * 1e3, peers.resident_kib(process.pid) / 1024))
        finally:
            started.end()
    return rows


def instances(folder):
    rows = []
    for many in (10, 100, 1_000, 10_000):
        process, started, _ = running(folder, 0)
        try:
            hosts = [f"i{index}x.example.com" for index in range(many)]
            empty = peers.resident_kib(process.pid)
            # One request for each: it is looked up, and has a connection from then on.
            for host in hosts:
                request = urllib.request.Request(f"http://{ADDRESS}/small", headers={"host": host})
                urllib.request.urlopen(request, timeout=30).read()
            each = (peers.resident_kib(process.pid) - empty) / many
            rows.append((many, cost(folder, process, hosts), each))
        finally:
            started.end()
    return rows


def beside(folder, host, there):
    """What a request costs while others of a `host` are there: how many are is looked up by `there`."""
    rows = []
    for many in (10, 100, 1_000, 8_000):
        process, started, _ = running(folder, 0)
        others = []
        try:
            # Whatever is made only once is there.
            cost(folder, process, ["bench.example.com"])
            before = peers.resident_kib(process.pid)
            for index in range(many):
                stream = socket.create_connection(("127.0.0.1", int(ADDRESS.rsplit(":", 1)[1])), 10)
                stream.sendall(f"GET /small HTTP/1.1\r\nhost: {host}.example.com\r\n\r\n".encode())
                others.append(stream)
                if index % 100 == 99 or index == many - 1:
                    wait_until(lambda: there() > index, f"{index + 1} requests to {host}")
            each = (peers.resident_kib(process.pid) - before) / many
            rows.append((many, cost(folder, process, ["bench.example.com"]), each))
        finally:
            for stream in others:
                stream.close()
            started.end()
    return rows


def connections(folder):
    return beside(folder, "bench", lambda: metric("wakegate_downstream_connections"))


def held(folder):
    return beside(folder, "sleepyx", lambda: metric("wakegate_held_requests"))


def figure(value):
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def chart(title, unit, points, left, first=10, decades=4):
    """One line over decades, of which the first begins with `first`."""
    width, height, most = 380, 200, max(value for _, value in points) * 1.25
    place = lambda count, value: (
        left + 50 + (width - 90) * (len(str(count)) - len(str(first)) + (count / 10 ** (len(str(count)) - 1) - 1) / 9) / decades,
        30 + (height - 60) * (1 - value / most),
    )
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in (place(*point) for point in points))
    parts = [f'<text x="{left + 50}" y="18" font-weight="bold">{title}</text>',
             f'<polyline points="{line}" fill="none" stroke="#0a7" stroke-width="2"/>',
             f'<path d="M{left + 50} 30V{height - 30}H{left + width - 30}" fill="none" stroke="#888"/>']
    for count, value in points:
        x, y = place(count, value)
        parts.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="#0a7"/>'
                     f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{figure(value)}{unit}</text>'
                     f'<text x="{x:.0f}" y="{height - 14}" text-anchor="middle">{count:,}</text>')
    return "".join(parts)


def draw(by_route, by_instance, by_connection, by_held):
    charts = [
        chart("CPU per request, by routes", " µs", [(row[0], row[1]) for row in by_route], 0),
        chart("Reload, by routes", " ms", [(row[0], row[3]) for row in by_route], 380),
        chart("CPU per request, by instances", " µs", [(row[0], row[1]) for row in by_instance], 760),
        chart("CPU per request, beside idle connections", " µs", [(row[0], row[1]) for row in by_connection], 1140),
        chart("CPU per request, beside held requests", " µs", [(row[0], row[1]) for row in by_held], 1520),
    ]
    svg = ('<svg xmlns="http://www.w3.org/2000/svg" width="1900" height="200" viewBox="0 0 1900 200" font-family="sans-serif" '
           f'font-size="10" fill="#666">{"".join(charts)}</svg>\n')
    (ROOT / "docs" / "img" / "scale.svg").write_text(svg)


def main():
    origin = peers.Started()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        try:
            origin.start(1, peers.BARE, "origin", peers.ORIGIN)
            origin.start(1, peers.BARE, "plane", peers.PLANE)
            for address in (peers.ORIGIN, peers.PLANE):
                peers.wait_for(address)
            by_route, by_instance = routes(folder), instances(folder)
            by_connection, by_held = connections(folder), held(folder)
        finally:
            origin.end()
    print("| routes | CPU µs per request | start, ms | reload, ms | resident, MiB |\n|---|---|---|---|---|")
    for many, spent, start, reload, resident in by_route:
        print(f"| {many:,} | {spent:.1f} | {start:.0f} | {reload:.0f} | {resident:.0f} |")
    print("\n| instances | CPU µs per request | KiB for each, its connection included |\n|---|---|---|")
    for many, spent, each in by_instance:
        print(f"| {many:,} | {spent:.1f} | {each:.1f} |")
    for what, rows in (("idle connections", by_connection), ("held requests", by_held)):
        print(f"\n| {what} | CPU µs of another request | KiB for each |\n|---|---|---|")
        for many, spent, each in rows:
            print(f"| {many:,} | {spent:.1f} | {each:.1f} |")
    draw(by_route, by_instance, by_connection, by_held)


if __name__ == "__main__":
    main()

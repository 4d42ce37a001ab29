#!/usr/bin/env python3
"""What a fleet costs: `make bench-fleet`. Prints what the benches `fleet` and `directory` print, and a table, and draws docs/img/fleet.svg."""

import json
import pathlib
import subprocess
import sys

from run import ROOT, chart

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def bench(name, *arguments):
    """Runs a bench; returns its rows, which are JSON."""
    command = ["cargo", "bench", "--locked", "--bench", name, "--", *map(str, arguments)]
    program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    rows = []
    for line in program.stdout:
        if line.startswith("{"):
            rows.append(json.loads(line))
        else:
            print(line, end="", flush=True)
    if program.wait() != 0:
        sys.exit(f"{' '.join(command)} failed")
    return rows


def lag(row):
    return " / ".join(f"{micros / 1000:.1f}" for micros in row["lag_us"])


def draw(rows):
    series = [
        ("Resident, by routes and names", " MiB", "mib"),
        ("Reading all of it and building the table", " ms", "all_ms"),
        ("Looking up where a name is", " ns", "look_up_ns"),
        ("Processor, 5,000 changes a second", " %", "processor_percent"),
        ("Lag of a batch of changes, p99", " ms", "p99_ms"),
    ]
    charts = [
        chart(title, unit, [(row["routes"], row[key]) for row in rows], index * 380, SIZES[0], 3)
        for index, (title, unit, key) in enumerate(series)
    ]
    width = 380 * len(series)
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="200" viewBox="0 0 {width} 200" '
           f'font-family="sans-serif" font-size="10" fill="#666">{"".join(charts)}</svg>\n')
    (ROOT / "docs" / "img" / "fleet.svg").write_text(svg)


def main():
    bench("fleet")
    rows = [row for size in SIZES for row in bench("directory", size)]
    rows += bench("directory", "cells")
    etcd = [row for size in SIZES[-2:] for row in bench("directory", "etcd", size)]
    for row in rows:
        row["all_ms"] = row["read_ms"] + row["built_ms"]
        row["p99_ms"] = row["lag_us"][1] / 1000
    print("\n| cells | hosts | routes, and names | resident, MiB | read and built, ms | look-up, ns | % of a processor "
          "| lag, ms: p50 / p99 / most |\n|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {row['cells']} | {row['hosts']:,} | {row['routes']:,} | {row['mib']:,} | {row['all_ms']:,} "
              f"| {row['look_up_ns']:.0f} | {row['processor_percent']} | {lag(row)} |")
    print("\n| routes, and names, in etcd | etcd, MiB | first copy, s | of it processor, s | % of a processor | lag, ms: p50 / p99 / most |\n"
          "|---|---|---|---|---|---|")
    for row in etcd:
        print(f"| {row['etcd_routes']:,} | {row['etcd_mib']:,} | {row['read_ms'] / 1000:.1f} | {row['read_processor_ms'] / 1000:.1f} "
              f"| {row['processor_percent']} | {lag(row)} |")
    draw(rows)


if __name__ == "__main__":
    main()

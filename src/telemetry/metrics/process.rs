//! What the kernel says of this process, as Prometheus' own clients tell it.
//!
//! Guarantees: processor time keeps its fractions (the registry's counters are whole numbers, so
//! these lines are written here).

use std::fmt::Write as _;

use metrics_process::collector::collect;

/// The process' metrics in Prometheus' text format.
pub(super) fn render() -> String {
    let seen = collect();
    let whole = |number: Option<u64>| number.map(|number| number.to_string());
    let fraction = |number: Option<f64>| number.map(|number| number.to_string());
    let mut text = String::new();
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "User and system processor time spent",
            fraction(seen.cpu_seconds_total),
        ),
        (
            "process_open_fds",
            "gauge",
            "Open file descriptors",
            whole(seen.open_fds),
        ),
        (
            "process_max_fds",
            "gauge",
            "File descriptors that may be open",
            whole(seen.max_fds),
        ),
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory",
            whole(seen.virtual_memory_bytes),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory",
            whole(seen.resident_memory_bytes),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process began, in seconds since 1970",
            whole(seen.start_time_seconds),
        ),
        (
            "process_threads",
            "gauge",
            "Threads of the process",
            whole(seen.threads),
        ),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _written = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
            );
        }
    }
    text
}

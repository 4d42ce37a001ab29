//! The gateway, the local control plane and what is delivered with them, over real sockets: one
//! module a capability.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::float_cmp,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/mod.rs"]
mod support;

/// As `src/hold/gate.rs` names it, which `interleavings` runs under loom.
mod config {
    pub(crate) use wakegate::config::{ClientShare, LimitsConfig};
}

mod names {
    pub(crate) use wakegate::names::ClientNetwork;
}

mod accounts;
mod acme;
mod acme_faults;
mod acme_fleet;
mod addresses;
mod admin;
mod admission;
mod applications;
mod architecture;
mod book;
mod boots;
mod browser;
mod certificates;
mod chaos;
mod check;
mod clear_on_tls;
mod cli;
mod client_certificates;
mod clients;
mod contract;
mod crash_points;
mod dashboard;
mod deploy;
mod descriptors;
mod ends;
mod engine;
mod engine_faults;
mod epochs;
mod evidence;
mod fair_shares;
mod fields;
mod fleet_etcd;
mod fleet_histories;
mod fleet_peers;
mod fleet_processes;
mod fleet_whole;
mod flows;
mod framing;
mod grpc;
mod h2;
mod half_close;
mod hooks;
mod hostile_memory;
mod identity;
mod ingress;
mod instance_tls;
mod interleavings;
mod lifecycle;
mod limits;
mod observability;
mod parked_browser;
mod parked_bytes;
mod parked_cases;
mod parked_events;
mod parked_memory;
mod parked_vm;
mod parking;
mod parking_anew;
mod paths;
mod ports;
mod programs;
mod protocols;
mod raw;
mod reasons;
mod refusals;
mod release;
mod responses;
mod restarts;
mod semantics;
mod service_links;
mod simulation;
mod soak;
mod streams;
mod tickets;
mod tls_judged;
mod tunnels;
mod tunnels_h2;
mod unreadable;
mod uploads;
mod vm;
mod vm_breaks;
mod wake;
mod wake_service;
mod workers;
mod workload_door;

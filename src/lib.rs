//! wakegate: an HTTP edge gateway that wakes sleeping Hypeman instances.
pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod drain;
pub mod hold;
pub mod hypeman;
pub mod listener;
pub mod local;
pub mod names;
pub mod proxy;
pub mod router;
pub mod telemetry;
pub mod upstream;
pub mod wake;

//! wakegate: an HTTP edge gateway that wakes sleeping Hypeman instances.
pub mod config;
pub mod names;
pub mod telemetry;
pub mod hypeman;
pub mod local;
pub mod wake;
pub mod hold;
pub mod router;
pub mod upstream;
pub mod admin;
pub mod app;
pub mod drain;
pub mod listener;
pub mod proxy;

//! From a request's authority and path to its route.
//!
//! Guarantees: a request has exactly one host, validated; a request sees one version of the table,
//! which changes by being replaced; the more exact host wins (literal, pattern, wildcard), then the
//! longest path prefix on segment borders; a path whose readings would meet different routes or
//! rules is refused instead of guessed.

mod authority;
mod change;
mod host_map;
mod ingress;
mod path_readings;
mod path_steps;
mod paths;
mod route;
mod shape;
mod table;

pub use authority::{AuthorityError, host_named, host_of};
pub use change::RouteChange;
pub use ingress::Declared;
pub use path_readings::{
    AmbiguousPath, PathReadings, PathRule, Reading, SpecialPaths, behind_prefix,
};
pub use paths::RouteError;
pub use route::Route;
pub use table::{Match, OTHER_PORTS, RouteTable};

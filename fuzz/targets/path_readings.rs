//! Readings of a path: no server reads it differently where all of ours agree about its route; and
//! what is refused has something that servers read differently.
#![no_main]

use std::sync::LazyLock;

use wakegate::config::{Variables, load};
use wakegate::names::Hostname;
use wakegate::router::{PathReadings, RouteError, RouteTable};

#[path = "../../src/router/path_readings/servers.rs"]
mod servers;

const PATHS: [&str; 4] = ["/admin/users", "/admin", "/v1", "/"];

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let routes = PATHS
        .iter()
        .map(|path| format!("[[route]]\nhost = \"a.test\"\npath = \"{path}\"\ninstance = \"x\"\n"));
    let text: String = routes.collect();
    let config = load("fuzz", &text, &Variables::default()).expect("it loads");
    RouteTable::new(&config.route)
});

/// The longest of the paths that this one is below.
fn route_of(path: &[u8]) -> &'static str {
    let is_below = |prefix: &&&str| {
        let prefix = prefix.trim_end_matches('/').as_bytes();
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    };
    PATHS.iter().find(is_below).copied().unwrap_or("/")
}

libfuzzer_sys::fuzz_target!(|rest: &str| {
    let (host, path) = (
        Hostname::parse("a.test").expect("a name"),
        format!("/{rest}"),
    );
    match TABLE.find(&host, &PathReadings::of(&path), 80) {
        Ok(found) => {
            for (name, read) in servers::SERVERS {
                let reading = read(path.as_bytes());
                let route = found.route.config().path();
                assert_eq!(route_of(&reading), route, "{name}: {path:?}");
            }
        }
        Err(RouteError::AmbiguousPath(_)) => {
            let is_ordinary = path.split('/').skip(1).all(|segment| {
                let is_plain =
                    |byte: u8| byte.is_ascii_lowercase() || b"0123456789-_~".contains(&byte);
                !segment.is_empty() && segment.bytes().all(is_plain)
            });
            assert!(!is_ordinary, "{path:?}");
        }
        Err(RouteError::NoRoute) => panic!("the host has a route for every path: {path:?}"),
    }
});

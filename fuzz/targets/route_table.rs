//! Look-ups in a route table: the same route as one finds by trying each.
#![no_main]

use std::sync::LazyLock;

use wakegate::config::{Config, HostPattern, RouteConfig, Variables, load};
use wakegate::names::Hostname;
use wakegate::router::{PathReadings, RouteError, RouteTable};

const HOSTS: [&str; 9] = [
    "*",
    "a.test",
    "*.test",
    "{i}.test",
    "{i}.b.test",
    "c.{i}.test",
    "*.b.test",
    "a.b.test",
    "{i}.{j}.example",
];
const PATHS: [&str; 3] = ["/", "/v1", "/v1/deep"];

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let routes = HOSTS
        .iter()
        .flat_map(|host| PATHS.iter().map(move |path| (host, path)));
    let text: String = routes
        .map(|(host, path)| {
            format!("[[route]]\nhost = \"{host}\"\npath = \"{path}\"\ninstance = \"x\"\n")
        })
        .collect();
    load("fuzz", &text, &Variables::default()).expect("it loads")
});
static TABLE: LazyLock<RouteTable> = LazyLock::new(|| RouteTable::new(&CONFIG.route));

fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    prefix == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Exact before pattern before wildcard before any; fewer captures first; the longer suffix first.
fn rank(host: &HostPattern) -> (u8, usize) {
    match host {
        HostPattern::Exact(_) => (0, 0),
        HostPattern::Labels(_) => (1, host.to_string().matches('{').count()),
        HostPattern::Wildcard(suffix) => (2, 255 - suffix.as_str().len()),
        HostPattern::Any => (3, 0),
    }
}

fn expected(host: &str, path: &str) -> Option<&'static RouteConfig> {
    let fitting = || CONFIG.route.iter().filter(|route| route.name.fits(host));
    let best = fitting().map(|route| rank(&route.name.pattern())).min()?;
    let first = fitting()
        .find(|route| rank(&route.name.pattern()) == best)?
        .host();
    fitting()
        .filter(|route| route.host() == first && is_below(path, route.path()))
        .max_by_key(|route| route.path().len())
        .map(|route| &**route)
}

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let (host, path) = input;
    let Ok(host) = Hostname::parse(host) else {
        return;
    };
    // Another is no path, and refused before a route is looked for.
    if !path.starts_with('/') {
        return;
    }
    match TABLE.find(&host, &PathReadings::of(path), 80) {
        Ok(found) => {
            let route = expected(host.as_str(), path).expect("no route fits");
            assert_eq!(**found.route.config(), *route);
        }
        Err(RouteError::AmbiguousPath(_)) => {}
        Err(error) => assert!(expected(host.as_str(), path).is_none(), "{error}"),
    }
});

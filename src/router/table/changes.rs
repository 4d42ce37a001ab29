//! A table that was changed route by route answers as one that is built of the same routes.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Route, RouteTable};
use crate::config::{
    HostPattern, InstanceTemplate, RouteConfig, RouteName, RoutePolicy, WakeConfig,
};
use crate::names::{Hostname, PlaneIndex};
use crate::router::{PathReadings, RouteError};

const HOSTS: &[&str] = &[
    "a.b",
    "c.b",
    "x.a.b",
    "api.x.b",
    "{a}.b",
    "{other}.b",
    "{a}.{b}.b",
    "api.{b}.b",
    "{a}.x.b",
    "{port}-{a}.b",
    "{a}-{port}.x.b",
    "*.b",
    "*.a.b",
    "*",
];
const PROBES: &[&str] = &[
    "a.b", "c.b", "d.b", "x.a.b", "y.a.b", "api.x.b", "api.y.b", "z.x.b", "p.q.r.b", "b", "[::1]",
    "80-c.b", "c-80.x.b", "80-c.x.b",
];
const PATHS: &[&str] = &["/", "/v1", "/V1", "/v1/x", "/w2", "/@s%2fp", "/@s%2Fp"];
const TARGETS: &[&str] = &[
    "/",
    "/v1",
    "/V1/x",
    "/v1/x/y",
    "/w2/z",
    "/@s%2fp",
    "/@s/p",
    "/v1/../w2",
    "/v10",
];
const PORTS: &[Option<u16>] = &[None, Some(80), Some(81)];

/// One route of the pools above, with its instance's number; or one of many literal hosts.
fn route(host: usize, path: usize, port: usize, instance: u32) -> Arc<RouteConfig> {
    let policy = Arc::new(RoutePolicy::new(PlaneIndex(0), &WakeConfig::default()));
    let text = match HOSTS.get(host) {
        Some(host) => (*host).to_owned(),
        None => format!("h{host}.b"),
    };
    let pattern = HostPattern::parse(&text).unwrap();
    let instance = match text.split('.').next() {
        Some("{a}" | "{port}-{a}" | "{a}-{port}") if instance < 2 => "{a}".to_owned(),
        _ => format!("i{instance}"),
    };
    Arc::new(RouteConfig {
        name: RouteName::new(&pattern, PATHS[path]),
        listen_port: PORTS[port],
        instance: InstanceTemplate::parse(&instance, &pattern).unwrap(),
        port: 8080,
        policy,
    })
}

fn is_same(one: &RouteConfig, other: &RouteConfig) -> bool {
    (&one.name, one.listen_port) == (&other.name, other.listen_port)
}

/// The label and the instance that a request meets.
fn answer(
    table: &RouteTable,
    host: &str,
    path: &str,
    port: u16,
) -> Result<(String, String), RouteError> {
    let found = table.find(
        &Hostname::parse(host).unwrap(),
        &PathReadings::of(path),
        port,
    )?;
    Ok((found.route.label().to_string(), found.instance.to_string()))
}

fn expect_same(table: &RouteTable, routes: &[Arc<RouteConfig>]) {
    let fresh = RouteTable::new(routes);
    let many = (HOSTS.len()..HOSTS.len() + 3).map(|number| format!("h{number}.b"));
    let hosts = PROBES.iter().map(|host| (*host).to_owned()).chain(many);
    for host in hosts {
        for path in TARGETS {
            for port in [80, 81, 9] {
                let (changed, built) = (
                    answer(table, &host, path, port),
                    answer(&fresh, &host, path, port),
                );
                assert_eq!(changed, built, "{host}{path} at {port} of {routes:?}");
            }
        }
    }
    let mut count = 0;
    table.each(|_| count += 1);
    assert_eq!(count, routes.len());
    for config in routes {
        assert_eq!(
            table.get(config).map(|route| Arc::clone(route.config())),
            Some(Arc::clone(config))
        );
        let host = config.host();
        if !host.contains(['*', '{']) {
            let port = config.listen_port.unwrap_or(80);
            assert_eq!(
                answer(table, host, config.path(), port),
                answer(&fresh, host, config.path(), port)
            );
        }
    }
}

/// A route that comes, or goes.
#[derive(Debug, Clone)]
struct Change {
    route: (usize, usize, usize, u32),
    comes: bool,
}

fn changes(hosts: usize, most: usize) -> impl Strategy<Value = Vec<Change>> {
    let one = (
        0..hosts,
        0..PATHS.len(),
        0..PORTS.len(),
        0..4_u32,
        prop::bool::weighted(0.7),
    );
    let one = one.prop_map(|(host, path, port, instance, comes)| Change {
        route: (host, path, port, instance),
        comes,
    });
    prop::collection::vec(one, 0..most)
}

fn play(changes: &[Change]) {
    let (mut table, mut routes) = (RouteTable::<()>::default(), Vec::<Arc<RouteConfig>>::new());
    let mut earlier = None;
    for (at, change) in changes.iter().enumerate() {
        if at == changes.len() / 2 {
            earlier = Some((table.clone(), routes.clone()));
        }
        let (host, path, port, instance) = change.route;
        let config = route(host, path, port, instance);
        let was_there = routes.iter().any(|other| is_same(other, &config));
        assert_eq!(table.remove(&config), was_there);
        routes.retain(|other| !is_same(other, &config));
        assert!(table.get(&config).is_none());
        if change.comes {
            table.insert(Route::new(Arc::clone(&config), ()));
            routes.push(config);
        }
    }
    expect_same(&table, &routes);
    if let Some((table, routes)) = earlier {
        // Whoever had the table before sees nothing of what came later.
        expect_same(&table, &routes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_changed_table_answers_as_one_that_is_built_anew(changes in changes(HOSTS.len(), 40)) {
        play(&changes);
    }

    #[test]
    fn the_same_is_so_of_a_table_with_many_hosts(changes in changes(400, 300)) {
        play(&changes);
    }

    #[test]
    fn where_no_two_routes_are_alike_the_order_of_changes_makes_no_difference(
        (routes, seed) in (prop::collection::btree_set((0..60_usize, 0..4_usize, 0..3_usize), 0..80), any::<u64>())
    ) {
        // `{other}.b` is `{a}.b` by another name, `api.x.b` is of either of two patterns with one
        // capture, and `/V1` may be `/v1`.
        let is_like_another = |host| matches!(HOSTS.get(host), Some(&"{other}.b" | &"{a}.x.b"));
        let plain = |(host, path, port): (usize, usize, usize)| {
            let is_plain = !is_like_another(host) && PATHS[path] != "/V1";
            is_plain.then(|| route(host, path, port, 1))
        };
        let routes: Vec<_> = routes.into_iter().filter_map(plain).collect();
        let mut shuffled = routes.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
        let mut table = RouteTable::default();
        for config in &shuffled {
            table.insert(Route::new(Arc::clone(config), ()));
        }
        expect_same(&table, &routes);
    }
}

#[test]
fn a_table_of_thousands_is_emptied_route_by_route() {
    let routes: Vec<_> = (0..3_000)
        .map(|number| route(1_000 + number, 0, 0, 1))
        .collect();
    let whole = RouteTable::new(&routes);
    let mut table = whole.clone();
    for (at, config) in routes.iter().enumerate() {
        assert!(table.remove(config) && !table.remove(config));
        let next = routes.get(at + 1);
        assert!(next.is_none_or(|next| table.get(next).is_some()));
    }
    let mut count = 0;
    table.each(|_| count += 1);
    assert_eq!(count, 0);
    assert!(routes.iter().all(|config| whole.get(config).is_some()));
}

//! Certificates by ACME in a fleet: what fronts share is in etcd, sealed.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::time::Instant;
use wakegate::fleet::engine::read_all;
use wakegate::fleet::{Place, Role};

use crate::acme::{Pebble, certificates, is_trusted, orders};
use crate::support::etcd::{Etcd, has_etcd};
use crate::support::fleet::{Authority, Directory, at, member};
use crate::support::{Gateway, Plane, eventually_within, route, wakegate};

const PATIENCE: Duration = Duration::from_secs(120);
const ELSEWHERE: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"acme\"\n";
const NAMES: [&str; 3] = ["one", "two", "three"];

fn fleet(etcd: &Etcd, name: &str, keys: &Path) -> String {
    format!(
        "[fleet]\nendpoints = {}\nname = \"{name}\"\npublish = \"none\"\nkey_file = \"{}\"\n",
        etcd.endpoints(),
        keys.display()
    )
}

async fn has_all(gateway: &Gateway) -> bool {
    let all = certificates(gateway).await;
    all.len() == NAMES.len() && all.iter().all(|one| one["not_after"].is_string())
}

/// Three fronts, of which the one that the CA asks has no route for the names.
async fn three_fronts(challenge: &str) {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let mut etcd = Etcd::start(1).await;
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let keys = dir.path().join("keys");
    std::fs::write(&keys, BASE64_STANDARD.encode([7; 32])).unwrap();
    let extra = |name: &str, routes: &[&str], listeners: &str| {
        let routes: String = routes.iter().map(|name| route(name, "")).collect();
        let acme = pebble.acme(
            &dir.path().join(name),
            &format!("challenge = \"{challenge}\""),
        );
        [
            routes,
            acme,
            listeners.to_owned(),
            fleet(&etcd, name, &keys),
        ]
        .concat()
    };
    let asked = Gateway::start(&plane, &extra("a", &[], &pebble.listeners("\"acme\""))).await;
    let second = Gateway::start(&plane, &extra("b", &NAMES, ELSEWHERE)).await;
    let again = extra("c", &NAMES, ELSEWHERE);
    let third = Gateway::start(&plane, &again).await;
    let roots = pebble.roots().await;
    for front in [&second, &third] {
        eventually_within(PATIENCE, "it has all", async || has_all(front).await).await;
        for name in NAMES {
            assert!(is_trusted(front.addresses[1], &roots, &format!("{name}.test")).await);
        }
    }
    let mut made = 0.0;
    for front in [&asked, &second, &third] {
        made += orders(front, "ok").await;
        assert_eq!(orders(front, "failed").await, 0.0);
    }
    assert_eq!(made, 3.0, "one order a name");
    // Nothing of it can be read in etcd, nor in the copy.
    let (entries, _) = read_all(&etcd.engine(), "/wakegate/sealed/").await.unwrap();
    let kinds = ["certificates/", "account-", "tickets/ring"];
    for kind in kinds {
        assert!(
            entries.iter().any(|entry| entry.key.contains(kind)),
            "{kind}"
        );
    }
    for entry in &entries {
        let text = String::from_utf8_lossy(&entry.value);
        let is_lock = entry.key.contains("/locks/");
        assert!(is_lock || text.starts_with("{\"sealed\""), "{}", entry.key);
    }
    let file = dir.path().join("c/fleet");
    let mut copy = String::new();
    eventually_within(PATIENCE, "the copy is written", async || {
        copy = std::fs::read_to_string(&file).unwrap_or_default();
        NAMES
            .iter()
            .all(|name| copy.contains(&format!("{name}.test.pem")))
    })
    .await;
    assert!(!copy.contains("PRIVATE KEY") && !copy.contains("key_pkcs8"));
    third.stop().await;
    // A front that starts while etcd is away has them all, and orders nothing.
    etcd.kill(0);
    let third = Gateway::start(&plane, &again).await;
    for name in NAMES {
        assert!(is_trusted(third.addresses[1], &roots, &format!("{name}.test")).await);
    }
    assert_eq!(
        orders(&third, "ok").await + orders(&third, "failed").await,
        0.0
    );
    for front in [asked, second, third] {
        front.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_fronts_make_one_order_a_name_and_the_one_that_the_ca_asks_answers() {
    if !has_etcd() {
        return;
    }
    three_fronts("tls-alpn-01").await;
    three_fronts("http-01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_that_starts_again_has_the_certificates_of_the_directory_s_routes_at_once() {
    if !has_etcd() {
        return;
    }
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let mut etcd = Etcd::start(1).await;
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let [keys, file, snapshot, acme] =
        ["keys", "fleet.toml", "directory", "acme"].map(|name| dir.path().join(name));
    std::fs::write(&keys, BASE64_STANDARD.encode([7; 32])).unwrap();
    let section = format!("{}snapshot = {snapshot:?}\n", fleet(&etcd, "a", &keys));
    std::fs::write(&file, &section).unwrap();
    let mut put = wakegate();
    put.args(["fleet", "put", "--host", "shop.test", "--instance", "shop"]);
    put.arg("-c").arg(&file);
    let put = tokio::task::spawn_blocking(move || put.output().unwrap());
    let put = put.await.unwrap();
    assert!(put.status.success(), "{put:?}");
    let listeners = pebble.listeners("\"acme\"");
    let extra = [pebble.acme(&acme, ""), listeners, section].concat();
    let (roots, at) = (pebble.roots().await, pebble.tls_address());
    let front = Gateway::start(&plane, &extra).await;
    eventually_within(PATIENCE, "it has a certificate", async || {
        is_trusted(at, &roots, "shop.test").await
    })
    .await;
    eventually_within(PATIENCE, "all is on the disk", async || {
        let has = |file: &Path, what: &str| {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.contains(what)
        };
        has(&snapshot, "shop.test") && has(&acme.join("fleet"), "shop.test.pem")
    })
    .await;
    front.stop().await;
    for is_away in [false, true] {
        if is_away {
            etcd.kill(0);
        }
        let front = Gateway::start(&plane, &extra).await;
        assert!(is_trusted(at, &roots, "shop.test").await, "{is_away}");
        assert_eq!(certificates(&front).await.len(), 1, "{is_away}");
        assert_eq!(orders(&front, "ok").await, 0.0, "{is_away}");
        front.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_demand_a_front_orders_for_what_a_host_has_published_and_for_nothing_else() {
    let Some(pebble) = Pebble::start().await else {
        return;
    };
    let (authority, directory) = (Authority::new(), Directory::new());
    let (dir, nowhere) = (tempfile::tempdir().unwrap(), ([127, 0, 0, 1], 1).into());
    let host = member("h-1", Role::Node, nowhere);
    directory.put("shop", at(&host, "id-of-shop"));
    let away = "h-2".to_owned();
    directory.put("away", Place::Unreachable { host: away });
    let acme = pebble.acme(&dir.path().join("acme"), "on_demand = true");
    let extra = [acme, pebble.listeners("\"acme\"")].concat();
    let identity = authority.identity("front", "f-1");
    let front = Gateway::front(identity, &directory, &extra).await;
    let (roots, address) = (pebble.roots().await, pebble.tls_address());
    let began = Instant::now();
    for name in ["nobody.test", "a.shop.test", "shop.org"] {
        assert!(!is_trusted(address, &roots, name).await, "{name}");
    }
    assert!(began.elapsed() < Duration::from_secs(6));
    for name in ["shop.test", "away.test"] {
        assert!(is_trusted(address, &roots, name).await, "{name}");
    }
    assert_eq!(orders(&front, "ok").await, 2.0);
    assert_eq!(certificates(&front).await.len(), 2);
    let reads = directory.reads.load(Ordering::SeqCst);
    assert_eq!(reads, 0, "who guesses names costs the directory nothing");
    front.stop().await;
}

//! CAs that answer garbage, forget, refuse and hang; disks and files that fail; gateways that are killed
//! in the middle; against a CA that plays a part.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls::RootCertStore;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

use crate::acme::{certificates, handshake, is_trusted, orders};
use crate::support::reserved::Reserved;
use crate::support::scripted_ca::{Asked, Say, ScriptedCa, Step};
use crate::support::{
    ConfigFile, Gateway, Lines, Plane, Program, config, eventually_within, route, spawn, wakegate,
};

const PATIENCE: Duration = Duration::from_secs(120);
const DAY: i64 = 86_400;

/// Routes for these names, with what the CA needs; beside the first listener one at `tls`, for
/// certificates of the CA.
fn extra(ca: &ScriptedCa, tls: &Reserved, dir: &Path, names: &[&str], more: &str) -> String {
    let routes: String = names.iter().map(|name| route(name, "")).collect();
    let listener = format!(
        "[[listener]]\naddress = \"{}\"\ntls = \"acme\"\n",
        tls.address
    );
    [routes, ca.acme(dir, more), listener].concat()
}

/// Puts a certificate where a gateway finds it.
fn put(ca: &ScriptedCa, dir: &Path, name: &str, life: (i64, i64)) {
    let (key, chain) = ca.issue(name, life);
    let folder = dir.join("certificates");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.pem")), key + &chain).unwrap();
}

async fn is_served(gateway: &Gateway, roots: &Arc<RootCertStore>, name: &str) -> bool {
    is_trusted(gateway.addresses[1], roots, name).await
}

/// What is known of a name.
async fn state(gateway: &Gateway, name: &str) -> Value {
    let all = certificates(gateway).await;
    let found = all.into_iter().find(|one| one["name"] == name);
    found.unwrap_or_default()
}

async fn has_order(gateway: &Gateway, outcome: &str, count: f64) {
    eventually_within(PATIENCE, &format!("{count} orders {outcome}"), async || {
        orders(gateway, outcome).await >= count
    })
    .await;
}

/// In how long a name is ordered next.
async fn next_in(gateway: &Gateway, name: &str) -> SignedDuration {
    let state = state(gateway, name).await;
    let next: Timestamp = state["next_attempt"].as_str().unwrap().parse().unwrap();
    next.duration_since(Timestamp::now())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_ca_gives_instead_of_a_certificate_the_one_of_before_stays_and_the_reason_is_told()
 {
    let (ca, tls) = (ScriptedCa::start().await, Reserved::new());
    let (_, of_another_key) = ca.issue("shop.test", (-10, DAY));
    let answers: [(Step, Say, &str); 9] = [
        (
            Step::Certificate,
            Say::text(200, "<html>welcome</html>"),
            "certificate",
        ),
        (
            Step::Certificate,
            Say::text(200, &of_another_key),
            "key that does not fit",
        ),
        (
            Step::Certificate,
            Say::text(200, &"x".repeat(2_000_000)),
            "too large",
        ),
        (
            Step::Order,
            Say::text(502, "<html>bad gateway</html>"),
            "502 Bad Gateway",
        ),
        (Step::Order, Say::text(200, "{}"), "not what it should be"),
        (
            Step::Directory,
            Say::text(301, "").with_field("location", "https://elsewhere.test/dir"),
            "https://elsewhere.test/dir",
        ),
        (
            Step::Order,
            Say::problem(429, "rateLimited").with_field("retry-after", "18446744073709551615"),
            "rateLimited",
        ),
        (
            Step::State,
            Say::text(200, "no JSON").with_field("retry-after", "9223372036854775807"),
            "not what it should be",
        ),
        (Step::Finalize, Say::problem(403, "badCSR"), "badCSR"),
    ];
    let (plane, roots) = (Plane::start().await, ca.roots(0));
    for (step, say, told) in answers {
        let dir = tempfile::tempdir().unwrap();
        // It is to be renewed at once.
        put(&ca, dir.path(), "shop.test", (-80 * DAY, 10 * DAY));
        let answer = say.clone();
        ca.play(move |asked| match asked.step == step {
            true => answer.clone(),
            false => Say::Usual,
        });
        let gateway = Gateway::start(&plane, &extra(&ca, &tls, dir.path(), &["shop"], "")).await;
        has_order(&gateway, "failed", 1.0).await;
        let state = state(&gateway, "shop.test").await;
        let error = state["error"].as_str().unwrap();
        assert!(error.contains(told), "{step:?} {told}: {error}");
        assert!(is_served(&gateway, &roots, "shop.test").await, "{told}");
        let next = next_in(&gateway, "shop.test").await;
        assert!(next.as_secs() > 30 && next.as_hours() <= 7 * 24, "{next:?}");
        // It goes on: another name is ordered.
        ca.play(|_| Say::Usual);
        let more = extra(&ca, &tls, dir.path(), &["shop", "more"], "");
        let fresh = config(plane.address, &plane.token, &more);
        gateway.handle.reload(&fresh).unwrap();
        has_order(&gateway, "ok", 1.0).await;
        assert!(is_served(&gateway, &roots, "more.test").await, "{told}");
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_says_its_profile_and_what_it_replaces_where_the_ca_knows_of_that() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    put(&ca, dir.path(), "shop.test", (-80 * DAY, 10 * DAY));
    put(&ca, dir.path(), "other.test", (-80 * DAY, 10 * DAY));
    put(&ca, dir.path(), "odd.test", (-80 * DAY, 10 * DAY));
    ca.play(|asked| {
        let names = asked.payload["identifiers"][0]["value"].as_str();
        let replaces = !asked.payload["replaces"].is_null();
        match (asked.step, names) {
            (Step::Order, Some("other.test")) if replaces => Say::problem(409, "alreadyReplaced"),
            // As if it had not heard of it.
            (Step::Order, Some("odd.test")) if replaces => Say::Answer(
                201,
                vec![("location", "https://nowhere.test/".to_owned())],
                r#"{"status":"pending","authorizations":[],"finalize":"https://nowhere.test/"}"#
                    .to_owned(),
            ),
            (_, _) => Say::Usual,
        }
    });
    let more = "profile = \"shortlived\"";
    let names = ["shop", "other", "odd"];
    let gateway = Gateway::start(&plane, &extra(&ca, &tls, dir.path(), &names, more)).await;
    has_order(&gateway, "ok", 3.0).await;
    assert_eq!(orders(&gateway, "failed").await, 0.0);
    let asked = ca.asked(Step::Order);
    let of = |name: &str| {
        let of = |one: &&Asked| one.payload["identifiers"][0]["value"] == name;
        asked.iter().filter(of).collect::<Vec<_>>()
    };
    for (name, count) in [("shop.test", 1), ("other.test", 2), ("odd.test", 2)] {
        let orders = of(name);
        assert_eq!(orders.len(), count, "{name}");
        assert!(orders[0].payload["replaces"].is_string(), "{name}");
        assert!(
            orders
                .iter()
                .all(|one| one.payload["profile"] == "shortlived")
        );
    }
    // What it replaces has the name by which the CA is asked about it.
    let replaced = of("shop.test")[0].payload["replaces"].clone();
    let (key, serial) = replaced.as_str().unwrap().split_once('.').unwrap();
    assert!(!key.is_empty() && !serial.is_empty());
    eventually_within(PATIENCE, "the new ones are asked about", async || {
        ca.asked(Step::Renewal).len() >= 3
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_has_begun_is_followed_at_once_and_one_that_never_comes_is_not() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    put(&ca, dir.path(), "soon.test", (-10 * DAY, 80 * DAY));
    put(&ca, dir.path(), "never.test", (-10 * DAY, 80 * DAY));
    let old = ca.asked(Step::Renewal).len();
    assert_eq!(old, 0);
    // The first two that are asked about are those of before; no Retry-After comes with it.
    ca.play(|asked| {
        let window = |start: &str, end: &str| {
            let text = format!(r#"{{"suggestedWindow":{{"start":"{start}","end":"{end}"}}}}"#);
            Say::text(200, &text)
        };
        match (asked.step, asked.count) {
            (Step::Renewal, 1) => window("2020-01-02T04:00:00Z", "2020-01-03T04:00:00Z"),
            (Step::Renewal, 2) => window("2999-01-02T04:00:00Z", "2999-01-03T04:00:00Z"),
            (_, _) => Say::Usual,
        }
    });
    let gateway = Gateway::start(
        &plane,
        &extra(&ca, &tls, dir.path(), &["soon", "never"], ""),
    )
    .await;
    has_order(&gateway, "ok", 1.0).await;
    eventually_within(PATIENCE, "all were asked about", async || {
        ca.asked(Step::Renewal).len() >= 3
    })
    .await;
    assert_eq!(orders(&gateway, "ok").await, 1.0);
    // Whichever was second is renewed before it ends, whatever the CA says.
    for name in ["soon.test", "never.test"] {
        eventually_within(PATIENCE, "the suggestion is known", async || {
            next_in(&gateway, name).await.as_hours() < 80 * 24
        })
        .await;
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_the_ca_has_forgotten_or_whose_file_is_damaged_is_made_anew() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    let all = |names: &[&str]| extra(&ca, &tls, dir.path(), names, "");
    let gateway = Gateway::start(&plane, &all(&["one"])).await;
    has_order(&gateway, "ok", 1.0).await;
    // It forgets while the gateway runs.
    ca.forget_accounts();
    let fresh = config(plane.address, &plane.token, &all(&["one", "two"]));
    gateway.handle.reload(&fresh).unwrap();
    has_order(&gateway, "ok", 2.0).await;
    assert_eq!(orders(&gateway, "failed").await, 0.0);
    assert_eq!(ca.asked(Step::Account).len(), 2);
    gateway.stop().await;
    let account = std::fs::read_dir(dir.path()).unwrap();
    let mut account = account
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file());
    let (account, None) = (account.next().unwrap(), account.next()) else {
        panic!("more than one file");
    };
    let good = std::fs::read_to_string(&account).unwrap();
    let mut of_another_ca: Value = serde_json::from_str(&good).unwrap();
    of_another_ca["directory"] = "https://another.test/dir".into();
    let mut bad_key: Value = serde_json::from_str(&good).unwrap();
    bad_key["key_pkcs8"] = "AAAA".into();
    let damaged = [
        String::new(),
        "{}".to_owned(),
        of_another_ca.to_string(),
        bad_key.to_string(),
    ];
    for (index, text) in damaged.iter().enumerate() {
        std::fs::write(&account, text).unwrap();
        let name = format!("new{index}");
        let gateway = Gateway::start(&plane, &all(&[&name])).await;
        has_order(&gateway, "ok", 1.0).await;
        assert_eq!(ca.asked(Step::Account).len(), 3 + index, "{text}");
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_that_has_moved_its_resources_is_found_again_without_a_restart() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    let all = |names: &[&str]| extra(&ca, &tls, dir.path(), names, "");
    let nowhere = format!("{}/gone", ca.directory.trim_end_matches("/dir"));
    ca.play(move |asked| match (asked.step, asked.count) {
        // It is read for the account, and for the orders.
        (Step::Directory, 1 | 2) => {
            let text = format!(
                r#"{{"newNonce":"{0}/nonce","newAccount":"{0}/account","newOrder":"{1}"}}"#,
                nowhere.trim_end_matches("/gone"),
                nowhere
            );
            Say::text(200, &text)
        }
        (_, _) => Say::Usual,
    });
    let gateway = Gateway::start(&plane, &all(&["one"])).await;
    has_order(&gateway, "failed", 1.0).await;
    let fresh = config(plane.address, &plane.token, &all(&["one", "two"]));
    gateway.handle.reload(&fresh).unwrap();
    has_order(&gateway, "ok", 1.0).await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_for_one_name_keeps_no_other_waiting() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    ca.play(|asked| {
        let name = asked.payload["identifiers"][0]["value"].as_str();
        match (asked.step, name) {
            (Step::Order, Some("limited.test")) => {
                Say::problem(429, "rateLimited").with_field("retry-after", "7200")
            }
            (Step::Order, Some("broken.test")) => Say::problem(500, "serverInternal"),
            (_, _) => Say::Usual,
        }
    });
    let names = ["limited", "broken", "good"];
    let gateway = Gateway::start(&plane, &extra(&ca, &tls, dir.path(), &names, "")).await;
    has_order(&gateway, "failed", 2.0).await;
    has_order(&gateway, "ok", 1.0).await;
    let (limited, broken) = (
        next_in(&gateway, "limited.test").await,
        next_in(&gateway, "broken.test").await,
    );
    assert!((7000..=7200).contains(&limited.as_secs()), "{limited:?}");
    assert!(broken.as_secs() < 120, "{broken:?}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_damaged_and_a_directory_that_goes_away_cost_no_handshake() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("acme");
    let gateway = Gateway::start(&plane, &extra(&ca, &tls, &dir, &["shop"], "")).await;
    let roots = ca.roots(0);
    has_order(&gateway, "ok", 1.0).await;
    let file = dir.join("certificates/shop.test.pem");
    std::fs::write(&file, "-----BEGIN NONSENSE-----").unwrap();
    gateway.handle.refresh_certificates();
    assert!(is_served(&gateway, &roots, "shop.test").await);
    // Names that change are a reason to look at once.
    let with = |names: &[&str]| {
        let extra = extra(&ca, &tls, &dir, names, "");
        config(plane.address, &plane.token, &extra)
    };
    gateway.handle.reload(&with(&["shop", "new"])).unwrap();
    has_order(&gateway, "ok", 3.0).await;
    assert!(is_served(&gateway, &roots, "shop.test").await);
    // The whole directory goes, and comes back.
    let away = place.path().join("away");
    std::fs::rename(&dir, &away).unwrap();
    gateway.handle.refresh_certificates();
    gateway.handle.reload(&with(&["shop"])).unwrap();
    assert!(is_served(&gateway, &roots, "shop.test").await);
    has_order(&gateway, "failed", 1.0).await;
    let error = state(&gateway, "shop.test").await["error"].clone();
    assert!(
        error.as_str().unwrap().contains(dir.to_str().unwrap()),
        "{error}"
    );
    std::fs::rename(&away, &dir).unwrap();
    gateway.handle.refresh_certificates();
    assert!(is_served(&gateway, &roots, "shop.test").await);
    // Without room for a certificate none is ordered.
    let asked = ca.asked(Step::Order).len();
    let certificates = dir.join("certificates");
    std::fs::rename(&certificates, dir.join("aside")).unwrap();
    std::fs::write(&certificates, "no folder").unwrap();
    gateway.handle.reload(&with(&["shop", "newer"])).unwrap();
    has_order(&gateway, "failed", 2.0).await;
    assert_eq!(ca.asked(Step::Order).len(), asked);
    assert!(is_served(&gateway, &roots, "shop.test").await);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_reload_takes_away_in_the_middle_of_its_order_is_not_served_and_comes_back_without_another()
 {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Notify::new());
    let waits = Arc::clone(&told);
    ca.play(move |asked| match asked.step {
        Step::Finalize => Say::Wait(Arc::clone(&waits)),
        _ => Say::Usual,
    });
    let with = |names: &[&str]| {
        let extra = extra(&ca, &tls, dir.path(), names, "");
        config(plane.address, &plane.token, &extra)
    };
    let all = extra(&ca, &tls, dir.path(), &["shop"], "");
    let gateway = Gateway::start(&plane, &all).await;
    eventually_within(PATIENCE, "the order is under way", async || {
        !ca.asked(Step::Finalize).is_empty()
    })
    .await;
    gateway.handle.reload(&with(&[])).unwrap();
    gateway.handle.reload(&with(&["shop"])).unwrap();
    gateway.handle.reload(&with(&[])).unwrap();
    told.notify_one();
    has_order(&gateway, "ok", 1.0).await;
    assert_eq!(certificates(&gateway).await, Vec::<Value>::new());
    let roots = ca.roots(0);
    assert!(!is_served(&gateway, &roots, "shop.test").await);
    gateway.handle.reload(&with(&["shop"])).unwrap();
    assert!(is_served(&gateway, &roots, "shop.test").await);
    assert_eq!(ca.asked(Step::Order).len(), 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_expired_before_the_start_is_ordered_and_one_that_comes_old_not_again_and_again()
 {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    let dir = tempfile::tempdir().unwrap();
    put(&ca, dir.path(), "expired.test", (-90 * DAY, -60));
    // By this gateway's clock, whatever is wrong with it, two thirds of its life are over.
    ca.issue_for((-80 * DAY, 10 * DAY));
    let all = extra(&ca, &tls, dir.path(), &["expired"], "");
    let gateway = Gateway::start(&plane, &all).await;
    has_order(&gateway, "ok", 1.0).await;
    assert!(is_served(&gateway, &ca.roots(0), "expired.test").await);
    let next = next_in(&gateway, "expired.test").await;
    assert!(next.as_hours() > 48, "{next:?}");
    gateway.stop().await;
    let gateway = Gateway::start(&plane, &all).await;
    assert!(next_in(&gateway, "expired.test").await.as_hours() > 48);
    gateway.handle.refresh_certificates();
    assert_eq!(ca.asked(Step::Order).len(), 1);
    gateway.stop().await;
    // What had expired when it came is a failure, and not kept in place of a better one.
    ca.issue_for((-90 * DAY, -60));
    put(&ca, dir.path(), "late.test", (-80 * DAY, 10 * DAY));
    let gateway = Gateway::start(&plane, &extra(&ca, &tls, dir.path(), &["late"], "")).await;
    has_order(&gateway, "failed", 1.0).await;
    let error = state(&gateway, "late.test").await["error"].clone();
    assert!(error.as_str().unwrap().contains("expired"), "{error}");
    assert!(is_served(&gateway, &ca.roots(0), "late.test").await);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_ca_s_chains_the_one_is_taken_that_leads_to_the_root_that_is_preferred() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let tls = Reserved::new();
    ca.offer_alternate();
    for (preferred, which) in [
        ("", 0),
        ("preferred_chain = \"scripted root one\"", 0),
        ("preferred_chain = \"scripted root two\"", 1),
        ("preferred_chain = \"nobody\"", 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let all = extra(&ca, &tls, dir.path(), &["shop"], preferred);
        let gateway = Gateway::start(&plane, &all).await;
        has_order(&gateway, "ok", 1.0).await;
        for root in [0, 1] {
            let is_served = is_served(&gateway, &ca.roots(root), "shop.test").await;
            assert_eq!(is_served, root == which, "{preferred}: {root}");
        }
        gateway.stop().await;
    }
    // Its own where the other cannot be had.
    ca.play(|asked| match asked.path.ends_with("/other") {
        true => Say::text(200, "<html>"),
        false => Say::Usual,
    });
    let dir = tempfile::tempdir().unwrap();
    let more = "preferred_chain = \"scripted root two\"";
    let gateway = Gateway::start(&plane, &extra(&ca, &tls, dir.path(), &["shop"], more)).await;
    has_order(&gateway, "ok", 1.0).await;
    assert!(is_served(&gateway, &ca.roots(0), "shop.test").await);
    gateway.stop().await;
    plane.stop().await;
}

/// Kills a gateway in the middle of its first order, at each request, and looks at what the next one
/// makes of it. `is_lost` says that the CA has done what it was asked for.
async fn killed_at_each_request(plane: &Plane, is_lost: bool) {
    let ca = ScriptedCa::start().await;
    let tls = Reserved::new();
    for number in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let listener = format!(
            "[[listener]]\naddress = \"{}\"\ntls = \"acme\"\n",
            tls.address
        );
        let extra = [route("shop", ""), ca.acme(dir.path(), ""), listener].concat();
        let file = ConfigFile::new(plane, "", &extra);
        let serve = ["serve", "-c", file.path.to_str().unwrap()];
        let (seen, mut is_there) = watch::channel(false);
        let came = AtomicUsize::new(0);
        ca.play(move |asked| {
            let is_it = came.fetch_add(1, Ordering::Relaxed) + 1 == number;
            if is_it || asked.step == Step::Renewal {
                seen.send_replace(true);
            }
            match (is_it, is_lost) {
                (false, _) => Say::Usual,
                (true, false) => Say::Hang,
                (true, true) => Say::Lost,
            }
        });
        let mut program = Program::spawn(wakegate().args(serve));
        let seen = tokio::time::timeout(PATIENCE, is_there.wait_for(|is_there| *is_there));
        assert!(seen.await.is_ok(), "request {number}");
        program.kill();
        // All requests of an order were gone through.
        let is_over = dir.path().join("certificates/shop.test.pem").exists();
        ca.play(|_| Say::Usual);
        let mut second = Program::spawn(wakegate().args(serve));
        let roots = ca.roots(0);
        eventually_within(PATIENCE, "the certificate is there", async || {
            TcpStream::connect(tls.address).await.is_ok()
                && is_trusted(tls.address, &roots, "shop.test").await
        })
        .await;
        second.kill();
        assert_eq!(ca.made(), number, "one account for each directory");
        if is_over {
            assert!(number > 8, "an order has more requests: {number}");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_may_be_killed_at_each_request_of_an_order() {
    let plane = Plane::start().await;
    tokio::join!(
        killed_at_each_request(&plane, false),
        killed_at_each_request(&plane, true)
    );
    plane.stop().await;
}

/// A process that serves these names from now on, beside others at the same address.
async fn beside(file: &Path, text: &str) -> Program {
    std::fs::write(file, text).unwrap();
    let file = file.to_str().unwrap();
    let mut program = Program::start(&["serve", "-c", file, "--admin-listen", "127.0.0.1:0"]);
    let mut log = Lines::of(program.0.stderr.take().unwrap());
    log.say("serving", 1).await;
    program
}

/// Asks a process to leave, and waits for it.
async fn leaves(mut program: Program) {
    program.signal("TERM");
    let status = tokio::task::spawn_blocking(move || program.0.wait().unwrap());
    let status = tokio::time::timeout(PATIENCE, status).await;
    assert!(status.unwrap().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_what_is_served_and_an_order_that_was_under_way() {
    let (ca, plane) = (ScriptedCa::start().await, Plane::start().await);
    let (tls, dir) = (Reserved::shared(), tempfile::tempdir().unwrap());
    let (file, key) = (dir.path().join("wakegate.toml"), dir.path().join("key"));
    std::fs::write(&key, &plane.token).unwrap();
    let acme = ca.acme(&dir.path().join("acme"), "");
    let (address, plane_at) = (tls.address, plane.address);
    let with = |names: &[&str]| {
        let routes: String = names.iter().map(|name| route(name, "")).collect();
        format!(
            "[server]\nreuse_port = true\ndrain_idle_timeout = \"1s\"\n[[hypeman]]\n\
             url = \"http://{plane_at}\"\napi_key_file = {key:?}\n\
             [[listener]]\naddress = \"{address}\"\ntls = \"acme\"\n{acme}{routes}"
        )
    };
    let first = beside(&file, &with(&["shop"])).await;
    let roots = ca.roots(0);
    eventually_within(PATIENCE, "it has its certificate", async || {
        is_trusted(address, &roots, "shop.test").await
    })
    .await;
    let (stop, mut is_over) = watch::channel(false);
    let trusted = Arc::clone(&roots);
    let clients = spawn(async move {
        let mut count = 0;
        while !*is_over.borrow_and_update() {
            let done = handshake(address, &trusted, "shop.test").await;
            assert!(done.is_ok(), "{count}: {done:?}");
            count += 1;
        }
        count
    });
    let never = Arc::new(Notify::new());
    ca.play(move |asked| match asked.step {
        Step::Finalize => Say::Wait(Arc::clone(&never)),
        _ => Say::Usual,
    });
    let before = ca.asked(Step::Finalize).len();
    let second = beside(&file, &with(&["shop", "late"])).await;
    leaves(first).await;
    eventually_within(PATIENCE, "another name is being ordered", async || {
        ca.asked(Step::Finalize).len() > before
    })
    .await;
    let third = beside(&file, &with(&["shop", "late"])).await;
    ca.play(|_| Say::Usual);
    leaves(second).await;
    // The lock of an order has ended with its process.
    eventually_within(Duration::from_secs(60), "the order is made", async || {
        is_trusted(address, &roots, "late.test").await
    })
    .await;
    stop.send_replace(true);
    let count = clients.await.unwrap();
    assert!(count > 10, "{count}");
    let of = |name: &str| {
        let orders = ca.asked(Step::Order);
        let of = |one: &&Asked| one.payload["identifiers"][0]["value"] == name;
        orders.iter().filter(of).count()
    };
    assert_eq!((of("shop.test"), of("late.test")), (1, 2));
    leaves(third).await;
    plane.stop().await;
}

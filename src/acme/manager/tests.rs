use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::config::{Variables, load};
use crate::fleet::memory::Faults;
use crate::fleet::{MemoryEngine, Vault};

const NAME: &str = "shop.test";
const DAY: i64 = 86_400;

/// One whose CA is not there, and whose clock can be set; it follows the paused time otherwise.
fn without_ca(dir: &Path) -> (Arc<Acme>, Arc<AtomicI64>) {
    let text = format!(
        "[acme]\ndirectory = \"https://127.0.0.1:9/dir\"\ndir = {dir:?}\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"acme\"\n\
         [[route]]\nhost = \"{NAME}\"\ninstance = \"shop\"\n"
    );
    let config = load("t", &text, &Variables::default()).unwrap().acme;
    let (began, started, moved) = (Timestamp::now(), Instant::now(), Arc::default());
    let by = Arc::clone(&moved);
    let clock = move || {
        let passed = SignedDuration::try_from(started.elapsed()).unwrap();
        began + passed + SignedDuration::from_secs(AtomicI64::load(&by, Ordering::Relaxed))
    };
    let store = AcmeStore::open(dir).unwrap();
    let acme = Acme::with_clock(config, store, Arc::new(Metrics::new()), Box::new(clock));
    acme.set_names([NAME.to_owned()].into());
    (acme, moved)
}

/// Keeps a certificate that holds from so many days from now on for 90.
async fn keep(acme: &Acme, days: i64) {
    let day = |days: i64| {
        let at = Timestamp::now().as_second() + days * DAY;
        std::time::UNIX_EPOCH + Duration::from_secs(at.try_into().unwrap())
    };
    let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    (params.not_before, params.not_after) = (day(days).into(), day(days + 90).into());
    let key = rcgen::KeyPair::generate().unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let key = key.serialize_pem();
    let saved = acme.store.save(NAME, &key, &chain);
    saved.await.unwrap().unwrap();
    acme.refresh();
}

async fn run_for(acme: &Arc<Acme>, seconds: i64) {
    let limit = Duration::from_secs(seconds.try_into().unwrap());
    assert!(timeout(limit, Arc::clone(acme).run()).await.is_err());
}

fn attempts(acme: &Acme) -> u32 {
    acme.failures().get(NAME).map_or(0, |failure| failure.count)
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_is_away_for_a_day_is_asked_a_dozen_times_and_the_certificate_of_before_serves() {
    let dir = tempfile::tempdir().unwrap();
    let (acme, _) = without_ca(dir.path());
    keep(&acme, -70).await;
    run_for(&acme, DAY).await;
    let count = attempts(&acme);
    assert!((8..=13).contains(&count), "{count}");
    assert!(acme.has(NAME));
    let [state] = &acme.states()[..] else {
        panic!("one name");
    };
    assert!(state.error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_is_followed_within_a_minute_forward_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (acme, moved) = without_ca(dir.path());
    keep(&acme, -10).await;
    let sets_it = async {
        sleep(Duration::from_secs(3600)).await;
        assert_eq!(attempts(&acme), 0);
        moved.store(60 * DAY, Ordering::Relaxed);
    };
    tokio::join!(run_for(&acme, 3662), sets_it);
    let count = attempts(&acme);
    assert!(count > 0);
    // By the clock of then the next try would be in two months.
    keep(&acme, -70).await;
    moved.store(0, Ordering::Relaxed);
    run_for(&acme, 30).await;
    assert_eq!(attempts(&acme), count + 1);
    // Before the certificate holds, nothing is to be renewed.
    keep(&acme, -10).await;
    moved.store(-100 * DAY, Ordering::Relaxed);
    run_for(&acme, DAY).await;
    assert_eq!(attempts(&acme), count + 1);
    assert!(acme.has(NAME));
}

/// A front of a fleet, with this key; its CA is not there.
fn in_fleet(dir: &Path, engine: &MemoryEngine, key: u8) -> Arc<Acme> {
    let vault = Vault::followed(dir, engine, key);
    let acme = AcmeConfig {
        directory: "https://127.0.0.1:9/dir".to_owned(),
        ..AcmeConfig::default()
    };
    let store = AcmeStore::in_fleet(vault, dir).unwrap();
    let (began, started) = (Timestamp::now(), Instant::now());
    let clock = move || began + SignedDuration::try_from(started.elapsed()).unwrap();
    let acme = Acme::with_clock(acme, store, Arc::new(Metrics::new()), Box::new(clock));
    acme.set_names([NAME.to_owned()].into());
    acme
}

fn told(acme: &Acme) -> String {
    let [state] = &acme.states()[..] else {
        panic!("one name");
    };
    state.error.clone().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_front_without_the_key_orders_nothing_anew_and_says_so() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), MemoryEngine::new());
    let one = in_fleet(dir.path(), &engine, 1);
    keep(&one, -10).await;
    assert!(one.has(NAME));
    let stranger = in_fleet(dir.path(), &engine, 2);
    run_for(&stranger, 30).await;
    assert!(!stranger.has(NAME));
    let error = told(&stranger);
    assert!(error.contains("not in `fleet.key_file`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn while_the_directory_is_away_nothing_is_ordered_and_no_failure_is_counted() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), MemoryEngine::new());
    let acme = in_fleet(dir.path(), &engine, 1);
    engine.set_faults(Faults {
        away: true,
        ..Faults::default()
    });
    run_for(&acme, 1800).await;
    assert_eq!(attempts(&acme), 0);
    let error = told(&acme);
    assert!(error.contains("the directory does not answer"), "{error}");
    // Then the CA's absence is what is wrong.
    engine.set_faults(Faults::default());
    run_for(&acme, 120).await;
    assert!(attempts(&acme) > 0);
}

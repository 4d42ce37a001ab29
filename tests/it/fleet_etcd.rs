//! The directory of a fleet in a real etcd: members that are killed and paused, compaction, a backup.
//!
//! Guarantees: each test has an etcd of its own, in folders of its own; it ends with the test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wakegate::config::{FleetConfig, WakeConfig};
use wakegate::fleet::engine::{
    Change, Compare, Engine, EngineError, Entry, News, Operation, Range, end_of, read_all,
};
use wakegate::fleet::records::PREFIX;
use wakegate::fleet::{Directory, EtcdEngine, MemoryEngine, Own, Sink, Step, follow};

use crate::support::etcd::{Etcd, has_etcd};
use crate::support::{eventually, spawn};

struct Quiet;

impl Sink for Quiet {
    fn take(&self, step: Step<'_>) {
        step();
    }
}

/// A front's copy that follows.
fn following(etcd: &Etcd) -> Arc<Directory> {
    let name = "f".to_owned();
    following_as(
        etcd,
        Own {
            name,
            ..Own::default()
        },
    )
}

fn following_as(etcd: &Etcd, own: Own) -> Arc<Directory> {
    let engine: Arc<dyn Engine> = Arc::new(etcd.engine());
    let wake = WakeConfig::default();
    let copy = Directory::new(own, &etcd.config(), &wake, "default", engine).unwrap();
    spawn(follow(Arc::clone(&copy), Arc::new(Quiet)));
    copy
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put {
        key: key.to_owned(),
        value: value.as_bytes().to_vec(),
        lease: 0,
    }
}

async fn write(engine: &dyn Engine, host: &str) {
    let key = format!("{PREFIX}r/op/{host}");
    eventually("it is written", async || {
        let put = put(&key, "{\"instance\":\"a\"}");
        engine.commit(Vec::new(), vec![put]).await.is_ok()
    })
    .await;
}

async fn is_served(copy: &Directory, host: &str) {
    eventually(host, async || {
        copy.lines().iter().any(|line| line.host == host)
    })
    .await;
}

#[tokio::test]
async fn a_copy_follows_while_members_are_killed_and_paused() {
    if !has_etcd() {
        return;
    }
    let mut etcd = Etcd::start(3).await;
    let (engine, copy) = (etcd.engine(), following(&etcd));
    write(&engine, "first.x").await;
    is_served(&copy, "first.x").await;
    for index in 0..3 {
        etcd.kill(index);
        let host = format!("killed-{index}.x");
        write(&engine, &host).await;
        is_served(&copy, &host).await;
        etcd.run(index);
        let own = FleetConfig {
            endpoints: vec![etcd.endpoint(index)],
            ..FleetConfig::default()
        };
        let own = EtcdEngine::new(&own).unwrap();
        eventually("it is back", async || read_all(&own, PREFIX).await.is_ok()).await;
    }
    for index in 0..3 {
        etcd.signal(index, rustix::process::Signal::STOP);
        let host = format!("paused-{index}.x");
        write(&engine, &host).await;
        is_served(&copy, &host).await;
        etcd.signal(index, rustix::process::Signal::CONT);
        let own = FleetConfig {
            endpoints: vec![etcd.endpoint(index)],
            ..FleetConfig::default()
        };
        let own = EtcdEngine::new(&own).unwrap();
        eventually("it goes on", async || read_all(&own, PREFIX).await.is_ok()).await;
    }
    // Without a quorum nothing is taken away.
    etcd.kill(0);
    etcd.kill(1);
    let known = copy.lines();
    eventually("it is noticed", async || {
        copy.age().is_some_and(|age| age > Duration::from_secs(3))
    })
    .await;
    assert_eq!(copy.lines(), known);
    assert!(
        engine
            .commit(Vec::new(), vec![put("x", "y")])
            .await
            .is_err()
    );
    etcd.run(0);
    write(&engine, "again.x").await;
    is_served(&copy, "again.x").await;
}

#[tokio::test]
async fn what_fell_behind_a_compaction_is_read_anew() {
    if !has_etcd() {
        return;
    }
    let etcd = Etcd::start(1).await;
    let engine = etcd.engine();
    for index in 0..5 {
        write(&engine, &format!("a{index}.x")).await;
    }
    etcd.control(&["compact", "4"]);
    let range = Range {
        from: PREFIX.to_owned(),
        to: end_of(PREFIX),
        limit: 10,
        revision: 2,
    };
    let refused = engine.range(range).await;
    assert!(
        matches!(refused, Err(EngineError::Compacted(_))),
        "{refused:?}"
    );
    let mut news = engine.watch(PREFIX.to_owned(), 2).await.unwrap();
    loop {
        match futures_util::StreamExt::next(&mut news).await.unwrap() {
            Ok(News::Alive(_)) => {}
            Err(EngineError::Compacted(revision)) => {
                assert_eq!(revision, 4);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let copy = following(&etcd);
    is_served(&copy, "a4.x").await;
}

#[tokio::test]
async fn a_node_watches_its_own_claims_and_what_it_needs_of_others_through_restarts() {
    if !has_etcd() {
        return;
    }
    let mut etcd = Etcd::start(1).await;
    let (engine, front) = (etcd.engine(), following(&etcd));
    let node = following_as(
        &etcd,
        Own {
            name: "h1".to_owned(),
            is_node: true,
            meets_nobody: true,
        },
    );
    let claim = async |host: &str, name: &str| {
        let put = put(&format!("{PREFIX}i/{host}/{name}"), "{\"id\":\"x\"}");
        engine.commit(Vec::new(), vec![put]).await.unwrap();
    };
    let knows = async |copy: &Directory, claims: usize| {
        eventually("the claims are known", async || {
            copy.status().claims == claims
        })
        .await;
    };
    claim("h1", "own").await;
    claim("h10", "other").await;
    write(&engine, "a.x").await;
    is_served(&node, "a.x").await;
    knows(&front, 2).await;
    knows(&node, 1).await;
    etcd.kill(0);
    etcd.run(0);
    write(&engine, "b.x").await;
    claim("h0", "another").await;
    claim("h1", "more").await;
    is_served(&node, "b.x").await;
    knows(&node, 2).await;
    knows(&front, 4).await;
    assert_eq!((node.status().went_back, front.status().went_back), (0, 0));
}

#[tokio::test]
async fn a_backup_that_lacks_one_change_is_noticed_though_the_same_key_was_written_again() {
    if !has_etcd() {
        return;
    }
    let mut etcd = Etcd::start(1).await;
    let (engine, copy) = (etcd.engine(), following(&etcd));
    write(&engine, "a.x").await;
    is_served(&copy, "a.x").await;
    etcd.control(&["snapshot", "save", "backup"]);
    let key = format!("{PREFIX}r/op/a.x");
    let lost = put(&key, "{\"instance\":\"lost\"}");
    engine.commit(Vec::new(), vec![lost]).await.unwrap();
    let serves = async |instance: &str| {
        eventually(instance, async || {
            copy.lines().iter().any(|line| line.instance == instance)
        })
        .await;
    };
    serves("lost").await;
    etcd.kill(0);
    etcd.restore(None);
    // Written before anybody who follows can have come back, and so at the same revision.
    let elsewhere = etcd.run_elsewhere(0).await;
    let other = put(&key, "{\"instance\":\"other\"}");
    let done = elsewhere.commit(Vec::new(), vec![other]).await.unwrap();
    assert_eq!(done.revision, copy.known());
    etcd.kill(0);
    etcd.run(0);
    serves("other").await;
    assert_eq!(copy.status().went_back, 1);
}

#[tokio::test]
async fn another_cluster_is_read_anew_though_it_says_the_same() {
    if !has_etcd() {
        return;
    }
    let mut etcd = Etcd::start(1).await;
    let (engine, copy) = (etcd.engine(), following(&etcd));
    write(&engine, "a.x").await;
    is_served(&copy, "a.x").await;
    etcd.control(&["snapshot", "save", "backup"]);
    etcd.kill(0);
    etcd.restore(Some("another"));
    etcd.run(0);
    eventually("it is noticed", async || copy.status().went_back == 1).await;
    write(&engine, "b.x").await;
    is_served(&copy, "b.x").await;
    assert_eq!(copy.lines().len(), 2);
    // It is told once.
    assert_eq!(copy.status().went_back, 1);
}

#[tokio::test]
async fn an_old_backup_is_noticed_and_followed() {
    if !has_etcd() {
        return;
    }
    let mut etcd = Etcd::start(1).await;
    let (engine, copy) = (etcd.engine(), following(&etcd));
    write(&engine, "old.x").await;
    etcd.control(&["snapshot", "save", "backup"]);
    for index in 0..5 {
        write(&engine, &format!("new-{index}.x")).await;
    }
    is_served(&copy, "new-4.x").await;
    etcd.kill(0);
    etcd.restore(None);
    etcd.run(0);
    eventually("it is noticed", async || copy.status().went_back == 1).await;
    eventually("it is followed", async || copy.lines().len() == 1).await;
    write(&engine, "after.x").await;
    is_served(&copy, "after.x").await;
}

#[tokio::test]
async fn leases_end_and_take_their_keys_with_them() {
    if !has_etcd() {
        return;
    }
    let etcd = Etcd::start(1).await;
    let engine = etcd.engine();
    let lease = engine.grant(60).await.unwrap();
    let key = format!("{PREFIX}h/a");
    let put = Operation::Put {
        key: key.clone(),
        value: b"{}".to_vec(),
        lease,
    };
    engine.commit(Vec::new(), vec![put.clone()]).await.unwrap();
    assert!(engine.keep_alive(lease).await.unwrap());
    engine.revoke(lease).await.unwrap();
    assert!(!engine.keep_alive(lease).await.unwrap());
    assert_eq!(read_all(&engine, PREFIX).await.unwrap().0, []);
    let refused = engine.commit(Vec::new(), vec![put]).await;
    assert!(
        matches!(refused, Err(EngineError::Refused(_))),
        "{refused:?}"
    );
}

/// Everything that came of a history, as one who watched from the beginning and one who reads at the
/// end see it.
async fn played(engine: &dyn Engine, seed: u64) -> (Vec<Change>, Vec<Entry>, Vec<(bool, i64)>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut done, mut modified) = (Vec::new(), BTreeMap::new());
    for _ in 0..120 {
        let key =
            |random: &mut fastrand::Rng| format!("{PREFIX}p/k{}\u{e9}/{{x}}", random.u32(..9));
        let (first, second) = (key(&mut random), key(&mut random));
        let compares = match random.u32(..4) {
            0 => vec![Compare::Absent(first.clone())],
            1 => {
                let at = modified.get(&first).copied().unwrap_or(7);
                vec![Compare::Modified(first.clone(), at)]
            }
            _ => Vec::new(),
        };
        let value = format!("{{\"n\":{}}}", random.u32(..));
        let mut operations = vec![match random.u32(..3) {
            0 => Operation::Delete(first.clone()),
            _ => put(&first, &value),
        }];
        if second != first && random.bool() {
            operations.push(Operation::Delete(second));
        }
        let outcome = engine.commit(compares, operations).await.unwrap();
        modified.insert(first, outcome.revision);
        done.push((outcome.is_done, outcome.revision));
    }
    let (entries, revision) = read_all(engine, PREFIX).await.unwrap();
    let mut changes = Vec::new();
    let mut news = engine.watch(PREFIX.to_owned(), 2).await.unwrap();
    // The last revision changed something.
    while changes
        .last()
        .is_none_or(|change: &Change| change.revision() < revision)
    {
        match futures_util::StreamExt::next(&mut news)
            .await
            .unwrap()
            .unwrap()
        {
            News::Changes(some) => changes.extend(some),
            News::Alive(_) => {}
        }
    }
    changes.sort_by(|one, other| (one.revision(), one.key()).cmp(&(other.revision(), other.key())));
    (changes, entries, done)
}

#[tokio::test]
async fn the_same_histories_come_to_the_same_in_memory_and_in_etcd() {
    if !has_etcd() {
        return;
    }
    for seed in 0..4 {
        let etcd = Etcd::start(1).await;
        let of_etcd = played(&etcd.engine(), seed).await;
        let of_memory = played(&MemoryEngine::new(), seed).await;
        assert_eq!(of_etcd, of_memory, "seed {seed}");
    }
}

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::fleet::MemoryEngine;

const HOUR: i64 = 3600;

fn ring(dir: &Path, now: i64) -> TicketRing {
    let ring = TicketRing::new(Place::Folder(dir.to_owned()), Duration::from_secs(3600));
    ring.refresh_at(at(now));
    ring
}

/// Times are far from now, so that no file looks as if it had just been written.
fn at(second: i64) -> Timestamp {
    Timestamp::from_second(4_000_000_000 + second).unwrap()
}

fn sealed(ring: &TicketRing, now: i64) -> Vec<u8> {
    ring.seal(b"a session", at(now).as_second()).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_ticket_opens_at_another_gateway_and_after_a_restart_and_not_when_it_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (ring(dir.path(), 0), ring(dir.path(), 1));
    let ticket = sealed(&one, 2);
    assert_eq!(
        other.open_ticket(&ticket).as_deref(),
        Some(&b"a session"[..])
    );
    assert!(ring(dir.path(), 3).open_ticket(&ticket).is_some());
    for place in [0, NAME, NAME + NONCE_LEN, ticket.len() - 1] {
        let mut wrong = ticket.clone();
        wrong[place] ^= 1;
        assert_eq!(one.open_ticket(&wrong), None, "{place}");
    }
    for file in [RING, LOCK] {
        assert_eq!(mode(&dir.path().join(file)), 0o600);
    }
}

/// Rings of two fronts of a fleet, whose engine is in memory.
fn shared(dir: &Path, engine: &MemoryEngine, keys: [u8; 2]) -> [(Arc<Vault>, Arc<TicketRing>); 2] {
    keys.map(|key| {
        let vault = Vault::followed(dir, engine, key);
        let ring = TicketRing::in_fleet(Arc::clone(&vault), Duration::from_secs(3600));
        (vault, ring)
    })
}

/// Looks again until it is so; fails after a while of the paused time.
async fn looks_until(rings: &[(Arc<Vault>, Arc<TicketRing>)], check: impl Fn() -> bool) {
    for _ in 0..200 {
        for (_, ring) in rings {
            ring.refresh();
        }
        if check() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("it does not come to that");
}

#[tokio::test(start_paused = true)]
async fn fronts_of_a_fleet_have_one_ring_and_one_without_its_key_leaves_it_as_it_is() {
    let (dir, engine) = (tempfile::tempdir().unwrap(), MemoryEngine::new());
    let now = Timestamp::now().as_second();
    let rings = shared(dir.path(), &engine, [1, 1]);
    let [(vault, one), (_, other)] = &rings;
    let resumes = || {
        let ticket = one.seal(b"a session", now).unwrap();
        other.open_ticket(&ticket).is_some()
    };
    looks_until(&rings, resumes).await;
    let version = vault.version(SHARED).unwrap();
    let strangers = shared(dir.path(), &engine, [2, 2]);
    let [(theirs, stranger), _] = &strangers;
    looks_until(&strangers, || theirs.version(SHARED).is_some()).await;
    looks_until(&strangers, || stranger.look().trouble.is_some()).await;
    let ticket = stranger.seal(b"a session", now).unwrap();
    assert!(one.open_ticket(&ticket).is_none());
    sleep(Duration::from_secs(5)).await;
    assert_eq!(vault.version(SHARED), Some(version));
    assert!(resumes());
}

#[test]
fn the_next_key_is_known_before_it_is_used_and_an_old_one_for_one_rotation_after() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (ring(dir.path(), 0), ring(dir.path(), 0));
    let early = sealed(&one, 0);
    // It seals with the next key, and the other has not looked since.
    one.refresh_at(at(HOUR));
    let late = sealed(&one, HOUR);
    assert_ne!(early[..NAME], late[..NAME]);
    assert!(
        other.open_ticket(&late).is_some(),
        "the key was there before"
    );
    other.refresh_at(at(2 * HOUR - 1));
    assert!(other.open_ticket(&early).is_some());
    other.refresh_at(at(2 * HOUR));
    assert!(other.open_ticket(&early).is_none() && other.open_ticket(&late).is_some());
    // Nobody was there for long.
    let ticket = sealed(&ring(dir.path(), 100 * HOUR), 100 * HOUR);
    one.refresh_at(at(100 * HOUR + 1));
    assert!(one.open_ticket(&ticket).is_some() && one.open_ticket(&late).is_none());
}

#[test]
fn a_damaged_ring_is_made_anew_and_said_without_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let config = TicketsConfig {
        dir: Some(dir.path().to_owned()),
        ..TicketsConfig::default()
    };
    assert_eq!(TicketRing::rehearse(&config).unwrap(), None);
    let one = ring(dir.path(), 0);
    let (path, ticket) = (dir.path().join(RING), sealed(&one, 0));
    let whole = fs::read_to_string(&path).unwrap();
    for damaged in [
        "",
        "nonsense",
        whole.trim_end_matches("end\n"),
        &whole.replace(' ', ""),
    ] {
        fs::write(&path, damaged).unwrap();
        let told = TicketRing::rehearse(&config).unwrap().unwrap();
        assert!(told.contains("ring cannot be used"), "{told}");
        // Who was there before goes on with its keys, and shares them again.
        one.refresh_at(at(5));
        assert!(
            ring(dir.path(), 5).open_ticket(&ticket).is_some(),
            "{damaged:?}"
        );
    }
    fs::write(&path, "nonsense").unwrap();
    let fresh = ring(dir.path(), 6);
    assert!(fresh.open_ticket(&ticket).is_none());
    assert!(fresh.open_ticket(&sealed(&fresh, 6)).is_some());
    assert_eq!(TicketRing::rehearse(&config).unwrap(), None);
}

#[test]
fn a_directory_that_cannot_be_is_refused_and_a_rehearsal_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "x").unwrap();
    let config = |dir: &Path| TicketsConfig {
        dir: Some(dir.to_owned()),
        ..TicketsConfig::default()
    };
    for wrong in [file.clone(), file.join("below")] {
        assert!(TicketRing::rehearse(&config(&wrong)).is_err());
        assert!(TicketRing::open(&config(&wrong)).is_err());
    }
    let fresh = dir.path().join("a/tickets");
    TicketRing::rehearse(&config(&fresh)).unwrap();
    assert!(!dir.path().join("a").exists());
    TicketRing::open(&config(&fresh)).unwrap();
    assert_eq!(mode(&fresh), 0o700);
}

proptest! {
    #[test]
    fn there_is_always_a_key_and_a_next_one_and_never_many(
        steps in prop::collection::vec(0_i64..3 * HOUR, 1..40),
    ) {
        let (mut keys, mut now) = (Vec::new(), 0);
        for step in steps {
            now += step;
            let (next, _) = planned(&keys, now, HOUR).unwrap();
            prop_assert!(next.iter().any(|key| key.from <= now));
            prop_assert!(next.iter().any(|key| key.from > now));
            prop_assert!(next.len() <= 4, "{}", next.len());
            keys = next;
        }
    }

    #[test]
    fn no_text_makes_it_panic(text: String) {
        let _damaged = read(&text);
        let _damaged = read(&format!("{FIRST}\n{text}{LAST}\n"));
    }
}

//! The keys of session tickets, in a directory that gateways share, which may be a fleet's.
//!
//! Guarantees: a ticket of one gateway resumes at any other on the same directory, and after a
//! restart; every gateway knows a key before the first ticket is sealed with it; a key is forgotten
//! one rotation after its last ticket; the files are their owner's alone, whatever the umask, and
//! are written whole; what cannot be read is a warning, and costs full handshakes at most.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use rustls::server::ProducesTickets;

use crate::config::TicketsConfig;
use crate::file_stamp::FileStamp;
use crate::fleet::Vault;
use crate::fleet::vault::Version;
use crate::private_files::{self, Lock, can_create};

const RING: &str = "ring";
const LOCK: &str = "ring.lock";
/// What a fleet's directory calls it.
const SHARED: &str = "tickets/ring";
/// The first and the last line of a ring, so that a part of one is none.
const FIRST: &str = "wakegate ticket keys 1";
const LAST: &str = "end";
/// A key's name, which tickets begin with, and its secret.
const NAME: usize = 16;
const SECRET: usize = 32;
/// The longest life of a ticket (RFC 8446 §4.6.1).
const LONGEST: u64 = 604_800;

/// The ring cannot be kept in its directory.
#[derive(Debug, thiserror::Error)]
#[error("the keys of session tickets cannot be kept in {dir}: {source}")]
pub struct TicketRingError {
    dir: PathBuf,
    source: io::Error,
}

/// The keys that tickets are sealed and opened with.
pub struct TicketRing {
    place: Place,
    rotate: Duration,
    keys: ArcSwap<Vec<Arc<Key>>>,
    look: Mutex<Look>,
}

/// Where the keys are.
enum Place {
    /// In a folder.
    Folder(PathBuf),
    /// In the directory of a fleet.
    Fleet(Arc<Vault>),
}

/// The last look at the file.
#[derive(Default)]
struct Look {
    /// The same in a fleet's directory.
    version: Option<Version>,
    /// How it stood, and when that was seen.
    stamp: Option<(FileStamp, Timestamp)>,
    /// What was wrong then.
    trouble: Option<String>,
}

/// One key.
struct Key {
    name: [u8; NAME],
    secret: [u8; SECRET],
    /// Tickets are sealed with it from this second of 1970's count on, until the next one's.
    from: i64,
    sealing: LessSafeKey,
}

/// Why a file is no ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is damaged")]
struct Damaged;

// === impl TicketRing ===

impl TicketRing {
    /// Opens the ring, which is made if there is none. What is wrong with its file is logged, and
    /// the ring is made anew.
    pub fn open(config: &TicketsConfig) -> Result<Option<Arc<Self>>, TicketRingError> {
        let Some(dir) = &config.dir else {
            return Ok(None);
        };
        let ring = Self::new(Place::Folder(dir.clone()), config.rotate);
        let failed = |source| TicketRingError {
            dir: dir.clone(),
            source,
        };
        private_files::make_dir(dir).map_err(failed)?;
        can_create(dir).map_err(failed)?;
        ring.refresh_at(Timestamp::now());
        Ok(Some(Arc::new(ring)))
    }

    /// One that fronts of a fleet share.
    pub fn in_fleet(vault: Arc<Vault>, rotate: Duration) -> Arc<Self> {
        let ring = Self::new(Place::Fleet(vault), rotate);
        ring.refresh_at(Timestamp::now());
        Arc::new(ring)
    }

    /// What would keep the ring from being opened, and what is wrong with its file, without a trace.
    pub fn rehearse(config: &TicketsConfig) -> Result<Option<String>, TicketRingError> {
        let Some(dir) = &config.dir else {
            return Ok(None);
        };
        can_create(dir).map_err(|source| TicketRingError {
            dir: dir.clone(),
            source,
        })?;
        let path = dir.join(RING);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(read(&text).err().map(|error| trouble(&path, &error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Ok(Some(trouble(&path, &error))),
        }
    }

    fn new(place: Place, rotate: Duration) -> Self {
        Self {
            place,
            rotate,
            keys: ArcSwap::default(),
            look: Mutex::default(),
        }
    }

    /// Takes the keys that others have made, and makes those that are due.
    pub fn refresh(&self) {
        self.refresh_at(Timestamp::now());
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh_at(&self, now: Timestamp) {
        let mut look = self.look();
        let trouble_now = match &self.place {
            Place::Folder(dir) => self.refresh_folder(dir, now, &mut look),
            Place::Fleet(vault) => self.refresh_shared(vault, now.as_second(), &mut look),
        };
        if let Some(text) = &trouble_now
            && look.trouble.as_ref() != Some(text)
        {
            tracing::warn!(trouble = %text, "the keys of session tickets are not shared as they should be");
        }
        look.trouble = trouble_now;
    }

    /// Takes the keys that are in the directory, and offers it those that are due: of fronts that want to at
    /// once, one is heard. Until the directory answers, the keys are this front's alone. What is wrong.
    fn refresh_shared(&self, vault: &Vault, now: i64, look: &mut Look) -> Option<String> {
        let version = vault.version(SHARED);
        let (mut is_damaged, mut trouble) = (false, look.trouble.clone());
        if version.is_none() || look.version != version {
            let found = vault.read(SHARED);
            let told = |error: &dyn fmt::Display| format!("{SHARED} in the directory: {error}");
            trouble = None;
            match found {
                Ok(None) => {}
                Ok(Some(text)) => match read(&String::from_utf8_lossy(&text)) {
                    Ok(keys) => self.keys.store(Arc::new(keys)),
                    Err(error) => {
                        trouble = Some(told(&error));
                        is_damaged = true;
                    }
                },
                Err(error) => {
                    trouble = Some(told(&error));
                    is_damaged = !error.is_of_another_key();
                }
            }
            look.version = version;
        }
        let Some((keys, is_new)) = planned(&self.keys.load(), now, self.rotation()) else {
            return Some("the system gives no random bytes".to_owned());
        };
        let text = text_of(&keys);
        self.keys.store(Arc::new(keys));
        // Keys that others can open, and this front cannot, are not replaced.
        let is_ours = trouble.is_none() || is_damaged;
        if vault.is_read() && is_ours && (is_new || is_damaged || version.is_none()) {
            let replaces = version.map(|version| version.modified);
            if let Err(error) = vault.offer(SHARED, text.as_bytes(), replaces) {
                return Some(error.to_string());
            }
        }
        trouble
    }

    fn refresh_folder(&self, dir: &Path, now: Timestamp, look: &mut Look) -> Option<String> {
        let path = dir.join(RING);
        let stamp = FileStamp::of(&path).ok();
        let is_same = match (&stamp, &look.stamp) {
            (Some(stamp), Some((before, at))) => stamp == before && before.is_settled(*at),
            (_, _) => false,
        };
        let mut found = None;
        if !is_same {
            found = Some(read_file(&path));
            look.stamp = stamp.map(|stamp| (stamp, now));
        }
        let (mut trouble_now, mut is_due) = (None, false);
        match found {
            None => {}
            Some(Ok(Some(keys))) => self.keys.store(Arc::new(keys)),
            Some(Ok(None)) => is_due = true,
            Some(Err(error)) => {
                trouble_now = Some(trouble(&path, &error));
                is_due = true;
            }
        }
        let second = now.as_second();
        is_due |= planned(&self.keys.load(), second, self.rotation()).is_none_or(|(_, new)| new);
        if is_due && let Err(error) = self.renew(dir, second) {
            let text = format!("{} cannot be written: {error}", path.display());
            trouble_now = Some(text);
        }
        trouble_now
    }

    fn rotation(&self) -> i64 {
        i64::try_from(self.rotate.as_secs())
            .unwrap_or(i64::MAX)
            .max(1)
    }

    /// Makes the keys that are due, alone: of gateways that want to at once, the later ones find
    /// what the first has made. Where nothing can be written, the keys are this gateway's alone.
    fn renew(&self, dir: &Path, now: i64) -> io::Result<()> {
        let path = dir.join(RING);
        let locked = Lock::acquire(&dir.join(LOCK));
        if let Ok(Some(keys)) = read_file(&path) {
            self.keys.store(Arc::new(keys));
        }
        let keys = self.keys.load_full();
        let Some((keys, is_new)) = planned(&keys, now, self.rotation()) else {
            return Err(io::Error::other("the system gives no random bytes"));
        };
        self.keys.store(Arc::new(keys.clone()));
        let _lock = locked?;
        if is_new || !path.exists() || read_file(&path).is_err() {
            private_files::write(&path, text_of(&keys).as_bytes())?;
        }
        Ok(())
    }

    /// The key that tickets are sealed with at this second.
    fn current(&self, now: i64) -> Option<Arc<Key>> {
        let keys = self.keys.load();
        keys.iter().rfind(|key| key.from <= now).cloned()
    }

    fn seal(&self, plain: &[u8], now: i64) -> Option<Vec<u8>> {
        let key = self.current(now)?;
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(key.name);
        key.sealing
            .seal_in_place_append_tag(unique, aad, &mut sealed)
            .ok()?;
        Some([&key.name[..], &nonce, &sealed].concat())
    }

    fn open_ticket(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let key = keys.iter().find(|key| key.name == *name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = key
            .sealing
            .open_in_place(nonce, Aad::from(key.name), &mut sealed);
        opened.ok().map(|plain| plain.to_vec())
    }
}

impl ProducesTickets for TicketRing {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.rotate.as_secs().min(LONGEST)).unwrap_or(0)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Timestamp::now().as_second())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open_ticket(ticket)
    }
}

impl fmt::Debug for TicketRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TicketRing({} keys)", self.keys.load().len())
    }
}

// === impl Key ===

impl Key {
    fn new(from: i64) -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME], [0; SECRET]);
        getrandom::fill(&mut name).ok()?;
        getrandom::fill(&mut secret).ok()?;
        Self::of(from, name, secret)
    }

    fn of(from: i64, name: [u8; NAME], secret: [u8; SECRET]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, &secret).ok()?;
        Some(Self {
            name,
            secret,
            from,
            sealing: LessSafeKey::new(key),
        })
    }
}

/// The keys as they should be, in the order of their times, and whether some of them are new: one
/// that tickets are sealed with, one that is to follow it, and those before it whose tickets may
/// still come. `None` where the system gives no random bytes.
fn planned(keys: &[Arc<Key>], now: i64, rotation: i64) -> Option<(Vec<Arc<Key>>, bool)> {
    let mut planned = keys.to_vec();
    let mut is_new = false;
    let mut add = |planned: &mut Vec<Arc<Key>>, from: i64| {
        planned.push(Arc::new(Key::new(from)?));
        is_new = true;
        Some(from)
    };
    let current = planned
        .iter()
        .rfind(|key| key.from <= now)
        .map(|key| key.from);
    let has_next = planned.iter().any(|key| key.from > now);
    let current = match current {
        // Nobody was there to make its successor.
        Some(from) if !has_next && from.saturating_add(rotation) <= now => add(&mut planned, now)?,
        Some(from) => from,
        None => add(&mut planned, now)?,
    };
    // After a clock that was far ahead, the next key may be too far away to be one.
    let is_next = |key: &Arc<Key>| key.from > now && key.from <= now.saturating_add(2 * rotation);
    if !planned.iter().any(is_next) {
        let due = current.saturating_add(rotation);
        let from = if due > now {
            due
        } else {
            now.saturating_add(rotation)
        };
        add(&mut planned, from)?;
    }
    planned.sort_by_key(|key| key.from);
    let ends: Vec<i64> = planned.iter().skip(1).map(|key| key.from).collect();
    let mut ends = ends.into_iter();
    planned.retain(|_| {
        let end = ends.next();
        end.is_none_or(|end| end.saturating_add(rotation) > now)
    });
    Some((planned, is_new))
}

fn text_of(keys: &[Arc<Key>]) -> String {
    let lines = keys.iter().map(|key| {
        let bytes = [&key.name[..], &key.secret].concat();
        format!("{} {}\n", key.from, BASE64.encode(bytes))
    });
    format!("{FIRST}\n{}{LAST}\n", lines.collect::<String>())
}

fn read(text: &str) -> Result<Vec<Arc<Key>>, Damaged> {
    let inner = text
        .strip_prefix(FIRST)
        .and_then(|text| text.strip_suffix("end\n"));
    let inner = inner
        .and_then(|text| text.strip_prefix('\n'))
        .ok_or(Damaged)?;
    let keys = inner.lines().map(|line| {
        let (from, bytes) = line.split_once(' ')?;
        let bytes = BASE64.decode(bytes).ok()?;
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        Key::of(from.parse().ok()?, *name, secret.try_into().ok()?).map(Arc::new)
    });
    let mut keys = keys.collect::<Option<Vec<_>>>().ok_or(Damaged)?;
    keys.sort_by_key(|key| key.from);
    Ok(keys)
}

/// The keys of a file, if there is one.
fn read_file(path: &Path) -> io::Result<Option<Vec<Arc<Key>>>> {
    match fs::read_to_string(path) {
        Ok(text) => read(&text).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn trouble(path: &Path, error: &dyn fmt::Display) -> String {
    format!(
        "{} cannot be used, and is made anew: {error}",
        path.display()
    )
}

#[cfg(test)]
mod tests;

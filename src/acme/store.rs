//! What is kept in the directory: certificates with their keys, accounts, and open challenges.
//!
//! Guarantees: a file is there whole or not at all; directories are 0700 and files 0600, whatever
//! the umask; the lock of a name ends with the process that has it; what was read once stays in force
//! when its file is damaged or gone, and what is wrong with a file is told once; nothing but a
//! certificate for the name, with its key, takes the place of one.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use instant_acme::CertificateIdentifier;
use jiff::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use super::failure::Failure;
use super::fleet_shelf::Shared;
use super::renewal_info::identifier;
use super::shelf::{CERTIFICATES, FAILURES, Folder, NameLock, Room, Shelf, Stamp};
use crate::fleet::Vault;
use crate::pem;
use crate::private_files;
use crate::validity::validity;

/// The protocol of a handshake that is a challenge (RFC 8737 §3).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// Certificates cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("certificates cannot be kept in {dir}: {source}")]
pub struct AcmeError {
    dir: PathBuf,
    source: io::Error,
}

/// The directory, and the certificates that were read from it.
pub struct AcmeStore {
    pub(super) shelf: Box<dyn Shelf>,
    certificates: ArcSwap<BTreeMap<String, Arc<Stored>>>,
    /// One reads at a time, so that what is read last stays.
    reading: Mutex<BTreeMap<String, Damage>>,
}

/// A file that could not be used: how it stood, if it was there, and when that was seen.
type Damage = (Option<Stamp>, Timestamp);

/// A certificate as its file had it.
#[derive(Clone)]
pub(super) struct Stored {
    pub(super) certified: Arc<CertifiedKey>,
    /// Seconds since 1970.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// What its CA calls it, if that can be told.
    pub(super) identifier: Option<CertificateIdentifier<'static>>,
    /// Whether its file still has it.
    pub(super) is_kept: bool,
    stamp: Stamp,
    at: Timestamp,
}

// === impl AcmeStore ===

impl AcmeStore {
    /// Opens the directory, which is made if there is none.
    pub fn open(dir: &Path) -> Result<Arc<Self>, AcmeError> {
        let folder = Folder::at(dir);
        folder.make().map_err(|source| AcmeError {
            dir: dir.to_owned(),
            source,
        })?;
        Ok(Arc::new(Self::on(Box::new(folder))))
    }

    /// One whose directory is a fleet's; `dir` is made for the copy of it.
    pub fn in_fleet(vault: Arc<Vault>, dir: &Path) -> Result<Arc<Self>, AcmeError> {
        let made = private_files::make_dir(dir);
        let made = made.and_then(|()| private_files::can_create(dir));
        made.map_err(|source| AcmeError {
            dir: dir.to_owned(),
            source,
        })?;
        Ok(Arc::new(Self::on(Box::new(Shared(vault)))))
    }

    /// The same without a trace: what would keep it from being made is an error, too.
    pub fn rehearse(dir: &Path) -> Result<Arc<Self>, AcmeError> {
        private_files::can_create(dir).map_err(|source| AcmeError {
            dir: dir.to_owned(),
            source,
        })?;
        Ok(Arc::new(Self::on(Box::new(Folder::at(dir)))))
    }

    fn on(shelf: Box<dyn Shelf>) -> Self {
        Self {
            shelf,
            certificates: ArcSwap::default(),
            reading: Mutex::default(),
        }
    }

    /// The certificate for a name in small letters, if there is one.
    pub fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        Some(Arc::clone(&certificates.get(name)?.certified))
    }

    pub(super) fn stored(&self, name: &str) -> Option<Arc<Stored>> {
        self.certificates.load().get(name).cloned()
    }

    /// When the first of them expires, in seconds since 1970.
    pub fn not_after(&self) -> Option<i64> {
        let certificates = self.certificates.load();
        certificates.values().map(|stored| stored.not_after).min()
    }

    /// Reads the certificates of these names, as far as they have changed, and lets go of all
    /// others.
    pub(super) fn refresh<'a>(&self, names: impl IntoIterator<Item = &'a String>) {
        let mut damaged = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.certificates.load();
        let now = Timestamp::now();
        let mut damaged_now = BTreeMap::new();
        let found = names.into_iter().filter_map(|name| {
            let (place, earlier) = (certificate_name(name), before.get(name));
            let stamp = self.shelf.stamp(&place);
            if let (Ok(stamp), Some(earlier)) = (&stamp, earlier)
                && earlier.is_kept
                && earlier.stamp == *stamp
                && stamp.is_settled(earlier.at)
            {
                return Some((name.clone(), Arc::clone(earlier)));
            }
            let seen = (stamp.as_ref().ok().cloned(), now);
            let known = damaged.remove(name).filter(|known| known.0 == seen.0);
            let is_settled = |known: &Damage| known.0.as_ref().is_none_or(|s| s.is_settled(known.1));
            if let Some(known) = known.clone().filter(is_settled) {
                damaged_now.insert(name.clone(), known);
                return Some((name.clone(), Arc::clone(earlier?)));
            }
            let error = match stamp.and_then(|stamp| self.read(&place, stamp, now)) {
                Ok(stored) => return Some((name.clone(), Arc::new(stored))),
                // It never had one.
                Err(error) if error.kind() == io::ErrorKind::NotFound && earlier.is_none() => {
                    return None;
                }
                Err(error) => error,
            };
            if known.is_none() {
                let path = self.shelf.place(&place);
                // Others can read it, where it is another's.
                let is_ordered = error.kind() != io::ErrorKind::PermissionDenied;
                tracing::warn!(name = %name, %path, %error, is_ordered, "a certificate cannot be read");
            }
            damaged_now.insert(name.clone(), seen);
            let stays = Stored {
                is_kept: false,
                ..Stored::clone(earlier?)
            };
            Some((name.clone(), Arc::new(stays)))
        });
        let found: BTreeMap<_, _> = found.collect();
        *damaged = damaged_now;
        self.certificates.store(Arc::new(found));
    }

    /// Whether the directory has a certificate for a name, whatever it is.
    pub(super) fn keeps(&self, name: &str) -> bool {
        self.shelf.stamp(&certificate_name(name)).is_ok()
    }

    /// An error if others have a certificate for a name which this gateway has no key to open.
    pub(super) fn is_open(&self, name: &str) -> io::Result<()> {
        match self.shelf.read(&certificate_name(name)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Makes sure that there will be room for a certificate: one that is issued and cannot be kept
    /// counts at the CA all the same.
    pub(super) fn make_room(&self, name: &str) -> io::Result<Room> {
        self.shelf.make_room(name)
    }

    /// Keeps a certificate with its key, if it is one for this name and not older than what is there;
    /// otherwise says what is wrong with it.
    pub(super) async fn save(
        &self,
        name: &str,
        key: &str,
        chain: &str,
    ) -> io::Result<Result<(), String>> {
        let text = format!("{key}{chain}");
        let fresh = match parse(text.as_bytes()) {
            Ok(fresh) => fresh,
            Err(what) => {
                return Ok(Err(format!(
                    "the certificate that the CA has issued {what}"
                )));
            }
        };
        if !is_for(&fresh.certified, name) {
            let what = "the certificate that the CA has issued is for another name";
            return Ok(Err(what.to_owned()));
        }
        let before = self.stored(name).filter(|before| before.is_kept);
        let is_over = fresh.not_after <= Timestamp::now().as_second();
        if is_over && before.is_some_and(|before| before.not_after >= fresh.not_after) {
            let what = "the certificate that the CA has issued has expired already";
            return Ok(Err(what.to_owned()));
        }
        let place = certificate_name(name);
        self.shelf.write(&place, text.as_bytes()).await?;
        Ok(Ok(()))
    }

    /// Takes away what a gateway that died in the middle of an order has left: challenges, and drafts
    /// of files.
    pub(super) async fn sweep(&self) {
        self.shelf.sweep().await;
    }

    /// What is known of a name's last failed orders; a file that cannot be read says nothing.
    pub(super) fn failure(&self, name: &str) -> Option<Failure> {
        let text = self.shelf.read(&failure_name(name)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps it for whoever starts later, or orders beside this gateway.
    pub(super) async fn save_failure(&self, name: &str, failure: &Failure) -> io::Result<()> {
        let text = serde_json::to_vec(failure)?;
        self.shelf.write(&failure_name(name), &text).await
    }

    /// An order has succeeded.
    pub(super) async fn forget_failure(&self, name: &str) -> io::Result<()> {
        self.shelf.remove(&failure_name(name)).await
    }

    /// The credentials of the account at a CA.
    pub(super) fn account(&self, directory: &str) -> io::Result<Option<Vec<u8>>> {
        match self.shelf.read(&account_name(directory)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn save_account(&self, directory: &str, text: &[u8]) -> io::Result<()> {
        self.shelf.write(&account_name(directory), text).await
    }

    /// The key of an account that may not be there yet.
    pub(super) fn account_key(&self, directory: &str) -> io::Result<Option<Vec<u8>>> {
        match self.shelf.read(&account_key_name(directory)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn save_account_key(&self, directory: &str, text: &[u8]) -> io::Result<()> {
        self.shelf.write(&account_key_name(directory), text).await
    }

    pub(super) async fn forget_account_key(&self, directory: &str) -> io::Result<()> {
        self.shelf.remove(&account_key_name(directory)).await
    }

    /// The name's lock, unless another process or task has it.
    pub(super) async fn try_lock(&self, name: &str) -> io::Result<Option<NameLock>> {
        self.shelf.try_lock(name).await
    }

    fn read(&self, place: &str, stamp: Stamp, at: Timestamp) -> io::Result<Stored> {
        let parsed = parse(&self.shelf.read(place)?);
        let parsed = parsed.map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
        Ok(Stored {
            certified: Arc::new(parsed.certified),
            not_before: parsed.not_before,
            not_after: parsed.not_after,
            identifier: parsed.identifier,
            is_kept: true,
            stamp,
            at,
        })
    }
}

fn certificate_name(name: &str) -> String {
    format!("{CERTIFICATES}{name}.pem")
}

fn failure_name(name: &str) -> String {
    format!("{FAILURES}{name}.json")
}

fn account_name(directory: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = directory.chars().map(plain).collect();
    format!("account-{name}.json")
}

fn account_key_name(directory: &str) -> String {
    format!("new-{}", account_name(directory))
}

impl fmt::Debug for AcmeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcmeStore({})", self.certificates.load().len())
    }
}

/// What a file has: a key and a chain.
struct Parsed {
    certified: CertifiedKey,
    not_before: i64,
    not_after: i64,
    identifier: Option<CertificateIdentifier<'static>>,
}

fn parse(text: &[u8]) -> Result<Parsed, String> {
    let chain = pem::certificates(text).map_err(|problem| problem.to_string())?;
    let key = pem::key(text).map_err(|problem| problem.to_string())?;
    let times = chain.first().and_then(|leaf| validity(leaf));
    let (not_before, not_after) = times.ok_or("has no times between which it holds")?;
    let identifier = chain.first().and_then(|leaf| identifier(leaf));
    let provider = aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider);
    Ok(Parsed {
        certified: certified.map_err(|_| "has a key that does not fit")?,
        not_before,
        not_after,
        identifier,
    })
}

fn is_for(certified: &CertifiedKey, name: &str) -> bool {
    let leaf = certified.cert.first().map(EndEntityCert::try_from);
    let name = ServerName::try_from(name);
    let (Some(Ok(leaf)), Ok(name)) = (leaf, name) else {
        return false;
    };
    leaf.verify_is_valid_for_subject_name(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use jiff::SignedDuration;

    use super::super::shelf::{CHALLENGES, LEFT_BEHIND};
    use super::*;

    fn path_of(dir: &Path, name: &str) -> PathBuf {
        dir.join(certificate_name(name))
    }

    /// A key and a certificate in PEM.
    fn made(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        (made.signing_key.serialize_pem(), made.cert.pem())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_certificate_is_found_by_every_gateway_on_the_directory_and_its_file_is_its_owner_s()
    {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("acme");
        AcmeStore::rehearse(&place).unwrap();
        assert!(!place.exists());
        let (one, other) = (
            AcmeStore::open(&place).unwrap(),
            AcmeStore::open(&place).unwrap(),
        );
        let (key, chain) = made("a.test");
        one.save("a.test", &key, &chain).await.unwrap().unwrap();
        let names = ["a.test".to_owned(), "b.test".to_owned()];
        other.refresh(&names);
        assert!(other.find("a.test").is_some() && other.find("b.test").is_none());
        assert_eq!(mode(&path_of(&place, "a.test")), 0o600);
        for folder in [&place, &place.join(CERTIFICATES)] {
            assert_eq!(mode(folder), 0o700);
        }
        // Who comes to a file that is broken has none.
        fs::write(path_of(&place, "a.test"), &chain).unwrap();
        one.refresh(&names);
        assert!(one.find("a.test").is_none());
    }

    #[tokio::test]
    async fn what_was_read_stays_in_force_when_its_file_is_damaged_or_gone_and_comes_back_with_it()
    {
        let dir = tempfile::tempdir().unwrap();
        let store = AcmeStore::open(dir.path()).unwrap();
        let ((key, chain), names) = (made("a.test"), ["a.test".to_owned()]);
        let (path, good) = (path_of(dir.path(), "a.test"), format!("{key}{chain}"));
        let (_, other_chain) = made("a.test");
        for bad in [
            None,
            Some(chain.clone()),
            Some(format!("{key}{other_chain}")),
        ] {
            private_files::write(&path, good.as_bytes()).unwrap();
            store.refresh(&names);
            assert!(store.stored("a.test").unwrap().is_kept);
            match &bad {
                None => fs::remove_file(&path).unwrap(),
                Some(bad) => fs::write(&path, bad).unwrap(),
            }
            for _ in 0..2 {
                store.refresh(&names);
                let stored = store.stored("a.test").unwrap();
                assert!(!stored.is_kept, "{bad:?}");
            }
        }
        store.refresh([]);
        assert!(store.find("a.test").is_none());
    }

    #[tokio::test]
    async fn nothing_but_a_certificate_for_the_name_with_its_key_takes_the_place_of_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = AcmeStore::open(dir.path()).unwrap();
        let (names, (key, chain)) = (["a.test".to_owned()], made("a.test"));
        store.save("a.test", &key, &chain).await.unwrap().unwrap();
        store.refresh(&names);
        let (_, of_another_key) = made("a.test");
        let mut params = rcgen::CertificateParams::new(names.to_vec()).unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let signer = rcgen::KeyPair::from_pem(&key).unwrap();
        let expired = params.self_signed(&signer).unwrap().pem();
        let params = rcgen::CertificateParams::new(vec!["b.test".to_owned()]).unwrap();
        let other_name = params.self_signed(&signer).unwrap().pem();
        let all = ["<html>", "", &of_another_key, &expired, &other_name];
        for (wrong, told) in all.into_iter().zip(["no", "no", "key", "expired", "name"]) {
            let said = store
                .save("a.test", &key, wrong)
                .await
                .unwrap()
                .unwrap_err();
            assert!(said.contains(told), "{said}");
        }
        store.refresh(&names);
        assert!(store.stored("a.test").unwrap().is_kept);
        // Where there is none, an old one is better than nothing.
        let params = rcgen::CertificateParams::new(vec!["c.test".to_owned()]);
        let mut params = params.unwrap();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = params.self_signed(&signer).unwrap().pem();
        store.save("c.test", &key, &expired).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_order_has_its_room_on_the_disk_before_it_begins_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = AcmeStore::open(dir.path()).unwrap();
        let certificates = dir.path().join(CERTIFICATES);
        let count = || fs::read_dir(&certificates).unwrap().count();
        let room = store.make_room("a.test").unwrap();
        assert_eq!(count(), 1);
        drop(room);
        assert_eq!(count(), 0);
        fs::remove_dir(&certificates).unwrap();
        assert!(store.make_room("a.test").is_err());
    }

    #[tokio::test]
    async fn what_a_dead_gateway_has_left_is_taken_away_and_what_is_new_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = AcmeStore::open(dir.path()).unwrap();
        let challenges = dir.path().join(CHALLENGES);
        let certificates = dir.path().join(CERTIFICATES);
        let old = [
            challenges.join("token-old"),
            certificates.join("a.test.1.new"),
        ];
        let stay = [
            challenges.join("token-new"),
            certificates.join("b.test.2.new"),
        ];
        let kept = certificates.join("a.test.pem");
        for path in old.iter().chain(&stay).chain([&kept]) {
            private_files::write(path, b"x").unwrap();
        }
        let long_ago = Timestamp::now() - LEFT_BEHIND - SignedDuration::from_secs(1);
        for path in old.iter().chain([&kept]) {
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(long_ago.into()).unwrap();
        }
        store.sweep().await;
        assert!(old.iter().all(|path| !path.exists()));
        assert!(stay.iter().chain([&kept]).all(|path| path.exists()));
    }

    #[tokio::test]
    async fn a_name_s_lock_is_one_holder_s_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (
            AcmeStore::open(dir.path()).unwrap(),
            AcmeStore::open(dir.path()).unwrap(),
        );
        let held = one.try_lock("a.test").await.unwrap().unwrap();
        assert!(other.try_lock("a.test").await.unwrap().is_none());
        assert!(other.try_lock("b.test").await.unwrap().is_some());
        drop(held);
        assert!(other.try_lock("a.test").await.unwrap().is_some());
    }
}

//! What the store keeps, in the directory of a fleet.
//!
//! Guarantees: a challenge is at the other fronts before the CA is told to look, and goes with the lock
//! of its order; a certificate that was issued is written as soon as the directory takes it, for minutes;
//! what is sealed with a key that this front does not have is not ordered anew.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::shelf::{
    CERTIFICATES, Done, FAILURES, FORGOTTEN, NameLock, OpenChallenge, Room, Shelf, Stamp,
};
use crate::backoff::Backoff;
use crate::fleet::{Vault, VaultError};
use crate::pem;
use crate::validity::validity;

/// How long a value is tried to be written while the directory is away.
const PATIENCE: Duration = Duration::from_secs(180);
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// How long a challenge takes to be at every front that follows the directory.
const SPREAD: Duration = Duration::from_secs(1);

/// A fleet's directory.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Vault>);

fn as_io(error: VaultError) -> io::Error {
    let kind = if error.is_away() {
        io::ErrorKind::NotConnected
    } else if error.is_of_another_key() {
        io::ErrorKind::PermissionDenied
    } else {
        io::ErrorKind::InvalidData
    };
    io::Error::new(kind, error)
}

/// Between which seconds since 1970 the certificate of a file holds.
fn life_of(text: &[u8]) -> Option<(i64, i64)> {
    let chain = pem::certificates(text).ok()?;
    chain.first().and_then(|leaf| validity(leaf))
}

// === impl Shared ===

impl Shared {
    async fn write_patiently(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (began, mut pauses) = (Instant::now(), PAUSES.pauses());
        loop {
            match self.0.write(name, bytes, None).await {
                Err(error) if error.is_away() && began.elapsed() < PATIENCE => {
                    sleep(pauses.advance(fastrand::f64)).await;
                }
                done => return done.map_err(as_io),
            }
        }
    }

    /// What nobody wants any more.
    fn forgotten(&self) -> Vec<String> {
        let before = Timestamp::now() - FORGOTTEN;
        let opened = |name: &String| self.0.read(name).ok().flatten();
        let mut forgotten = self.0.names(FAILURES);
        forgotten.retain(|name| {
            let failure =
                opened(name).and_then(|text| serde_json::from_slice::<Failure>(&text).ok());
            let at = failure.and_then(|failure| failure.at);
            at.is_some_and(|at| at < before)
        });
        let mut expired = self.0.names(CERTIFICATES);
        expired.retain(|name| {
            let life = opened(name).and_then(|text| life_of(&text));
            life.is_some_and(|(_, end)| end < before.as_second())
        });
        forgotten.extend(expired);
        forgotten
    }
}

impl Shelf for Shared {
    fn place(&self, name: &str) -> String {
        match name {
            "" => "the fleet's directory".to_owned(),
            name => format!("{name} in the fleet's directory"),
        }
    }

    fn stamp(&self, name: &str) -> io::Result<Stamp> {
        let version = self.0.version(name).map(Stamp::Shared);
        version.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let value = self.0.read(name).map_err(as_io)?;
        value.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write<'s>(&'s self, name: &'s str, bytes: &'s [u8]) -> Done<'s, ()> {
        async move {
            match name.starts_with(FAILURES) {
                // What has failed is known here all the same.
                true => self.0.write(name, bytes, None).await.map_err(as_io),
                false => self.write_patiently(name, bytes).await,
            }
        }
        .boxed()
    }

    fn remove<'s>(&'s self, name: &'s str) -> Done<'s, ()> {
        async move {
            match self.0.version(name) {
                Some(_) => self.0.remove(name).await.map_err(as_io),
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn set_challenge<'s>(
        &'s self,
        lock: &'s NameLock,
        names: [String; 2],
        text: &'s str,
    ) -> Done<'s, OpenChallenge> {
        async move {
            let lock = match lock {
                NameLock::Shared(lock) => Some(lock),
                NameLock::File(_) => None,
            };
            for name in &names {
                let written = self.0.write(name, text.as_bytes(), lock);
                written.await.map_err(as_io)?;
            }
            sleep(SPREAD).await;
            // It goes with the lock.
            Ok(OpenChallenge(Vec::new()))
        }
        .boxed()
    }

    fn try_lock<'s>(&'s self, name: &'s str) -> Done<'s, Option<NameLock>> {
        async move {
            let lock = self.0.try_lock(name).await.map_err(as_io)?;
            Ok(lock.map(NameLock::Shared))
        }
        .boxed()
    }

    fn make_room(&self, _name: &str) -> io::Result<Room> {
        Ok(Room::elsewhere())
    }

    fn sweep(&self) -> BoxFuture<'_, ()> {
        async move {
            for name in self.forgotten() {
                // Another front may have been quicker; or else it is done in an hour.
                if self.0.remove(&name).await.is_err() {
                    return;
                }
            }
        }
        .boxed()
    }
}

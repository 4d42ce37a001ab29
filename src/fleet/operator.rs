//! What operators change in the directory.
//!
//! Guarantees: what is taken away by hand is counted in the same transaction, so that it is never
//! mistaken for a loss; a move is one transaction that fails if somebody else was quicker; what no
//! member could read is not written.

use thiserror::Error;

use super::engine::{Compare, Engine, EngineError, Entry, MOST_OPERATIONS, Operation, read_one};
use super::records::{AcceptedRecord, Key, RemovedRecord, read, write};

/// How often a change is tried while others are quicker.
const ATTEMPTS: usize = 20;

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum ChangeError {
    /// The engine has not made it.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Others have changed the same all the time.
    #[error("others change the same: try again")]
    Busy,
    /// There is nothing to change.
    #[error("{0}")]
    Missing(String),
}

/// Writes keys and values, some at a time.
pub async fn put(engine: &dyn Engine, pairs: Vec<(Key, Vec<u8>)>) -> Result<(), ChangeError> {
    for some in pairs.chunks(MOST_OPERATIONS) {
        let puts = some.iter().map(|(key, value)| Operation::Put {
            key: key.text(),
            value: value.clone(),
            lease: 0,
        });
        engine.commit(Vec::new(), puts.collect()).await?;
    }
    Ok(())
}

fn same(key: &str, entry: Option<&Entry>) -> Compare {
    match entry {
        Some(entry) => Compare::Modified(key.to_owned(), entry.modified),
        None => Compare::Absent(key.to_owned()),
    }
}

/// Takes routes away on purpose. Returns how many there were.
pub async fn remove(engine: &dyn Engine, keys: &[Key]) -> Result<usize, ChangeError> {
    let mut count = 0;
    for some in keys.chunks(MOST_OPERATIONS / 2) {
        count += remove_some(engine, some).await?;
    }
    Ok(count)
}

async fn remove_some(engine: &dyn Engine, keys: &[Key]) -> Result<usize, ChangeError> {
    let counter = Key::Removed.text();
    for _ in 0..ATTEMPTS {
        let mut there = Vec::new();
        for key in keys {
            let (entry, _) = read_one(engine, &key.text()).await?;
            there.extend(entry);
        }
        if there.is_empty() {
            return Ok(0);
        }
        let (before, _) = read_one(engine, &counter).await?;
        let total = before
            .as_ref()
            .and_then(|entry| read::<RemovedRecord>(&entry.value).ok());
        let routes = there.iter().filter(|entry| {
            let key = Key::parse(&entry.key);
            matches!(key, Some(Key::Route { .. }))
        });
        let routes = u64::try_from(routes.count()).unwrap_or_default();
        let total = total.unwrap_or_default().total.saturating_add(routes);
        // Counted before it goes, in the order in which members read it.
        let mut operations = vec![Operation::Put {
            key: counter.clone(),
            value: write(&RemovedRecord { total }),
            lease: 0,
        }];
        operations.extend(
            there
                .iter()
                .map(|entry| Operation::Delete(entry.key.clone())),
        );
        let compares = vec![same(&counter, before.as_ref())];
        if engine.commit(compares, operations).await?.is_done {
            return Ok(there.len());
        }
    }
    Err(ChangeError::Busy)
}

/// Another value for a key, unless somebody else has changed it.
pub async fn replace(
    engine: &dyn Engine,
    entry: &Entry,
    value: Vec<u8>,
) -> Result<(), ChangeError> {
    let put = Operation::Put {
        key: entry.key.clone(),
        value,
        lease: 0,
    };
    let compares = vec![same(&entry.key, Some(entry))];
    match engine.commit(compares, vec![put]).await?.is_done {
        true => Ok(()),
        false => Err(ChangeError::Busy),
    }
}

/// What is gone so far may be gone.
pub async fn accept(engine: &dyn Engine) -> Result<i64, ChangeError> {
    let (_, revision) = read_one(engine, &Key::Accepted.text()).await?;
    let value = write(&AcceptedRecord { revision });
    put(engine, vec![(Key::Accepted, value)]).await?;
    Ok(revision)
}

/// A name goes from the hosts that claim it before another to that one, in one moment. A claim that it
/// has of its own stays as it is: it knows the instance's id there.
pub async fn relocate(
    engine: &dyn Engine,
    name: &str,
    from: &[&str],
    to: (&str, Vec<u8>),
) -> Result<(), ChangeError> {
    let key = |host: &str| Key::Claim {
        host: host.to_owned(),
        name: name.to_owned(),
    };
    let (mut compares, mut operations) = (Vec::new(), Vec::new());
    for host in from {
        let old = key(host).text();
        let (before, _) = read_one(engine, &old).await?;
        let Some(before) = before else {
            return Err(ChangeError::Missing(format!(
                "`{host}` does not claim `{name}` any more"
            )));
        };
        compares.push(Compare::Modified(old.clone(), before.modified));
        operations.push(Operation::Delete(old));
    }
    let new = key(to.0).text();
    let (own, _) = read_one(engine, &new).await?;
    compares.push(same(&new, own.as_ref()));
    if own.is_none() {
        operations.push(Operation::Put {
            key: new,
            value: to.1,
            lease: 0,
        });
    }
    let done = engine.commit(compares, operations).await?;
    match done.is_done {
        true => Ok(()),
        false => Err(ChangeError::Busy),
    }
}

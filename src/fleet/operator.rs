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

/// What is gone so far may be gone.
pub async fn accept(engine: &dyn Engine) -> Result<i64, ChangeError> {
    let (_, revision) = read_one(engine, &Key::Accepted.text()).await?;
    let value = write(&AcceptedRecord { revision });
    put(engine, vec![(Key::Accepted, value)]).await?;
    Ok(revision)
}

/// A name's claim goes from one host to another in one moment.
pub async fn relocate(
    engine: &dyn Engine,
    name: &str,
    from: &str,
    to: (&str, Vec<u8>),
) -> Result<(), ChangeError> {
    let key = |host: &str| Key::Claim {
        host: host.to_owned(),
        name: name.to_owned(),
    };
    let (old, new) = (key(from).text(), key(to.0).text());
    let (before, _) = read_one(engine, &old).await?;
    let Some(before) = before else {
        return Err(ChangeError::Missing(format!(
            "`{from}` does not claim `{name}` any more"
        )));
    };
    let put = Operation::Put {
        key: new,
        value: to.1,
        lease: 0,
    };
    let compares = vec![Compare::Modified(old.clone(), before.modified)];
    let done = engine
        .commit(compares, vec![Operation::Delete(old), put])
        .await?;
    match done.is_done {
        true => Ok(()),
        false => Err(ChangeError::Busy),
    }
}

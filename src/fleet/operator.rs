//! What operators change in the directory.
//!
//! Guarantees: what is taken away by hand is counted in the same transaction, so that it is never
//! mistaken for a loss; a move is one transaction that fails if somebody else was quicker; what no
//! member could read is not written; what another version says in a route stays when it is changed.

use std::collections::HashMap;

use thiserror::Error;

use super::engine::{Compare, Engine, EngineError, Entry, MOST_OPERATIONS, Operation, read_one};
use super::records::{AcceptedRecord, Key, RemovedRecord, RouteRecord, read, write};

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

/// Writes routes, some at a time. What another version says in one that is there, of which `there` is what
/// was read last, stays.
pub async fn put_routes(
    engine: &dyn Engine,
    routes: Vec<(Key, RouteRecord)>,
    there: Vec<Entry>,
) -> Result<(), ChangeError> {
    let known = there.into_iter().map(|entry| (entry.key.clone(), entry));
    let mut known: HashMap<String, Entry> = known.collect();
    let routes = routes.into_iter().map(|(key, record)| (key.text(), record));
    let routes: Vec<(String, RouteRecord)> = routes.collect();
    for some in routes.chunks(MOST_OPERATIONS) {
        put_some_routes(engine, some, &mut known).await?;
    }
    Ok(())
}

async fn put_some_routes(
    engine: &dyn Engine,
    routes: &[(String, RouteRecord)],
    known: &mut HashMap<String, Entry>,
) -> Result<(), ChangeError> {
    for _ in 0..ATTEMPTS {
        let (mut compares, mut puts) = (Vec::new(), Vec::new());
        for (key, record) in routes {
            let before = known.get(key);
            compares.push(same(key, before));
            let before = before.and_then(|entry| read::<RouteRecord>(&entry.value).ok());
            let record = RouteRecord {
                more: before.map(|before| before.more).unwrap_or_default(),
                ..record.clone()
            };
            puts.push(Operation::Put {
                key: key.clone(),
                value: write(&record),
                lease: 0,
            });
        }
        if engine.commit(compares, puts).await?.is_done {
            return Ok(());
        }
        for (key, _) in routes {
            match read_one(engine, key).await?.0 {
                Some(entry) => known.insert(key.clone(), entry),
                None => known.remove(key),
            };
        }
    }
    Err(ChangeError::Busy)
}

fn same(key: &str, entry: Option<&Entry>) -> Compare {
    Compare::unchanged(key, entry.map(|entry| entry.modified))
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
        compares.push(same(&old, Some(&before)));
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;
    use crate::fleet::MemoryEngine;

    fn route(host: &str) -> Key {
        Key::Route {
            source: "op".to_owned(),
            route: (&*format!("{host}/")).into(),
        }
    }

    fn record(instance: &str) -> RouteRecord {
        RouteRecord {
            instance: instance.to_owned(),
            port: 80,
            policy: None,
            more: Map::new(),
        }
    }

    async fn there(engine: &dyn Engine, key: &Key) -> Entry {
        read_one(engine, &key.text()).await.unwrap().0.unwrap()
    }

    #[tokio::test]
    async fn what_another_version_says_in_a_route_stays_when_it_is_changed() {
        let engine = MemoryEngine::new();
        let (key, new) = (route("a.test"), route("b.test"));
        let later = br#"{"instance":"a","port":1,"policy":"p","cell":"eu-2"}"#.to_vec();
        put(&engine, vec![(key.clone(), later)]).await.unwrap();
        let read = vec![there(&engine, &key).await];
        // It was changed since.
        let later = br#"{"instance":"a","weight":7}"#.to_vec();
        put(&engine, vec![(key.clone(), later)]).await.unwrap();
        let routes = vec![(key.clone(), record("b")), (new.clone(), record("c"))];
        put_routes(&engine, routes, read).await.unwrap();
        let said = |entry: Entry| serde_json::from_slice::<Value>(&entry.value).unwrap();
        let changed = said(there(&engine, &key).await);
        let wanted = serde_json::json!({ "instance": "b", "port": 80, "weight": 7 });
        assert_eq!(changed, wanted);
        let made = said(there(&engine, &new).await);
        assert_eq!(made, serde_json::json!({ "instance": "c", "port": 80 }));
    }

    #[tokio::test]
    async fn a_route_that_cannot_be_read_is_written_anew() {
        let engine = MemoryEngine::new();
        let key = route("a.test");
        put(&engine, vec![(key.clone(), b"?".to_vec())])
            .await
            .unwrap();
        let read = vec![there(&engine, &key).await];
        let routes = vec![(key.clone(), record("b"))];
        put_routes(&engine, routes, read).await.unwrap();
        assert_eq!(there(&engine, &key).await.value, write(&record("b")));
    }
}

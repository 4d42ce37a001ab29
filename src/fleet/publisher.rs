//! What a node says of its host: its instances, its ingress resources.
//!
//! Guarantees: a list that cannot be read changes nothing, and one that can be read only in part takes
//! nothing away; only keys of this member are written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Map;
use tokio::time::{Instant, sleep};

use super::directory::Directory;
use super::engine::{MOST_OPERATIONS, Operation, read_all};
use super::records::{ClaimRecord, Key, RouteRecord, claims_of, routes_of, write};

/// How often the host's lists are compared with what is published.
const LOOK: Duration = Duration::from_secs(1);
/// How often what is published is read anew, in case somebody else has changed it.
const READ: Duration = Duration::from_secs(30);

/// What a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Ids by the instances' names.
    pub instances: BTreeMap<String, String>,
    /// Routes by their names (host and path), of the host's ingress resources.
    pub routes: BTreeMap<String, RouteRecord>,
    /// Whether that is all; or else nothing is taken away.
    pub is_whole: bool,
}

/// What this member's keys are: when that was read, and how often the engine had gone back.
type Published = (BTreeMap<String, Vec<u8>>, Instant, u64);

/// Whoever knows what a host has.
pub trait Host: Send + Sync + 'static {
    /// Asks.
    fn inventory(&self) -> BoxFuture<'_, Result<Inventory, String>>;
}

/// Publishes what the host has; never ends.
pub async fn publish(directory: Arc<Directory>, host: Arc<dyn Host>) {
    let mut published: Option<Published> = None;
    let mut trouble: Option<String> = None;
    loop {
        let outcome = look(&directory, &*host, &mut published).await;
        let said = outcome.err();
        match (&said, &trouble) {
            (Some(said), None) => {
                tracing::warn!(error = %said, "what this host has cannot be published");
            }
            (None, Some(_)) => tracing::info!("what this host has is published again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        if said.is_some() {
            published = None;
        }
        trouble = said;
        sleep(LOOK).await;
    }
}

/// Makes this member's keys what its host has.
async fn look(
    directory: &Directory,
    host: &dyn Host,
    published: &mut Option<Published>,
) -> Result<(), String> {
    let inventory = host.inventory().await?;
    let (engine, name) = (directory.engine(), directory.own_name());
    let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for (instance, id) in inventory.instances {
        let key = Key::Claim {
            host: name.to_owned(),
            name: instance,
        };
        let more = Map::new();
        wanted.insert(key.text(), write(&ClaimRecord { id, more }));
    }
    for (route, record) in inventory.routes {
        let key = Key::Route {
            source: name.to_owned(),
            name: route,
        };
        wanted.insert(key.text(), write(&record));
    }
    // An engine that went back has lost some of it.
    let went_back = directory.status_went_back();
    let is_fresh = published
        .as_ref()
        .is_some_and(|(_, at, back)| at.elapsed() < READ && *back == went_back);
    if !is_fresh {
        let mut there = BTreeMap::new();
        for prefix in [claims_of(name), routes_of(name)] {
            let (entries, _) = read_all(&**engine, &prefix)
                .await
                .map_err(|e| e.to_string())?;
            there.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
        }
        *published = Some((there, Instant::now(), went_back));
    }
    let Some((there, _, _)) = published else {
        return Ok(());
    };
    let put = wanted
        .iter()
        .filter(|(key, value)| there.get(*key) != Some(value));
    let mut operations: Vec<Operation> = put
        .map(|(key, value)| Operation::Put {
            key: key.clone(),
            value: value.clone(),
            lease: 0,
        })
        .collect();
    if inventory.is_whole {
        let gone = there.keys().filter(|key| !wanted.contains_key(*key));
        operations.extend(gone.map(|key| Operation::Delete(key.clone())));
    }
    for some in operations.chunks(MOST_OPERATIONS) {
        let done = engine.commit(Vec::new(), some.to_vec()).await;
        done.map_err(|error| error.to_string())?;
        for operation in some {
            match operation {
                Operation::Put { key, value, .. } => there.insert(key.clone(), value.clone()),
                Operation::Delete(key) => there.remove(key),
            };
        }
    }
    Ok(())
}

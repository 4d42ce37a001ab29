//! The directory of a fleet, as commands open and change it.
//!
//! Guarantees: whatever is wrong with the configuration is said before anything is asked for or changed; a
//! policy is read and written sealed, where there are keys.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::args::NameArguments;
use super::output::Failure;
use crate::app::engine_of;
use crate::config::{Config, FleetEngine, Variables, load_file};
use crate::fleet::engine::{Entry, read_all};
use crate::fleet::records::{Key, OPERATOR, PREFIX, read, write};
use crate::fleet::{Directory, Engine, Own, SealKeys};

/// The directory that a configuration names.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) keys: SealKeys,
}

impl Opened {
    pub(super) fn of(file: Option<&Path>) -> Result<Self, Failure> {
        let loaded = load_file(file, &Variables::from_process()).map_err(Failure::bad_config)?;
        let config = loaded.config;
        let Some(fleet) = &config.fleet else {
            return Err(Failure::bad_config("the configuration has no [fleet]"));
        };
        if fleet.engine == FleetEngine::Memory {
            return Err(Failure::failed(
                "`fleet.engine` is \"memory\", which no other program can look into",
            ));
        }
        let engine = engine_of(fleet).map_err(Failure::bad_config)?;
        let keys = SealKeys::of(fleet).map_err(Failure::bad_config)?;
        Ok(Self {
            config,
            engine,
            keys,
        })
    }

    /// A policy's own keys.
    pub(super) fn policy(&self, entry: &Entry) -> Result<Map<String, Value>, String> {
        policy_in(entry, &self.keys)
    }

    /// A policy as it is written.
    pub(super) fn sealed(
        &self,
        name: &str,
        keys: &Map<String, Value>,
    ) -> Result<(Key, Vec<u8>), Failure> {
        let key = Key::Policy(name.to_owned());
        let value = self.keys.seal(&key.text(), write(keys));
        Ok((key, value.map_err(Failure::failed)?))
    }

    pub(super) async fn read(&self) -> Result<(Arc<Directory>, Vec<Entry>), Failure> {
        let Some(fleet) = &self.config.fleet else {
            return Err(Failure::bad_config("the configuration has no [fleet]"));
        };
        let (entries, revision) = read_all(&*self.engine, PREFIX)
            .await
            .map_err(Failure::failed)?;
        let own = Own {
            name: String::new(),
            is_node: false,
            ..Own::default()
        };
        let wake = &self.config.wake;
        let directory = Directory::new(own, fleet, wake, "", Arc::clone(&self.engine));
        let directory = directory.map_err(Failure::failed)?;
        directory.replace(&entries, revision);
        directory.hear();
        Ok((directory, entries))
    }
}

/// A policy's own keys.
pub(super) fn policy_in(entry: &Entry, keys: &SealKeys) -> Result<Map<String, Value>, String> {
    let opened = keys.open(&entry.key, &entry.value);
    read(&opened.map_err(|error| error.to_string())?)
}

/// The name of a route, as the directory has it.
pub(super) fn route_name(arguments: &NameArguments) -> Result<String, Failure> {
    if !arguments.path.starts_with('/') {
        return Err(Failure::failed(format_args!(
            "`{}` is not a path, which begins with `/`",
            arguments.path
        )));
    }
    let path = arguments.path.trim_end_matches('/');
    let path = if path.is_empty() { "/" } else { path };
    Ok(format!("{}{path}", arguments.host))
}

/// The key of a route that an operator writes.
pub(super) fn operators(name: &str) -> Key {
    Key::Route {
        source: OPERATOR.to_owned(),
        route: name.into(),
    }
}

//! The gateway's copy of its fleet's directory, and what it publishes there.
//!
//! Guarantees: routes of the configuration's file go before those of the directory; what was known of
//! it last is in force until it answers; a certificate that says something else than the configuration
//! is refused.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Map;

use super::error::AppError;
use super::membership::Membership;
use crate::config::{
    Config, FleetConfig, FleetEngine, FleetRole, ListenerConfig, RouteConfig, RouteKey,
};
use crate::fleet::records::{Key, MemberRecord, to_hex};
use crate::fleet::{
    Directory, Engine, EtcdEngine, IdentityFiles, MemoryEngine, Own, PeerIdentity, Placement, Role,
    Vault, snapshot,
};
use crate::router::RouteChange;

/// A member of a fleet, before it does anything.
#[derive(Debug)]
pub(super) struct FleetParts {
    pub(super) directory: Arc<Directory>,
    pub(super) identity: Option<Arc<PeerIdentity>>,
    name: String,
}

/// The identity that the configuration names.
pub(super) fn identity_of(fleet: &FleetConfig) -> Result<Option<Arc<PeerIdentity>>, String> {
    let Some(files) = &fleet.identity else {
        return Ok(None);
    };
    let files = IdentityFiles {
        cert: files.cert.clone(),
        key: files.key.clone(),
        ca: files.ca.clone(),
    };
    let identity = PeerIdentity::load(files, &fleet.cell).map_err(|error| error.to_string())?;
    let own = identity.own();
    let role = match fleet.role {
        FleetRole::Front => Role::Front,
        FleetRole::Node => Role::Node,
        FleetRole::Both => Role::Both,
    };
    if own.role != role {
        return Err(format!(
            "the certificate is of a {}, and `fleet.role` is {}",
            own.role.word(),
            role.word()
        ));
    }
    if fleet.name.as_ref().is_some_and(|name| *name != own.name) {
        return Err(format!(
            "the certificate is of `{}`, which is not `fleet.name`",
            own.name
        ));
    }
    Ok(Some(identity))
}

/// What keeps the directory.
pub fn engine_of(fleet: &FleetConfig) -> Result<Arc<dyn Engine>, String> {
    Ok(match fleet.engine {
        FleetEngine::Memory => Arc::new(MemoryEngine::new()),
        FleetEngine::Etcd => Arc::new(EtcdEngine::new(fleet)?),
    })
}

impl FleetParts {
    /// What the configuration says, and what the last copy's file knows.
    pub(super) fn new(config: &Config, fleet: &FleetConfig) -> Result<Self, AppError> {
        let identity = identity_of(fleet).map_err(AppError::Fleet)?;
        let name = identity.as_ref().map(|identity| identity.own().name);
        let name = name.or_else(|| fleet.name.clone()).unwrap_or_default();
        let engine = engine_of(fleet).map_err(AppError::Fleet)?;
        let own = Own {
            name: name.clone(),
            is_node: fleet.is_node(),
            meets_nobody: fleet.role == FleetRole::Node
                && config.listener.is_empty()
                && !config.ingress.watch,
        };
        let hypeman = config.hypeman.first().map(|plane| plane.name.as_str());
        let hypeman = hypeman.unwrap_or_default();
        let directory = Directory::new(own, fleet, &config.wake, hypeman, engine);
        let directory = directory.map_err(AppError::Fleet)?;
        if let Some(path) = &fleet.snapshot {
            match snapshot::load(path, &fleet.cell) {
                Ok(Some((entries, revision))) => {
                    directory.restore(&entries, revision);
                    tracing::info!(revision, "what was known of the fleet last is in force");
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the directory's last copy"),
            }
        }
        Ok(Self {
            directory,
            identity,
            name,
        })
    }

    /// How it is joined.
    pub(super) fn membership(&self, fleet: &FleetConfig) -> Membership {
        Membership {
            placement: Arc::clone(&self.directory) as Arc<dyn Placement>,
            identity: self.identity.clone(),
            listen: fleet.listen,
            is_node: fleet.is_node(),
        }
    }

    /// Its record, once it is known where it listens.
    pub(super) fn record(
        &self,
        fleet: &FleetConfig,
        listening: Option<SocketAddr>,
    ) -> (Key, MemberRecord) {
        let endpoint = fleet.advertise.clone();
        let endpoint = endpoint.or_else(|| listening.map(|address| address.to_string()));
        let role = match fleet.role {
            FleetRole::Front => Role::Front,
            FleetRole::Node => Role::Node,
            FleetRole::Both => Role::Both,
        };
        let record = MemberRecord {
            role: Some(role.word().to_owned()),
            endpoints: endpoint.into_iter().collect(),
            zone: fleet.zone.clone(),
            spki: self
                .identity
                .as_ref()
                .map(|identity| to_hex(&identity.spki())),
            boot: format!("{:016x}", fastrand::u64(..)),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            draining: false,
            more: Map::new(),
        };
        let key = match fleet.role {
            FleetRole::Front => Key::Front(self.name.clone()),
            FleetRole::Node | FleetRole::Both => Key::Node(self.name.clone()),
        };
        (key, record)
    }
}

/// What the file of the last copy is called, in the folder of certificates.
const COPY: &str = "fleet";

/// What this gateway shares with the other fronts, if it has TLS for clients and keys to seal with.
pub(super) fn vault_of(config: &Config) -> Result<Option<Arc<Vault>>, String> {
    let tls = |listener: &ListenerConfig| listener.tls.is_some();
    let has_tls = config.listener.iter().any(tls) || config.ingress.tls.is_some();
    let Some(fleet) = config.fleet.as_ref().filter(|_| has_tls) else {
        return Ok(None);
    };
    let folder = match config.uses_acme() {
        true => Some(&config.acme.dir),
        false => config.tickets.dir.as_ref(),
    };
    let file = folder.map(|folder| folder.join(COPY));
    Vault::open(fleet, engine_of(fleet)?, file).map_err(|error| error.to_string())
}

/// The change without what goes before: routes of the file, which are for every port, and those that this host's
/// control planes declare for the same port.
pub(super) fn beside(
    change: RouteChange,
    config: &Config,
    declared: &[Arc<RouteConfig>],
) -> RouteChange {
    let names: HashSet<_> = config.route.iter().map(|route| route.label()).collect();
    let mut all = change.removed.iter().chain(&change.added);
    let declared: HashSet<RouteKey> = match all.any(|route| route.listen_port.is_some()) {
        true => declared.iter().map(|route| route.key()).collect(),
        false => HashSet::new(),
    };
    let other = |route: &Arc<RouteConfig>| {
        !names.contains(route.label()) && !declared.contains(&route.key())
    };
    RouteChange {
        removed: change.removed.into_iter().filter(other).collect(),
        added: change.added.into_iter().filter(other).collect(),
    }
}

/// Whether the snapshot's folder is there, so that the first copy can be written.
pub(super) fn snapshot_folder(fleet: &FleetConfig) -> Option<PathBuf> {
    let parent = fleet.snapshot.as_ref()?.parent()?;
    let is_missing = !parent.as_os_str().is_empty() && !parent.is_dir();
    is_missing.then(|| parent.to_owned())
}

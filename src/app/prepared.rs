//! What a gateway makes of its configuration before it opens a socket.
//!
//! Guarantees: `wakegate serve` and `wakegate check` both come through here, so that what one
//! refuses, the other refuses in the same words; every fault is reported, each with its key; a
//! rehearsal reads the same files, and writes and founds nothing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::fleet::{engine_of, identity_of, snapshot_folder, vault_of};
use crate::acme::{AcmeError, AcmeStore};
use crate::config::{
    Config, ConfigError, HypemanConfig, ListenerConfig, Problem, TlsConfig, TlsSource,
    address_problems,
};
use crate::fleet::{SealKeys, Vault};
use crate::instance_tls::{TlsProfiles, TlsSetupError};
use crate::listener::{
    ListenerSettings, TicketRing, TicketRingError, TlsError, TlsParts, is_v6_only, probe,
};
use crate::telemetry::{Metrics, Tracer};
use crate::workload::{HoldDirError, Holds};
use hypeman::BuildError;

/// All of a gateway that needs neither a socket nor a thread of its own.
#[derive(Debug)]
pub struct Prepared {
    /// The settings of `config.listener`, in its order.
    pub(super) listeners: Vec<ListenerSettings>,
    /// The clients of `config.hypeman`, in its order.
    pub(super) clients: Vec<hypeman::Client>,
    /// The TLS that `config.route` speaks with instances.
    pub(super) instance_tls: TlsProfiles,
    /// What the listeners' TLS shares.
    pub(super) tls: TlsParts,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Tracer,
    /// The holds by which workloads keep their instances awake.
    pub(super) holds: Arc<Holds>,
    /// What it shares with the other fronts of its fleet.
    pub(super) vault: Option<Arc<Vault>>,
    warnings: Vec<Problem>,
}

/// The rule of an address that somebody has open, this gateway perhaps.
pub const IN_USE: &str = "address_in_use";

/// Reads a listener's certificates.
type Load<'a> = &'a dyn Fn(&ListenerConfig) -> Result<ListenerSettings, TlsError>;

// === impl Prepared ===

impl Prepared {
    /// Prepares a gateway that is to be run: an internal CA that is not there yet is founded.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let (mut tls, mut problems) = (TlsParts::default(), Vec::new());
        // What is wrong with the fleet's files is told with all that is.
        let vault = vault_of(config).unwrap_or_default();
        match &vault {
            Some(vault) => {
                let ring = TicketRing::in_fleet(Arc::clone(vault), config.tickets.rotate);
                tls.tickets = Some(ring);
            }
            None => match TicketRing::open(&config.tickets) {
                Ok(tickets) => tls.tickets = tickets,
                Err(error) => problems.push(ticket_problem(&error)),
            },
        }
        if config.uses_acme() {
            let dir = &config.acme.dir;
            let store = match &vault {
                Some(vault) => AcmeStore::in_fleet(Arc::clone(vault), dir),
                None => AcmeStore::open(dir),
            };
            match store {
                Ok(store) => tls.acme = Some(store),
                Err(error) => problems.push(acme_problem(&error)),
            }
        }
        let metrics = Arc::new(Metrics::with_max_routes(config.metrics.max_routes));
        let clock = Arc::new(Timestamp::now);
        let holds = match config.workload.address {
            Some(_) => Holds::open(&config.workload, Arc::clone(&metrics), clock),
            // Without a door nobody looks after holds.
            None => Ok(Holds::none(Arc::clone(&metrics))),
        };
        let holds = holds.unwrap_or_else(|error| {
            problems.push(hold_problem(&error));
            Holds::none(Arc::clone(&metrics))
        });
        let load = |listener: &ListenerConfig| ListenerSettings::new(listener, &tls);
        let prepared = Self::with(config, problems, (metrics, holds), &load);
        prepared.map(|prepared| Self {
            tls,
            vault,
            ..prepared
        })
    }

    /// Prepares one that is not, without a trace. To be heard and not to be served, it also warns
    /// of addresses that cannot be opened just now.
    pub fn rehearse(config: &Config) -> Result<Self, ConfigError> {
        let (mut tls, mut warning, mut problems) = (TlsParts::default(), None, Vec::new());
        match TicketRing::rehearse(&config.tickets) {
            Ok(found) => warning = found,
            Err(error) => problems.push(ticket_problem(&error)),
        }
        if config.uses_acme() {
            match AcmeStore::rehearse(&config.acme.dir) {
                Ok(store) => tls.acme = Some(store),
                Err(error) => problems.push(acme_problem(&error)),
            }
        }
        let mut damaged = Vec::new();
        match Holds::rehearse(&config.workload) {
            Ok(found) => damaged = found,
            Err(error) => problems.push(hold_problem(&error)),
        }
        let metrics = Arc::new(Metrics::with_max_routes(config.metrics.max_routes));
        let holds = Holds::none(Arc::clone(&metrics));
        let load = |listener: &ListenerConfig| ListenerSettings::rehearse(listener, &tls);
        let mut prepared = Self::with(config, problems, (metrics, holds), &load)?;
        prepared.warnings.extend(damaged.into_iter().map(|message| {
            let help = "nothing to do: its instance sleeps by its policy again; delete the file";
            Problem::of("damaged_holds", "workload.state_dir", message).with_mend(help)
        }));
        let open = Holds::open_to_others(&config.workload);
        prepared.warnings.extend(open.map(|dir| {
            let message = format!("others than its owner may write to {}", dir.display());
            let help = "`chmod go-w` it: whoever can write there keeps any instance awake";
            Problem::of("open_holds", "workload.state_dir", message).with_mend(help)
        }));
        prepared.warnings.extend(warning.map(|message| {
            let help = "nothing to do: the clients of before have full handshakes once";
            Problem::of("damaged_tickets", "tickets.dir", message).with_mend(help)
        }));
        prepared.warnings.extend(closed_addresses(config));
        Ok(prepared)
    }

    fn with(
        config: &Config,
        found: Vec<Problem>,
        (metrics, holds): (Arc<Metrics>, Arc<Holds>),
        load: Load<'_>,
    ) -> Result<Self, ConfigError> {
        let mut problems = address_problems(config);
        problems.extend(found);
        if config.uses_acme() {
            problems.extend(acme_file_problems(config));
        }
        problems.extend(fleet_file_problems(config));
        let mut warnings = Vec::new();
        let mut open = |key: String, listener: &ListenerConfig| match load(listener) {
            Ok(settings) => {
                warnings.extend(expired(&key, &settings));
                Some(settings)
            }
            Err(error) => {
                let key = listener.tls.as_ref().map(|tls| tls_key(&key, tls, &error));
                problems.push(Problem::of(
                    "certificate",
                    key.unwrap_or_default(),
                    error.to_string(),
                ));
                None
            }
        };
        let listeners = config.listener.iter().enumerate();
        let listeners: Vec<_> = listeners
            .filter_map(|(index, listener)| open(format!("listener[{index}].tls"), listener))
            .collect();
        if config.ingress.watch {
            let listener = ListenerConfig {
                tls: config.ingress.tls.clone(),
                ..ListenerConfig::default()
            };
            open("ingress.tls".to_owned(), &listener);
        }
        let instance_tls = TlsProfiles::default();
        if let Err(errors) = instance_tls.load(&config.route) {
            problems.extend(errors.into_iter().map(tls_problem));
        }
        let mut clients = Vec::new();
        for (index, plane) in config.hypeman.iter().enumerate() {
            let client = hypeman::ClientBuilder::from(plane.to_client_config());
            let observer = Arc::clone(&metrics);
            match client.observer(observer).build() {
                Ok(client) => clients.push(client),
                Err(error) => problems.push(client_problem(index, plane, &error)),
            }
        }
        let tracer = match Tracer::new(&config.tracing, &metrics) {
            Ok(tracer) => tracer,
            Err(error) => {
                problems.push(Problem::of(
                    "tracing",
                    "tracing.endpoint",
                    error.to_string(),
                ));
                Tracer::default()
            }
        };
        match problems.is_empty() {
            true => Ok(Self {
                listeners,
                clients,
                instance_tls,
                tls: TlsParts::default(),
                metrics,
                tracer,
                holds,
                vault: None,
                warnings,
            }),
            false => Err(ConfigError { problems }),
        }
    }

    /// What does not keep the gateway from starting and is most likely not meant.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }
}

/// The key whose file is at fault.
fn tls_key(key: &str, tls: &TlsConfig, error: &TlsError) -> String {
    let path = match error {
        TlsError::Read { path, .. } | TlsError::Content { path, .. } | TlsError::Empty(path) => {
            path
        }
        TlsError::Internal { dir, .. } => dir,
        TlsError::Setup(_) => return key.to_owned(),
    };
    let is_at = |other: &Path| path.starts_with(other);
    let clients = tls.clients.as_ref();
    let name = match &tls.source {
        _ if clients.is_some_and(|clients| is_at(&clients.client_ca)) => "client_ca",
        TlsSource::Files { cert, .. } if is_at(cert) => "cert",
        TlsSource::Files { key, .. } if is_at(key) => "key",
        TlsSource::Files { .. } => "ocsp",
        TlsSource::Directory { .. } => "dir",
        TlsSource::Internal { .. } => "internal",
        TlsSource::Acme { .. } => "acme",
    };
    format!("{key}.{name}")
}

fn acme_problem(error: &AcmeError) -> Problem {
    Problem::of("acme", "acme.dir", error.to_string())
}

/// Files of `[acme]` that cannot be read.
fn acme_file_problems(config: &Config) -> Vec<Problem> {
    let eab = config.acme.eab.as_ref().map(|eab| &eab.key_file);
    let files = [
        ("acme.ca", config.acme.ca.as_ref()),
        ("acme.eab.key_file", eab),
    ];
    unreadable(files)
}

/// Files of `[fleet]` that cannot be read.
fn fleet_file_problems(config: &Config) -> Vec<Problem> {
    let Some(fleet) = &config.fleet else {
        return Vec::new();
    };
    let (identity, tls) = (fleet.identity.as_ref(), fleet.tls.as_ref());
    let mut problems = unreadable([
        ("fleet.password_file", fleet.password_file.as_ref()),
        ("fleet.tls.ca", tls.and_then(|tls| tls.ca.as_ref())),
        ("fleet.tls.cert", tls.and_then(|tls| tls.cert.as_ref())),
        ("fleet.tls.key", tls.and_then(|tls| tls.key.as_ref())),
        (
            "fleet.identity.cert",
            identity.map(|identity| &identity.cert),
        ),
        ("fleet.identity.key", identity.map(|identity| &identity.key)),
        ("fleet.identity.ca", identity.map(|identity| &identity.ca)),
        ("fleet.key_file", fleet.key_file.as_ref()),
    ]);
    if problems.is_empty() {
        let identity = identity_of(fleet).err();
        problems.extend(identity.map(|e| Problem::of("certificate", "fleet.identity", e)));
        let keys = SealKeys::of(fleet).err();
        let keys = keys.map(|error| Problem::of("bad_value", "fleet.key_file", error.to_string()));
        problems.extend(keys);
        let engine = engine_of(fleet).err();
        problems.extend(engine.map(|error| Problem::of("fleet", "fleet.tls", error)));
    }
    if let Some(folder) = snapshot_folder(fleet) {
        let message = format!("there is no folder {}", folder.display());
        problems.push(Problem::of("fleet", "fleet.snapshot", message));
    }
    problems
}

/// Those of the files that cannot be read, by their keys.
fn unreadable<const N: usize>(files: [(&str, Option<&PathBuf>); N]) -> Vec<Problem> {
    let problems = files.into_iter().filter_map(|(key, path)| {
        let path = path?;
        let error = std::fs::read(path).err()?;
        let message = format!("cannot read {}: {error}", path.display());
        Some(Problem::of("unreadable_file", key, message))
    });
    problems.collect()
}

fn hold_problem(error: &HoldDirError) -> Problem {
    Problem::of("holds", "workload.state_dir", error.to_string())
}

fn ticket_problem(error: &TicketRingError) -> Problem {
    Problem::of("tickets", "tickets.dir", error.to_string())
}

/// What is wrong with the TLS to instances of the route at this position.
pub(super) fn tls_problem((index, error): (usize, TlsSetupError)) -> Problem {
    let key = match error.key {
        "protocol" => format!("route[{index}].protocol"),
        key => format!("route[{index}].upstream_tls.{key}"),
    };
    Problem::of("certificate", key, error.message)
}

fn client_problem(index: usize, plane: &HypemanConfig, error: &BuildError) -> Problem {
    let (rule, key) = if matches!(error, BuildError::KeyFile { .. }) {
        ("unreadable_file", "api_key_file")
    } else if matches!(error, BuildError::Key) {
        ("bad_value", "api_key_file")
    } else {
        ("control_plane", "url")
    };
    if matches!(error, BuildError::Key) && plane.api_key_file.is_none() {
        let name = &plane.name;
        let message = format!("`{name}`: {error}: look at the variable HYPEMAN_API_KEY…");
        return Problem::of(rule, format!("hypeman[{index}]"), message);
    }
    let key = format!("hypeman[{index}].{key}");
    Problem::of(rule, key, format!("`{}`: {error}", plane.name))
}

/// A warning of certificates that clients refuse.
fn expired(key: &str, settings: &ListenerSettings) -> Option<Problem> {
    let end = Timestamp::from_second(settings.not_after()?).ok()?;
    (end < Timestamp::now()).then(|| {
        let message = format!("has a certificate that expired at {end}: clients refuse it");
        Problem::of("certificate_expired", key, message).with_mend("renew it")
    })
}

/// Warnings of the addresses that the system would not open just now. Whether they can be opened
/// later, or by somebody else (systemd, say), nobody knows.
fn closed_addresses(config: &Config) -> Vec<Problem> {
    let reuse_port = config.server.reuse_port;
    let all = || config.listener.iter().map(|listener| listener.address);
    let listeners = config.listener.iter().enumerate();
    let listeners = listeners.map(|(index, one)| {
        let v6_only = is_v6_only(one.address, all());
        (format!("listener[{index}].address"), one.address, v6_only)
    });
    let admin = ("admin.address".to_owned(), config.admin.address, false);
    let workload = config.workload.address;
    let workload = workload.map(|address| ("workload.address".to_owned(), address, false));
    let closed = listeners
        .chain([admin])
        .chain(workload)
        .filter_map(|(key, address, v6_only)| {
            let error = probe(address, reuse_port, v6_only).err()?;
            let (rule, mend) = if error.kind() == ErrorKind::AddrInUse {
                let mend = "nothing to do if it is this gateway that runs there";
                (IN_USE, mend)
            } else if error.kind() == ErrorKind::PermissionDenied {
                let mend =
                    "let the gateway's user do it (CAP_NET_BIND_SERVICE), or let systemd open it";
                ("address_closed", mend)
            } else {
                ("address_closed", "give an address that this machine has")
            };
            let message = format!("cannot be opened now: {address}: {error}");
            Some(Problem::of(rule, key, message).with_mend(mend))
        });
    closed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn config(text: &str) -> Config {
        let text = format!("{text}[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n");
        load("w.toml", &text, &Variables::default()).unwrap()
    }

    fn keys(config: &Config) -> Vec<String> {
        let both = [Prepared::new(config), Prepared::rehearse(config)];
        let [real, rehearsed] = both.map(|prepared| prepared.map(drop).unwrap_err());
        assert_eq!(real, rehearsed);
        let problems = real.problems.into_iter();
        problems.map(|problem| problem.key).collect()
    }

    #[test]
    fn every_fault_is_found_at_once_and_a_rehearsal_finds_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let ca = file.join("ca");
        let config = config(&format!(
            "[admin]\naddress = \"127.0.0.1:81\"\n\
             [ingress]\nwatch = true\ntls = {{ dir = \"/nowhere\" }}\n\
             [[listener]]\naddress = \"127.0.0.1:80\"\ntls = {{ internal = {ca:?} }}\n\
             [[listener]]\naddress = \"127.0.0.1:81\"\ntls = {{ cert = {file:?}, key = \"/no\" }}\n\
             [workload]\naddress = \"127.0.0.1:80\"\nstate_dir = {ca:?}\n\
             [[hypeman]]\napi_key_file = \"/nowhere\"\n"
        ));
        assert_eq!(
            keys(&config),
            [
                "admin.address",
                "workload.address",
                "workload.state_dir",
                "listener[0].tls.internal",
                "listener[1].tls.key",
                "ingress.tls.dir",
                "hypeman[0].api_key_file",
            ]
        );
    }

    #[test]
    fn a_rehearsal_founds_no_ca_and_says_what_would_keep_it_from_being_founded() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("a/b/ca");
        let text =
            format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ internal = {ca:?} }}\n");
        Prepared::rehearse(&config(&text)).unwrap();
        assert!(!dir.path().join("a").exists());
        std::fs::write(dir.path().join("a"), "x").unwrap();
        assert_eq!(keys(&config(&text)), ["listener[0].tls.internal"]);
        std::fs::remove_file(dir.path().join("a")).unwrap();
        Prepared::new(&config(&text)).unwrap();
        assert!(ca.join("ca.key").exists());
        std::fs::write(ca.join("ca.crt"), "x").unwrap();
        assert_eq!(keys(&config(&text)), ["listener[0].tls.internal"]);
    }

    #[test]
    fn a_rehearsal_warns_of_what_is_open_already_and_leaves_it_open() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text =
            format!("[admin]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"{address}\"\n");
        let prepared = Prepared::rehearse(&config(&text)).unwrap();
        let [warning] = prepared.warnings() else {
            panic!("{:?}", prepared.warnings());
        };
        assert_eq!(
            (warning.rule, &*warning.key),
            ("address_in_use", "listener[0].address")
        );
        assert!(std::net::TcpStream::connect(address).is_ok());
        drop(taken);
        let prepared = Prepared::rehearse(&config(&text)).unwrap();
        assert_eq!(prepared.warnings(), []);
        assert!(
            std::net::TcpListener::bind(address).is_ok(),
            "nothing is held"
        );
    }
}

//! A fleet of gateways, typed.
//!
//! Guarantees: a member that others must believe has a certificate; what is asked for one role alone
//! is not asked of the other; the password of the directory is in a file and never in the
//! configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reader::Section;
use super::settings::{Settings as _, list, optional_text, settings, share, text, word_settings};
use super::texts::{parse_host, parse_url};

word_settings!(FleetEngine, FleetRole, FleetPublish);

/// What keeps the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FleetEngine {
    /// etcd 3.4 or later, by its JSON gateway.
    Etcd,
    /// The memory of this process, for tests and to try it: nobody else sees it.
    Memory,
}

/// What a gateway does in its fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FleetRole {
    /// It meets clients and forwards to nodes.
    Front,
    /// It stands beside a Hypeman and wakes its instances.
    Node,
    /// Both.
    Both,
}

/// Which instances a node publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum FleetPublish {
    /// All of its Hypeman's.
    All,
    /// Those with the tag `wakegate.publish=true`.
    Tagged,
    /// None: an operator writes the claims.
    None,
}

settings! {
    /// The fleet that the gateway belongs to. Without this table it is a single gateway.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct FleetConfig {
        /// What keeps the directory of routes, instances and members.
        pub engine: FleetEngine = FleetEngine::Etcd;
        /// etcd's members, tried in turn.
        pub endpoints: Vec<String> = vec!["http://127.0.0.1:2379".to_owned()],
            by list(parse_url);
        /// The user that etcd knows.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub user: Option<String> = None;
        /// A file with this user's password.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub password_file: Option<PathBuf> = None;
        /// TLS towards etcd.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tls: Option<FleetTls> = None, by read_tls;
        /// What this gateway does.
        pub role: FleetRole = FleetRole::Both;
        /// What others call it: the name in its certificate. Left out, it is taken from there.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String> = None, by optional_text(parse_member_name);
        /// What the directory and its members are called together, also in certificates.
        pub cell: String = "default".to_owned(), by text(parse_member_name);
        /// The zone that it stands in.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub zone: Option<String> = None;
        /// IP address and port for other members. A node needs one; a front may have one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub listen: Option<SocketAddr> = None;
        /// Host and port at which other members reach `listen`, if that is another.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub advertise: Option<String> = None, by optional_text(parse_advertise);
        /// What it shows to other members, and whom it believes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub identity: Option<FleetIdentity> = None, by read_identity;
        /// A file with the keys of the directory's secrets, one a line, base64 of 32 bytes: the first
        /// seals, all open. With it, fronts share certificates and the keys of session tickets.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<PathBuf> = None;
        /// A file with the last copy of the directory, for a start while it does not answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub snapshot: Option<PathBuf> = None;
        /// The share of routes that may go at once before an operator is asked
        /// (`wakegate fleet accept`), and of what a node has published that its host's list may lack at
        /// once before that is confirmed; fewer than 20 always may.
        pub max_shrink: f64 = 0.1, by share;
        /// Which of its Hypeman's instances a node publishes.
        pub publish: FleetPublish = FleetPublish::All;
        /// Hosts of which a node publishes its Hypeman's ingress resources; any, if none is said.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub publish_hosts: Vec<String> = Vec::new(), by list(parse_published);
    }
}

/// TLS towards etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct FleetTls {
    /// Its CAs, PEM; the system's, if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A certificate to show it, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// What a member shows to others, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub struct FleetIdentity {
    /// Its certificate's chain, PEM, with the URI `wakegate://CELL/ROLE/NAME` among its names.
    pub cert: PathBuf,
    /// The certificate's private key, PEM.
    pub key: PathBuf,
    /// The CA of all members, PEM.
    pub ca: PathBuf,
}

// === impl FleetConfig ===

impl FleetConfig {
    /// Whether it stands beside a Hypeman.
    pub fn is_node(&self) -> bool {
        self.role != FleetRole::Front
    }

    /// Whether it meets clients.
    pub fn is_front(&self) -> bool {
        self.role != FleetRole::Node
    }
}

/// Reads `[fleet]`, where there is one.
#[allow(
    clippy::option_option,
    clippy::unnecessary_wraps,
    reason = "one for whether there is a value, the other of the key's own type"
)]
pub(super) fn read_fleet(
    s: &mut Section<'_, '_>,
    key: &'static str,
) -> Option<Option<FleetConfig>> {
    let mut found = None;
    s.section(key, |s| {
        let mut fleet = FleetConfig::default();
        fleet.read(s);
        let is_said = s.is_in_file()
            || ["engine", "endpoints", "role", "name"]
                .iter()
                .any(|key| s.has(key));
        if !is_said {
            return;
        }
        check(&fleet, s);
        found = Some(fleet);
    });
    Some(found)
}

/// What its keys say together.
fn check(fleet: &FleetConfig, s: &mut Section<'_, '_>) {
    if fleet.endpoints.is_empty() && fleet.engine == FleetEngine::Etcd {
        s.problem("endpoints", "is empty: where is etcd?");
    }
    match (&fleet.user, &fleet.password_file) {
        (Some(_), None) => s.problem("password_file", "is missing: the password of `user`"),
        (None, Some(_)) => s.problem("user", "is missing: whose password is in `password_file`?"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if fleet.identity.is_none() && fleet.role != FleetRole::Both {
        s.problem(
            "identity",
            "is missing: fronts and nodes show each other certificates; give `cert`, `key` and `ca`",
        );
    }
    if fleet.identity.is_none() && fleet.listen.is_some() {
        s.problem(
            "listen",
            "takes members alone, which needs `identity`: `cert`, `key` and `ca`",
        );
    }
    if fleet.identity.is_none() && fleet.name.is_none() {
        s.problem(
            "name",
            "is missing, and there is no certificate that has one",
        );
    }
    if fleet.role == FleetRole::Node && fleet.listen.is_none() {
        s.problem("listen", "is missing: where do fronts reach this node?");
    }
    if fleet.advertise.is_some() && fleet.listen.is_none() {
        s.problem("advertise", "has no effect without `listen`");
    }
    let listens_everywhere = fleet.listen.is_some_and(|at| at.ip().is_unspecified());
    if fleet.is_node() && listens_everywhere && fleet.advertise.is_none() {
        s.problem(
            "advertise",
            "is missing: `listen` is every address of this machine; at which do fronts reach it?",
        );
    }
}

#[allow(
    clippy::option_option,
    clippy::unnecessary_wraps,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn read_tls(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<FleetTls>> {
    let mut tls = None;
    s.section(key, |s| {
        let [ca, cert, pair] = ["ca", "cert", "key"].map(|key| s.text(key).map(PathBuf::from));
        match (&cert, &pair) {
            (Some(_), None) => s.problem("key", "is missing: the private key of `cert`"),
            (None, Some(_)) => s.problem("cert", "is missing: the certificate of `key`"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        let is_said = ca.is_some() || cert.is_some();
        tls = is_said.then_some(FleetTls {
            ca,
            cert,
            key: pair,
        });
    });
    Some(tls)
}

#[allow(
    clippy::option_option,
    clippy::unnecessary_wraps,
    reason = "one for whether there is a value, the other of the key's own type"
)]
fn read_identity(s: &mut Section<'_, '_>, key: &'static str) -> Option<Option<FleetIdentity>> {
    let mut identity = None;
    s.section(key, |s| {
        let found = ["cert", "key", "ca"].map(|key| (key, s.text(key).map(PathBuf::from)));
        if found.iter().all(|(_, path)| path.is_none()) {
            return;
        }
        for (key, path) in &found {
            if path.is_none() {
                s.problem(key, "is missing: an identity is `cert`, `key` and `ca`");
            }
        }
        if let [(_, Some(cert)), (_, Some(key)), (_, Some(ca))] = found {
            identity = Some(FleetIdentity { cert, key, ca });
        }
    });
    Some(identity)
}

/// A name of a member or a cell: it is in keys and in URIs.
fn parse_member_name(text: &str) -> Result<String, String> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(fine);
    match is_name && !matches!(text, "." | ".." | "op") {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` is not a name: letters, digits, `-`, `_` and `.`, and not `op`"
        )),
    }
}

/// `host:port`.
fn parse_advertise(text: &str) -> Result<String, String> {
    let parsed: Option<http::uri::Authority> = text.parse().ok();
    let port = parsed.as_ref().and_then(http::uri::Authority::port_u16);
    let plain = parsed.is_some_and(|parsed| !parsed.host().is_empty() && !text.contains('@'));
    match plain && port.is_some_and(|port| port > 0) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "`{text}` is not a host and port like \"h-0042.example.com:7443\""
        )),
    }
}

fn parse_published(text: &str) -> Result<String, String> {
    // `*.example.com` are all names below it.
    let host = text.strip_prefix("*.").unwrap_or(text);
    match parse_host(host) {
        Ok(pattern) if !host.contains('{') && host != "*" => Ok(match text.starts_with("*.") {
            true => format!("*.{pattern}"),
            false => pattern.to_string(),
        }),
        Ok(_) | Err(_) => Err(format!(
            "`{text}` is not a host like \"shop.example.com\" or \"*.example.com\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Variables, load};

    const IDENTITY: &str = "identity = { cert = \"c\", key = \"k\", ca = \"a\" }\n";

    fn of(text: &str) -> Result<Config, Vec<String>> {
        let loaded = load("w.toml", text, &Variables::default());
        loaded.map_err(|error| {
            let problems = error.problems.into_iter();
            problems.map(|problem| problem.key).collect()
        })
    }

    #[test]
    fn a_member_without_what_its_role_needs_is_refused() {
        for (text, keys) in [
            (
                "[fleet]\nrole = \"front\"\nname = \"f\"\n",
                "fleet.identity",
            ),
            (
                "[fleet]\nname = \"f\"\nlisten = \"127.0.0.1:1\"\n",
                "fleet.listen",
            ),
            (
                "[fleet]\nname = \"f\"\nadvertise = \"a:1\"\n",
                "fleet.advertise",
            ),
            ("[fleet]\n", "fleet.name"),
            ("[fleet]\nname = \"a/b\"\n", "fleet.name"),
            ("[fleet]\nname = \"op\"\n", "fleet.name"),
            ("[fleet]\nname = \"a\"\nendpoints = []\n", "fleet.endpoints"),
            (
                "[fleet]\nname = \"a\"\nuser = \"u\"\n",
                "fleet.password_file",
            ),
            (
                "[fleet]\nname = \"a\"\npassword_file = \"u\"\n",
                "fleet.user",
            ),
            (
                "[fleet]\nname = \"a\"\nmax_shrink = 2\n",
                "fleet.max_shrink",
            ),
            (
                "[fleet]\nname = \"a\"\ntls = { cert = \"c\" }\n",
                "fleet.tls.key",
            ),
            (
                "[fleet]\nname = \"a\"\npublish_hosts = [\"*\"]\n",
                "fleet.publish_hosts",
            ),
            (
                "[fleet]\nname = \"a\"\nidentity = { cert = \"c\", key = \"k\" }\n",
                "fleet.identity.ca",
            ),
        ] {
            assert!(of(text).unwrap_err().contains(&keys.to_owned()), "{text}");
        }
        let node = format!("[fleet]\nrole = \"node\"\n{IDENTITY}");
        assert_eq!(of(&node).unwrap_err(), ["fleet.listen"]);
        let node = format!("{node}listen = \"0.0.0.0:7443\"\n");
        assert_eq!(of(&node).unwrap_err(), ["fleet.advertise"]);
        let node = format!("{node}advertise = \"h-0042:7443\"\n");
        assert!(of(&node).is_ok());
    }

    #[test]
    fn a_fronts_file_needs_neither_routes_nor_control_planes_and_a_nodes_no_listener() {
        let front = format!("[fleet]\nrole = \"front\"\n{IDENTITY}");
        let front = of(&front).unwrap();
        assert_eq!(
            (front.hypeman.len(), front.route.len(), front.listener.len()),
            (0, 0, 1)
        );
        let node = format!("[fleet]\nrole = \"node\"\nlisten = \"127.0.0.1:7443\"\n{IDENTITY}");
        let node = of(&node).unwrap();
        assert_eq!(
            (node.hypeman.len(), node.route.len(), node.listener.len()),
            (1, 0, 0)
        );
        let both = of("[fleet]\nname = \"a\"\n").unwrap();
        assert_eq!(
            (both.hypeman.len(), both.route.len(), both.listener.len()),
            (1, 0, 1)
        );
        assert!(of("").is_err(), "a single gateway needs a route");
    }

    #[test]
    fn what_is_printed_loads_back_and_without_a_table_there_is_no_fleet() {
        let route = "[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n";
        assert_eq!(of(route).unwrap().fleet, None);
        let text = format!(
            "[fleet]\nrole = \"front\"\nuser = \"u\"\npassword_file = \"p\"\nzone = \"z\"\n\
             tls = {{ ca = \"x\" }}\npublish = \"none\"\npublish_hosts = [\"*.a.b\"]\n{IDENTITY}{route}"
        );
        let config = of(&text).unwrap();
        let printed = toml::to_string(&config).unwrap();
        assert_eq!(of(&printed).unwrap(), config, "{printed}");
    }

    #[test]
    fn variables_alone_make_a_member() {
        let variables = [
            ("WAKEGATE_FLEET_NAME", "a"),
            (
                "WAKEGATE_FLEET_ENDPOINTS",
                "https://one:2379, https://two:2379",
            ),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = load("w", "", &Variables::from_iter(variables)).unwrap();
        let fleet = config.fleet.unwrap();
        assert_eq!(fleet.endpoints, ["https://one:2379", "https://two:2379"]);
    }
}

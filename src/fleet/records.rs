//! The directory's keys and values.
//!
//! Guarantees: a key is read exactly or not at all, whatever is in a name; what is written is read
//! back; fields of a value that this version does not know survive a change.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::engine::{Span, end_of};
use super::placement::{Member, Role};
use crate::config::RouteKey;

/// What all keys begin with.
pub const PREFIX: &str = "/wakegate/v1/";
/// The source of routes that operators write.
pub const OPERATOR: &str = "op";

/// What a key is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// `r/{source}/{host}[:{port}][/{path}]`: a route; its name is the host with its path, `/` for none.
    Route {
        /// Who has written it: `op`, or a member for its ingress resources.
        source: String,
        /// Host and path, as a route's label has them, and the port of the gateway's that it is for; without a port
        /// it is for all that no other route of its source and name is for.
        route: RouteKey,
    },
    /// `p/{policy}`: what many routes say alike.
    Policy(String),
    /// `i/{host}/{name}`: this host has that instance.
    Claim {
        /// The host.
        host: String,
        /// The instance's name.
        name: String,
    },
    /// `h/{host}`: a node.
    Node(String),
    /// `g/{front}`: a front.
    Front(String),
    /// `m/removed`: how many routes operators have taken away so far.
    Removed,
    /// `m/accepted`: up to which revision it is meant that routes are gone.
    Accepted,
    /// `m/past`: which past the directory has; another one whenever it was found to have gone back.
    Past,
}

/// The value of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// The instance's name, or a capture of the host.
    pub instance: String,
    /// Its port; 0 where the host says which.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The policy's name; none for the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What another version says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The value of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The instance's id.
    pub id: String,
    /// Which of the host's `[[hypeman]]` has it, by its name there; none for the first.
    #[serde(default, rename = "hypeman", skip_serializing_if = "Option::is_none")]
    pub plane: Option<String>,
    /// What another version says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The value of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `front`, `node` or `both`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Where it is reached by others.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// SHA-256 of its certificate's public key, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spki: Option<String>,
    /// Another at each start.
    #[serde(default)]
    pub boot: String,
    /// Of the program.
    #[serde(default)]
    pub version: String,
    /// Whether it wants no new work.
    #[serde(default)]
    pub draining: bool,
    /// What another version says.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// The value of `m/removed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedRecord {
    /// How many routes so far.
    pub total: u64,
}

/// The value of `m/accepted`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedRecord {
    /// What was gone at this revision may be gone.
    pub revision: i64,
}

/// The value of `m/past`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRecord {
    /// Drawn at random.
    pub token: String,
    /// The tokens before it, the last one first.
    #[serde(default)]
    pub before: Vec<String>,
}

const fn default_port() -> u16 {
    8080
}

/// Reads a value, or says what is wrong with it.
pub fn read<'v, T: Deserialize<'v>>(value: &'v [u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| format!("cannot be read: {error}"))
}

/// A value as it is written.
pub fn write<T: Serialize>(value: &T) -> Vec<u8> {
    // Records are maps with texts as keys, which JSON always has.
    serde_json::to_vec(value).unwrap_or_default()
}

// === impl Key ===

impl Key {
    /// What a key is about; `None` for one that is not of this version or not written as it should.
    pub fn parse(key: &str) -> Option<Self> {
        let (kind, rest) = key.strip_prefix(PREFIX)?.split_once('/')?;
        if rest.is_empty() {
            return None;
        }
        let member = || (!rest.contains('/')).then(|| rest.to_owned());
        match kind {
            "r" => {
                let (source, name) = rest.split_once('/')?;
                let (place, path) = name.split_once('/').unwrap_or((name, ""));
                let (host, port) = with_port(place);
                // Each route has one key.
                let is_exact = !source.is_empty() && !host.is_empty() && !name.ends_with('/');
                is_exact.then(|| Self::Route {
                    source: source.to_owned(),
                    route: RouteKey::from(&*format!("{host}/{path}")).at(port),
                })
            }
            "p" => Some(Self::Policy(rest.to_owned())),
            "i" => {
                let (host, name) = rest.split_once('/')?;
                (!host.is_empty() && !name.is_empty()).then(|| Self::Claim {
                    host: host.to_owned(),
                    name: name.to_owned(),
                })
            }
            "h" => member().map(Self::Node),
            "g" => member().map(Self::Front),
            "m" if rest == "removed" => Some(Self::Removed),
            "m" if rest == "accepted" => Some(Self::Accepted),
            "m" if rest == "past" => Some(Self::Past),
            _ => None,
        }
    }

    /// The key as the engine has it.
    pub fn text(&self) -> String {
        match self {
            Self::Route { source, route } => format!("{PREFIX}r/{source}/{}", place_of(route)),
            Self::Policy(name) => format!("{PREFIX}p/{name}"),
            Self::Claim { host, name } => format!("{PREFIX}i/{host}/{name}"),
            Self::Node(name) => format!("{PREFIX}h/{name}"),
            Self::Front(name) => format!("{PREFIX}g/{name}"),
            Self::Removed => format!("{PREFIX}m/removed"),
            Self::Accepted => format!("{PREFIX}m/accepted"),
            Self::Past => format!("{PREFIX}m/past"),
        }
    }
}

/// A route's host, port and path as its key has them.
fn place_of(route: &RouteKey) -> String {
    let name = route.label();
    let (host, path) = name.split_once('/').unwrap_or((name, ""));
    let port = route.port().map(|port| format!(":{port}"));
    let slash = if path.is_empty() { "" } else { "/" };
    format!("{host}{}{slash}{path}", port.unwrap_or_default())
}

/// A host and its port, if it has one.
fn with_port(place: &str) -> (&str, Option<u16>) {
    let parts = place.rsplit_once(':');
    let found = parts.and_then(|(host, digits)| {
        let port: u16 = digits.parse().ok().filter(|port| *port > 0)?;
        // Each number is written in one way.
        (port.to_string() == digits).then_some((host, Some(port)))
    });
    found.unwrap_or((place, None))
}

/// The keys that concern a member: all, or of other hosts' claims none, but `own`'s alone.
pub fn spans_of(own: Option<&str>) -> Vec<Span> {
    let Some(own) = own else {
        return vec![Span::of(PREFIX)];
    };
    let between = |first: &str, last: &str| Span {
        from: format!("{PREFIX}{first}/"),
        to: end_of(&format!("{PREFIX}{last}/")),
    };
    // Members; what it claims; the counters of routes, policies, and routes.
    vec![
        between("g", "h"),
        Span::of(&claims_of(own)),
        between("m", "r"),
    ]
}

/// The beginning of the keys of a host's claims.
pub fn claims_of(host: &str) -> String {
    format!("{PREFIX}i/{host}/")
}

/// The beginning of the keys of a source's routes.
pub fn routes_of(source: &str) -> String {
    format!("{PREFIX}r/{source}/")
}

// === impl MemberRecord ===

impl MemberRecord {
    /// The member of this name whose record it is, alive. Whether it is a front is its key's to say: a
    /// record is what its writer wants to be.
    pub fn member(&self, name: &str, is_front: bool) -> Member {
        let role = match self.role.as_deref() {
            _ if is_front => Role::Front,
            Some("both") => Role::Both,
            Some(_) | None => Role::Node,
        };
        Member {
            name: name.to_owned(),
            role,
            endpoints: self.endpoints.clone(),
            zone: self.zone.clone(),
            spki: self.spki.as_deref().and_then(from_hex),
            alive: true,
            draining: self.draining,
        }
    }
}

// === impl Role ===

impl Role {
    /// As records and certificates write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Front => "front",
            Self::Both => "both",
        }
    }
}

/// 32 bytes in hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A `String` takes everything.
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes?.try_into().ok()
}

/// A member that nothing is known of but its name, for a host whose record is gone.
pub(super) fn unknown_member(name: &str) -> Arc<Member> {
    Arc::new(Member {
        name: name.to_owned(),
        role: Role::Node,
        endpoints: Vec::new(),
        zone: None,
        spki: None,
        alive: false,
        draining: false,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_is_not_written_as_it_should_is_none() {
        for key in [
            "/wakegate/v1/",
            "/wakegate/v1/r/op/",
            "/wakegate/v1/r//a.b",
            "/wakegate/v1/r/op/a.b/",
            "/wakegate/v1/r/op//v1",
            "/wakegate/v1/i/h1",
            "/wakegate/v1/i/h1/",
            "/wakegate/v1/i//web",
            "/wakegate/v1/h/",
            "/wakegate/v1/h/a/b",
            "/wakegate/v1/x/y",
            "/wakegate/v1/m/other",
            "/wakegate/v2/p/x",
            "wakegate/v1/p/x",
        ] {
            assert_eq!(Key::parse(key), None, "{key}");
        }
        let route = Key::parse("/wakegate/v1/r/op/{app}.a.b/v1/x").unwrap();
        let name = "{app}.a.b/v1/x";
        assert_eq!(
            route,
            Key::Route {
                source: "op".to_owned(),
                route: name.into(),
            }
        );
        let root = Key::parse("/wakegate/v1/r/h1/a.b").unwrap();
        let name = "a.b/";
        assert_eq!(
            root,
            Key::Route {
                source: "h1".to_owned(),
                route: name.into(),
            }
        );
        assert_eq!(root.text(), "/wakegate/v1/r/h1/a.b");
    }

    #[test]
    fn a_route_of_one_port_has_a_key_of_its_own() {
        for (text, label, port) in [
            ("a.b:8443", "a.b/", Some(8443)),
            ("a.b:80/v1/x:81", "a.b/v1/x:81", Some(80)),
            ("[::1]:80", "[::1]/", Some(80)),
            ("[::1]", "[::1]/", None),
            // What is no port is a host's, which none has.
            ("a.b:0", "a.b:0/", None),
            ("a.b:080", "a.b:080/", None),
            ("a.b:65536", "a.b:65536/", None),
            ("a.b:x", "a.b:x/", None),
        ] {
            let key = format!("{PREFIX}r/h1/{text}");
            let source = "h1".to_owned();
            let route = RouteKey::from(label).at(port);
            assert_eq!(
                Key::parse(&key),
                Some(Key::Route { source, route }),
                "{text}"
            );
            assert_eq!(Key::parse(&key).unwrap().text(), key);
        }
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_was_written(name in ".{1,40}", host in "[a-z0-9.-]{1,20}", port in 1..u16::MAX) {
            let route = |path: &str| RouteKey::from(&*format!("{host}{path}"));
            for key in [
                Key::Policy(name.clone()),
                Key::Claim { host: host.clone(), name: name.clone() },
                Key::Node(host.clone()),
                Key::Route { source: host.clone(), route: route("/") },
                Key::Route { source: "op".to_owned(), route: route("/v1") },
                Key::Route { source: host.clone(), route: route("/").at(Some(port)) },
                Key::Route { source: host.clone(), route: route("/v1").at(Some(port)) },
            ] {
                prop_assert_eq!(Key::parse(&key.text()), Some(key));
            }
        }
    }

    #[test]
    fn a_record_is_of_no_other_kind_than_its_key() {
        for (said, node) in [
            ("front", Role::Node),
            ("both", Role::Both),
            ("x", Role::Node),
        ] {
            let record = MemberRecord {
                role: Some(said.to_owned()),
                ..MemberRecord::default()
            };
            assert_eq!(record.member("a", false).role, node, "{said}");
            assert_eq!(record.member("a", true).role, Role::Front, "{said}");
        }
    }

    #[test]
    fn fields_that_are_not_known_survive() {
        let text = br#"{"instance":"a","port":80,"cell":"eu-2","later":{"x":[1]}}"#;
        let record: RouteRecord = read(text).unwrap();
        let written: Value = serde_json::from_slice(&write(&record)).unwrap();
        assert_eq!(written, serde_json::from_slice::<Value>(text).unwrap());
        let member: MemberRecord = read(br#"{"endpoints":["a:1"],"rack":7}"#).unwrap();
        assert_eq!(member.more.get("rack"), Some(&Value::from(7)));
    }

    #[test]
    fn a_public_keys_digest_is_read_as_it_was_written() {
        let digest: [u8; 32] = std::array::from_fn(|index| u8::try_from(index * 7).unwrap());
        assert_eq!(from_hex(&to_hex(&digest)), Some(digest));
        assert_eq!(from_hex("00"), None);
        assert_eq!(from_hex("zz"), None);
    }
}

//! What one member of the fleet tells another about a request: whose it is, and whose instance it is
//! for.
//!
//! Guarantees: it is in fields of these names alone, which clients' requests never have behind a
//! listener for clients; whoever takes them takes all of them away; what cannot be read as a whole is
//! not believed in part.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::config::Protocol;
use crate::fleet::PeerName;
use crate::upstream::{ClientConnection, X_WAKEGATE_HOPS, X_WAKEGATE_MISPLACED, is_of_peers};
use hypeman::InstanceRef;

/// Who a request is from, and what it is for; one field, so that it counts as one.
const FACTS: HeaderName = HeaderName::from_static("x-wakegate-peer");
/// The prefix that is to be taken off the path.
const STRIP: HeaderName = HeaderName::from_static("x-wakegate-peer-strip");
/// Which of the host's control planes has the instance, where it is not the first.
const HYPEMAN: HeaderName = HeaderName::from_static("x-wakegate-peer-hypeman");
/// The `Host` that the instance gets, where that is not the host of the route.
const HOST: HeaderName = HeaderName::from_static("x-wakegate-peer-host");
/// What the request wants to switch to, or the response has switched to.
pub(super) const UPGRADE: HeaderName = HeaderName::from_static("x-wakegate-peer-upgrade");
/// The method of a request that wants to switch.
pub(super) const METHOD: HeaderName = HeaderName::from_static("x-wakegate-peer-method");
/// The status of a response that has not switched.
pub(super) const STATUS: HeaderName = HeaderName::from_static("x-wakegate-peer-status");
/// The code of an answer that is the node's own, or `-`.
pub(super) const CODE: HeaderName = HeaderName::from_static("x-wakegate-peer-code");
/// The node may park what has switched: how long that may be idle is the node's to say.
const PARKS: HeaderName = HeaderName::from_static("x-wakegate-peer-parks");

/// Hops that a request may have made when it comes.
const MOST_HOPS: u32 = 1;

/// A connection that is passed on as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// TLS that the instance terminates.
    Tls,
    /// Whatever comes to the listener.
    Tcp,
}

/// What a member says about a request that it passes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Who has connected to it.
    pub client: SocketAddr,
    /// The client, if a trusted proxy speaks for it.
    pub named: IpAddr,
    /// The address that was connected to.
    pub local: SocketAddr,
    /// Whether the client came over TLS.
    pub secure: bool,
    /// The name of the instance.
    pub instance: InstanceRef,
    /// Its id, by the host's claim, if that says so.
    pub id: Option<String>,
    /// The revision of the claim.
    pub generation: i64,
    /// Which of the host's control planes has it, by the claim; none for the first.
    pub plane: Option<Arc<str>>,
    /// The revision of the directory that the request was placed by.
    pub revision: i64,
    /// The instance's port; 0 for a request that only looks at it.
    pub port: u16,
    /// The kind of a connection that is passed on as it is.
    pub raw: Option<Raw>,
    /// How long the client waits, by the route that the member has.
    pub timeout: Duration,
    /// What that route says is spoken with the instance.
    pub protocol: Protocol,
    /// Whether that route says more than can be said here and than whoever has the instance could leave out:
    /// whom to believe over TLS, what may wake it.
    pub says_more: bool,
    /// The client's connection.
    pub connection: ClientConnection,
    /// The prefix that is to be taken off the path.
    pub strip: Option<String>,
    /// The `Host` that the instance gets, where that is not the host of the route.
    pub host: Option<HeaderValue>,
}

/// What is known of a request that another member has sent.
#[derive(Debug)]
pub struct FromPeer {
    /// Who has sent it.
    pub name: Arc<PeerName>,
    /// The hops between members that it has made.
    hops: Option<u32>,
    /// What that one says about it: `None` if it speaks for itself.
    facts: Option<Box<PeerFacts>>,
    is_readable: bool,
}

/// Why a member's request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It goes in a circle.
    Loop,
    /// What is said about it cannot be read.
    Unreadable,
}

// === impl FromPeer ===

impl FromPeer {
    /// Takes what a member says about a request away from its fields.
    pub fn take(name: Arc<PeerName>, headers: &mut HeaderMap) -> Self {
        let hops = match one(headers, &X_WAKEGATE_HOPS) {
            One::None => Some(0),
            One::Some(hops) => hops.to_str().ok().and_then(|hops| hops.parse().ok()),
            One::Many => None,
        };
        let facts = match one(headers, &FACTS) {
            One::None => Ok(None),
            One::Some(line) => PeerFacts::read(line, headers).map(Some).ok_or(()),
            One::Many => Err(()),
        };
        remove(headers);
        Self {
            name,
            hops,
            is_readable: hops.is_some() && facts.is_ok(),
            facts: facts.ok().flatten(),
        }
    }

    /// The client that a member speaks for in a request with these fields. Nothing is taken away.
    pub fn client_of(headers: &HeaderMap) -> Option<IpAddr> {
        match one(headers, &FACTS) {
            One::Some(line) => line.to_str().ok()?.split(' ').nth(1)?.parse().ok(),
            One::None | One::Many => None,
        }
    }

    /// What the member says about it, if it speaks for somebody else.
    pub fn facts(&self) -> Option<&PeerFacts> {
        self.facts.as_deref()
    }

    /// The hops between members that it has made.
    pub fn hops(&self) -> u32 {
        self.hops.unwrap_or_default()
    }

    /// Whether it is taken.
    pub(super) fn check(&self) -> Result<(), NotTaken> {
        match (self.hops, self.is_readable) {
            (Some(hops), _) if hops > MOST_HOPS => Err(NotTaken::Loop),
            (_, true) => Ok(()),
            (_, false) => Err(NotTaken::Unreadable),
        }
    }
}

enum One<'a> {
    None,
    Some(&'a HeaderValue),
    Many,
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> One<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => One::None,
        (Some(value), None) => One::Some(value),
        (Some(_), Some(_)) => One::Many,
    }
}

/// Takes away what members say to each other, but for what [`super::switching`] has to know.
fn remove(headers: &mut HeaderMap) {
    let kept = [UPGRADE, METHOD];
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_of_peers(name.as_str()) && !kept.contains(name))
        .cloned()
        .collect();
    for name in unwanted {
        headers.remove(name);
    }
}

// === impl PeerFacts ===

impl PeerFacts {
    fn read(line: &HeaderValue, headers: &HeaderMap) -> Option<Box<PeerFacts>> {
        Self::parse(line.to_str().ok()?, headers).map(Box::new)
    }

    fn parse(line: &str, headers: &HeaderMap) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let facts = Self {
            client: next()?.parse().ok()?,
            named: next()?.parse().ok()?,
            local: next()?.parse().ok()?,
            secure: match next()? {
                "1" => true,
                "0" => false,
                _ => return None,
            },
            instance: InstanceRef::parse(next()?).ok()?,
            id: match next()? {
                "-" => None,
                id => Some(id.to_owned()),
            },
            generation: next()?.parse().ok()?,
            plane: match one(headers, &HYPEMAN) {
                One::None => None,
                One::Some(plane) => Some(plane.to_str().ok()?.into()),
                One::Many => return None,
            },
            revision: next()?.parse().ok()?,
            port: next()?.parse().ok()?,
            raw: match next()? {
                "-" => None,
                "tls" => Some(Raw::Tls),
                "tcp" => Some(Raw::Tcp),
                _ => return None,
            },
            timeout: Duration::from_millis(next()?.parse().ok()?),
            protocol: protocol_named(next()?)?,
            says_more: match next()? {
                "-" => false,
                "more" => true,
                _ => return None,
            },
            connection: ClientConnection::parse(next()?)?,
            strip: match one(headers, &STRIP) {
                One::None => None,
                One::Some(prefix) => Some(prefix.to_str().ok()?.to_owned()),
                One::Many => return None,
            },
            host: match one(headers, &HOST) {
                One::None => None,
                One::Some(host) => Some(host.clone()),
                One::Many => return None,
            },
        };
        words.next().is_none().then_some(facts)
    }

    /// Says it, as the request's `hops`-th hop; `None` for what cannot be said.
    pub(super) fn write(&self, hops: u32, headers: &mut HeaderMap) -> Option<()> {
        let is_word = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic());
        let line = format!(
            "{} {} {} {} {} {} {} {} {} {} {} {} {} {}",
            self.client,
            self.named,
            self.local,
            u8::from(self.secure),
            self.instance,
            self.id.as_deref().filter(is_word).unwrap_or("-"),
            self.generation,
            self.revision,
            self.port,
            match self.raw {
                None => "-",
                Some(Raw::Tls) => "tls",
                Some(Raw::Tcp) => "tcp",
            },
            self.timeout.as_millis(),
            word_of(self.protocol),
            if self.says_more { "more" } else { "-" },
            self.connection,
        );
        let mut line = HeaderValue::try_from(line).ok()?;
        // It never comes again: it would push out of HTTP/2's tables what does.
        line.set_sensitive(true);
        headers.insert(FACTS, line);
        headers.insert(X_WAKEGATE_HOPS, HeaderValue::from(hops));
        if let Some(prefix) = &self.strip {
            headers.insert(STRIP, HeaderValue::try_from(prefix).ok()?);
        }
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        match &self.plane {
            Some(plane) => headers.insert(HYPEMAN, HeaderValue::try_from(&**plane).ok()?),
            // An earlier claim may have been another's.
            None => headers.remove(HYPEMAN),
        };
        Some(())
    }
}

const PROTOCOLS: [(&str, Protocol); 4] = [
    ("h1", Protocol::H1),
    ("h2c", Protocol::H2c),
    ("https", Protocol::Https),
    ("h2", Protocol::H2),
];

fn protocol_named(word: &str) -> Option<Protocol> {
    let found = PROTOCOLS.iter().find(|(name, _)| *name == word);
    found.map(|(_, protocol)| *protocol)
}

fn word_of(protocol: Protocol) -> &'static str {
    let found = PROTOCOLS.iter().find(|(_, one)| *one == protocol);
    found.map_or("h1", |(name, _)| *name)
}

/// What a node says of its own answer, taken away from its fields: the code, `-` for none.
pub(super) fn take_code(headers: &mut HeaderMap) -> Option<HeaderValue> {
    headers.remove(CODE)
}

/// Says of a tunnel, or connection, that it may be parked here.
pub(super) fn say_parks(headers: &mut HeaderMap) {
    headers.insert(PARKS, HeaderValue::from_static("1"));
}

/// Whether a node says so, taken away from its fields.
pub(super) fn take_parks(headers: &mut HeaderMap) -> bool {
    headers.remove(PARKS).is_some()
}

/// Whether a node says that it has sent the request nowhere, since the instance is not its own.
pub(super) fn is_misplaced(status: http::StatusCode, headers: &HeaderMap) -> bool {
    status == http::StatusCode::MISDIRECTED_REQUEST && headers.contains_key(X_WAKEGATE_MISPLACED)
}

/// The method of a request that wants to switch.
pub(super) fn take_method(headers: &mut HeaderMap) -> Method {
    let method = headers.remove(METHOD);
    let method = method.and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    method
        .filter(|method| *method != Method::CONNECT)
        .unwrap_or(Method::GET)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Role;

    fn peer() -> Arc<PeerName> {
        Arc::new(PeerName {
            cell: "c".to_owned(),
            role: Role::Front,
            name: "f".to_owned(),
        })
    }

    fn facts() -> PeerFacts {
        PeerFacts {
            client: "192.0.2.7:4711".parse().unwrap(),
            named: "2001:db8::1".parse().unwrap(),
            local: "[::1]:443".parse().unwrap(),
            secure: true,
            instance: "app".parse().unwrap(),
            id: Some("x1".to_owned()),
            generation: 7,
            plane: Some("eu-2".into()),
            revision: 9,
            port: 8080,
            raw: Some(Raw::Tls),
            timeout: Duration::from_millis(300_001),
            protocol: Protocol::H2c,
            says_more: true,
            connection: ClientConnection::new(),
            strip: Some("/v1".to_owned()),
            host: Some(HeaderValue::from_static("inside")),
        }
    }

    #[test]
    fn what_is_said_is_heard_and_taken_away() {
        let mut headers = HeaderMap::new();
        headers.insert("x-own", HeaderValue::from_static("1"));
        let facts = facts();
        facts.write(1, &mut headers).unwrap();
        assert_eq!(headers["x-wakegate-hops"], "1");
        assert_eq!(FromPeer::client_of(&headers), Some(facts.named));
        let from = FromPeer::take(peer(), &mut headers);
        assert_eq!(FromPeer::client_of(&headers), None);
        assert_eq!(from.check(), Ok(()));
        assert_eq!((from.facts(), from.hops()), (Some(&facts), 1));
        assert_eq!(headers.len(), 1, "{headers:?}");
    }

    #[test]
    fn what_cannot_be_read_as_a_whole_is_not_taken_and_a_loop_is_one_all_the_same() {
        let line = "192.0.2.7:1 192.0.2.7 10.0.0.1:80 0 app x1 7 9 8080 - 30000 h1 - a.b";
        let check = |fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(name, value)| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_str(value).unwrap())
            });
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            FromPeer::take(peer(), &mut headers).check()
        };
        assert_eq!(check(&[("x-wakegate-peer", line)]), Ok(()));
        assert_eq!(check(&[]), Ok(()), "it speaks for itself");
        let more = format!("{line} more");
        for (name, value) in [
            ("x-wakegate-peer", "nonsense"),
            ("x-wakegate-peer", line.strip_prefix("192").unwrap()),
            ("x-wakegate-peer", line.strip_suffix(" a.b").unwrap()),
            ("x-wakegate-peer", &more),
            ("x-wakegate-peer", &line.replace("h1", "h9")),
            ("x-wakegate-peer", &line.replace("30000", "-1")),
            ("x-wakegate-hops", "-1"),
            ("x-wakegate-hops", "many"),
        ] {
            assert_eq!(
                check(&[(name, value)]),
                Err(NotTaken::Unreadable),
                "{value}"
            );
        }
        let hypeman = "x-wakegate-peer-hypeman";
        let two_planes = [("x-wakegate-peer", line), (hypeman, "a"), (hypeman, "b")];
        assert_eq!(check(&two_planes), Err(NotTaken::Unreadable));
        let twice = [("x-wakegate-peer", line), ("x-wakegate-peer", line)];
        assert_eq!(check(&twice), Err(NotTaken::Unreadable));
        assert_eq!(check(&[("x-wakegate-hops", "2")]), Err(NotTaken::Loop));
        assert_eq!(check(&[("x-wakegate-hops", "1")]), Ok(()));
    }
}

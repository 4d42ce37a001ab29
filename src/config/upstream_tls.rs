//! What a route may say of TLS to its instances, typed.
//!
//! Guarantees: a certificate is verified unless the route says otherwise; a name refers only to
//! captures that its host has.

use std::fmt;
use std::path::PathBuf;

#[cfg(test)]
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::capture_text::CaptureText;
use super::pattern::HostPattern;
use super::settings::{optional_text, settings};
#[cfg(test)]
use super::shape::text_schema;
use crate::names::Hostname;

settings! {
    /// TLS to a route's instances, with `protocol = "https"` or `"h2"`.
    #[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct UpstreamTlsConfig {
        /// The CAs that the instances' certificates are from, PEM, in place of the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca: Option<PathBuf> = None;
        /// The name that a certificate must have; captures of `host` may be in it. The request's
        /// host when it is left out.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub server_name: Option<NameTemplate> = None, by optional_text(NameTemplate::parse);
        /// The gateway's own certificate for instances that ask for one, PEM, with its chain.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub client_cert: Option<PathBuf> = None;
        /// The key of `client_cert`, PEM.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub client_key: Option<PathBuf> = None;
        /// The CAs' lists of revoked certificates, PEM: one for each CA of a chain.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub crl: Option<PathBuf> = None;
        /// Whether certificates are verified. Without it anybody at the instance's address is
        /// believed.
        pub verify: bool = true;
    }
}

/// A name in which captures of a route's host may stand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NameTemplate(CaptureText);

#[cfg(test)]
text_schema!(NameTemplate, "NameTemplate", "{instance}.internal");

// === impl NameTemplate ===

impl NameTemplate {
    /// Reads a host name or an IP address, in which `{capture}` stands for what the route's host
    /// pattern has captured.
    pub fn parse(text: &str) -> Result<Self, String> {
        let template = CaptureText::parse(text)?;
        // Whatever is captured is a label, or a part of one.
        let example = template.filled(|_| Some("x")).unwrap_or_default();
        let is_address = example.parse::<std::net::IpAddr>().is_ok();
        if !is_address && Hostname::parse(&example).is_err() {
            return Err(format!("`{text}` is not a host name or an IP address"));
        }
        Ok(Self(template))
    }

    /// The first of its captures that `host` does not have.
    pub fn unknown_capture(&self, host: &HostPattern) -> Option<&str> {
        let mut captures = self.0.captures();
        captures.find(|name| !host.captures(name))
    }

    /// The name with what `capture` says; `None` if it does not know one.
    pub fn fill<'a>(&self, capture: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
        self.0.filled(capture)
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for NameTemplate {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::route_name::RouteName;

    #[test]
    fn a_name_is_a_host_or_an_address_with_captures_of_its_route_s_host() {
        let host = HostPattern::parse("{app}.{env}.example.com").unwrap();
        for text in ["a.internal", "192.0.2.1", "{app}.internal", "{app}-{env}.x"] {
            let name = NameTemplate::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(name.unknown_capture(&host), None, "{text}");
        }
        let name = NameTemplate::parse("{app}-{env}.x").unwrap();
        let route = RouteName::new(&host, "/");
        let filled = name.fill(|capture| route.capture("shop.eu.example.com", capture));
        assert_eq!(filled.as_deref(), Some("shop-eu.x"));
        let other = NameTemplate::parse("{instance}.x").unwrap();
        assert_eq!(other.unknown_capture(&host), Some("instance"));
        for text in ["", "a b", "{app", "{}.x", "{a-b}.x", "https://a.test"] {
            assert!(NameTemplate::parse(text).is_err(), "{text:?}");
        }
    }
}

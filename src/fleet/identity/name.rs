//! The name of a member in its certificate: `wakegate://CELL/ROLE/NAME`.
//!
//! Guarantees: a name is read as a whole or not at all; a certificate has exactly one.

use std::fmt;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use crate::fleet::placement::Role;

const SCHEME: &str = "wakegate://";

/// Who a certificate belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// The cell that the member belongs to.
    pub cell: String,
    /// What it does.
    pub role: Role,
    /// What others call it.
    pub name: String,
}

/// Whether a text can be a cell or a member's name.
fn is_name(text: &str) -> bool {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(fine)
}

// === impl PeerName ===

impl PeerName {
    /// Reads a URI.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix(SCHEME)?.split('/');
        let (cell, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || !is_name(cell) || !is_name(name) {
            return None;
        }
        let role = match role {
            "node" => Role::Node,
            "front" => Role::Front,
            "both" => Role::Both,
            _ => return None,
        };
        let (cell, name) = (cell.to_owned(), name.to_owned());
        Some(Self { cell, role, name })
    }

    /// The name in a certificate, or why it has none.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = EndEntityCert::try_from(certificate);
        let parsed = parsed.map_err(|error| format!("the certificate cannot be read: {error}"))?;
        let names = parsed.valid_uri_names();
        let mut names = names.filter(|name| name.starts_with(SCHEME));
        let (Some(uri), None) = (names.next(), names.next()) else {
            return Err(format!(
                "the certificate does not have exactly one name `{SCHEME}CELL/ROLE/NAME`"
            ));
        };
        Self::parse(uri).ok_or_else(|| {
            let uri = uri.escape_debug();
            format!("the certificate's name `{uri}` is not `{SCHEME}CELL/ROLE/NAME`")
        })
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Node => "node",
            Role::Front => "front",
            Role::Both => "both",
        };
        write!(f, "{SCHEME}{}/{role}/{}", self.cell, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_a_whole_or_not_at_all() {
        let name = PeerName::parse("wakegate://eu-1/node/h-0042").unwrap();
        assert_eq!(
            (&*name.cell, name.role, &*name.name),
            ("eu-1", Role::Node, "h-0042")
        );
        assert_eq!(name.to_string(), "wakegate://eu-1/node/h-0042");
        for other in [
            "",
            "wakegate://",
            "wakegate://eu-1/node",
            "wakegate://eu-1/node/",
            "wakegate:///node/a",
            "wakegate://eu-1/admin/a",
            "wakegate://eu-1/Node/a",
            "wakegate://eu-1/node/a/b",
            "wakegate://eu-1/node/a?b",
            "https://eu-1/node/a",
        ] {
            assert_eq!(PeerName::parse(other), None, "{other}");
        }
    }
}

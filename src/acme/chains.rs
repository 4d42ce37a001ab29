//! Which of a CA's chains a certificate comes with (RFC 8555 §7.4.2).
//!
//! Guarantees: another chain is asked for only when the CA's own does not lead to the root that is
//! preferred; where none does, or they cannot be had, the CA's own is taken.

use instant_acme::Account;
use yasna::models::ObjectIdentifier;
use yasna::{Tag, parse_der};

use super::http_client::fetch_chain;
use crate::pem;

/// The attribute "common name" (RFC 5280 §4.1.2.4).
const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
/// Chains that are asked for.
const MOST: usize = 8;

/// The common name of who has issued a certificate.
fn issuer(certificate: &[u8]) -> Option<String> {
    let read = parse_der(certificate, |reader| {
        reader.read_sequence(|parts| {
            let names = parts.next().read_sequence(|parts| {
                parts.read_optional(|version| {
                    version.read_tagged(Tag::context(0), |version| version.read_u8().map(drop))
                })?;
                for _serial_algorithm in 0..2 {
                    parts.next().read_der()?;
                }
                let names = parts.next().collect_sequence_of(|one| {
                    one.collect_set_of(|attribute| {
                        attribute.read_sequence(|parts| {
                            let kind = parts.next().read_oid()?;
                            Ok((kind, parts.next().read_tagged_der()?))
                        })
                    })
                })?;
                while parts
                    .read_optional(|part| part.read_der().map(drop))?
                    .is_some()
                {}
                Ok(names)
            })?;
            for _algorithm_signature in 0..2 {
                parts.next().read_der()?;
            }
            Ok(names)
        })
    });
    let wanted = ObjectIdentifier::from_slice(COMMON_NAME);
    let mut attributes = read.ok()?.into_iter().flatten();
    let (_, name) = attributes.find(|(kind, _)| *kind == wanted)?;
    String::from_utf8(name.value().to_vec()).ok()
}

/// Whether the last certificate of a chain is issued by the root of this name.
fn leads_to(chain: &str, root: &str) -> bool {
    let chain = pem::certificates(chain.as_bytes()).unwrap_or_default();
    let issuer = chain.last().and_then(|last| issuer(last));
    issuer.is_some_and(|issuer| issuer == root)
}

/// The chain that leads to the root of this name: the CA's own, or one of `others`, which are URLs.
pub(super) async fn choose(
    account: &Account,
    own: String,
    root: &str,
    others: &[String],
) -> String {
    if leads_to(&own, root) {
        return own;
    }
    for url in others.iter().take(MOST) {
        match fetch_chain(account, url).await {
            Ok(chain) if leads_to(&chain, root) => return chain,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a chain that the CA offers cannot be had"),
        }
    }
    tracing::warn!(root, "no chain of the CA leads to `acme.preferred_chain`");
    own
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;

    #[test]
    fn a_chain_leads_to_who_has_issued_its_last_certificate() {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Org");
        params.distinguished_name.push(DnType::CommonName, "Root Ä");
        let root = Issuer::new(params, KeyPair::generate().unwrap());
        let params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), &root)
            .unwrap();
        let own = rcgen::generate_simple_self_signed(["b.test".to_owned()]).unwrap();
        let chain = own.cert.pem() + &leaf.pem();
        assert!(leads_to(&chain, "Root Ä") && !leads_to(&chain, "Root"));
        assert!(!leads_to("nonsense", "Root Ä") && !leads_to("", ""));
        assert_eq!(issuer(b"nonsense"), None);
    }
}

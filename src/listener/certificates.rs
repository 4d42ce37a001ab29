//! TLS for clients: certificates by name, replaced without dropping a connection.
//!
//! Guarantees: a listener has at least one certificate before it accepts anything; the certificate
//! is one whose names fit the client's SNI (exact, then wildcard), else the first; of several for one
//! name it is the first that the client can judge and that holds now, else the one that ends last; a reload
//! that fails leaves the old ones in force and says why; files that stand as they did are not read
//! again; no key is in any message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use super::certificate_files::{Look, Pair, read};
use super::internal::InternalCa;
use super::ticket_ring::TicketRing;
use super::tls_error::TlsError;
use crate::acme::AcmeStore;
use crate::config::{ClientAuth, ClientCertificates, TlsConfig, TlsSource, TlsVersion};
use crate::pem;
use crate::signatures::signatures_by_verifier;

/// The certificates that are in force.
struct Loaded {
    /// How the files stood before they were read.
    look: Look,
    pairs: Vec<Arc<Pair>>,
    /// The CAs of clients' certificates, as they were read.
    client_ca: Vec<u8>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// What is shown to who asks for a name that none has; with ACME, nothing.
    first: Option<Arc<CertifiedKey>>,
    /// The certificates by name, in lower case; a wildcard by its suffix with the dot.
    names: BTreeMap<String, Vec<Arc<Pair>>>,
    /// The time when the first of them expires, in seconds since 1970.
    not_after: Option<i64>,
}

/// A listener's certificates.
pub struct Certificates {
    config: TlsConfig,
    loaded: ArcSwap<Loaded>,
    internal: Option<InternalCa>,
    acme: Option<Arc<AcmeStore>>,
    /// How the files stood, and when, when they could not be used.
    failed: Mutex<Option<(Option<Look>, Timestamp)>>,
}

/// How long files that cannot be used, and stand as they did, are left alone.
const TRY_AGAIN: SignedDuration = SignedDuration::from_mins(1);

// === impl Certificates ===

impl Certificates {
    /// Loads the certificates.
    pub fn load(config: TlsConfig, acme: Option<&Arc<AcmeStore>>) -> Result<Arc<Self>, TlsError> {
        Self::open_at(config, acme, Timestamp::now(), InternalCa::open)
    }

    /// The same without a trace: a CA that is not there yet is made for this once, if it could be
    /// kept.
    pub fn rehearse(
        config: TlsConfig,
        acme: Option<&Arc<AcmeStore>>,
    ) -> Result<Arc<Self>, TlsError> {
        Self::open_at(config, acme, Timestamp::now(), InternalCa::rehearse)
    }

    fn open_at(
        config: TlsConfig,
        acme: Option<&Arc<AcmeStore>>,
        now: Timestamp,
        open: impl Fn(&Path) -> Result<InternalCa, TlsError>,
    ) -> Result<Arc<Self>, TlsError> {
        let internal = match &config.source {
            TlsSource::Internal { internal } => Some(open(internal)?),
            TlsSource::Files { .. } | TlsSource::Directory { .. } | TlsSource::Acme { .. } => None,
        };
        let acme = match &config.source {
            TlsSource::Acme { .. } => acme.cloned(),
            TlsSource::Files { .. } | TlsSource::Directory { .. } | TlsSource::Internal { .. } => {
                None
            }
        };
        let look = Look::at(&config, now)?;
        let loaded = Loaded::read(&config, internal.as_ref(), look, None)?;
        Ok(Arc::new(Self {
            config,
            loaded: ArcSwap::from_pointee(loaded),
            internal,
            acme,
            failed: Mutex::default(),
        }))
    }

    /// Reads what has changed of the files; returns whether the certificates are others now. Files
    /// that cannot be used are a failure once, and again after a while.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        self.refresh_at(Timestamp::now())
    }

    fn refresh_at(&self, now: Timestamp) -> Result<bool, TlsError> {
        let before = self.loaded.load();
        let has_files = self.internal.is_none() && self.acme.is_none();
        if !has_files && self.config.clients.is_none() {
            return Ok(false);
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let look = match Look::at(&self.config, now) {
            Ok(look) => look,
            Err(error) => {
                return match &*failed {
                    Some((None, since)) if now.duration_since(*since) < TRY_AGAIN => Ok(false),
                    _ => {
                        *failed = Some((None, now));
                        Err(error)
                    }
                };
            }
        };
        if look.is_as(&before.look) {
            *failed = None;
            return Ok(false);
        }
        if let Some((Some(earlier), since)) = &*failed
            && look.is_as(earlier)
            && now.duration_since(*since) < TRY_AGAIN
        {
            return Ok(false);
        }
        let fresh = Loaded::read(
            &self.config,
            self.internal.as_ref(),
            look.clone(),
            Some(&before),
        );
        match fresh {
            Ok(fresh) => {
                *failed = None;
                let same = fresh.is_as(&before);
                self.loaded.store(Arc::new(fresh));
                Ok(!same)
            }
            Err(error) => {
                *failed = Some((Some(look), now));
                Err(error)
            }
        }
    }

    /// The time when the first of them expires, in seconds since 1970; `None` for certificates that
    /// are made on demand.
    pub fn not_after(&self) -> Option<i64> {
        match &self.acme {
            Some(acme) => acme.not_after(),
            None => self.loaded.load().not_after,
        }
    }

    /// Whether they come by ACME.
    pub(super) fn is_acme(&self) -> bool {
        self.acme.is_some()
    }

    /// The certificate for a name; of several, one for a client that knows these `schemes`, if they are
    /// known.
    fn find(
        &self,
        name: Option<&str>,
        schemes: Option<&[SignatureScheme]>,
    ) -> Option<Arc<CertifiedKey>> {
        let loaded = self.loaded.load();
        let name = name.map(str::to_ascii_lowercase);
        if let Some(acme) = &self.acme {
            return acme.find(&name?);
        }
        if let (Some(ca), Some(name)) = (&self.internal, &name) {
            return ca.leaf(name).or_else(|| loaded.first.clone());
        }
        let found = name.and_then(|name| {
            let found = loaded.names.get(&name).or_else(|| {
                let (_, suffix) = name.split_once('.')?;
                loaded.names.get(&format!(".{suffix}"))
            });
            choose(found?, schemes, Timestamp::now)
        });
        found.or_else(|| loaded.first.clone())
    }

    /// Whether a connection made for `sni` may carry requests for `host`: the same certificate
    /// answers for both (RFC 9110 §15.5.20, RFC 9113 §9.1.1).
    pub fn covers(&self, sni: Option<&str>, host: &str) -> bool {
        sni.is_some_and(|sni| sni.eq_ignore_ascii_case(host))
            || matches!((self.find(sni, None), self.find(Some(host), None)), (Some(one), Some(other)) if Arc::ptr_eq(&one, &other))
    }

    /// The configuration for rustls; HTTP/2 is offered first. Tickets are sealed with the keys of
    /// `tickets`, or with keys of its own. They are given, and taken, only where no client shows a
    /// certificate; rustls takes one only under the name that it was given under.
    pub fn server_config(
        self: &Arc<Self>,
        tickets: Option<&Arc<TicketRing>>,
    ) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let resolver: Arc<dyn ResolvesServerCert> = Arc::clone(self) as _;
        let versions: &[_] = match self.config.min_version {
            TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::V1_3 => &[&rustls::version::TLS13],
        };
        let verifier: Arc<dyn ClientCertVerifier> = match self.config.clients {
            Some(_) => Arc::new(CurrentVerifier(Arc::clone(self))),
            None => Arc::new(NoClientAuth),
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        match self.config.clients {
            None => {
                config.ticketer = match tickets {
                    Some(ring) => Arc::clone(ring) as _,
                    None => aws_lc_rs::Ticketer::new()?,
                };
            }
            // A resumed session would not look at the client's certificate again.
            Some(_) => {
                config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
        }
        Ok(config)
    }
}

/// Checks clients by the CAs that are in force when they come.
#[derive(Debug)]
struct CurrentVerifier(Arc<Certificates>);

impl CurrentVerifier {
    fn now(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.0.loaded.load().verifier)
    }
}

impl ClientCertVerifier for CurrentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.now().client_auth_mandatory()
    }

    /// None, since they may change: clients then send what they have.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.now().verify_client_cert(leaf, chain, now)
    }

    signatures_by_verifier!();
}

/// The verifier of clients' certificates, and the CAs' text.
fn verifier(
    clients: Option<&ClientCertificates>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), TlsError> {
    let Some(ClientCertificates {
        client_ca,
        client_auth,
    }) = clients
    else {
        return Ok((Arc::new(NoClientAuth), Vec::new()));
    };
    let wrong = |what: String| TlsError::Content {
        path: client_ca.clone(),
        what,
    };
    let text = read(client_ca)?;
    let roots = pem::roots(&text).map_err(|problem| wrong(problem.to_string()))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match client_auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let verifier = builder.build();
    Ok((verifier.map_err(|error| wrong(error.to_string()))?, text))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name(), Some(hello.signature_schemes()))
    }
}

/// One of a name's certificates.
fn choose(
    pairs: &[Arc<Pair>],
    schemes: Option<&[SignatureScheme]>,
    now: impl FnOnce() -> Timestamp,
) -> Option<Arc<CertifiedKey>> {
    if let [only] = pairs {
        return Some(Arc::clone(&only.certified));
    }
    let now = now().as_second();
    let is_judged = |pair: &&Arc<Pair>| {
        schemes.is_none_or(|schemes| pair.certified.key.choose_scheme(schemes).is_some())
    };
    let holds = |pair: &&Arc<Pair>| {
        pair.not_before.is_none_or(|from| from <= now) && pair.not_after.is_none_or(|to| now <= to)
    };
    let judged = || pairs.iter().filter(is_judged);
    let found = judged()
        .find(holds)
        .or_else(|| judged().max_by_key(|pair| pair.not_after))
        .or_else(|| pairs.first());
    found.map(|pair| Arc::clone(&pair.certified))
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates(names: {})", self.loaded.load().names.len())
    }
}

// === impl Loaded ===

impl Loaded {
    fn read(
        config: &TlsConfig,
        internal: Option<&InternalCa>,
        look: Look,
        before: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let (verifier, client_ca) = verifier(config.clients.as_ref())?;
        let pairs = look.pairs(before.map_or(&[], |before| &before.pairs))?;
        let (mut names, mut first) = (BTreeMap::new(), internal.map(InternalCa::unnamed));
        let mut not_after: Option<i64> = None;
        for pair in &pairs {
            not_after = not_after.into_iter().chain(pair.not_after).min();
            for name in &pair.names {
                let pairs: &mut Vec<_> = names.entry(name.clone()).or_default();
                pairs.push(Arc::clone(pair));
            }
            first.get_or_insert_with(|| Arc::clone(&pair.certified));
        }
        if first.is_none() && !matches!(config.source, TlsSource::Acme { .. }) {
            return Err(TlsError::Empty(PathBuf::new()));
        }
        Ok(Self {
            look,
            pairs,
            client_ca,
            verifier,
            first,
            names,
            not_after,
        })
    }

    /// Whether these are the same certificates.
    fn is_as(&self, other: &Self) -> bool {
        let mut pairs = self.pairs.iter().zip(&other.pairs);
        self.pairs.len() == other.pairs.len()
            && pairs.all(|(one, other)| one.is_as(other))
            && self.client_ca == other.client_ca
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str) {
        let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
        std::fs::write(dir.join(name).with_extension("crt"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(dir.join(name).with_extension("key"), key).unwrap();
    }

    fn folder() -> (tempfile::TempDir, TlsConfig) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a");
        write(dir.path(), "b");
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\ndir = {:?}\n\
             [[route]]\nhost = \"a.test\"\ninstance = \"a\"\n",
            dir.path()
        );
        let config = crate::config::load("t", &text, &crate::config::Variables::default());
        let tls = config.unwrap().listener.remove(0).tls;
        (dir, tls.unwrap())
    }

    fn in_seconds(seconds: i64) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn files_that_stand_as_they_did_are_not_read_again() {
        let (dir, config) = folder();
        let certificates =
            Certificates::open_at(config, None, in_seconds(60), InternalCa::open).unwrap();
        let before = certificates.loaded.load_full();
        assert!(!certificates.refresh_at(in_seconds(65)).unwrap());
        assert!(Arc::ptr_eq(&before, &certificates.loaded.load_full()));
        // One of them is renewed: the other one's files are left alone.
        write(dir.path(), "b");
        assert!(certificates.refresh_at(in_seconds(70)).unwrap());
        let after = certificates.loaded.load_full();
        assert!(Arc::ptr_eq(&before.pairs[0], &after.pairs[0]));
        assert!(!after.pairs[1].is_as(&before.pairs[1]));
        // One that goes is seen, too.
        std::fs::remove_file(dir.path().join("b.key")).unwrap();
        assert!(certificates.refresh_at(in_seconds(75)).unwrap());
        assert_eq!(certificates.loaded.load().pairs.len(), 1);
    }

    /// A certificate that holds from so many days from now on to so many.
    fn write_as(dir: &Path, file: &str, name: &str, days: (i64, i64), kind: &str) {
        let day = |days: i64| {
            let at = Timestamp::now().as_second() + days * 86_400;
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(at.try_into().unwrap())
        };
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (day(days.0).into(), day(days.1).into());
        let kind = match kind {
            "ed25519" => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        };
        let key = rcgen::KeyPair::generate_for(kind).unwrap();
        let made = params.self_signed(&key).unwrap();
        std::fs::write(dir.join(file).with_extension("crt"), made.pem()).unwrap();
        std::fs::write(dir.join(file).with_extension("key"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn of_several_certificates_for_a_name_the_first_is_shown_that_the_client_can_judge_and_that_holds()
     {
        let (dir, config) = folder();
        let dir = dir.path();
        write_as(dir, "x-0", "x.test", (-90, -1), "ecdsa");
        write_as(dir, "x-1", "x.test", (5, 90), "ecdsa");
        write_as(dir, "x-2", "x.test", (-1, 10), "ed25519");
        write_as(dir, "x-3", "x.test", (-1, 20), "ecdsa");
        write_as(dir, "y-0", "*.y.test", (-90, -50), "ecdsa");
        write_as(dir, "y-1", "*.y.test", (-90, -20), "ecdsa");
        let certificates = Certificates::load(config, None).unwrap();
        let of = |file: &str| {
            let text = std::fs::read(dir.join(file).with_extension("crt")).unwrap();
            pem::certificates(&text).unwrap()
        };
        let shown = |name: &str, schemes: Option<&[SignatureScheme]>| {
            let found = certificates.find(Some(name), schemes).unwrap();
            found.cert.clone()
        };
        let ecdsa = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let rsa = [SignatureScheme::RSA_PSS_SHA256];
        assert_eq!(shown("x.test", None), of("x-2"));
        assert_eq!(
            shown("x.test", Some(&[SignatureScheme::ED25519])),
            of("x-2")
        );
        assert_eq!(shown("x.test", Some(&ecdsa)), of("x-3"));
        assert_eq!(
            shown("x.test", Some(&rsa)),
            of("x-0"),
            "whichever: it fails"
        );
        // Where none holds, the one that ended last.
        assert_eq!(shown("a.y.test", Some(&ecdsa)), of("y-1"));
        assert!(certificates.covers(Some("a.y.test"), "b.y.test"));
        assert!(!certificates.covers(Some("a.y.test"), "x.test"));
    }

    #[test]
    fn files_that_have_just_been_written_are_read_once_more() {
        let (_dir, config) = folder();
        let certificates = Certificates::load(config, None).unwrap();
        let before = certificates.loaded.load_full();
        assert!(!certificates.refresh().unwrap(), "the same certificates");
        let after = certificates.loaded.load_full();
        assert!(!Arc::ptr_eq(&before, &after));
        assert!(!Arc::ptr_eq(&before.pairs[0], &after.pairs[0]));
        // What was read again and is the same was not parsed again.
        assert!(after.pairs[0].is_as(&before.pairs[0]));
    }

    #[test]
    fn files_that_cannot_be_used_are_a_failure_once_and_again_after_a_while() {
        let (dir, config) = folder();
        let certificates =
            Certificates::open_at(config, None, in_seconds(60), InternalCa::open).unwrap();
        let good = std::fs::read(dir.path().join("b.crt")).unwrap();
        std::fs::write(dir.path().join("b.crt"), "nonsense").unwrap();
        assert!(certificates.refresh_at(in_seconds(65)).is_err());
        assert!(!certificates.refresh_at(in_seconds(70)).unwrap());
        assert!(certificates.refresh_at(in_seconds(130)).is_err());
        assert!(certificates.find(Some("b.test"), None).unwrap().cert.len() == 1);
        std::fs::write(dir.path().join("b.crt"), good).unwrap();
        assert!(!certificates.refresh_at(in_seconds(135)).unwrap());
    }

    #[test]
    fn files_that_are_gone_are_a_failure_once_and_again_after_a_while() {
        let (dir, config) = folder();
        let certificates =
            Certificates::open_at(config, None, in_seconds(60), InternalCa::open).unwrap();
        let away = dir.path().with_extension("away");
        std::fs::rename(dir.path(), &away).unwrap();
        assert!(certificates.refresh_at(in_seconds(65)).is_err());
        assert!(!certificates.refresh_at(in_seconds(70)).unwrap());
        assert!(certificates.refresh_at(in_seconds(130)).is_err());
        std::fs::rename(&away, dir.path()).unwrap();
        assert!(!certificates.refresh_at(in_seconds(135)).unwrap());
        std::fs::rename(dir.path(), &away).unwrap();
        let again = certificates.refresh_at(in_seconds(140));
        std::fs::rename(&away, dir.path()).unwrap();
        assert!(again.is_err(), "they are gone once more");
    }
}

//! Reads one `[[listener]]`.
//!
//! Guarantees: a listener's keys fit its mode; what a `tcp` listener is for has a route.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::diagnostics::Diagnostics;
use crate::config::model::{Config, IngressConfig, ListenerConfig, ListenerMode};
use crate::config::reader::Section;
use crate::config::settings::{Setting as _, Settings as _};
use crate::config::tls::{
    ClientAuth, ClientCertificates, TlsConfig, TlsSource, TlsVersion, default_ca_dir,
};
use crate::names::Hostname;

pub(super) fn read_listener(
    s: &mut Section<'_, '_>,
    all: &mut Vec<ListenerConfig>,
    trusting: bool,
) {
    let mut listener = ListenerConfig::default();
    if let Some(address) = SocketAddr::take(s, "address") {
        listener.address = address;
    }
    listener.tls = read_tls(s);
    listener.proxy_protocol = s.flag("proxy_protocol").unwrap_or_default();
    if listener.proxy_protocol && !trusting {
        s.problem(
            "proxy_protocol",
            "is believed from trusted peers only, and `server.trusted_proxies` names none",
        );
    }
    let host = s.parsed("host", |text| {
        Hostname::parse(text).map_err(|error| error.to_string())
    });
    let mode = s.text("mode").unwrap_or_else(|| "http".to_owned());
    match (mode.as_str(), &host) {
        ("http", _) => {}
        ("wake", _) => listener.mode = ListenerMode::Wake,
        ("tls-passthrough", _) => listener.mode = ListenerMode::TlsPassthrough,
        ("tcp", Some(host)) => {
            let host = Arc::from(host.as_str());
            listener.mode = ListenerMode::Tcp { host };
        }
        ("tcp", None) => s.problem(
            "host",
            "is missing: which `[[route]]`'s host are the listener's connections for?",
        ),
        _ => s.problem(
            "mode",
            format_args!("`{mode}` is not \"http\", \"wake\", \"tls-passthrough\" or \"tcp\""),
        ),
    }
    if host.is_some() && mode != "tcp" {
        s.problem(
            "host",
            "is for `mode = \"tcp\"`; other modes learn it from the client",
        );
    }
    let is_read = matches!(listener.mode, ListenerMode::Http | ListenerMode::Wake);
    if listener.tls.is_some() && !is_read {
        s.problem(
            "mode",
            "passes TLS on, so the listener cannot have certificates",
        );
    }
    all.push(listener);
}

pub(super) fn read_ingress(s: &mut Section<'_, '_>, ingress: &mut IngressConfig) {
    ingress.read(s);
    ingress.tls = read_tls(s);
}

fn read_tls(s: &mut Section<'_, '_>) -> Option<TlsConfig> {
    let word = s.text_or_section("tls");
    if let Some(word) = word {
        if word == "acme" {
            return Some(TlsConfig::of(TlsSource::Acme { acme: true }));
        }
        if word != "internal" {
            s.problem(
                "tls",
                format_args!(
                    "`{word}` is not \"acme\", \"internal\" or a table with `cert` and `key`"
                ),
            );
        }
        return Some(TlsConfig::of(TlsSource::Internal {
            internal: default_ca_dir(),
        }));
    }
    let mut tls = None;
    s.section("tls", |s| {
        let [cert, key, ocsp, dir, internal, client_ca] =
            ["cert", "key", "ocsp", "dir", "internal", "client_ca"]
                .map(|key| s.text(key).map(PathBuf::from));
        let acme = s.flag("acme").unwrap_or_default();
        let source = match (cert, key, dir, internal, acme) {
            (None, None, None, None, false) => None,
            (Some(cert), Some(key), None, None, false) => {
                Some(TlsSource::Files { cert, key, ocsp })
            }
            (None, None, Some(dir), None, false) => Some(TlsSource::Directory { dir }),
            (None, None, None, Some(dir), false) => Some(TlsSource::Internal { internal: dir }),
            (None, None, None, None, true) => Some(TlsSource::Acme { acme }),
            _ => {
                s.problem(
                    "cert",
                    "TLS needs both `cert` and `key`, or one of `dir`, `acme` and `internal` alone",
                );
                None
            }
        };
        let version = TlsVersion::take(s, "min_version");
        let auth = ClientAuth::take(s, "client_auth");
        if auth.is_some() && client_ca.is_none() {
            s.problem("client_auth", "needs `client_ca`, the CA that issues them");
        }
        tls = source.map(TlsConfig::of).map(|mut tls| {
            tls.min_version = version.unwrap_or(tls.min_version);
            tls.clients = client_ca.map(|client_ca| ClientCertificates {
                client_ca,
                client_auth: auth.unwrap_or(ClientAuth::Required),
            });
            tls
        });
    });
    tls
}

/// A `tcp` listener without a route would close every connection.
pub(super) fn check_tcp_hosts(diagnostics: &mut Diagnostics<'_>, config: &Config) {
    for listener in &config.listener {
        // Which hosts a directory has is not known here.
        if let ListenerMode::Tcp { host } = &listener.mode
            && config.fleet.is_none()
            && !config.route.iter().any(|route| route.name.fits(host))
        {
            diagnostics.problem(
                "listener.host",
                format!(
                    "no [[route]] answers for `{host}`, so {} serves nothing",
                    listener.address
                ),
            );
        }
    }
}

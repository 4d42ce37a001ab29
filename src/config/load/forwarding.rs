//! Reads how a `[[route]]` passes its requests on.
//!
//! Guarantees: a rule that would break a message's framing is refused; what is said of TLS to
//! instances has a protocol that speaks it, and goes together.

use super::auth::read_auth;
use crate::config::forwarding::{ForwardingConfig, RedirectConfig};
use crate::config::reader::Section;
use crate::config::settings::Settings as _;
use crate::config::upstream_tls::UpstreamTlsConfig;

pub(super) fn read_forwarding(s: &mut Section<'_, '_>) -> ForwardingConfig {
    let mut forwarding = ForwardingConfig::default();
    forwarding.read(s);
    s.section("auth", |s| forwarding.auth = read_auth(s));
    forwarding.redirect_http = read_redirect(s);
    s.section("upstream_tls", |s| {
        forwarding.upstream_tls = read_upstream_tls(s);
    });
    if forwarding.upstream_tls.is_some() && !forwarding.protocol.is_secure() {
        s.problem(
            "upstream_tls",
            "is for `protocol = \"https\"` or `protocol = \"h2\"`, and the route has neither",
        );
    }
    forwarding
}

fn read_redirect(s: &mut Section<'_, '_>) -> RedirectConfig {
    let mut redirect = RedirectConfig::default();
    let mut enabled = redirect.enabled;
    s.section_or_flag("redirect_http", &mut enabled, |s, enabled| {
        redirect.enabled = *enabled || s.is_in_file();
        redirect.read(s);
        *enabled = redirect.enabled;
    });
    redirect.enabled = enabled;
    redirect
}

fn read_upstream_tls(s: &mut Section<'_, '_>) -> Option<UpstreamTlsConfig> {
    let mut tls = UpstreamTlsConfig::default();
    tls.read(s);
    match (&tls.client_cert, &tls.client_key) {
        (Some(_), None) => s.problem("client_key", "is missing: the key of `client_cert`"),
        (None, Some(_)) => s.problem("client_cert", "is missing: the certificate of `client_key`"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    if !tls.verify {
        for (key, path) in [("ca", &tls.ca), ("crl", &tls.crl)] {
            if path.is_some() {
                s.problem(
                    key,
                    "is of no use with `verify = false`: leave one of them out",
                );
            }
        }
    }
    (s.is_in_file() || tls != UpstreamTlsConfig::default()).then_some(tls)
}

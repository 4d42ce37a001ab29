//! Reads what a `[[route]]` asks requests to show.
//!
//! Guarantees: an `auth` that is there asks for something, or is a problem: nothing that somebody
//! meant to protect is open because of a typing error; a secret is in no problem.

use crate::config::auth::{AuthConfig, CertificateAuth, HeaderAuth, Way, check_auth_value};
use crate::config::capture_text::CaptureText;
use crate::config::diagnostics::Diagnostics;
use crate::config::jwt::JwtAuth;
use crate::config::model::{Config, ListenerMode};
use crate::config::other_ways::{ForwardAuth, SignedUrlAuth};
use crate::config::reader::Section;
use crate::config::secret::Secret;
use crate::config::settings::Settings;
use crate::config::texts::parse_auth_name;
use crate::identity::KeySet;

pub(super) fn read_auth(s: &mut Section<'_, '_>) -> Option<AuthConfig> {
    let header = read_header(s);
    let forward_credential = s.flag("forward_credential").unwrap_or_default();
    let mut any = Vec::new();
    s.tables("any", |s| any.extend(read_way(s)));
    let has_field = has_header(s);
    match (has_field, s.has_in_file("any") || !any.is_empty()) {
        (true, true) => s.problem(
            "any",
            "cannot stand beside `header`: it would not be clear whether one of both is enough",
        ),
        (false, true) if any.is_empty() => {
            s.problem("any", "lets nobody in, since nothing in it can be shown");
        }
        (false, false) if s.is_in_file() => s.problem(
            "any",
            "is missing: what must a request show? Write `[[route.auth.any]]` with one of `jwt`, \
             `signed_url`, `forward`, `header` and `value_file`, or `client_certificate = true`",
        ),
        _ => {}
    }
    if forward_credential && !has_field {
        s.problem(
            "forward_credential",
            "belongs into an entry of `[[route.auth.any]]`",
        );
    }
    let auth = AuthConfig {
        header,
        forward_credential,
        any,
    };
    (auth != AuthConfig::default()).then_some(auth)
}

/// One entry; nothing where it has no way in that is whole.
fn read_way(s: &mut Section<'_, '_>) -> Option<Way> {
    let (has_header, header) = (has_header(s), read_header(s));
    let (has_certificate, client_certificate) = read_certificate(s);
    let jwt = below::<JwtAuth>(s, "jwt", check_jwt);
    let signed_url = below::<SignedUrlAuth>(s, "signed_url", |s, url| {
        if url.key_file.is_none() && !s.has("key_file") {
            s.problem("key_file", "is missing: which key are URLs signed with?");
        }
    });
    let forward = below::<ForwardAuth>(s, "forward", |s, forward| {
        if forward.url.is_empty() && !s.has("url") {
            s.problem("url", "is missing: which server judges?");
        }
    });
    let forward_credential = s.flag("forward_credential").unwrap_or_default();
    let has = [
        has_header,
        has_certificate,
        jwt.is_some(),
        signed_url.is_some(),
        forward.is_some(),
    ];
    match has.iter().filter(|has| **has).count() {
        0 => s.problem(
            "header",
            "is missing, and so is every other way in: what must be shown?",
        ),
        1 => {}
        _ => s.problem(
            "forward_credential",
            "stands beside several ways in; give each its own `[[route.auth.any]]`",
        ),
    }
    let way = Way {
        header,
        client_certificate,
        jwt: jwt.map(Box::new),
        signed_url,
        forward,
        forward_credential,
    };
    way.proof().is_some().then_some(way)
}

/// A table that need not be there, read and checked if it is.
fn below<T: Settings + PartialEq>(
    s: &mut Section<'_, '_>,
    key: &'static str,
    check: impl FnOnce(&mut Section<'_, '_>, &T),
) -> Option<T> {
    let mut found = None;
    s.section(key, |s| {
        let mut settings = T::default();
        settings.read(s);
        if s.is_in_file() || settings != T::default() {
            check(s, &settings);
            found = Some(settings);
        }
    });
    found
}

fn check_jwt(s: &mut Section<'_, '_>, jwt: &JwtAuth) {
    let has = ["jwks_file", "jwks_url"].map(|key| s.has(key));
    match has {
        [true, true] => s.problem(
            "jwks_url",
            "stands beside `jwks_file`: which of both is it?",
        ),
        [false, false] => s.problem(
            "jwks_file",
            "is missing, and so is `jwks_url`: which keys are tokens signed with?",
        ),
        [_, _] => {}
    }
    let Some(file) = &jwt.jwks_file else {
        return;
    };
    match KeySet::parse(file.text()) {
        Ok(keys) if keys.is_empty() => {
            s.problem("jwks_file", "has no keys, so nobody would get in");
        }
        Ok(_) => {}
        Err(error) => s.problem(
            "jwks_file",
            format_args!("`{}` {error}", file.path().display()),
        ),
    }
}

/// Whether the key is there, and what it asks for.
fn read_certificate(s: &mut Section<'_, '_>) -> (bool, Option<CertificateAuth>) {
    let (mut is_asked, mut is_table, mut san) = (false, false, None);
    s.section_or_flag("client_certificate", &mut is_asked, |s, is_asked| {
        san = s.parsed("san", CaptureText::parse);
        *is_asked |= san.is_some();
        is_table = s.is_in_file();
        if s.is_in_file() && !s.has("san") {
            s.problem(
                "san",
                "is missing; for any certificate write `client_certificate = true`",
            );
        }
    });
    let is_there = s.has("client_certificate") || is_asked;
    if is_there && !is_asked && !is_table {
        s.problem(
            "client_certificate",
            "can only be `true`, or `{ san = \"…\" }`",
        );
    }
    (is_there, is_asked.then_some(CertificateAuth { san }))
}

fn has_header(s: &mut Section<'_, '_>) -> bool {
    let has = ["header", "value", "value_file"].map(|key| s.has(key));
    has.contains(&true)
}

fn read_header(s: &mut Section<'_, '_>) -> Option<HeaderAuth> {
    let header = s.parsed("header", parse_auth_name);
    let (file, text) = (s.text("value_file"), s.text("value"));
    let value = match (&file, text) {
        (Some(_), Some(_)) => {
            s.problem("value", "is given twice: here and in `value_file`");
            return None;
        }
        (Some(path), None) => match std::fs::read_to_string(path) {
            Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) => {
                s.problem("value_file", format_args!("cannot read {path}: {error}"));
                return None;
            }
        },
        (None, Some(text)) => text,
        (None, None) => {
            if header.is_some() {
                s.problem("value", "is missing; better give `value_file`");
            }
            return None;
        }
    };
    let key = if file.is_some() {
        "value_file"
    } else {
        "value"
    };
    if let Err(message) = check_auth_value(&value) {
        s.problem(key, message);
        return None;
    }
    let Some(header) = header else {
        s.problem("header", "is missing: which field must a request have?");
        return None;
    };
    Some(HeaderAuth {
        header,
        value: Secret::new(&value),
        value_file: file.map(Into::into),
    })
}

/// A route that asks for a certificate which no listener asks for would refuse everybody.
pub(super) fn check_certificates(diagnostics: &mut Diagnostics<'_>, config: &Config) {
    let of_file = config.listener.iter();
    let of_file = of_file.filter(|listener| listener.mode == ListenerMode::Http);
    let of_ingress = config.ingress.tls.iter().filter(|_| config.ingress.watch);
    let mut all = of_file
        .filter_map(|listener| listener.tls.as_ref())
        .chain(of_ingress);
    if all.any(|tls| tls.clients.is_some()) {
        return;
    }
    for (index, route) in config.route.iter().enumerate() {
        let auth = route.forwarding.auth.as_ref();
        if auth.is_some_and(AuthConfig::needs_certificate) {
            diagnostics.problem(
                &format!("route[{index}].auth.any"),
                format!(
                    "asks for a client's certificate, and no listener asks clients for one, so \
                     `{}` serves nobody; give a [[listener]] `tls` with `client_ca`",
                    route.host()
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Variables, load};

    const ROUTE: &str = "[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n";
    const ASKS: &str = "[[listener]]\ntls = { dir = \"x\", client_ca = \"y\" }\n";
    const CERTIFICATE: &str = "[[route.auth.any]]\nclient_certificate = true\n";

    fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
        let pairs = variables.iter();
        let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        match load("w.toml", text, &pairs.collect::<Variables>()) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn an_auth_that_asks_for_nothing_or_for_what_is_unknown_opens_no_route() {
        let secret = "header = \"x-key\"\nvalue = \"0123456789abcdef0123456789abcdef\"\n";
        for (keys, problem) in [
            ("[route.auth]\n", "what must a request show?"),
            ("auth = {}\n", "what must a request show?"),
            ("[route.auth]\nany = []\n", "lets nobody in"),
            ("[[route.auth.any]]\n", "what must be shown?"),
            (
                "[[route.auth.any]]\nclient_certificate = false\n",
                "can only be `true`",
            ),
            (
                "[[route.auth.any]]\njwt = { issuer = \"x\" }\n",
                "which keys are tokens signed with?",
            ),
            (
                "[[route.auth.any]]\nclient_certificate = {}\n",
                "for any certificate",
            ),
            (
                "[[route.auth.any]]\nclient_certificate = { san = \"{other}.test\" }\n",
                "`{other}` is not a capture",
            ),
            (
                "[[route.auth.any]]\nclient_certificate = true\njwt = { jwks_file = \"Cargo.toml\" }\n",
                "several ways in",
            ),
            (
                "[[route.auth.any]]\njwt = { jwks_file = \"Cargo.toml\" }\n",
                "is not a JWK Set",
            ),
            (
                "[[route.auth.any]]\njwt = { jwks_file = \"/nowhere\" }\n",
                "cannot read `/nowhere`",
            ),
            (
                "[[route.auth.any]]\njwt = { claims = { sub = 7 } }\n",
                "has an integer in it",
            ),
            (
                "[[route.auth.any]]\njwt = { forward = { sub = \"authorization\" } }\n",
                "has a meaning of its own",
            ),
            (
                "[route.auth]\nforward_credential = true\n[[route.auth.any]]\nclient_certificate = true\n",
                "belongs into an entry",
            ),
            (
                "[[route.auth.any]]\nclient_certificat = true\n",
                "did you mean `client_certificate`?",
            ),
            ("[route.auth]\nany = true\n", "is not a list of tables"),
            (&format!("[route.auth]\n{secret}{CERTIFICATE}"), "beside"),
        ] {
            let got = problems(&format!("{ASKS}{ROUTE}{keys}"), &[]);
            assert!(got.concat().contains(problem), "{keys}: {got:?}");
        }
        let variable = "WAKEGATE_ROUTE_0_AUTH_ANY_0_CLIENT_CERTIFICATE";
        let text = format!("{ASKS}{ROUTE}");
        assert!(!problems(&text, &[(variable, "false")]).is_empty());
        assert_eq!(problems(&text, &[(variable, "true")]), [""; 0]);
    }

    #[test]
    fn a_certificate_that_no_listener_asks_for_is_a_problem() {
        let asking = format!("{ROUTE}{CERTIFICATE}");
        for (listeners, is_served) in [
            ("", false),
            ("[[listener]]\ntls = { dir = \"x\" }\n", false),
            ("[[listener]]\nmode = \"tls-passthrough\"\n", false),
            (
                "[ingress]\ntls = { dir = \"x\", client_ca = \"y\" }\n",
                false,
            ),
            (ASKS, true),
            (
                "[[listener]]\n[[listener]]\n\
                 tls = { dir = \"x\", client_ca = \"y\", client_auth = \"optional\" }\n",
                true,
            ),
            (
                "[ingress]\nwatch = true\ntls = { dir = \"x\", client_ca = \"y\" }\n",
                true,
            ),
        ] {
            let got = problems(&format!("{listeners}{asking}"), &[]);
            assert_eq!(got.is_empty(), is_served, "{listeners}: {got:?}");
            let names = |text: &str| text.contains("route[0].auth.any");
            assert!(got.iter().all(|text| names(text)), "{got:?}");
        }
    }

    #[test]
    fn waking_on_the_first_bytes_of_tls_does_not_go_with_asking_who_comes() {
        let wakes = "wake = { on_tls_hello = true }\n";
        let got = problems(&format!("{ASKS}{ROUTE}{wakes}{CERTIFICATE}"), &[]);
        assert!(
            got.concat().contains("cannot be asked for where"),
            "{got:?}"
        );
        assert_eq!(problems(&format!("{ASKS}{ROUTE}{wakes}"), &[]), [""; 0]);
    }

    #[test]
    fn what_check_prints_of_it_is_read_again() {
        let keys = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/identity/token/others.json"
        );
        let ways = format!(
            "[[route.auth.any]]\nclient_certificate = {{ san = \"{{instance}}.clients.test\" }}\n\
             [[route.auth.any]]\nforward_credential = true\n\
             jwt = {{ jwks_file = \"{keys}\", issuer = \"i\", claims = {{ \"a.b\" = \"x-{{instance}}\" }}, \
             forward = {{ sub = \"x-user\" }}, token_from = {{ cookie = \"c\", subprotocol = \"t.\" }} }}\n"
        );
        let text = format!("{ASKS}{ROUTE}{CERTIFICATE}{ways}");
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        let printed = toml::to_string(&config).unwrap();
        let again = load("w.toml", &printed, &Variables::default()).unwrap();
        assert_eq!(config.route[0].forwarding, again.route[0].forwarding);
        assert_eq!(
            again.route[0].forwarding.auth.as_ref().unwrap().any.len(),
            3
        );
    }
}

//! Reads what a `[[route]]` asks requests to show.
//!
//! Guarantees: an `auth` that is there asks for something, or is a problem: nothing that somebody
//! meant to protect is open because of a typing error; a secret is in no problem.

use crate::config::auth::{AuthConfig, HeaderAuth, Proof, check_auth_value, parse_auth_name};
use crate::config::diagnostics::Diagnostics;
use crate::config::model::{Config, ListenerMode};
use crate::config::reader::Section;
use crate::config::secret::Secret;

pub(super) fn read_auth(s: &mut Section<'_, '_>) -> Option<AuthConfig> {
    let header = read_header(s);
    let mut any = Vec::new();
    s.tables("any", |s| any.extend(read_proof(s)));
    let has_field = ["header", "value", "value_file"].map(|key| s.has(key));
    match (
        has_field.contains(&true),
        s.has_in_file("any") || !any.is_empty(),
    ) {
        (true, true) => s.problem(
            "any",
            "cannot stand beside `header`: it would not be clear whether one of both is enough",
        ),
        (false, true) if any.is_empty() => {
            s.problem("any", "lets nobody in, since nothing in it can be shown");
        }
        (false, false) if s.is_in_file() => s.problem(
            "any",
            "is missing: what must a request show? Write `[[route.auth.any]]` with \
             `client_certificate = true`, or `header` and `value_file`",
        ),
        _ => {}
    }
    let auth = AuthConfig { header, any };
    (auth != AuthConfig::default()).then_some(auth)
}

fn read_proof(s: &mut Section<'_, '_>) -> Option<Proof> {
    let is_certificate = s.flag("client_certificate").unwrap_or_default();
    if !is_certificate && s.has("client_certificate") {
        s.problem("client_certificate", "can only be `true`");
    }
    is_certificate.then_some(Proof::ClientCertificate)
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
            ("[[route.auth.any]]\n", "lets nobody in"),
            (
                "[[route.auth.any]]\nclient_certificate = false\n",
                "can only be `true`",
            ),
            (
                "[[route.auth.any]]\njwt = { issuer = \"x\" }\n",
                "there is no such key",
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
    fn what_check_prints_of_it_is_read_again() {
        let text = format!("{ASKS}{ROUTE}{CERTIFICATE}");
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        let printed = toml::to_string(&config).unwrap();
        let again = load("w.toml", &printed, &Variables::default()).unwrap();
        assert_eq!(config.route[0].forwarding, again.route[0].forwarding);
        assert!(again.route[0].forwarding.auth.is_some());
    }
}

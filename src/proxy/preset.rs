//! `preset = "browser-abuse"`: requests whose answers nobody waits for.
//!
//! Guarantees: only requests that say so themselves, by their user agent, their `Sec-Purpose` or a
//! path that no application of ours serves by accident; and the answer is true: "asleep", or 404
//! for a scanner's guess. Preflights are answered by what the instance said last time (see
//! [`preflight`](super::preflight)).

use http::Method;

use super::denied::Denied;
use super::request_head::RequestHead;
use crate::config::Preset;

/// Parts of user agents, in lower case: crawlers, link previews, monitors, scanners.
/// Sources: the agents' own documentation pages; "bot", "crawler" and "spider" are what most of
/// them call themselves.
const AGENTS: &[&str] = &[
    "bot",
    "crawler",
    "spider",
    "slurp",
    "archiver",
    "facebookexternalhit",
    "whatsapp",
    "embedly",
    "bingpreview",
    "skypeuripreview",
    "google-inspectiontool",
    "mediapartners-google",
    "ia_archiver",
    "uptime",
    "pingdom",
    "statuscake",
    "site24x7",
    "censysinspect",
    "zgrab",
    "masscan",
    "nmap",
    "nikto",
    "sqlmap",
    "nuclei",
    "wpscan",
    "expanse",
];

/// Paths that scanners guess. Each is matched as a whole path or a prefix on segment borders.
const SCANNED: &[&str] = &[
    "/.env",
    "/.git",
    "/.svn",
    "/.hg",
    "/.aws",
    "/.ssh",
    "/.DS_Store",
    "/.vscode",
    "/wp-login.php",
    "/wp-admin",
    "/wp-content",
    "/wp-includes",
    "/xmlrpc.php",
    "/phpmyadmin",
    "/phpinfo.php",
    "/vendor/phpunit",
    "/cgi-bin",
    "/actuator",
    "/server-status",
    "/HNAP1",
    "/boaform",
    "/owa/auth",
    "/autodiscover",
    "/solr/admin",
    "/_ignition",
];

/// Paths that browsers ask for by themselves.
const ICONS: &[&str] = &[
    "/favicon.ico",
    "/apple-touch-icon.png",
    "/apple-touch-icon-precomposed.png",
    "/browserconfig.xml",
];

pub(super) fn check(Preset::BrowserAbuse: Preset, head: &RequestHead<'_>) -> Result<(), Denied> {
    let path = head.path;
    if SCANNED.iter().any(|guess| is_guess(path, guess)) {
        return Err(Denied::Scanner);
    }
    if matches!(*head.method, Method::GET | Method::HEAD) && ICONS.contains(&path) {
        return Err(Denied::Icon);
    }
    let says_prefetch = |name: &str| {
        let values = head.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|text| text.to_ascii_lowercase().contains("prefetch"))
    };
    if ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .into_iter()
        .any(says_prefetch)
    {
        return Err(Denied::Prefetch);
    }
    let agent = head.user_agent();
    if AGENTS.iter().any(|part| agent.contains(part)) {
        return Err(Denied::Bot);
    }
    Ok(())
}

fn is_guess(path: &str, guess: &str) -> bool {
    let rest = match path.get(..guess.len()) {
        Some(start) if start.eq_ignore_ascii_case(guess) => path.get(guess.len()..).unwrap_or(""),
        _ => return false,
    };
    // `/.env.production` is as much of a guess as `/.env`.
    rest.is_empty() || rest.starts_with(['/', '.'])
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[track_caller]
    fn expect(path: &str, fields: &[(&'static str, &'static str)], expected: Result<(), Denied>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::GET,
            path,
            headers: &headers,
            client: [10, 0, 0, 1].into(),
        };
        assert_eq!(
            check(Preset::BrowserAbuse, &head),
            expected,
            "{path} {fields:?}"
        );
    }

    #[test]
    fn the_usual_abusers_are_known_and_people_are_not_among_them() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Safari/537.36";
        expect("/", &[("user-agent", chrome)], Ok(()));
        expect("/environment", &[("user-agent", "curl/8.5.0")], Ok(()));
        expect("/.well-known/openid-configuration", &[], Ok(()));
        expect("/", &[], Ok(()));
        let google = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        expect("/", &[("user-agent", google)], Err(Denied::Bot));
        expect(
            "/",
            &[("user-agent", "WhatsApp/2.23.20.0")],
            Err(Denied::Bot),
        );
        for path in [
            "/.env",
            "/.env.production",
            "/.git/config",
            "/WP-Login.php",
            "/wp-admin/x",
        ] {
            expect(path, &[], Err(Denied::Scanner));
        }
        expect("/favicon.ico", &[], Err(Denied::Icon));
        expect(
            "/a",
            &[("sec-purpose", "prefetch;prerender")],
            Err(Denied::Prefetch),
        );
        expect("/a", &[("x-moz", "prefetch")], Err(Denied::Prefetch));
    }
}

//! Which server a command is for, and whether the key in the environment is its key.
//!
//! Guarantees: that key is sent to the server that the environment names, or to the default one
//! where it names none, and to no other.

use hypeman::Config;
use reqwest::Url;

/// The environment's configuration for the server at `url`, if that is another one; and whether
/// the key was left out for that reason.
pub(super) fn choose(environment: Config, url: Option<&str>) -> (Config, bool) {
    let Some(url) = url else {
        return (environment, false);
    };
    let is_same = place(url).is_some_and(|asked| place(&environment.url) == Some(asked));
    let withheld = !is_same && environment.api_key.is_some();
    let config = Config {
        url: url.to_owned(),
        api_key: environment.api_key.filter(|_| is_same),
        ..environment
    };
    (config, withheld)
}

/// What makes two base URLs those of one server.
fn place(text: &str) -> Option<(String, String, Option<u16>, String)> {
    let url = Url::parse(text).ok()?;
    let host = match url.host_str()? {
        "127.0.0.1" | "[::1]" => "localhost",
        host => host,
    };
    let path = url.path().trim_end_matches('/').to_owned();
    let port = url.port_or_known_default();
    Some((url.scheme().to_owned(), host.to_owned(), port, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_to_the_server_that_it_was_given_for() {
        for (base, url, is_sent) in [
            ("http://localhost:4973", None, true),
            (
                "http://localhost:4973",
                Some("http://127.0.0.1:4973/"),
                true,
            ),
            (
                "https://a.example.com",
                Some("https://a.example.com:443/"),
                true,
            ),
            ("http://h:8080/api", Some("http://h:8080/api/"), true),
            (
                "http://localhost:4973",
                Some("http://localhost:4974"),
                false,
            ),
            ("https://a.example.com", Some("http://a.example.com"), false),
            (
                "https://a.example.com",
                Some("https://a.example.com.evil.example"),
                false,
            ),
            ("http://h:8080/api", Some("http://h:8080/other"), false),
            ("http://h", Some("no URL"), false),
            ("no URL", Some("no URL"), false),
        ] {
            let environment = Config {
                url: base.to_owned(),
                api_key: Some("k".into()),
                ..Config::default()
            };
            let (config, withheld) = choose(environment, url);
            assert_eq!(config.url, url.unwrap_or(base));
            assert_eq!(config.api_key.is_some(), is_sent, "{base} {url:?}");
            assert_eq!(withheld, !is_sent, "{base} {url:?}");
        }
    }
}

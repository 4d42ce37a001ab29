//! `wakegate sign-url`: a URL that lets in whoever has it, for a while.
//!
//! Guarantees: what is signed is what a client sends: the URL as browsers write it, and its host as
//! routes read it; the key is not printed.

use clap::Args;
use std::path::PathBuf;

use http::Method;
use url::Url;

use super::output::{Failure, Output};
use crate::identity::{SignedUrl, UrlKey};
use crate::names::Hostname;
use hypeman::GoDuration;

/// Arguments of `sign-url`.
#[derive(Debug, Clone, Args)]
pub struct SignUrlArguments {
    /// The file with the key: the `key_file` of the route's `signed_url`.
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// How long the URL lets in.
    #[arg(long, value_name = "DURATION")]
    pub expires: GoDuration,
    /// The only method that it is for [default: GET and HEAD].
    #[arg(long, value_name = "METHOD")]
    pub method: Option<Method>,
    /// The URL.
    #[arg(value_name = "URL")]
    pub url: Url,
}

pub(super) fn run(arguments: &SignUrlArguments, output: Output) -> Result<(), Failure> {
    let file = &arguments.key_file;
    let wrong = |message: String| Failure::failed(format_args!("{} {message}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let key = UrlKey::new(&bytes).map_err(wrong)?;
    let lasts = arguments.expires.to_std().filter(|lasts| !lasts.is_zero());
    let lasts = lasts.ok_or_else(|| Failure::failed("--expires must be longer than zero"))?;
    let now = jiff::Timestamp::now();
    let expires = now
        .checked_add(lasts)
        .map_err(|_| Failure::failed("--expires is too far away"))?;
    // Of a part of a second there is no more than that.
    let expires = expires.as_second() + i64::from(expires.subsec_nanosecond() > 0);
    let method = arguments.method.as_ref().map(Method::as_str);
    if let Some(capitals) = method.and_then(in_capitals) {
        let message = format!("methods have capital letters: --method {capitals}");
        return Err(Failure::failed(message));
    }
    let signed = sign(&key, method, &arguments.url, expires).map_err(Failure::failed)?;
    output.print(&format!("{signed}\n"));
    Ok(())
}

/// The method that somebody means who has written one in small letters, which would be another one (RFC
/// 9110 §9.1), and nobody's.
fn in_capitals(method: &str) -> Option<Method> {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    let mut known = KNOWN.into_iter();
    known.find(|known| method != known.as_str() && known.as_str().eq_ignore_ascii_case(method))
}

fn sign(
    key: &UrlKey,
    method: Option<&str>,
    url: &Url,
    expires: i64,
) -> Result<String, &'static str> {
    if !matches!(url.scheme(), "http" | "https" | "ws" | "wss") {
        return Err("the URL must begin with https://, http://, wss:// or ws://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL has a user name or password in it, which browsers do not send");
    }
    let is_own = |name: &str| SignedUrl::PARAMETERS.contains(&name);
    if url.query_pairs().any(|(name, _)| is_own(&name)) {
        return Err("the URL is signed already");
    }
    let host = url.host_str().ok_or("the URL has no host")?;
    let host = Hostname::parse(host).map_err(|_| "the URL's host is no host name")?;
    let query = url.query().map(|query| format!("?{query}"));
    let target = format!("{}{}", url.path(), query.unwrap_or_default());
    let signed = key.sign(method, host.as_str(), &target, expires);
    let fragment = url.fragment().map(|fragment| format!("#{fragment}"));
    let port = url.port().map(|port| format!(":{port}"));
    let authority = format!(
        "{}{}",
        url.host_str().unwrap_or_default(),
        port.unwrap_or_default()
    );
    Ok(format!(
        "{}://{authority}{signed}{}",
        url.scheme(),
        fragment.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_in_small_letters_is_a_mistake_and_an_own_one_is_not() {
        assert_eq!(in_capitals("put"), Some(Method::PUT));
        assert_eq!(in_capitals("Get"), Some(Method::GET));
        for fine in ["PUT", "PROPFIND", "purge"] {
            assert_eq!(in_capitals(fine), None, "{fine}");
        }
    }

    #[test]
    fn what_is_signed_is_what_a_client_sends() {
        let key = UrlKey::new(b"0123456789abcdef0123456789abcdef").unwrap();
        let end = 4_102_444_800;
        let signed = |url: &str| sign(&key, None, &url.parse().unwrap(), end);
        let now = jiff::Timestamp::from_second(1_800_000_000).unwrap();
        for (url, host, before) in [
            (
                "https://Blue.Example.com",
                "blue.example.com",
                "https://blue.example.com/?",
            ),
            (
                "http://a.test:8080/x/../y?q=ä#part",
                "a.test",
                "http://a.test:8080/y?q=%C3%A4&",
            ),
            ("wss://a.test/?", "a.test", "wss://a.test/?&"),
        ] {
            let signed = signed(url).unwrap();
            assert!(signed.starts_with(before), "{signed}");
            let sent: Url = signed.parse().unwrap();
            let target = format!("{}?{}", sent.path(), sent.query().unwrap());
            let parsed = SignedUrl::parse(&target).unwrap();
            assert_eq!(parsed.check(&key, "GET", host, now), Ok(()), "{signed}");
        }
        for wrong in [
            "ftp://a.test/",
            "https://me@a.test/",
            "https://a.test/?wakegate-expires=1",
            "data:x",
        ] {
            assert!(signed(wrong).is_err(), "{wrong}");
        }
    }
}

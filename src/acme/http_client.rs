//! The connection to the CA.
//!
//! Guarantees: every call ends, and no answer is larger than any of a CA's; only the roots that the
//! operator names, or else the system's, are believed; how long the CA wants to be left alone is known
//! to the order that it was said in, and to no other; no answer can make the library's clocks
//! overflow; what is no answer of a CA is told as what it is.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{LINK, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Collected, Full};
use instant_acme::{Account, BodyWrapper, BytesResponse, Error};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::schedule::LONGEST_ASKED;

/// One call.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer; chains have some kilobytes.
const LARGEST: usize = 1024 * 1024;
/// When a CA does not say how soon it wants to be asked again about a renewal (RFC 9773 §4.3.3).
const NOT_SAID: Duration = Duration::from_secs(6 * 3600);

tokio::task_local! {
    /// What is heard in the order that runs here.
    static HEARD: Heard;
}

/// What a CA says beside its answers.
#[derive(Debug, Default)]
struct Heard {
    /// How long it has asked to be left alone, when it last refused something.
    pause: Cell<Option<Duration>>,
    /// Where other chains of the certificate are that came last (RFC 8555 §7.4.2).
    others: RefCell<Vec<String>>,
    /// Whether a chain is asked for as if it were an order.
    wants_chain: Cell<bool>,
}

/// Calls a CA.
#[derive(Clone)]
pub(super) struct HttpClient {
    client: reqwest::Client,
}

/// Does what calls a CA; with it comes how long the CA has asked to be left alone, when it last
/// refused something of this.
pub(super) async fn noting_pause<F: Future>(calls: F) -> (F::Output, Option<Duration>) {
    let noting = async {
        let done = calls.await;
        (done, HEARD.with(|heard| heard.pause.get()))
    };
    HEARD.scope(Heard::default(), noting).await
}

/// Where the CA has other chains of the certificate that came last in the order that runs here.
pub(super) fn other_chains() -> Vec<String> {
    let heard = HEARD.try_with(|heard| heard.others.borrow().clone());
    heard.unwrap_or_default()
}

/// Asks for a chain by its URL, in the order that runs here. The library signs questions for what it
/// knows alone, so the answer comes as an order.
pub(super) async fn fetch_chain(account: &Account, url: &str) -> Result<String, Error> {
    let wants = |wants| {
        // Outside of an order, it is read as none.
        let _noted = HEARD.try_with(|heard| heard.wants_chain.set(wants));
    };
    wants(true);
    let answer = account.order(url.to_owned()).await;
    wants(false);
    let chain = answer?.state().certificate.clone();
    chain.ok_or_else(|| Error::Other("the CA's answer is no chain".into()))
}

/// A chain in the form of an order.
fn as_order(chain: &[u8]) -> Vec<u8> {
    let chain = String::from_utf8_lossy(chain);
    let order = json!({
        "status": "valid", "authorizations": [], "finalize": "", "certificate": chain,
    });
    order.to_string().into_bytes()
}

/// The URLs of links to alternates (RFC 8288 §3).
fn alternates(fields: &HeaderMap) -> Vec<String> {
    let values = fields.get_all(LINK).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    // No URL has a `<` of its own.
    let links = values.flat_map(|value| value.split('<').skip(1));
    let found = links.filter_map(|link| {
        let (url, parameters) = link.split_once('>')?;
        let mut parameters = parameters.split([';', ',']).map(str::trim);
        let is_alternate = parameters.any(|one| {
            one.strip_prefix("rel=")
                .is_some_and(|kind| kind.trim_matches('"') == "alternate")
        });
        is_alternate.then(|| url.to_owned())
    });
    found.collect()
}

/// What a Retry-After asks for: seconds, or a date (RFC 9110 §10.2.3). No more than is believed.
fn pause_of(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = text.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(LONGEST_ASKED));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    let left = Duration::try_from(date.ok()?.duration_since(now)).unwrap_or_default();
    Some(left.min(LONGEST_ASKED))
}

/// Takes the pause out of an answer's fields, and puts in one that the library can reckon with.
fn take_pause(fields: &mut HeaderMap, is_get: bool) -> Option<Duration> {
    let said = fields.remove(RETRY_AFTER);
    let said = said.as_ref().and_then(|value| value.to_str().ok());
    let said = said.and_then(|text| pause_of(text, Timestamp::now()));
    if let Some(pause) = said.or_else(|| is_get.then_some(NOT_SAID)) {
        fields.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs()));
    }
    said
}

/// What is wrong with an answer that is none of a CA's.
fn fault(status: StatusCode, fields: &HeaderMap, body: &[u8]) -> Option<String> {
    if status.is_redirection() {
        let place = fields.get(LOCATION).and_then(|value| value.to_str().ok());
        let place = place.unwrap_or("nowhere");
        return Some(format!(
            "the CA answers {status} and leads to {place}; redirects are not followed: let \
             `acme.directory` be where it is now"
        ));
    }
    let is_error = status.is_client_error() || status.is_server_error();
    let is_object = || serde_json::from_slice::<Value>(body).is_ok_and(|told| told.is_object());
    (is_error && !is_object()).then(|| format!("the CA answers {status}, and does not say why"))
}

// === impl HttpClient ===

impl HttpClient {
    /// A client that believes `roots`, PEM, in place of the system's.
    pub(super) fn new(roots: Option<&[u8]>) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .https_only(true)
            .timeout(PATIENCE)
            .user_agent(concat!("wakegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none());
        let builder = match roots {
            Some(roots) => builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(roots)?),
            None => builder,
        };
        Ok(Self {
            client: builder.build()?,
        })
    }
}

/// What a CA answers.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    pub(super) body: Vec<u8>,
}

// === impl HttpClient ===

impl HttpClient {
    /// Asks the CA, once.
    pub(super) async fn ask(
        &self,
        method: Method,
        url: &str,
        fields: HeaderMap,
        body: Bytes,
    ) -> Result<Answered, Error> {
        let failed = |error: reqwest::Error| Error::Other(Box::new(error));
        let is_get = method == Method::GET;
        let asked = self.client.request(method, url).headers(fields).body(body);
        let mut answer = asked.send().await.map_err(failed)?;
        let (status, mut fields) = (answer.status(), answer.headers().clone());
        let pause = take_pause(&mut fields, is_get);
        let is_refusal = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if let Some(pause) = pause.filter(|_| is_refusal) {
            // Who only asks when to renew has a pause of its own.
            let _noted = HEARD.try_with(|heard| heard.pause.set(Some(pause)));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            if body.len() + part.len() > LARGEST {
                return Err(Error::Other("the CA's answer is too large".into()));
            }
            body.extend_from_slice(&part);
        }
        if let Some(fault) = fault(status, &fields, &body) {
            return Err(Error::Other(fault.into()));
        }
        Ok(Answered {
            status,
            fields,
            body,
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>>;

impl instant_acme::HttpClient for HttpClient {
    fn request(&self, request: Request<BodyWrapper<Bytes>>) -> Answer {
        let http = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes);
            let url = parts.uri.to_string();
            let asked = http.ask(parts.method, &url, parts.headers, body.unwrap_or_default());
            let Answered {
                status,
                fields,
                mut body,
            } = asked.await?;
            // Who only asks when to renew has no chain.
            let _noted = HEARD.try_with(|heard| {
                let others = alternates(&fields);
                if !others.is_empty() {
                    heard.others.replace(others);
                }
                if heard.wants_chain.get() && status.is_success() && !body.is_empty() {
                    body = as_order(&body);
                }
            });
            let mut response = Response::new(Full::new(Bytes::from(body)));
            (*response.status_mut(), *response.headers_mut()) = (status, fields);
            Ok(BytesResponse::from(response))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_may_say_in_seconds_or_by_a_date_when_it_wants_to_be_asked_again() {
        let now: Timestamp = "2026-11-06T08:49:00Z".parse().unwrap();
        let week = LONGEST_ASKED.as_secs();
        let pauses = [
            ("soon", None),
            ("", None),
            ("-5", None),
            ("120", Some(120)),
            ("Fri, 06 Nov 2026 08:49:37 GMT", Some(37)),
            ("Fri, 06 Nov 2026 08:00:00 GMT", Some(0)),
            // Not for ever, whatever it says.
            ("18446744073709551615", Some(week)),
            ("99999999999999999999999", Some(week)),
            ("Wed, 06 Nov 2926 08:00:00 GMT", Some(week)),
        ];
        for (text, seconds) in pauses {
            let pause = pause_of(text, now);
            assert_eq!(pause, seconds.map(Duration::from_secs), "{text}");
        }
    }

    #[test]
    fn the_library_is_given_no_pause_that_it_cannot_reckon_with() {
        let mut fields = HeaderMap::new();
        assert_eq!(take_pause(&mut fields, false), None);
        assert!(fields.is_empty());
        // About renewals it wants one, and the RFC says which.
        assert_eq!(take_pause(&mut fields, true), None);
        assert_eq!(fields[RETRY_AFTER], "21600");
        fields.insert(RETRY_AFTER, HeaderValue::from(u64::MAX));
        assert_eq!(take_pause(&mut fields, true), Some(LONGEST_ASKED));
        assert_eq!(fields[RETRY_AFTER], "604800");
    }

    #[test]
    fn what_is_no_answer_of_a_ca_is_told_as_what_it_is() {
        let mut fields = HeaderMap::new();
        fields.insert(LOCATION, HeaderValue::from_static("https://other.test/"));
        let told = fault(StatusCode::FOUND, &fields, b"").unwrap();
        assert!(
            told.contains("302 Found") && told.contains("https://other.test/"),
            "{told}"
        );
        let told = fault(StatusCode::BAD_GATEWAY, &fields, b"<html>").unwrap();
        assert!(told.contains("502 Bad Gateway"), "{told}");
        assert_eq!(
            fault(StatusCode::BAD_REQUEST, &fields, b"{\"type\":\"x\"}"),
            None
        );
        assert_eq!(fault(StatusCode::OK, &fields, b"-----BEGIN"), None);
    }

    #[tokio::test]
    async fn what_a_ca_asks_for_in_one_order_is_of_no_other() {
        let one = noting_pause(async {
            HEARD.with(|heard| heard.pause.set(Some(PATIENCE)));
            tokio::task::yield_now().await;
        });
        let other = noting_pause(async { tokio::task::yield_now().await });
        let (one, other) = tokio::join!(one, other);
        assert_eq!((one.1, other.1), (Some(PATIENCE), None));
        assert!(HEARD.try_with(|_| ()).is_err());
    }

    #[test]
    fn other_chains_are_where_links_say() {
        let mut fields = HeaderMap::new();
        for link in [
            "<https://ca.test/dir>;rel=\"index\"",
            "<https://ca.test/1>;rel=\"alternate\"",
            "<https://ca.test/2>; rel=alternate, <https://ca.test/up>; rel=\"up\"",
            "nonsense",
        ] {
            fields.append(LINK, HeaderValue::from_static(link));
        }
        assert_eq!(
            alternates(&fields),
            ["https://ca.test/1", "https://ca.test/2"]
        );
    }
}

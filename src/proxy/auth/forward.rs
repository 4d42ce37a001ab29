//! Another server's judgement ("forward-auth", as Traefik's `ForwardAuth` and nginx's `auth_request`).
//!
//! Guarantees: a server that fails, or does not answer in time, lets nobody in; its redirects, its
//! cookies and its challenges reach the client; what it is told about a request is the gateway's
//! word, and the host that it is told is the one that the request is routed by.

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LOCATION, RANGE, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION, SET_COOKIE, TE, TRAILER, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::time::timeout;

use super::auth_client::{AuthClient, NoAnswer, without_query};
use super::refusal::Refusal;
use crate::config::ForwardAuth;
use crate::upstream::remove_aliases;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// Fields about the request's body, its connection, or what its client has stored.
const NOT_ASKED: [HeaderName; 17] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    RANGE,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    TE,
    TRAILER,
    UPGRADE,
    HeaderName::from_static("sec-websocket-extensions"),
];

/// Where other proxies say what a request is: some servers go by these, if they are there, and nobody
/// sets them here.
const OF_OTHER_PROXIES: [HeaderName; 5] = [
    HeaderName::from_static("x-original-method"),
    HeaderName::from_static("x-original-uri"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
    HeaderName::from_static("x-auth-request-redirect"),
];

/// What the other server is told, besides the request's fields.
#[derive(Debug)]
pub(in crate::proxy) struct Question<'q> {
    pub(in crate::proxy) method: &'q Method,
    pub(in crate::proxy) host: &'q [u8],
    pub(in crate::proxy) is_secure: bool,
    pub(in crate::proxy) target: &'q str,
}

/// What the other server has answered, as far as it concerns the client.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ForwardAnswer {
    /// The fields for the instance, if the request is let in; or why it is not.
    pub(in crate::proxy) verdict: Option<Result<Vec<(HeaderName, HeaderValue)>, Refusal>>,
    pub(in crate::proxy) cookies: Vec<HeaderValue>,
    pub(in crate::proxy) challenges: Vec<HeaderValue>,
    pub(in crate::proxy) redirect: Option<(StatusCode, HeaderValue)>,
}

/// Asks the other server about a request with these fields, whose forwarding fields are the
/// gateway's.
pub(in crate::proxy) async fn judge(
    auth: &ForwardAuth,
    headers: HeaderMap,
    question: &Question<'_>,
    client: &AuthClient,
) -> ForwardAnswer {
    let asking = ask(auth, headers, question, client);
    let answer = timeout(auth.timeout, asking).await;
    match answer.unwrap_or(Err(NoAnswer::TooSlow)) {
        Ok((status, fields)) => read(auth, status, &fields),
        Err(error) => {
            tracing::warn!(url = without_query(&auth.url), %error, "the server that judges requests does not answer; they are refused");
            ForwardAnswer {
                verdict: Some(Err(Refusal::Unavailable)),
                ..ForwardAnswer::default()
            }
        }
    }
}

async fn ask(
    auth: &ForwardAuth,
    mut headers: HeaderMap,
    question: &Question<'_>,
    client: &AuthClient,
) -> Result<(StatusCode, HeaderMap), NoAnswer> {
    for name in NOT_ASKED.iter().chain(&OF_OTHER_PROXIES) {
        headers.remove(name);
    }
    remove_aliases(&mut headers, &OF_OTHER_PROXIES.each_ref());
    let scheme = if question.is_secure { "https" } else { "http" };
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    for (name, value) in [
        (X_FORWARDED_METHOD, question.method.as_str().as_bytes()),
        (X_FORWARDED_HOST, question.host),
        (X_FORWARDED_URI, question.target.as_bytes()),
    ] {
        // Each came in a head, and can stand in another.
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    client.ask(&auth.url, headers).await
}

fn read(auth: &ForwardAuth, status: StatusCode, fields: &HeaderMap) -> ForwardAnswer {
    let all = |name: HeaderName| fields.get_all(name).iter().cloned().collect::<Vec<_>>();
    let mut answer = ForwardAnswer {
        cookies: all(SET_COOKIE),
        ..ForwardAnswer::default()
    };
    let location = fields.get(LOCATION).cloned();
    answer.verdict = Some(match (status.as_u16(), location) {
        (200..=299, _) => {
            let names = auth.response_headers.iter();
            Ok(names
                .flat_map(|name| {
                    fields
                        .get_all(name)
                        .iter()
                        .map(|value| (name.clone(), value.clone()))
                })
                .collect())
        }
        (301 | 302 | 303 | 307 | 308, Some(location)) => {
            answer.redirect = Some((status, location));
            Err(Refusal::Missing)
        }
        (401, _) => {
            answer.challenges = all(WWW_AUTHENTICATE);
            if answer.challenges.is_empty() {
                // A 401 has one (RFC 9110 §15.5.2).
                answer.challenges.push(HeaderValue::from_static("Bearer"));
            }
            Err(Refusal::Missing)
        }
        (400..=499, _) => Err(Refusal::Other),
        _ => {
            tracing::warn!(url = without_query(&auth.url), %status, "the server that judges requests fails; they are refused");
            Err(Refusal::Unavailable)
        }
    });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lets_in_redirects_asks_or_refuses_and_whatever_else_it_is_lets_nobody_in() {
        let auth = ForwardAuth {
            response_headers: vec![HeaderName::from_static("x-user")],
            ..ForwardAuth::default()
        };
        let fields = HeaderMap::from_iter([
            (
                HeaderName::from_static("x-user"),
                HeaderValue::from_static("jane"),
            ),
            (
                HeaderName::from_static("x-other"),
                HeaderValue::from_static("1"),
            ),
            (SET_COOKIE, HeaderValue::from_static("a=b")),
            (LOCATION, HeaderValue::from_static("https://id.test/")),
        ]);
        for (status, fields, expected) in [
            (200, &fields, Ok(1)),
            (204, &HeaderMap::new(), Ok(0)),
            (302, &fields, Err(Refusal::Missing)),
            (302, &HeaderMap::new(), Err(Refusal::Unavailable)),
            (304, &fields, Err(Refusal::Unavailable)),
            (401, &fields, Err(Refusal::Missing)),
            (403, &fields, Err(Refusal::Other)),
            (404, &fields, Err(Refusal::Other)),
            (500, &fields, Err(Refusal::Unavailable)),
            (101, &fields, Err(Refusal::Unavailable)),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = read(&auth, status, fields);
            let verdict = answer.verdict.unwrap().map(|fields| fields.len());
            assert_eq!(verdict, expected, "{status}");
            assert_eq!(
                answer.redirect.is_some(),
                status == 302 && !fields.is_empty()
            );
            assert_eq!(answer.challenges.is_empty(), status != 401);
            assert_eq!(answer.cookies.len(), usize::from(!fields.is_empty()));
        }
    }
}

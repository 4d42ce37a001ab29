//! The wake service: another proxy asks for each of its requests where the instance is
//! (`mode = "wake"`; nginx' `auth_request`, Traefik's `ForwardAuth`, Envoy's `ext_authz`).
//!
//! Guarantees: what is judged is the request that the other proxy has, by the fields that it sets,
//! and never by the query of its client; it gets the refusal that the request itself would get; the
//! answer comes once the instance is ready, and takes connections at this moment, and has what the route
//! says to the instance of who asks; nothing of the request goes to the instance.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Response, Uri};
use http_body_util::Full;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::error::ProxyError;
use super::pending_request::{Admitted, PendingRequest};
use super::response_body::Content;
use super::wake_info::WakeInfo;
use crate::client::{ClientBody, Request};
use crate::config::Protocol;
use crate::instance_tls::InstanceStream;
use crate::router::AuthorityError;
use crate::upstream::{ForwardError, Hop, Upstream};
use crate::wake::Suspicion;

/// How often an instance that is taken for awake may turn out not to be.
const MOST_LOOKS: u32 = 3;
/// At exactly this path the query names the host.
const PATH: &str = "/wake";
const X_WAKEGATE_ADDRESS: HeaderName = HeaderName::from_static("x-wakegate-address");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
/// Where the target is, the first that is there.
const TARGETS: [HeaderName; 2] = [
    HeaderName::from_static("x-forwarded-uri"),
    HeaderName::from_static("x-original-uri"),
];
/// What is about the question's own connection and body, and not about the request. Whoever asks
/// wants no page for people.
const OF_THE_QUESTION: [HeaderName; 8] = [
    ACCEPT,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Makes the request that is asked about of the question.
pub(super) fn ask_for(request: &mut Request<Option<ClientBody>>) -> Result<(), ProxyError> {
    let is_by_query = request.uri().path() == PATH;
    let host = match is_by_query {
        true => Some(host_of_query(request.uri().query().unwrap_or_default())?),
        // A list is of several proxies, and not one host.
        false => only(request, &X_FORWARDED_HOST)?,
    };
    let method = only(request, &X_FORWARDED_METHOD)?;
    let method = method.map(|method| Method::from_bytes(method.as_bytes()));
    let method = method.transpose().map_err(|_| ProxyError::Target)?;
    let mut target = None;
    for name in &TARGETS {
        target = target.or(only(request, name)?);
    }
    let target = target.map(|target| target_of(&target)).transpose()?;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
        let own = match is_by_query {
            true => None,
            false => request.uri().path_and_query().cloned(),
        };
        *request.uri_mut() = own.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    if let Some(target) = target {
        let authority = request.uri().authority().cloned();
        if let Some(authority) = authority
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = Uri::from(target);
    }
    *request.method_mut() = method.unwrap_or_else(|| match is_by_query {
        true => Method::GET,
        false => request.method().clone(),
    });
    let headers = request.headers_mut();
    let asking = [X_FORWARDED_HOST, X_FORWARDED_METHOD];
    for name in asking.iter().chain(&TARGETS).chain(&OF_THE_QUESTION) {
        headers.remove(name);
    }
    *request.body_mut() = None;
    Ok(())
}

/// The address of a ready instance. What becomes of the other proxy's connection is not seen here, so
/// an instance that is taken for awake is connected to first.
pub(super) async fn confirm(
    upstream: &Arc<Upstream>,
    pending: &PendingRequest<'_, InstanceStream>,
    admitted: Admitted<InstanceStream>,
    wake: &mut WakeInfo,
) -> Result<SocketAddr, ProxyError> {
    let Admitted {
        mut ready,
        slot: _slot,
        ..
    } = admitted;
    let hop = Hop {
        port: pending.port,
        protocol: Protocol::H1,
        tls: None,
        proxy_header: None,
    };
    let mut looks = 0;
    loop {
        let address = ready.endpoint.address(pending.port);
        if ready.connection.is_some() {
            return Ok(address);
        }
        let error = match upstream.connect(&ready.endpoint, &hop, None).await {
            Ok(_connection) => return Ok(address),
            Err(error) => error,
        };
        looks += 1;
        if looks >= MOST_LOOKS || Instant::now() >= pending.deadline {
            return Err(ForwardError::Connect(error).into());
        }
        let suspicion = Suspicion::NotConnected(pending.port);
        let instance = &pending.resolved.instance;
        instance.suspect(&ready.endpoint, suspicion).await;
        ready = pending.ready_again(wake).await?;
    }
}

/// The answer: the instance is ready at this address, and is to hear this of who asks.
pub(super) fn answer(
    address: SocketAddr,
    identity: &[(HeaderName, HeaderValue)],
) -> Response<Content> {
    let mut response = Response::new(Content::Own(Full::default()));
    for (name, value) in identity {
        response.headers_mut().append(name, value.clone());
    }
    if let Ok(address) = HeaderValue::try_from(address.to_string()) {
        response.headers_mut().insert(X_WAKEGATE_ADDRESS, address);
    }
    response
}

/// The value of a field that may be there once.
fn only(
    request: &Request<Option<ClientBody>>,
    name: &HeaderName,
) -> Result<Option<HeaderValue>, AuthorityError> {
    let mut values = request.headers().get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.cloned()),
        (_, Some(_)) => Err(AuthorityError::Repeated),
    }
}

fn host_of_query(query: &str) -> Result<HeaderValue, AuthorityError> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut hosts = pairs.filter(|(name, _)| *name == "host");
    let host = match (hosts.next(), hosts.next()) {
        (Some((_, host)), None) => percent_decode_str(host).decode_utf8(),
        (None, _) => return Err(AuthorityError::Missing),
        (Some(_), Some(_)) => return Err(AuthorityError::Repeated),
    };
    let host = host.map_err(|_| AuthorityError::Malformed)?;
    HeaderValue::from_str(&host).map_err(|_| AuthorityError::Malformed)
}

fn target_of(value: &HeaderValue) -> Result<PathAndQuery, ProxyError> {
    let target = PathAndQuery::try_from(value.as_bytes()).map_err(|_| ProxyError::Target)?;
    match value.as_bytes().starts_with(b"/") {
        true => Ok(target),
        false => Err(ProxyError::Target),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, fields: &[(&str, &str)]) -> Result<String, ProxyError> {
        let mut request = Request::new(None);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.parse().unwrap();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        ask_for(&mut request)?;
        let host = request.headers()[HOST].to_str().unwrap();
        Ok(format!("{} {host} {}", request.method(), request.uri()))
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let host = ("host", "gate.test");
        for (target, fields) in [
            ("/wake", &[host][..]),
            ("/wake?host=a.test&host=b.test", &[host]),
            ("/wake?host=%00", &[host]),
            ("/wake?host=%ff", &[host]),
            (
                "/wake?host=a.test",
                &[host, ("x-forwarded-uri", "http://b.test/")],
            ),
            ("/wake?host=a.test", &[host, ("x-forwarded-uri", "x")]),
            ("/", &[host, ("x-forwarded-method", "G T")]),
            (
                "/",
                &[host, ("x-forwarded-host", "a"), ("x-forwarded-host", "b")],
            ),
            (
                "/",
                &[host, ("x-original-uri", "/a"), ("x-original-uri", "/b")],
            ),
        ] {
            assert!(asked(target, fields).is_err(), "{target} {fields:?}");
        }
    }

    #[test]
    fn a_question_is_about_the_request_that_the_other_proxy_has() {
        let host = ("host", "gate.test");
        for (target, fields, expected) in [
            ("/wake?host=a.test", &[host][..], "GET a.test /"),
            (
                "/wake?x=1&host=a.test%3A80",
                &[
                    host,
                    ("x-original-uri", "/p?q"),
                    ("x-forwarded-method", "PUT"),
                ],
                "PUT a.test:80 /p?q",
            ),
            // Its client's query is its client's.
            ("/p?host=b.test", &[host], "POST gate.test /p?host=b.test"),
            (
                "/wake/?host=b.test",
                &[host],
                "POST gate.test /wake/?host=b.test",
            ),
            (
                "/auth",
                &[
                    host,
                    ("x-forwarded-host", "a.test"),
                    ("x-forwarded-uri", "/wake?host=b.test"),
                    ("x-forwarded-method", "GET"),
                ],
                "GET a.test /wake?host=b.test",
            ),
            (
                "http://a.test/p",
                &[("x-forwarded-uri", "/q"), host],
                "POST a.test /q",
            ),
        ] {
            assert_eq!(asked(target, fields).unwrap(), expected, "{target}");
        }
    }

    #[test]
    fn nothing_of_the_question_itself_is_left() {
        let mut request = Request::new(None);
        *request.uri_mut() = "/wake?host=a.test".parse().unwrap();
        let names = [
            "accept",
            "connection",
            "upgrade",
            "x-original-uri",
            "cookie",
        ];
        for name in names {
            let value = HeaderValue::from_static("/x");
            request.headers_mut().insert(name, value);
        }
        ask_for(&mut request).unwrap();
        let left: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["cookie", "host"]);
    }
}

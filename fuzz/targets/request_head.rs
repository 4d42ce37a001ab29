//! Bytes from a client, through the parser, the host's rules and the header rules: whatever an
//! instance would be sent can be read in one way only.
#![no_main]

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use wakegate::names::RequestId;
use wakegate::router::host_of;
use wakegate::upstream::{Fields, ForwardedElement, ForwardedFor, is_upgrade, prepare_request};

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn check(headers: &HeaderMap) {
    assert_eq!(headers.get_all("host").iter().count(), 1);
    assert!(!headers.contains_key("transfer-encoding"));
    assert!(headers.get_all("content-length").iter().count() <= 1);
    assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    for gone in [
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "http2-settings",
        "expect",
    ] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    // RFC 9110 §7.6.1, §10.1.4.
    let options = is_upgrade(headers) || headers.contains_key("te");
    assert_eq!(headers.contains_key("connection"), options);
    // CGI knows these by the same name (RFC 3875 §4.1.18).
    for name in headers.keys() {
        let variable = name
            .as_str()
            .replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        let guarded = matches!(
            &*variable,
            "x_forwarded_for" | "x_forwarded_proto" | "client_cert"
        );
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(!guarded || name.as_str().chars().all(is_plain), "{name}");
    }
    for value in headers.values() {
        assert!(
            !value
                .as_bytes()
                .iter()
                .any(|byte| matches!(byte, b'\r' | b'\n' | 0))
        );
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    if let Ok(host) = host_of(parts.version, &parts.uri, &parts.headers) {
        let (id, client) = (RequestId::generate(), IpAddr::from([192, 0, 2, 1]));
        let named = parts.headers.get("host").cloned();
        let from = ForwardedFor {
            forwarded: &Arc::new(ForwardedElement::of(client, false, &host, named)),
            trusted: false,
            request_id: &id,
            certificate: None,
            via: None,
        };
        let fields = Fields::of(&parts.headers);
        if let Some(stamp) = prepare_request(&mut parts.headers, fields, &from) {
            stamp.insert(&mut parts.headers);
        }
        check(&parts.headers);
    }
    // A body that breaks off is an error, never a shorter body.
    let _whole = body.collect().await;
    Ok(Response::new(Empty::new()))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let (mut near, far) = tokio::io::duplex(256 * 1024);
            if near
                .write_all(&bytes[..bytes.len().min(200_000)])
                .await
                .is_err()
            {
                return;
            }
            let _half = near.shutdown().await;
            let serving = http1::Builder::new()
                .half_close(true)
                .max_headers(100)
                .serve_connection(TokioIo::new(far), service_fn(answer));
            let mut said = Vec::new();
            let (_served, _read) = tokio::join!(serving, near.read_to_end(&mut said));
            let text = String::from_utf8_lossy(&said);
            assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text}");
        });
    });
});

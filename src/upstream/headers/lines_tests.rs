//! Fields that pass as lines are those that pass as a map, whatever a message has.

use std::net::IpAddr;

use http::{Method, StatusCode, Uri};
use http1::{HeadLimits, RequestReader, ResponseReader};
use proptest::prelude::*;

use super::*;
use crate::client::Request;
use crate::names::{Hostname, PlaneIndex};
use crate::upstream::response::InstanceResponse;
use crate::upstream::via::Pseudonyms;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 10_000,
    fields: 50,
};
const NAMES: [&str; 48] = [
    "Accept",
    "Authorization",
    "Client-Cert",
    "CLIENT_CERT_CHAIN",
    "Connection",
    "connection",
    "CONNECTION",
    "Content-Length",
    "Content-Type",
    "content.length",
    "Cookie",
    "COOKIE",
    "Expect",
    "Forwarded",
    "grpc-timeout",
    "Http2-Settings",
    "http2_settings",
    "Keep-Alive",
    "keep_alive",
    "Max-Forwards",
    "max_forwards",
    "Prefer",
    "Proxy-Authenticate",
    "Proxy-Authentication-Info",
    "PROXY-Authorization",
    "Proxy-Connection",
    "proxy!connection",
    "TE",
    "traceparent",
    "Trailer",
    "Transfer-Encoding",
    "transfer_encoding",
    "Upgrade",
    "User-Agent",
    "Via",
    "X-Forwarded-For",
    "X-FORWARDED-PORT",
    "x_forwarded_for",
    "X-Real-Ip",
    "x~real~ip",
    "X-Request-Id",
    "X_Request-Id",
    "X-Secret",
    "X-Wakegate-Hold",
    "x-wakegate-PEER-code",
    "X_Wakegate_Hops",
    "x-wakegate-parked",
    "X-Wakegate-Wake",
];
const VALUES: [&[u8]; 22] = [
    b"",
    b" ",
    b"3",
    b"3, 3",
    b"close",
    b"Close,",
    b" , CLOSE\t,\tx-secret ",
    b"X-SECRET",
    b"\xe9, x-secret",
    b"keep-alive, Host, content-length",
    b"upgrade",
    b"Upgrade, TE",
    b"te",
    b"cookie, authorization",
    b"h2c",
    b"websocket",
    b"chunked",
    b"gzip, Chunked",
    b"trailers;q=1, Trailers",
    b"100-continue",
    b"1.1 edge",
    b"\x80\xff",
];

/// The fields of a message as bytes.
fn fields() -> impl Strategy<Value = Vec<u8>> {
    let field = (
        prop::sample::select(NAMES.to_vec()),
        prop::sample::select(vec![":", ": ", ":\t "]),
        prop::sample::select(VALUES.to_vec()),
        prop::sample::select(vec!["\r\n", "\n", "\t\r\n"]),
    );
    prop::collection::vec(field, 0..6).prop_map(|fields| {
        let lines = fields.iter().map(|(name, between, value, end)| {
            [name.as_bytes(), between.as_bytes(), value, end.as_bytes()].concat()
        });
        lines.collect::<Vec<_>>().concat()
    })
}

fn request(fields: &[u8]) -> Option<Request<()>> {
    let head = [b"GET / HTTP/1.1\r\nhOST: a.b\r\n", fields, b"\r\n"].concat();
    let read = RequestReader::new(LIMITS).read_head(&head, |head| {
        let lines = FieldLines::of(head.bytes, head.fields).unwrap();
        let uri = Uri::from_static("/");
        Request::of_lines(Method::GET, uri, head.version, lines, ())
    });
    read.ok()?.map(|(_, request)| request)
}

fn response(fields: &[u8], asked: &Method) -> Option<InstanceResponse<()>> {
    let head = [b"HTTP/1.1 200 OK\r\n", fields, b"\r\n"].concat();
    let read = ResponseReader::new(LIMITS).read_head(&head, asked, |head| {
        let lines = FieldLines::of(head.bytes, head.fields).unwrap();
        InstanceResponse::new(StatusCode::OK, lines.into(), ())
    });
    read.ok()?.map(|(_, response)| response)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_request_that_passes_as_lines_is_what_it_is_as_a_map(
        sent in fields(),
        trusted in any::<bool>(),
        with_via in any::<bool>(),
    ) {
        let Some(mut request) = request(&sent) else {
            return Ok(());
        };
        let host = Hostname::parse("a.b").unwrap();
        let request_id = RequestId::generate();
        let client = IpAddr::from([10, 0, 0, 9]);
        let via = Pseudonyms::default().of(PlaneIndex(0), &"app".parse().unwrap());
        let from = ForwardedFor {
            forwarded: &Arc::new(ForwardedElement::of(client, false, &host, None)),
            trusted,
            request_id: &request_id,
            certificate: None,
            via: with_via.then(|| via.element(http::Version::HTTP_11)),
        };
        let found = Fields::of_request(&request);
        let mut map = request.headers().clone();
        prop_assert_eq!(found, Fields::of(&map));
        if let Some(forwarded) = prepare_request(&mut map, found, &from) {
            forwarded.insert(&mut map);
        }
        let lines = request.lines_mut().unwrap();
        let Some(forwarded) = prepare_lines(lines, found, &from) else {
            // Nothing was taken away that the map would miss.
            prop_assert_eq!(found, Fields::of_request(&request));
            return Ok(());
        };
        let passed = request.headers_mut();
        forwarded.insert(passed);
        prop_assert_eq!(&*passed, &map);
    }

    #[test]
    fn a_response_that_passes_as_lines_is_what_it_is_as_a_map(
        sent in fields(),
        asked in prop::sample::select(vec![Method::GET, Method::HEAD]),
    ) {
        let Some(mut response) = response(&sent, &asked) else {
            return Ok(());
        };
        let found = Fields::of_response(&response);
        let mut map = response.headers().clone();
        prop_assert_eq!(found, Fields::of(&map));
        prepare_response(&mut map, found, false);
        let lines = response.lines_mut().unwrap();
        if prepare_response_lines(lines, found, false) {
            prop_assert_eq!(response.headers(), &map);
        } else {
            prop_assert_eq!(found, Fields::of_response(&response));
        }
        for gone in ["connection", "keep-alive", "te", "transfer-encoding", "upgrade"] {
            prop_assert!(!map.contains_key(gone), "{}", gone);
        }
    }
}

#[test]
fn a_field_that_connection_names_beside_what_nobody_understands_ends_here() {
    let named = b"x-Secret: 1\r\nConnection: \xe9, X-SECRET\r\nConnection: close\r\n";
    let mut response = response(named, &Method::GET).unwrap();
    let found = Fields::of_response(&response);
    assert!(!prepare_response_lines(
        response.lines_mut().unwrap(),
        found,
        false
    ));
    prepare_response(response.headers_mut(), found, false);
    assert!(response.headers().is_empty(), "{:?}", response.headers());
}

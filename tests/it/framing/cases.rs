//! Requests with what has to come of each, and where that is written.

use std::fmt::Write as _;

/// What has to come of a case.
pub(crate) enum Want {
    /// This status, and the instance hears nothing.
    Refused(u16),
    /// No answer or a 4xx, and the instance hears no whole request.
    Broken,
    /// One request, whose bytes have each of these and none of those.
    Passed(&'static [&'static str], &'static [&'static str]),
}

use Want::{Broken, Passed, Refused};

pub(crate) struct Case {
    /// Where it is written.
    pub(crate) rule: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) want: Want,
}

/// A request to the instance that asks for the connection's end.
fn get(rule: &'static str, line: &str, fields: &[&str], want: Want) -> Case {
    let mut head = format!("{line}\r\n");
    for field in fields {
        write!(head, "{field}\r\n").unwrap();
    }
    head.push_str("Connection: close\r\n\r\n");
    Case {
        rule,
        bytes: head.into_bytes(),
        want,
    }
}

/// The same with the right host, and with a body.
fn post(rule: &'static str, fields: &[&str], body: &str, want: Want) -> Case {
    let fields = [&["Host: edge.test"], fields].concat();
    let mut case = get(rule, "POST /p HTTP/1.1", &fields, want);
    case.bytes.extend(body.as_bytes());
    case
}

const HOST: &str = "Host: edge.test";
const CHUNKED: &str = "Transfer-Encoding: chunked";
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n";

fn request_lines() -> Vec<Case> {
    let line = |rule, line: &str, want| get(rule, line, &[HOST], want);
    vec![
        line(
            "RFC 9112 §3: method SP target SP version",
            "GET / HTTP/1.1",
            Passed(&["GET / HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 9112 §3: no white space in the target",
            "GET /a b HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §3: one space, no tab",
            "GET\t/ HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §3: two spaces before the target",
            "GET  / HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §3: no space before the method",
            " GET / HTTP/1.1",
            Refused(400),
        ),
        line("RFC 9112 §3: no version", "GET /", Refused(400)),
        line("RFC 9112 §2.3: HTTP/0.9", "GET", Refused(400)),
        line("RFC 9112 §2.3: two digits", "GET / HTTP/1.10", Refused(400)),
        line(
            "RFC 9112 §2.3: an unknown minor version",
            "GET / HTTP/1.2",
            Refused(400),
        ),
        line(
            "RFC 9112 §2.3: HTTP/2 is not a request line",
            "GET / HTTP/2.0",
            Refused(400),
        ),
        line(
            "RFC 9112 §2.3: the name is in capitals",
            "GET / http/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §2.3: another protocol",
            "GET / HTTPS/1.1",
            Refused(400),
        ),
        line(
            "RFC 9110 §9.1: a method is a token",
            "G@T / HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9110 §9.1: a method has no colon",
            "GET: / HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9110 §9.1: a method has no quote",
            "\"GET\" / HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9110 §9.1: methods differ by case",
            "get / HTTP/1.1",
            Passed(&["get / HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 9110 §9.1: unknown methods pass",
            "BREW /pot HTTP/1.1",
            Passed(&["BREW /pot HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 9110 §9.3.6: CONNECT to a port",
            "CONNECT edge.test:443 HTTP/1.1",
            Refused(405),
        ),
        line(
            "RFC 9110 §9.3.6: CONNECT with a path",
            "CONNECT / HTTP/1.1",
            Refused(405),
        ),
        line(
            "RFC 9110 §9.3.8: TRACE passes like any method",
            "TRACE / HTTP/1.1",
            Passed(&["TRACE / HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 9110 §9.3.7: OPTIONS *",
            "OPTIONS * HTTP/1.1",
            Passed(&["OPTIONS * HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 9112 §3.2.4: * is for OPTIONS",
            "GET * HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §3.2.3: authority form is for CONNECT",
            "GET edge.test:80 HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 9112 §3.2.1: a target begins with /",
            "GET path HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 3986 §3.5: a fragment is not sent",
            "GET /a#b HTTP/1.1",
            Passed(&["GET /a HTTP/1.1\r\n"], &["#"]),
        ),
        line(
            "RFC 3986 §2: a < in a target is encoded",
            "GET /<a> HTTP/1.1",
            Passed(&["GET /%3Ca%3E HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §2: a backslash is nobody's slash",
            "GET /a\\b HTTP/1.1",
            Passed(&["GET /a\\b HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §2: a caret goes on as it is",
            "GET /a^b HTTP/1.1",
            Passed(&["GET /a^b HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §2: no control byte in a target",
            "GET /a\x01b HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 3986 §2: no DEL in a target",
            "GET /a\x7fb HTTP/1.1",
            Refused(400),
        ),
        line(
            "RFC 3986 §3.3: dots are not resolved on the way",
            "GET /a/../b/%2e%2e/c HTTP/1.1",
            Passed(&["GET /a/../b/%2e%2e/c HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §2.1: an encoded slash stays encoded",
            "GET /a%2Fb HTTP/1.1",
            Passed(&["GET /a%2Fb HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §2.1: an encoded line end stays encoded",
            "GET /a%0d%0aX-Evil:%201 HTTP/1.1",
            Passed(&["/a%0d%0aX-Evil:%201 HTTP"], &["\r\nX-Evil"]),
        ),
        line(
            "RFC 3986 §3.4: a query stays as it is",
            "GET /?a=b&&c=%zz HTTP/1.1",
            Passed(&["GET /?a=b&&c=%zz HTTP/1.1\r\n"], &[]),
        ),
        line(
            "RFC 3986 §3.3: empty segments stay",
            "GET //edge.test//a HTTP/1.1",
            Passed(&["GET //edge.test//a HTTP/1.1\r\n"], &[]),
        ),
        Case {
            rule: "RFC 9112 §2.2: one empty line may come first",
            bytes: b"\r\nGET / HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n".to_vec(),
            want: Passed(&["GET / HTTP/1.1\r\n"], &[]),
        },
        Case {
            rule: "RFC 9112 §2.2: a bare CR in the line",
            bytes: b"GET /\r HTTP/1.1\r\nHost: edge.test\r\n\r\n".to_vec(),
            want: Refused(400),
        },
        Case {
            rule: "RFC 9112 §2.2: a NUL in the line",
            bytes: b"GET /\0 HTTP/1.1\r\nHost: edge.test\r\n\r\n".to_vec(),
            want: Refused(400),
        },
        Case {
            rule: "RFC 9112 §2.2: a lone LF may end a line, and goes on as CRLF",
            bytes: b"GET /lf HTTP/1.1\nHost: edge.test\nConnection: close\n\n".to_vec(),
            want: Passed(&["GET /lf HTTP/1.1\r\n"], &[]),
        },
        Case {
            rule: "RFC 9110 §4.1: a target that is too long",
            bytes: format!(
                "GET /{} HTTP/1.1\r\nHost: edge.test\r\n\r\n",
                "a".repeat(70_000)
            )
            .into_bytes(),
            want: Refused(431),
        },
        Case {
            rule: "TLS at a listener without it",
            bytes: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            want: Refused(400),
        },
    ]
}

fn hosts() -> Vec<Case> {
    let host = |rule, fields: &[&str], want| get(rule, "GET / HTTP/1.1", fields, want);
    vec![
        host("RFC 9112 §3.2: a Host must be there", &[], Refused(400)),
        host("RFC 9112 §3.2: not twice", &[HOST, HOST], Refused(400)),
        host(
            "RFC 9112 §3.2: not two",
            &[HOST, "Host: other.test"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: not twice in two cases",
            &[HOST, "HOST: edge.test"],
            Refused(400),
        ),
        host("RFC 9112 §3.2: not empty", &["Host:"], Refused(400)),
        host(
            "RFC 9112 §3.2: no list",
            &["Host: edge.test, other.test"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no user",
            &["Host: user@edge.test"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no path",
            &["Host: edge.test/a"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no scheme",
            &["Host: http://edge.test"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no query",
            &["Host: edge.test?a"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no empty port",
            &["Host: edge.test:"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: a port is a number",
            &["Host: edge.test:8o80"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: a port fits 16 bits",
            &["Host: edge.test:99999"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no white space inside",
            &["Host: edge .test"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no backslash",
            &["Host: edge.test\\a"],
            Refused(400),
        ),
        host(
            "RFC 9112 §3.2: no percent-encoding",
            &["Host: edge%2etest"],
            Refused(400),
        ),
        host(
            "RFC 1035 §2.3.4: no empty label",
            &["Host: edge..test"],
            Refused(400),
        ),
        host(
            "RFC 3986 §3.2.2: a broken IPv6 address",
            &["Host: [::1"],
            Refused(400),
        ),
        host(
            "RFC 9110 §4.2.3: hosts do not differ by case",
            &["Host: EDGE.Test"],
            Passed(&["x-forwarded-host: EDGE.Test\r\n"], &[]),
        ),
        host(
            "RFC 9110 §7.2: a port is not part of the name",
            &["Host: edge.test:8080"],
            Passed(&["host: edge.test:8080\r\n"], &[]),
        ),
        host(
            "RFC 1034 §3.1: a last dot means the same",
            &["Host: edge.test."],
            Passed(&["GET / HTTP/1.1\r\n"], &[]),
        ),
        host("no route", &["Host: nobody.example"], Refused(404)),
        get(
            "RFC 9112 §3.2.2: an absolute target wins",
            "GET http://edge.test/abs HTTP/1.1",
            &["Host: other.test"],
            Passed(
                &["GET /abs HTTP/1.1\r\n", "host: edge.test\r\n"],
                &["other.test"],
            ),
        ),
        get(
            "RFC 9112 §3.2: a bad Host beside a good target",
            "GET http://edge.test/ HTTP/1.1",
            &["Host: a@b"],
            Refused(400),
        ),
        get(
            "RFC 9112 §3.2.2: no user in the target",
            "GET http://me@edge.test/ HTTP/1.1",
            &[HOST],
            Refused(400),
        ),
        get(
            "RFC 9112 §3.2: HTTP/1.0 needs a host, too, to have a route",
            "GET / HTTP/1.0",
            &[],
            Refused(400),
        ),
    ]
}

fn fields() -> Vec<Case> {
    let field = |rule, field: &str, want| get(rule, "GET / HTTP/1.1", &[HOST, field], want);
    vec![
        field(
            "RFC 9112 §5.1: no space before the colon",
            "X-A : 1",
            Refused(400),
        ),
        field(
            "RFC 9112 §5.1: no tab before the colon",
            "X-A\t: 1",
            Refused(400),
        ),
        field("RFC 9110 §5.1: a name is a token", "X(A): 1", Refused(400)),
        field("RFC 9110 §5.1: a name is not empty", ": 1", Refused(400)),
        field(
            "RFC 9110 §5.1: a name has no bytes above 127",
            "X-\u{e4}: 1",
            Refused(400),
        ),
        field("RFC 9112 §5: a line has a colon", "X-A", Refused(400)),
        field(
            "RFC 9112 §5.2: no folded lines",
            "X-A: 1\r\n folded",
            Refused(400),
        ),
        field(
            "RFC 9112 §5.2: no folded lines with a tab",
            "X-A: 1\r\n\tfolded",
            Refused(400),
        ),
        field(
            "RFC 9110 §5.5: no NUL in a value",
            "X-A: a\0b",
            Refused(400),
        ),
        field(
            "RFC 9110 §5.5: no bare CR in a value",
            "X-A: a\rX-Evil: 1",
            Refused(400),
        ),
        field(
            "RFC 9110 §5.5: no bell in a value",
            "X-A: a\x07b",
            Refused(400),
        ),
        field(
            "RFC 9110 §5.5: a tab in a value is fine",
            "X-A: a\tb",
            Passed(&["x-a: a\tb\r\n"], &[]),
        ),
        field(
            "RFC 9110 §5.5: white space around a value is none of it",
            "X-A:  \t 1 \t ",
            Passed(&["x-a: 1\r\n"], &[]),
        ),
        field(
            "RFC 9110 §5.5: an empty value is one",
            "X-A:",
            Passed(&["x-a: \r\n"], &[]),
        ),
        field(
            "RFC 9110 §7.6.1: what Connection names stays here",
            "X-Hop: 1\r\nConnection: X-Hop",
            Passed(&[], &["x-hop"]),
        ),
        field(
            "RFC 9110 §7.6.1: Connection cannot take Host away",
            "Connection: host",
            Passed(&["host: edge.test\r\n"], &[]),
        ),
        field(
            "RFC 9110 §7.6.1: Keep-Alive stays here",
            "Keep-Alive: timeout=5",
            Passed(&[], &["keep-alive"]),
        ),
        field(
            "RFC 9110 §11.7.2: Proxy-Authorization stays here",
            "Proxy-Authorization: Basic eDp5",
            Passed(&[], &["proxy-authorization"]),
        ),
        field(
            "RFC 7540 §3.2: no upgrade to h2c past the gateway",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
            Passed(&[], &["h2c", "http2-settings"]),
        ),
        field(
            "RFC 9110 §7.8: Upgrade without Connection is none",
            "Upgrade: websocket",
            Passed(&[], &["websocket"]),
        ),
        field(
            "a client cannot say who it is",
            "X-Forwarded-For: 6.6.6.6",
            Passed(&["x-forwarded-for: 127.0.0.1\r\n"], &["6.6.6.6"]),
        ),
        field(
            "a client cannot say how it came",
            "X-Forwarded-Proto: https",
            Passed(&["x-forwarded-proto: http\r\n"], &["https"]),
        ),
        field(
            "RFC 7239: a client cannot say who it is",
            "Forwarded: for=6.6.6.6",
            Passed(&["forwarded: for=127.0.0.1;"], &["6.6.6.6"]),
        ),
        field(
            "RFC 3875 §4.1.18: underscores and dashes are one variable",
            "X_Forwarded_For: 6.6.6.6",
            Passed(&["x-forwarded-for: 127.0.0.1\r\n"], &["6.6.6.6"]),
        ),
        field(
            "RFC 9110 §5.1: an underscore may be in a name",
            "X_Own: 1",
            Passed(&["x_own: 1\r\n"], &[]),
        ),
        get(
            "RFC 6585 §5: too many fields",
            "GET / HTTP/1.1",
            &[&[HOST][..], &["X-A: 1"; 120][..]].concat(),
            Refused(431),
        ),
        field(
            "RFC 6585 §5: too many bytes",
            &format!("X-A: {}", "a".repeat(70_000)),
            Refused(431),
        ),
        field(
            "RFC 9110 §10.1.1: an expectation is met here",
            "Expect: 100-continue",
            Passed(&[], &["expect"]),
        ),
    ]
}

fn lengths() -> Vec<Case> {
    vec![
        post(
            "RFC 9112 §6.2: a length",
            &["Content-Length: 5"],
            "hello",
            Passed(&["content-length: 5\r\n", "\r\n\r\nhello"], &[]),
        ),
        post(
            "RFC 9112 §6.3: what comes after the length is no part of it",
            &["Content-Length: 5"],
            "helloGET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n",
            Passed(&["\r\n\r\nhello"], &["smuggled"]),
        ),
        post(
            "RFC 9112 §6.3: a length in clear digits",
            &["Content-Length: 0x5"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no sign",
            &["Content-Length: +5"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: not negative",
            &["Content-Length: -5"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: not empty",
            &["Content-Length:"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no white space inside",
            &["Content-Length: 5 5"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no fraction",
            &["Content-Length: 5.0"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no list of different ones",
            &["Content-Length: 5, 6"],
            "hello!",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: not two different ones",
            &["Content-Length: 5", "Content-Length: 6"],
            "hello!",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: two equal ones go on as one",
            &["Content-Length: 5", "Content-Length: 5"],
            "hello",
            Passed(
                &["content-length: 5\r\n"],
                &["content-length: 5\r\ncontent-length"],
            ),
        ),
        post(
            "RFC 9112 §6.3: not beyond 64 bits",
            &["Content-Length: 18446744073709551621"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no other digits",
            &["Content-Length: \u{0665}"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §5.1: a space before the colon hides no length",
            &["Content-Length : 5"],
            "hello",
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: no length is no body",
            &[],
            "GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n",
            Passed(&[], &["smuggled"]),
        ),
        post(
            "RFC 9110 §7.6.1: Connection cannot take the length away",
            &["Content-Length: 5", "Connection: content-length"],
            "hello",
            Passed(&["content-length: 5\r\n"], &[]),
        ),
        get(
            "RFC 9110 §9.3.1: a GET may have a body, framed all the same",
            "GET /g HTTP/1.1",
            &[HOST, "Content-Length: 0"],
            Passed(&["GET /g HTTP/1.1\r\n"], &[]),
        ),
        post(
            "RFC 9112 §6.3: Transfer-Encoding beside a length",
            &["Content-Length: 4", CHUNKED],
            &format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"),
            Refused(400),
        ),
        post(
            "RFC 9112 §6.3: the same in the other order",
            &[CHUNKED, "Content-Length: 100"],
            &format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"),
            Refused(400),
        ),
        post(
            "RFC 9112 §8: a body that breaks off",
            &["Content-Length: 50"],
            "hello",
            Broken,
        ),
    ]
}

fn codings() -> Vec<Case> {
    let coded = |rule, coding: &str, want| post(rule, &[coding], "5\r\nhello\r\n0\r\n\r\n", want);
    let chunks = |rule, body: &str, want| post(rule, &[CHUNKED], body, want);
    let refused = Refused(400);
    vec![
        coded(
            "RFC 9112 §7.1: chunks",
            CHUNKED,
            Passed(
                &["transfer-encoding: chunked\r\n", "hello"],
                &["content-length"],
            ),
        ),
        coded(
            "RFC 9112 §7: codings do not differ by case",
            "Transfer-Encoding: CHUNKED",
            Passed(&["hello"], &[]),
        ),
        coded(
            "RFC 9112 §6.1: an unknown coding",
            "Transfer-Encoding: xchunked",
            refused,
        ),
        coded(
            "RFC 9112 §6.1: identity is none",
            "Transfer-Encoding: identity",
            Refused(400),
        ),
        coded(
            "RFC 9112 §6.1: chunked is the last",
            "Transfer-Encoding: chunked, identity",
            Refused(400),
        ),
        coded(
            "RFC 9112 §6.1: another coding before it",
            "Transfer-Encoding: gzip, chunked",
            Refused(501),
        ),
        coded(
            "RFC 9112 §7: not twice",
            "Transfer-Encoding: chunked, chunked",
            Refused(501),
        ),
        coded(
            "RFC 9112 §7: not in two fields",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Refused(501),
        ),
        coded(
            "RFC 9112 §7: not hidden in a second field",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
            Refused(400),
        ),
        coded(
            "RFC 9112 §7: not hidden by a quote",
            "Transfer-Encoding: \"chunked\"",
            Refused(400),
        ),
        coded(
            "RFC 9112 §7: not hidden by a parameter",
            "Transfer-Encoding: chunked;a=b",
            Refused(400),
        ),
        coded(
            "RFC 9112 §7: not hidden by a vertical tab",
            "Transfer-Encoding: \x0bchunked",
            Refused(400),
        ),
        coded(
            "RFC 9112 §5.1: not hidden by a space",
            "Transfer-Encoding : chunked",
            Refused(400),
        ),
        coded(
            "RFC 9112 §5.2: not hidden by a fold",
            "Transfer-Encoding:\r\n chunked",
            Refused(400),
        ),
        coded(
            "RFC 9112 §5: not hidden by an empty list element",
            "Transfer-Encoding: ,chunked",
            Refused(501),
        ),
        get(
            "RFC 9112 §6.1: HTTP/1.0 has no codings",
            "POST /p HTTP/1.0",
            &[HOST, CHUNKED],
            Refused(400),
        ),
        chunks("RFC 9112 §7.1: chunks end with 0", "5\r\nhello\r\n", Broken),
        chunks(
            "RFC 9112 §7.1: a size is hexadecimal",
            "5g\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: without 0x",
            "0x5\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: without a sign",
            "+5\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: not negative",
            "-1\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks("RFC 9112 §7.1: not empty", "\r\nhello\r\n0\r\n\r\n", Broken),
        chunks(
            "RFC 9112 §7.1: not beyond 64 bits",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: a chunk ends where it says",
            "5\r\nhello!\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: and with CRLF",
            "5\r\nhelloXX0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: a size ends with CRLF, not LF",
            "5\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1: a size ends with CRLF, not CR",
            "5\rXhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1.1: an extension is read and dropped",
            "5;a=b\r\nhello\r\n0\r\n\r\n",
            Passed(&["hello"], &["a=b"]),
        ),
        chunks(
            "RFC 9112 §7.1.1: an extension has no LF",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1.1: extensions have a bound",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(40_000)),
            Broken,
        ),
        chunks(
            "RFC 9112 §7.1.2: a trailer frames nothing",
            "5\r\nhello\r\n0\r\nContent-Length: 99\r\nHost: other.test\r\n\r\n",
            Passed(&["hello"], &["content-length: 99", "other.test"]),
        ),
        chunks(
            "RFC 9112 §7.1.2: a trailer is a field",
            "5\r\nhello\r\n0\r\nbad trailer\r\n\r\n",
            Broken,
        ),
        chunks(
            "RFC 9112 §9.3: what follows the last chunk is not its body",
            &format!("5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"),
            Passed(&["hello"], &["smuggled"]),
        ),
    ]
}

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let kinds = [request_lines(), hosts(), fields(), lengths(), codings()];
    kinds.into_iter().flatten().collect()
}

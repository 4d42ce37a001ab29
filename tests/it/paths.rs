//! Rules about paths, whatever the spelling of a path is.

use crate::support::{Gateway, Plane, Wanted, eventually, route};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hypeman::wire::InstanceState;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A route for a path below `site.test`.
fn below(path: &str, keys: &str) -> String {
    format!("[[route]]\nhost = \"site.test\"\npath = \"{path}\"\ninstance = \"site\"\n{keys}\n")
}

fn guarded(path: &str) -> String {
    let auth = format!("[route.auth]\nheader = \"x-key\"\nvalue = \"{KEY}\"");
    below(path, &auth)
}

/// An application that answers with the target that it was sent.
fn echoing(listener: TcpListener) -> JoinHandle<()> {
    crate::support::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            crate::support::spawn(async move {
                let mut head = Vec::new();
                while matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    if !head.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let text = String::from_utf8_lossy(&head).into_owned();
                    let target = text.split(' ').nth(1).unwrap();
                    let length = target.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{target}");
                    let _gone = stream.write_all(answer.as_bytes()).await;
                    head.clear();
                }
            });
        }
    })
}

/// The status and the body of the answer to a target as it is written here.
async fn ask(gateway: &Gateway, host: &str, line: &str, fields: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(crate::support::PATIENCE, read).await;
    read.unwrap().unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    (status, body.to_owned())
}

async fn get(gateway: &Gateway, target: &str) -> (u16, String) {
    ask(gateway, "site.test", &format!("GET {target}"), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_guarded_path_passes_without_its_key() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("site").await;
    let serving = echoing(listener);
    let routes = [guarded("/admin"), below("/", "")].concat();
    let gateway = Gateway::start(&plane, &routes).await;
    assert_eq!(get(&gateway, "/x").await, (200, "/x".to_owned()));
    for target in [
        "/admin",
        "/admin/x",
        "/%61dmin/x",
        "/adm%69n",
        "/%61%64%6d%69%6e/x",
        "/admin%00",
        "/admin%20",
        "/admin%09",
        "/%20admin",
        "/ADMIN/x",
        "/aDm%49n",
        "//admin",
        "//x/admin",
        "/%2fx/admin",
        "/./admin",
        "/%2e/admin",
        "/x/../admin",
        "/x/%2E%2e/admin",
        "/x/..%2fadmin",
        "/x%2f..%2fadmin",
        "/x/..;/admin",
        "/admin;a=b/x",
        "/admin%3ba",
        "/admin%2fx",
        "/admin%2Fx",
        "/%2561dmin",
        "/x/%252e%252e/admin",
        "/admin%252fx",
        "/\\admin",
        "/x\\..\\admin",
        "/x%5c..%5Cadmin",
        "/admin%3fx",
        "/admin%23x",
        "/admin.",
        "/%c1%a1dmin",
        "/x/%c0%ae%c0%ae/admin",
        "/%u0061dmin",
        "/adm%ffin",
        "/adm%C4%B1n",
        "/admin/../x",
        "/admin%2f..%2fx",
        "http://site.test//admin",
        "http://site.test//x/admin",
        "http://site.test/%61dmin",
    ] {
        let (status, body) = get(&gateway, target).await;
        assert!(matches!(status, 400 | 403), "{target}: {status} {body}");
        assert!(
            status == 403 || body.contains("ambiguous_path"),
            "{target}: {body}"
        );
    }
    let key = format!("x-key: {KEY}\r\n");
    for target in ["/admin", "/%61dmin/x", "/admin/a%2fb//c;d/%20"] {
        let line = format!("GET {target}");
        let answer = ask(&gateway, "site.test", &line, &key).await;
        assert_eq!(answer, (200, target.to_owned()));
    }
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_passes_as_it_came_where_its_readings_agree() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("site").await;
    let serving = echoing(listener);
    let routes = [guarded("/admin"), below("/v2", ""), below("/", "")].concat();
    let gateway = Gateway::start(&plane, &routes).await;
    for target in [
        "/@scope%2fpkg",
        "/@scope%2Fpkg/-/pkg-1.0.tgz",
        "/o/a%2Fb",
        "/api/queues/%2F/jobs",
        "/a//b",
        "/a/./b/../c",
        "/a%20b/%E2%9C%93",
        "/a;v=1/b,c",
        "/wiki/What%3F",
        "/100%25",
        "/Upper/Case",
        "/a\\b",
        "/v2/library%2fimage//blobs/",
        "/x?next=/../admin",
    ] {
        assert_eq!(get(&gateway, target).await, (200, target.to_owned()));
    }
    let answer = get(&gateway, "http://site.test/a//b").await;
    assert_eq!(answer, (200, "/a//b".to_owned()));
    let answer = get(&gateway, "http://site.test").await;
    assert_eq!(answer, (200, "/".to_owned()));
    let (status, _) = ask(&gateway, "site.test", "OPTIONS *", "").await;
    assert_eq!(status, 200);
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_over_http_2_are_judged_like_others() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("site").await;
    let serving = echoing(listener);
    let routes = [guarded("/admin"), below("/", "")].concat();
    let gateway = Gateway::start(&plane, &routes).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let connection = crate::support::spawn(connection);
    for (path, status) in [
        ("/%61dmin", 403),
        ("//admin", 400),
        ("/ADMIN", 400),
        ("/admin%00", 400),
        ("/a%2Fb", 200),
    ] {
        let request = Request::get(format!("http://site.test{path}"));
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(status != 200 || body == path, "{body:?}");
    }
    connection.abort();
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_denied_path_wakes() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("inner")).await;
    let keys = "admission = { deny_paths = [\"/internal\"] }";
    let gateway = Gateway::start(&plane, &route("inner", keys)).await;
    for target in [
        "/internal",
        "//internal",
        "/./internal",
        "/x/../internal",
        "/%69nternal",
        "/internal%2fx",
        "/INTERNAL",
        "/x/..%2finternal",
        "/internal;x",
        "/internal%00",
    ] {
        let line = format!("GET {target}");
        let (status, body) = ask(&gateway, "inner.test", &line, "").await;
        assert!(matches!(status, 400 | 503), "{target}: {status} {body}");
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    assert_eq!(plane.state(&instance.id).await, InstanceState::Standby);
    let (status, _) = ask(&gateway, "inner.test", "GET /public//a%2Fb", "").await;
    assert_eq!(status, 200);
    assert_eq!(plane.operations(&instance.id, "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_allowed_in_every_reading_wakes() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("inner")).await;
    let other = plane.asleep(Wanted::hello("other")).await;
    let keys = "admission = { paths = [\"/public\"] }\n\
                prewarm = [{ paths = [\"/public/login\"], instances = [\"other\"] }]";
    let gateway = Gateway::start(&plane, &route("inner", keys)).await;
    for target in [
        "/public/../internal",
        "/public/..%2finternal",
        "/public/%2e%2e/internal",
        "/public/..;/internal",
        "/PUBLIC",
        "/public%2f..%2finternal",
        "/public/x/..%2flogin",
    ] {
        let line = format!("GET {target}");
        let (status, body) = ask(&gateway, "inner.test", &line, "").await;
        assert_eq!(status, 400, "{target}: {body}");
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let (status, _) = ask(&gateway, "inner.test", "GET /%70ublic/x", "").await;
    assert_eq!(status, 200);
    assert_eq!(plane.operations(&other.id, "restore").await, 0);
    let (status, _) = ask(&gateway, "inner.test", "GET /public/%6Cogin", "").await;
    assert_eq!(status, 200);
    eventually("the other is woken", async || {
        plane.operations(&other.id, "restore").await == 1
    })
    .await;
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_taken_off_whatever_its_spelling_and_nothing_leads_out_of_it() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("site").await;
    let serving = echoing(listener);
    let routes = [below("/v1", "strip_path = true"), below("/", "")].concat();
    let gateway = Gateway::start(&plane, &routes).await;
    for (target, expected) in [
        ("/v1/a%2fb//c", "/a%2fb//c"),
        ("/%761/a?b=%2e", "/a?b=%2e"),
        ("/%76%31", "/"),
        ("/v1/x/../y", "/x/../y"),
    ] {
        let answer = get(&gateway, target).await;
        assert_eq!(answer, (200, expected.to_owned()), "{target}");
    }
    for target in ["/v1/../v1/secret", "/v1/%2e%2e/v1/x", "/v1%2fx", "/V1/x"] {
        let (status, body) = get(&gateway, target).await;
        assert_eq!(status, 400, "{target}: {body}");
    }
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_reads_passes_no_rule_about_a_path() {
    let plane = Plane::start().await;
    let (_, listener) = plane.own_origin("site").await;
    let serving = echoing(listener);
    let inner = plane.asleep(Wanted::hello("inner")).await;
    let tcp = |host: &str| {
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"tcp\"\nhost = \"{host}\"\n")
    };
    let deny = "admission = { deny_paths = [\"/internal\"] }";
    let text = [
        tcp("site.test"),
        tcp("inner.test"),
        guarded("/admin"),
        below("/", ""),
        route("inner", deny),
    ];
    let gateway = Gateway::start(&plane, &text.concat()).await;
    for address in &gateway.addresses[1..] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /admin HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n";
        // It may be closed before it is written to.
        let _written = stream.write_all(request).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let read = tokio::time::timeout(crate::support::PATIENCE, read).await;
        let _reset = read.unwrap();
        assert_eq!(answer, b"", "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(plane.operations(&inner.id, "restore").await, 0);
    serving.abort();
    gateway.stop().await;
    plane.stop().await;
}

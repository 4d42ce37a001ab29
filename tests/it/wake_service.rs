//! Other proxies in front of instances, which ask wakegate to wake them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::identity::server::{Server, answer as judged};
use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::{Gateway, PATIENCE, Plane, Wanted, eventually, number, route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Another proxy, ended with its owner.
struct Front(Child);

impl Drop for Front {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Front {
    /// Starts a program that listens at this address; `None` where there is none.
    async fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Option<Self> {
        let mut command = Command::new(program);
        let command = command.args(arguments).stdout(Stdio::null());
        match command.stderr(Stdio::null()).spawn() {
            Err(_) => {
                // Envoy comes from PyPI, which cannot be reached everywhere.
                let lacking = match program.ends_with("envoy") {
                    true => Lacking::Machine,
                    false => Lacking::Tool,
                };
                skip(lacking, &format!("there is no {program}"));
                None
            }
            Ok(child) => {
                let front = Self(child);
                eventually(&format!("{program} listens"), async || {
                    TcpStream::connect(address).await.is_ok()
                })
                .await;
                Some(front)
            }
        }
    }
}

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\nmode = \"wake\"\n";

/// Asks the wake service; the status, the address and how the request met a wake.
async fn ask(gateway: &Gateway, target: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{}{target}", gateway.addresses[1]));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let field = |name: &str| {
        let value = answer.headers().get(name);
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    };
    (
        status,
        field("x-wakegate-address"),
        field("x-wakegate-wake"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_gets_the_refusal_that_the_request_itself_would_get() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let keys = "[route.auth]\nheader = \"x-key\"\nvalue = \"0123456789abcdef0123456789abcdef\"\n\
                [route.admission]\nmethods = [\"GET\"]\n";
    let gateway = Gateway::start(&plane, &(LISTENER.to_owned() + &route("blue", keys))).await;
    let key = ("x-key", "0123456789abcdef0123456789abcdef");
    for (target, fields, expected) in [
        ("/wake", &[][..], 400),
        ("/wake?host=blue.test", &[], 403),
        ("/wake?host=nowhere.example", &[], 404),
        ("/wake?host=nobody.test", &[], 404),
        (
            "/wake?host=blue.test",
            &[key, ("x-forwarded-method", "POST")],
            503,
        ),
        ("/", &[("host", "blue.test")], 403),
        ("/", &[("x-forwarded-host", "blue.test")], 403),
    ] {
        let (status, address, _) = ask(&gateway, target, fields).await;
        assert_eq!(
            (status, address.as_str()),
            (expected, ""),
            "{target} {fields:?}"
        );
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_held_until_the_instance_is_ready_and_told_where_it_is() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let gateway = Gateway::start(&plane, LISTENER).await;
    let ip = blue.network.clone().unwrap().ip.unwrap();
    let address = format!("{ip}:8080");
    let crowd = (0..20).map(|_| ask(&gateway, "/wake?host=blue.test", &[]));
    for (status, told, wake) in futures_util::future::join_all(crowd).await {
        assert_eq!((status, &told), (200, &address), "{wake}");
        assert!(
            ["cold", "joined", "warm"].contains(&wake.as_str()),
            "{wake}"
        );
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 1);
    // As Traefik and Envoy ask.
    let forwarded = [
        ("x-forwarded-host", "blue.test"),
        ("x-forwarded-uri", "/p?q"),
    ];
    for (target, fields) in [
        ("/auth", &forwarded[..]),
        ("/p?host=x", &[("host", "blue.test")]),
    ] {
        let told = ask(&gateway, target, fields).await;
        assert_eq!(told, (200, address.clone(), "warm".to_owned()), "{target}");
    }
    let count = reqwest::get(format!("http://{address}/count"))
        .await
        .unwrap();
    assert_eq!(
        count.text().await.unwrap().trim(),
        "0",
        "no question went to the instance"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_what_the_instance_is_to_hear_of_its_client() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("blue")).await;
    let judge = Server::start(|head| {
        // It judges the request that the other proxy has.
        assert_eq!(head.headers["x-forwarded-uri"], "/p?q");
        let fields = [
            ("x-user", "jane"),
            ("x-user", "joan"),
            ("set-cookie", "a=b"),
        ];
        Some(judged(200, &fields))
    })
    .await;
    let way = format!(
        "[[route.auth.any]]\nforward = {{ url = \"http://{}/\", response_headers = [\"x-user\", \
         \"x-level\"] }}\n",
        judge.address
    );
    let gateway = Gateway::start(&plane, &(LISTENER.to_owned() + &route("blue", &way))).await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = http.get(format!("http://{}/auth", gateway.addresses[1]));
    let asked = asked.header("x-forwarded-host", "blue.test");
    let asked = asked.header("x-forwarded-uri", "/p?q");
    let asked = asked.header("x-user", "root").header("x-level", "root");
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let told = answer.headers();
    let users: Vec<_> = told.get_all("x-user").iter().collect();
    assert_eq!(users, ["jane", "joan"]);
    assert_eq!(told["set-cookie"], "a=b");
    assert!(!told.contains_key("x-level") && told.contains_key("x-wakegate-address"));
    gateway.stop().await;
    plane.stop().await;
}

/// A request for the instance by another proxy, on a connection of its own; its status line.
async fn get_by(front: SocketAddr) -> String {
    let mut stream = TcpStream::connect(front).await.unwrap();
    let head = "GET / HTTP/1.1\r\nhost: blue.test\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().next().unwrap_or_default().to_owned()
}

/// Lets the instance fall asleep, and asks for it at the same moment, until it has been woken so often.
async fn race(plane: &Plane, id: &str, front: SocketAddr, wakes: usize) {
    let mut round = 0;
    while plane.operations(id, "restore").await < wakes {
        round += 1;
        let standby = async {
            // It is asleep already, or being woken.
            let _raced = plane
                .client
                .standby_instance(&id.parse().unwrap(), None)
                .await;
        };
        let (first, second, ()) = tokio::join!(get_by(front), get_by(front), standby);
        // One that was at the instance when somebody put it to sleep may be lost: what comes
        // after that may not.
        let third = get_by(front).await;
        assert_eq!(third, "HTTP/1.1 200 OK", "{round}: {first}, {second}");
    }
}

async fn raced_by(program: &str, configure: impl Fn(&Path, SocketAddr, SocketAddr) -> Vec<String>) {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let gateway = Gateway::start(&plane, LISTENER).await;
    let (dir, reserved) = (tempfile::tempdir().unwrap(), Reserved::new());
    let arguments = configure(dir.path(), reserved.address, gateway.addresses[1]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Some(_front) = Front::start(program, &arguments, reserved.address).await {
        assert_eq!(get_by(reserved.address).await, "HTTP/1.1 200 OK");
        let wakes = number("RACED_WAKES").unwrap_or(100);
        let limit = PATIENCE * u32::try_from(4 + wakes / 25).unwrap();
        let wakes = usize::try_from(wakes).unwrap();
        let racing = Box::pin(race(&plane, &blue.id, reserved.address, wakes));
        tokio::time::timeout(limit, racing).await.unwrap();
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_in_front_wakes_instances_by_auth_request() {
    let racing = raced_by("nginx", |dir, listen, wake| {
        let (file, shown) = (dir.join("nginx.conf"), dir.display());
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {shown}/{what};"))
            .join(" ");
        let text = format!(
            "daemon off; worker_processes 1; pid {shown}/pid; error_log {shown}/error.log;\n\
             events {{ }}\nhttp {{ access_log off; {temporary}\n\
             server {{ listen {listen};\n\
             location / {{ auth_request /_wake; auth_request_set $instance $upstream_http_x_wakegate_address;\n\
             proxy_pass http://$instance; proxy_set_header Host $host; }}\n\
             location = /_wake {{ internal; proxy_pass http://{wake}/wake?host=$host;\n\
             proxy_pass_request_body off; proxy_set_header Content-Length \"\";\n\
             proxy_set_header X-Forwarded-Host \"\"; proxy_set_header X-Forwarded-Uri \"\";\n\
             proxy_set_header X-Forwarded-Method $request_method;\n\
             proxy_set_header X-Original-URI $request_uri; proxy_read_timeout 90s; }} }} }}\n"
        );
        std::fs::write(&file, text).unwrap();
        vec!["-c".to_owned(), file.display().to_string()]
    });
    Box::pin(racing).await;
}

/// A block of the book's page, with the addresses that it names replaced.
fn of_the_book(language: &str, replaced: &[(&str, &str)]) -> String {
    let page = include_str!("../../docs/how-to/wake-service.md");
    let begin = format!("```{language}\n");
    let block = page.split(&begin).nth(1).unwrap();
    let mut text = block.split("```").next().unwrap().to_owned();
    for (old, new) in replaced {
        assert!(
            text.contains(old),
            "{old} is not in the block of {language}"
        );
        text = text.replace(old, new);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_in_front_wakes_instances_by_a_script() {
    let racing = raced_by("haproxy", |dir, listen, wake| {
        let (file, script) = (dir.join("haproxy.cfg"), dir.join("wake.lua"));
        let address = wake.to_string();
        let lua = of_the_book("lua", &[("127.0.0.1:8090", &address)]);
        std::fs::write(&script, lua).unwrap();
        let (bind, script) = (format!("bind {listen}"), script.display().to_string());
        let replaced = [
            ("/etc/haproxy/wake.lua", script.as_str()),
            ("bind :80", &bind),
        ];
        std::fs::write(&file, of_the_book("haproxy", &replaced)).unwrap();
        vec![
            "-db".to_owned(),
            "-f".to_owned(),
            file.display().to_string(),
        ]
    });
    Box::pin(racing).await;
}

/// Where `benches/peers/envoy` puts it, or what `ENVOY` names.
fn envoy() -> PathBuf {
    let there = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/peers/envoy/envoy/_bin/envoy"
    );
    std::env::var_os("ENVOY").map_or_else(|| there.into(), PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_in_front_wakes_instances_by_ext_authz() {
    let program = envoy();
    let racing = raced_by(program.to_str().unwrap(), |dir, listen, wake| {
        let file = dir.join("envoy.yaml");
        let (listen, wake) = (
            format!("address: 127.0.0.1, port_value: {}", listen.port()),
            wake.port().to_string(),
        );
        let replaced = [
            ("address: 0.0.0.0, port_value: 80", listen.as_str()),
            ("8090", &wake),
        ];
        std::fs::write(&file, of_the_book("yaml", &replaced)).unwrap();
        let flags = ["--concurrency", "1", "--disable-hot-restart", "-c"];
        let flags = flags.map(str::to_owned).into_iter();
        flags.chain([file.display().to_string()]).collect()
    });
    Box::pin(racing).await;
}

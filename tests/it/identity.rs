//! Who may wake: tokens, fields and signed URLs that are forged, stale or somebody else's, and those
//! that are right.

pub mod server;
mod signer;

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::response::IntoResponse as _;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use self::server::{Server, answer};
use self::signer::Signer;
use crate::support::{
    Client, ConfigFile, Gateway, Lines, Plane, Program, Wanted, eventually, route, wakegate,
};

/// Longer than any test takes.
const LATER: i64 = 4_102_444_800;
const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A request that is about to be sent, and what it is called.
struct Attempt {
    what: &'static str,
    path: String,
    fields: Vec<(&'static str, String)>,
}

fn bearer(what: &'static str, token: &str) -> Attempt {
    let fields = vec![("authorization", format!("Bearer {token}"))];
    let path = "/headers".to_owned();
    Attempt { what, path, fields }
}

impl Attempt {
    /// The status, the code, and what is asked for.
    async fn send(&self, client: &Client, instance: &str) -> (u16, Value, Option<String>) {
        let mut request = client.request("GET", instance, &self.path);
        for (name, value) in &self.fields {
            request = request.header(*name, value);
        }
        let answer = request.send().await.unwrap();
        let asks = answer.headers().get("www-authenticate");
        let asks = asks.map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default(), asks)
    }
}

/// Keys of a route whose tokens this signer signs.
fn jwt(signer: &Signer, keys: &str) -> String {
    format!(
        "[[route.auth.any]]\njwt = {{ jwks_file = \"{}\", issuer = \"https://id.test\", \
         audience = \"gateway\", claims = {{ sub = \"{{instance}}\" }}{keys} }}\n",
        signer.file().display()
    )
}

fn claims(sub: &str) -> Value {
    json!({ "sub": sub, "iss": "https://id.test", "aud": "gateway", "exp": LATER })
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_stale_tokens_wake_nobody_and_do_not_tell_names_apart() {
    let (plane, signer, forger) = (Plane::start().await, Signer::new("a"), Signer::new("a"));
    let (blue, red) = (
        plane.asleep(Wanted::hello("blue")).await,
        plane.asleep(Wanted::hello("red")).await,
    );
    let from = ", token_from = { cookie = \"session\", query = \"access_token\" }, forward = { sub = \"x-user\" }";
    let gateway = Gateway::start(&plane, &jwt(&signer, from)).await;
    let client = gateway.client();
    let good = signer.token(&claims("blue"));
    let with = |name: &str, value: Value| {
        let mut claims = claims("blue");
        claims[name] = value;
        signer.token(&claims)
    };
    let without = |name: &str| {
        let mut claims = claims("blue");
        claims.as_object_mut().unwrap().remove(name);
        signer.token(&claims)
    };
    let path = |what, path: &str| Attempt {
        what,
        path: path.to_owned(),
        fields: Vec::new(),
    };
    let fields = |what, fields: &[(&'static str, &str)]| Attempt {
        what,
        path: "/headers".to_owned(),
        fields: fields
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
    };
    let (twice, cookie) = (
        format!("Bearer {good}"),
        format!("session={good}; session={good}"),
    );
    let refused = [
        fields("nothing", &[]),
        fields("another scheme", &[("authorization", "Basic YTpi")]),
        fields("a scheme alone", &[("authorization", "Bearer")]),
        bearer(
            "no algorithm",
            &signer.with_head(&json!({ "alg": "none" }), &claims("blue")),
        ),
        bearer(
            "a shared secret",
            &signer.with_head(&json!({ "alg": "HS256", "kid": "a" }), &claims("blue")),
        ),
        bearer(
            "no algorithm, in capitals, and no signature",
            &(signer
                .with_head(&json!({ "alg": "None" }), &claims("blue"))
                .rsplit_once('.')
                .unwrap()
                .0
                .to_owned()
                + "."),
        ),
        bearer(
            "an algorithm of another kind of key",
            &signer.with_head(&json!({ "alg": "RS256", "kid": "a" }), &claims("blue")),
        ),
        bearer(
            "a key of its own",
            &forger.with_head(
                &json!({
                    "alg": "EdDSA", "jku": "http://127.0.0.1:1/", "jwk":
                    serde_json::from_str::<Value>(&forger.jwks()).unwrap()["keys"][0],
                }),
                &claims("blue"),
            ),
        ),
        bearer(
            "an extension that must be understood",
            &signer.with_head(
                &json!({ "alg": "EdDSA", "kid": "a", "crit": ["exp"] }),
                &claims("blue"),
            ),
        ),
        bearer(
            "a claim twice",
            &signer.with_texts(
                "{\"alg\":\"EdDSA\",\"kid\":\"a\"}",
                &claims("blue")
                    .to_string()
                    .replacen('{', "{\"sub\":\"red\",", 1),
            ),
        ),
        bearer(
            "an algorithm twice",
            &signer.with_texts(
                "{\"alg\":\"none\",\"alg\":\"EdDSA\",\"kid\":\"a\"}",
                &claims("blue").to_string(),
            ),
        ),
        bearer("no signature", good.rsplit_once('.').unwrap().0),
        bearer("another key of that name", &forger.token(&claims("blue"))),
        bearer("an unknown key", &Signer::new("b").token(&claims("blue"))),
        bearer("expired", &with("exp", json!(1_700_000_000))),
        bearer("without an end", &without("exp")),
        bearer("not yet valid", &with("nbf", json!(LATER - 1))),
        bearer(
            "another issuer",
            &with("iss", json!("https://id.test.evil")),
        ),
        bearer("without an issuer", &without("iss")),
        bearer("another audience", &with("aud", json!(["other"]))),
        bearer("without an audience", &without("aud")),
        bearer("two tokens in one", &format!("{good}, {good}")),
        fields(
            "two fields",
            &[("authorization", &twice), ("authorization", &twice)],
        ),
        fields("two cookies", &[("cookie", &cookie)]),
        fields(
            "a cookie of another name",
            &[("cookie", &format!("sessions={good}"))],
        ),
        path(
            "two parameters",
            &format!("/headers?access_token={good}&access%5Ftoken={good}"),
        ),
        path(
            "a parameter of another name",
            &format!("/headers?token={good}"),
        ),
        path(
            "a token in the path",
            &format!("/headers/access_token={good}"),
        ),
        path(
            "a token behind the query",
            &format!("/headers?x=1;access_token={good}"),
        ),
        fields(
            "a field that says who it is",
            &[("x-user", "blue"), ("x_user", "blue")],
        ),
    ];
    for attempt in &refused {
        let what = attempt.what;
        for instance in ["blue", "nobody"] {
            let (status, body, asks) = attempt.send(&client, instance).await;
            assert_eq!(
                (status, &body["code"]),
                (401, &json!("unauthenticated")),
                "{what}"
            );
            assert!(asks.unwrap().starts_with("Bearer"), "{what}");
        }
    }
    let theirs = [
        bearer("another instance's", &good),
        bearer("a part of the name", &with("sub", json!("re"))),
        bearer("without a name", &without("sub")),
        bearer("a list of others", &with("sub", json!(["blue", "green"]))),
    ];
    for attempt in &theirs {
        for instance in ["red", "nobody"] {
            let (status, body, asks) = attempt.send(&client, instance).await;
            let what = attempt.what;
            assert_eq!(
                (status, &body["code"], asks),
                (403, &json!("forbidden"), None),
                "{what}"
            );
        }
    }
    for instance in [&blue, &red] {
        assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    }
    let shared = bearer("one of a list", &with("sub", json!(["blue", "red"])));
    assert_eq!(shared.send(&client, "red").await.0, 200);
    let leeway = bearer("a clock that is late", &with("exp", json!(now() - 20)));
    assert_eq!(leeway.send(&client, "blue").await.0, 200);
    assert_eq!(plane.operations(&blue.id, "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_gets_around_a_rule_that_asks_who_comes() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    // What is in the open wakes nobody by GET, so that whatever passes shows.
    let open = "[route.admission]\nmethods = [\"POST\"]\n[[route]]\nhost = \"blue.test\"\n\
                path = \"/private\"\ninstance = \"blue\"\n[route.auth]\nheader = \"x-key\"\n\
                value = \"0123456789abcdef0123456789abcdef\"\n";
    let gateway = Gateway::start(&plane, &route("blue", open)).await;
    for path in [
        "/private",
        "/private/",
        "/private/x",
        "//private",
        "/./private",
        "/x/../private",
        "/x/%2e%2e/private",
        "/%70rivate",
        "/private%2fx",
        "/private;a=b",
        "/private%00",
        "/private%20",
        "/x%2f..%2fprivate",
        "/x/..%5cprivate",
        "/\\private",
        "/%2fprivate",
        "/Private",
        "/private?x=/../open",
    ] {
        let mut stream = tokio::net::TcpStream::connect(gateway.address)
            .await
            .unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: blue.test\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_default();
        // Where all readings agree that it is another path, the open route says that it does not wake.
        assert!(["400", "403", "503"].contains(&status), "{path}: {answer}");
        let is_plain = path.starts_with("/private") && !path.contains('%') && !path.contains(';');
        assert!(!is_plain || status == "403", "{path}: {answer}");
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    gateway.stop().await;
    plane.stop().await;
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_learns_who_asks_from_the_gateway_and_never_sees_the_credential() {
    let (plane, signer) = (Plane::start().await, Signer::new("a"));
    plane.listening(Wanted::hello("blue")).await;
    plane.listening(Wanted::hello("open")).await;
    let keys = ", token_from = { cookie = \"session\", query = \"access_token\" }, \
                forward = { sub = \"x-user\", level = \"x-level\", note = \"x-note\" }";
    let kept = "[[route.auth.any]]\nforward_credential = true\n";
    let extra = [
        jwt(&signer, keys),
        route(
            "open",
            &jwt(&signer, "").replace("[[route.auth.any]]\n", kept),
        ),
    ];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let client = gateway.client();
    let mut said = claims("blue");
    (said["level"], said["note"]) = (json!(3), json!("two\nlines"));
    let token = signer.token(&said);
    let forged = [
        ("x-user", "root".to_owned()),
        ("x_user", "root".to_owned()),
        ("x-note", "root".to_owned()),
        // What a connection names is dropped, but what the gateway says is not the client's.
        ("connection", "x-user".to_owned()),
    ];
    let places = [
        (
            "/headers".to_owned(),
            ("authorization", format!("Bearer {token}")),
        ),
        (
            "/headers".to_owned(),
            ("cookie", format!("theme=dark; session={token}")),
        ),
        (
            format!("/headers?access_token={token}"),
            ("x-other", "1".to_owned()),
        ),
    ];
    for (path, field) in places {
        let fields = forged.iter().cloned().chain([field]).collect();
        let attempt = Attempt {
            what: "",
            path,
            fields,
        };
        let (status, seen, _) = attempt.send(&client, "blue").await;
        let text = seen.to_string();
        assert_eq!(status, 200, "{text}");
        assert!(
            text.contains("\"blue\"") && text.contains("x-level"),
            "{text}"
        );
        for secret in [
            token.as_str(),
            "root",
            "x_user",
            "x-note",
            "authorization",
            "session",
        ] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
        assert_eq!(
            text.contains("theme=dark"),
            attempt.fields.last().unwrap().0 == "cookie"
        );
    }
    let open = bearer("", &signer.token(&claims("open")));
    let (status, seen, _) = open.send(&client, "open").await;
    assert_eq!(status, 200);
    assert!(seen.to_string().contains("Bearer "), "{seen}");
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_websocket_shows_a_token_as_a_subprotocol_and_is_answered_with_it() {
    let (plane, signer) = (Plane::start().await, Signer::new("a"));
    let instance = plane.asleep(Wanted::hello("blue")).await;
    let keys = ", token_from = { subprotocol = \"token.\" }";
    let gateway = Gateway::start(&plane, &jwt(&signer, keys)).await;
    let open = async |offered: &str| {
        let url = format!("ws://{}/ws", gateway.address);
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("host", "blue.test".parse().unwrap());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered.parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    let token = signer.token(&claims("blue"));
    for wrong in [
        "chat",
        &format!("token.{token}x"),
        &token,
        &format!("token.{token}, token.{token}"),
    ] {
        assert!(open(wrong).await.is_err(), "{wrong}");
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    let (socket, answer) = open(&format!("token.{token}, chat")).await.unwrap();
    let picked = answer.headers()[SEC_WEBSOCKET_PROTOCOL].to_str().unwrap();
    assert_eq!(picked, format!("token.{token}"));
    drop(socket);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_way_of_a_list_lets_in_and_without_a_challenge_a_refusal_is_a_403() {
    let (plane, signer) = (Plane::start().await, Signer::new("a"));
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let only = plane.asleep(Wanted::hello("only")).await;
    let field = format!("[[route.auth.any]]\nheader = \"x-api-key\"\nvalue = \"{SECRET}\"\n");
    let second = field.replace("x-api-key", "x-other-key");
    let extra = [
        jwt(&signer, ""),
        field.clone(),
        route("only", &field),
        second,
    ];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let client = gateway.client();
    let key = |name: &'static str, value: &str| Attempt {
        what: name,
        path: "/headers".to_owned(),
        fields: vec![(name, value.to_owned())],
    };
    for wrong in [
        key("x-api-key", "no"),
        key("x-api-kex", SECRET),
        key("x_api_key", SECRET),
    ] {
        let (status, body, asks) = wrong.send(&client, "only").await;
        assert_eq!(
            (status, &body["code"], asks),
            (403, &json!("forbidden"), None)
        );
        let (status, _, asks) = wrong.send(&client, "blue").await;
        assert_eq!((status, asks.is_some()), (401, true));
    }
    for instance in [&blue, &only] {
        assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    }
    for right in [
        key("x-api-key", SECRET),
        bearer("", &signer.token(&claims("blue"))),
    ] {
        let (status, seen, _) = right.send(&client, "blue").await;
        assert_eq!(status, 200);
        let text = seen.to_string();
        assert!(!text.contains(SECRET) && !text.contains("Bearer"), "{text}");
    }
    for right in [key("x-api-key", SECRET), key("x-other-key", SECRET)] {
        assert_eq!(right.send(&client, "only").await.0, 200, "{}", right.what);
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forgeries_use_up_a_rate_of_their_own_and_not_their_neighbours() {
    let (plane, signer) = (Plane::start().await, Signer::new("a"));
    plane.asleep(Wanted::hello("blue")).await;
    let rate = "[route.admission]\nrate_per_client = \"3/h\"\n";
    let gateway = Gateway::start(&plane, &format!("{rate}{}", jwt(&signer, ""))).await;
    let client = gateway.client();
    let forged = bearer("", &Signer::new("a").token(&claims("blue")));
    for _ in 0..3 {
        assert_eq!(forged.send(&client, "blue").await.0, 401);
    }
    let (status, body, _) = forged.send(&client, "blue").await;
    assert_eq!((status, &body["code"]), (429, &json!("too_many_refused")));
    let theirs = bearer("", &signer.token(&claims("red")));
    assert_eq!(theirs.send(&client, "blue").await.0, 429);
    let right = bearer("", &signer.token(&claims("blue")));
    for _ in 0..5 {
        assert_eq!(right.send(&client, "blue").await.0, 200);
    }
    gateway.stop().await;
    plane.stop().await;
}

/// Runs `wakegate sign-url`; its result, without the address.
fn sign(key: &Path, words: &[&str]) -> String {
    let key = key.to_str().unwrap();
    let output = wakegate()
        .args(["sign-url", "--key-file", key])
        .args(words)
        .output();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let url = String::from_utf8(output.stdout).unwrap();
    let (_, rest) = url.trim().split_once("://").unwrap();
    let (_, target) = rest.split_once('/').unwrap();
    format!("/{target}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_url_wakes_what_it_was_signed_for_and_nothing_else() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let red = plane.asleep(Wanted::hello("red")).await;
    let (key, other) = (dir.path().join("key"), dir.path().join("other"));
    std::fs::write(&key, format!("{SECRET}\n")).unwrap();
    std::fs::write(&other, SECRET.replace('0', "9")).unwrap();
    let way = format!(
        "[[route.auth.any]]\nsigned_url = {{ key_file = \"{}\" }}\n",
        key.display()
    );
    let gateway = Gateway::start(&plane, &way).await;
    let client = gateway.client();
    let good = sign(
        &key,
        &["--expires", "10m", "https://blue.test:8443/headers?x=1"],
    );
    let soon = sign(&key, &["--expires", "1s", "https://blue.test/headers"]);
    let puts = sign(
        &key,
        &[
            "--expires",
            "10m",
            "--method",
            "PUT",
            "https://blue.test/headers",
        ],
    );
    let foreign = sign(
        &other,
        &["--expires", "10m", "https://blue.test/headers?x=1"],
    );
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let (without, _) = good.split_once("&wakegate-signature").unwrap();
    for (what, method, instance, path) in [
        ("not signed", "GET", "blue", "/headers?x=1"),
        ("another key", "GET", "blue", foreign.as_str()),
        ("another instance", "GET", "red", good.as_str()),
        ("no instance", "GET", "nobody", good.as_str()),
        ("another method", "POST", "blue", good.as_str()),
        ("a method that is for another", "GET", "blue", puts.as_str()),
        ("expired", "GET", "blue", soon.as_str()),
        (
            "another path",
            "GET",
            "blue",
            &good.replace("/headers", "/count"),
        ),
        (
            "another spelling",
            "GET",
            "blue",
            &good.replace("/headers", "/h%65aders"),
        ),
        (
            "another parameter",
            "GET",
            "blue",
            &good.replace("x=1", "x=2"),
        ),
        ("one more parameter", "GET", "blue", &format!("{good}&y=1")),
        (
            "one more parameter in front",
            "GET",
            "blue",
            &good.replace("x=1", "y=1&x=1"),
        ),
        ("no parameter", "GET", "blue", &good.replace("x=1&", "")),
        ("no signature", "GET", "blue", without),
        (
            "an empty signature",
            "GET",
            "blue",
            &format!("{without}&wakegate-signature="),
        ),
        (
            "a signature twice",
            "GET",
            "blue",
            &good.replace(without, "/headers?x=1").replace(
                "&wakegate-signature",
                "&wakegate-expires=9999999999&wakegate-signature",
            ),
        ),
    ] {
        let request = client.request(method, instance, path).send().await.unwrap();
        assert_eq!(request.status(), 403, "{what}: {path}");
        assert!(!request.headers().contains_key("www-authenticate"));
    }
    for instance in [&blue, &red] {
        assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    }
    for (method, path) in [("GET", &good), ("HEAD", &good), ("PUT", &puts)] {
        let answer = client.request(method, "blue", path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{method}");
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_sees_a_url_without_its_signature() {
    let (plane, dir) = (Plane::start().await, tempfile::tempdir().unwrap());
    let (_, listener) = plane.own_origin("blue").await;
    let origin = Server::echo(listener);
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET).unwrap();
    let way = format!(
        "[[route.auth.any]]\nsigned_url = {{ key_file = \"{}\" }}\n",
        key.display()
    );
    let gateway = Gateway::start(&plane, &way).await;
    for (url, seen) in [
        ("/", "/\n"),
        ("/a?", "/a?\n"),
        ("/a%2Fb?x=%20&y", "/a%2Fb?x=%20&y\n"),
    ] {
        let signed = sign(
            &key,
            &["--expires", "10m", &format!("https://blue.test{url}")],
        );
        let page = format!("https://blue.test{signed}");
        let request = gateway.client().request("GET", "blue", &signed);
        let answer = request.header("referer", page).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(seen), "{text}");
        assert!(
            !text.contains("signature") && text.contains("referer: https://blue.test/"),
            "{text}"
        );
    }
    assert_eq!(origin.asked(), 3);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_server_are_fetched_when_needed_and_rotated_at_once() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let published: Arc<Mutex<Option<String>>> = Arc::default();
    let keys = Arc::clone(&published);
    let server = Server::start(move |_| match keys.lock().unwrap().clone() {
        Some(keys) => Some(([("content-type", "application/json")], keys).into_response()),
        None => Some(answer(500, &[])),
    })
    .await;
    let way = format!(
        "[[route.auth.any]]\njwt = {{ jwks_url = \"http://{}/jwks\", audience = \"gateway\", \
         claims = {{ sub = \"{{instance}}\" }} }}\n",
        server.address
    );
    let gateway = Gateway::start(&plane, &way).await;
    let client = gateway.client();
    let send = async |signer: &Signer| {
        let attempt = bearer("", &signer.token(&claims("blue")));
        let (status, body, _) = attempt.send(&client, "blue").await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let unavailable = (503, "auth_unavailable".to_owned());
    assert_eq!(send(&old).await, unavailable);
    *published.lock().unwrap() = Some("<html>".to_owned());
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(send(&old).await, unavailable, "garbage is no key set");
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    *published.lock().unwrap() = Some(old.jwks());
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(send(&old).await.0, 200);
    *published.lock().unwrap() = Some(new.jwks());
    assert_eq!(send(&new).await.0, 200, "the new key counts at once");
    let asked = server.asked();
    *published.lock().unwrap() = None;
    for _ in 0..20 {
        assert_eq!(
            send(&Signer::new("forged")).await,
            (401, "unauthenticated".to_owned())
        );
        assert_eq!(send(&new).await.0, 200, "a server that fails loses no key");
    }
    assert_eq!(server.asked(), asked);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_judges_and_its_redirects_cookies_and_challenges_pass() {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let judge = Server::start(|head| {
        let field = head
            .headers
            .get("x-try")
            .map(|value| value.to_str().unwrap());
        let answer = match field {
            None => answer(
                302,
                &[
                    ("location", "https://id.test/?rd=/"),
                    ("set-cookie", "state=1"),
                ],
            ),
            Some("401") => answer(
                401,
                &[("www-authenticate", "Custom a=b"), ("set-cookie", "gone=1")],
            ),
            Some("403") => answer(403, &[]),
            Some("500") => answer(500, &[]),
            Some("hang") => return None,
            Some(_) => answer(
                200,
                &[
                    ("x-user", "jane"),
                    ("x-user", "joan"),
                    ("set-cookie", "session=2"),
                    ("x-secret", "no"),
                ],
            ),
        };
        Some(answer)
    })
    .await;
    let field = format!("[[route.auth.any]]\nheader = \"x-api-key\"\nvalue = \"{SECRET}\"\n");
    let way = format!(
        "{field}[[route.auth.any]]\nforward = {{ url = \"http://{}/check?a=b\", \
         response_headers = [\"x-user\"], timeout = \"500ms\" }}\n",
        judge.address
    );
    let gateway = Gateway::start(&plane, &way).await;
    let client = gateway.client();
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let http = http.no_proxy().build().unwrap();
    let send = async |fields: &[(&str, &str)]| {
        let url = format!("http://{}/headers?q=1", gateway.address);
        let mut request = http.post(url).header("host", "blue.test").body("a body");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };
    let redirect = send(&[]).await;
    assert_eq!(redirect.status(), 302);
    assert_eq!(redirect.headers()["location"], "https://id.test/?rd=/");
    assert_eq!(redirect.headers()["set-cookie"], "state=1");
    let asked = send(&[("x-try", "401")]).await;
    assert_eq!(asked.status(), 401);
    assert_eq!(asked.headers()["www-authenticate"], "Custom a=b");
    for (try_, status, code) in [
        ("403", 403, "forbidden"),
        ("500", 503, "auth_unavailable"),
        ("hang", 503, "auth_unavailable"),
    ] {
        let refused = send(&[("x-try", try_)]).await;
        assert_eq!(refused.status(), status, "{try_}");
        let body = refused.text().await.unwrap();
        assert!(body.contains(code) && !body.contains("judge"), "{body}");
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    let forged = [
        ("x-try", "ok"),
        ("x-user", "root"),
        ("x_user", "root"),
        ("x-forwarded-host", "mine.test"),
        ("x-forwarded-uri", "/open"),
        ("x-forwarded-method", "GET"),
        ("x-original-url", "https://blue.test/open"),
        ("x_original_uri", "/open"),
        ("authorization", "Basic YTpi"),
        ("cookie", "a=b"),
    ];
    let answer = send(&forged).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["set-cookie"], "session=2");
    let seen = answer.text().await.unwrap();
    assert!(
        ["jane", "joan"].iter().all(|name| seen.contains(name))
            && !seen.contains("root")
            && !seen.contains("x-secret"),
        "{seen}"
    );
    assert!(
        seen.contains("Basic YTpi") && seen.contains("a=b"),
        "{seen}"
    );
    for (name, expected) in [
        ("x-forwarded-host", Some("blue.test")),
        ("x-forwarded-uri", Some("/headers?q=1")),
        ("x-forwarded-method", Some("POST")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("authorization", Some("Basic YTpi")),
        ("cookie", Some("a=b")),
        ("x-original-url", None),
        ("x_original_uri", None),
        ("content-length", None),
        ("content-type", None),
    ] {
        assert_eq!(judge.last(name).as_deref(), expected, "{name}");
    }
    let asked = judge.asked();
    let key = client
        .request("GET", "blue", "/")
        .header("x-api-key", SECRET);
    assert_eq!(key.send().await.unwrap().status(), 200);
    assert_eq!(
        judge.asked(),
        asked,
        "who has been let in is not judged again"
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_somewhere_else_too_often_is_told_to_wait_and_a_neighbour_with_a_session_is_not()
 {
    let plane = Plane::start().await;
    let blue = plane.asleep(Wanted::hello("blue")).await;
    let judge = Server::start(|head| {
        let has_session = head.headers.contains_key("cookie");
        Some(match has_session {
            true => answer(200, &[]),
            false => answer(
                302,
                &[("location", "https://id.test/"), ("set-cookie", "state=1")],
            ),
        })
    })
    .await;
    let way = format!(
        "[route.admission]\nrate_per_client = \"3/h\"\n[[route.auth.any]]\n\
         forward = {{ url = \"http://{}/check\" }}\n",
        judge.address
    );
    let gateway = Gateway::start(&plane, &way).await;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let http = http.no_proxy().build().unwrap();
    let send = async |cookie: Option<&str>| {
        let url = format!("http://{}/", gateway.address);
        let request = http.get(url).header("host", "blue.test");
        let request = match cookie {
            Some(cookie) => request.header("cookie", cookie),
            None => request,
        };
        request.send().await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(send(None).await.status(), 302);
    }
    for _ in 0..2 {
        let refused = send(None).await;
        assert_eq!(refused.status(), 429);
        assert!(refused.headers().contains_key("retry-after"));
        assert!(!refused.headers().contains_key("location"));
        let body: Value = refused.json().await.unwrap();
        assert_eq!(body["code"], "too_many_refused");
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 0);
    for _ in 0..5 {
        assert_eq!(send(Some("session=2")).await.status(), 200);
    }
    assert_eq!(plane.operations(&blue.id, "restore").await, 1);
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_comes_into_a_log_the_ledger_or_a_metric() {
    let (plane, signer, dir) = (
        Plane::start().await,
        Signer::new("a"),
        tempfile::tempdir().unwrap(),
    );
    plane.asleep(Wanted::hello("blue")).await;
    let key = dir.path().join("key");
    std::fs::write(&key, SECRET.replace('0', "9")).unwrap();
    let from = ", token_from = { cookie = \"session\", query = \"access_token\" }";
    let extra = format!(
        "{}[[route.auth.any]]\nsigned_url = {{ key_file = {key:?} }}\n[[route.auth.any]]\n\
         header = \"x-api-key\"\nvalue = \"{SECRET}\"\n[log]\nlevel = \"debug,wakegate=trace\"\n",
        jwt(&signer, from)
    );
    let file = ConfigFile::new(&plane, "", &extra);
    let mut program = Program::start(&["serve", "-c", file.path.to_str().unwrap()]);
    let logs = [
        Lines::of(program.0.stdout.take().unwrap()),
        Lines::of(program.0.stderr.take().unwrap()),
    ];
    let page = async |path: &str| {
        let answer = reqwest::get(format!("http://{}{path}", file.admin)).await;
        answer.unwrap().text().await.unwrap()
    };
    eventually("it serves", async || {
        let ready = reqwest::get(format!("http://{}/readyz", file.admin)).await;
        ready.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let good = signer.token(&claims("blue"));
    let forged = Signer::new("a").token(&claims("blue"));
    let signed = sign(&key, &["--expires", "10m", "https://blue.test/headers?x=1"]);
    let signature = signed.rsplit_once('=').unwrap().1.to_owned();
    let guess = "a-guess-of-somebody-without-a-key";
    let url = format!("http://{}", file.listen);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |target: &str, name: &str, value: &str| {
        let request = http
            .get(format!("{url}{target}"))
            .header("host", "blue.test");
        let answer = request.header(name, value).send().await.unwrap();
        answer.status().as_u16()
    };
    for (token, status) in [(&forged, 401), (&good, 200)] {
        let query = format!("/headers?access_token={token}");
        for (target, name, value) in [
            ("/headers", "authorization", format!("Bearer {token}")),
            ("/headers", "cookie", format!("session={token}")),
            (&query, "referer", format!("https://blue.test{query}")),
        ] {
            assert_eq!(send(target, name, &value).await, status, "{name}");
        }
    }
    assert_eq!(send(&signed, "x-other", "1").await, 200);
    assert_eq!(send(&format!("{signed}&y=1"), "x-other", "1").await, 401);
    assert_eq!(send("/headers", "x-api-key", SECRET).await, 200);
    assert_eq!(send("/headers", "x-api-key", guess).await, 401);
    let mut told = vec![page("/api/wakes").await, page("/metrics").await];
    told.push(page("/api/instances/blue").await);
    program.kill();
    told.extend(logs.into_iter().map(Lines::into_story));
    assert!(told[3].matches("/headers").count() >= 10, "{}", told[3]);
    for (number, text) in told.iter().enumerate() {
        for secret in [
            good.rsplit_once('.').unwrap().1,
            forged.rsplit_once('.').unwrap().1,
            &signature,
            SECRET,
            guess,
        ] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{number}");
        }
    }
    plane.stop().await;
}

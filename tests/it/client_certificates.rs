//! Routes that ask for a client's certificate.

use std::net::SocketAddr;

use crate::certificates::{Issued, client, issued, server_certificate};
use crate::support::{Gateway, Plane, Wanted, route};

const CERTIFICATE: &str = "[[route.auth.any]]\nclient_certificate = true\n";

/// A directory with the certificates of a gateway and of its clients' CA.
struct Certificates {
    dir: tempfile::TempDir,
    root: String,
    known: Issued,
}

impl Certificates {
    fn new(names: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, known) = (server_certificate(dir.path(), names), issued("member"));
        std::fs::write(dir.path().join("ca.pem"), &known.ca).unwrap();
        Self { dir, root, known }
    }

    /// A listener with TLS and these further keys.
    fn listener(&self, keys: &str) -> String {
        let path = self.dir.path().display();
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ cert = \"{path}/cert.pem\", \
             key = \"{path}/key.pem\"{keys} }}\n"
        )
    }

    fn asking(&self, how: &str) -> String {
        let path = self.dir.path().display();
        self.listener(&format!(
            ", client_ca = \"{path}/ca.pem\", client_auth = \"{how}\""
        ))
    }

    /// A client that shows a certificate of the CA, or none.
    fn client(&self, at: SocketAddr, name: &str, shows: bool) -> reqwest::ClientBuilder {
        let builder = client(at, &self.root, name);
        match shows {
            true => {
                let identity = reqwest::Identity::from_pem(self.known.leaf.as_bytes());
                builder.identity(identity.unwrap())
            }
            false => builder,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_asks_for_a_certificate_is_served_with_one_alone_on_whatever_listener() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("members")).await;
    let files = Certificates::new(&["members.test"]);
    let extra = [
        route("members", CERTIFICATE),
        files.listener(""),
        files.asking("optional"),
        files.asking("required"),
    ];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let [clear, secure, optional, required] = gateway.addresses[..] else {
        panic!("{:?}", gateway.addresses);
    };
    let ask = async |at: SocketAddr, shows: bool, is_h2: bool| {
        let builder = files.client(at, "members.test", shows);
        let client = match is_h2 {
            true => builder,
            false => builder.http1_only(),
        };
        let url = format!("https://members.test:{}/headers", at.port());
        let asked = client.build().unwrap().get(url);
        // Nobody's word is a certificate.
        let answer = asked.header("client-cert", ":aGk=:").send().await.unwrap();
        let (status, version) = (answer.status().as_u16(), answer.version());
        assert_eq!(version == reqwest::Version::HTTP_2, is_h2);
        (status, answer.text().await.unwrap())
    };
    for is_h2 in [false, true] {
        // A listener that does not ask is shown nothing.
        for (at, shows) in [(secure, false), (secure, true), (optional, false)] {
            let (status, body) = ask(at, shows, is_h2).await;
            assert_eq!(status, 403, "{body}");
            assert!(body.contains("\"forbidden\""), "{body}");
        }
    }
    let unread = gateway.client().problem("members").await;
    assert_eq!((unread.0, unread.1.as_str()), (403, "forbidden"), "{clear}");
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    for is_h2 in [false, true] {
        for at in [optional, required] {
            let (status, body) = ask(at, true, is_h2).await;
            assert_eq!(status, 200, "{body}");
            assert!(body.contains("client-cert"), "{body}");
            assert!(!body.contains(":aGk=:"), "{body}");
        }
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_belongs_to_its_connection_whichever_host_a_request_on_it_is_for() {
    let plane = Plane::start().await;
    for name in ["one", "other"] {
        plane.listening(Wanted::hello(name)).await;
    }
    let files = Certificates::new(&["one.test", "other.test"]);
    let extra = [route("other", CERTIFICATE), files.asking("optional")];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let at = gateway.addresses[1];
    for shows in [true, false] {
        // Its TLS name is the one's, and its requests are for the other.
        let client = files.client(at, "one.test", shows).http1_only();
        let client = client.build().unwrap();
        let asked = client.get(format!("https://one.test:{}/", at.port()));
        let asked = asked.header("host", "other.test");
        let status = asked.send().await.unwrap().status();
        assert_eq!(status, if shows { 200 } else { 403 });
    }
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_must_be_for_the_instance_where_its_route_says_so() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("members")).await;
    let files = Certificates::new(&["members.test"]);
    let san =
        |name: &str| format!("[[route.auth.any]]\nclient_certificate = {{ san = \"{name}\" }}\n");
    // The certificate is for `member`.
    for (name, expected) in [
        ("{instance}.clients.test", 403),
        ("{instance}", 403),
        ("member", 200),
    ] {
        let extra = [route("members", &san(name)), files.asking("optional")];
        let gateway = Gateway::start(&plane, &extra.concat()).await;
        let at = gateway.addresses[1];
        for (shows, expected) in [(false, 403), (true, expected)] {
            let client = files.client(at, "members.test", shows).build().unwrap();
            let url = format!("https://members.test:{}/", at.port());
            let status = client.get(url).send().await.unwrap().status();
            assert_eq!(status, expected, "{name}");
        }
        let restores = plane.operations(&instance.id, "restore").await;
        assert_eq!(restores, usize::from(expected == 200));
        gateway.stop().await;
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_nothing_wakes_nobody_and_uses_up_no_wake_of_others() {
    let plane = Plane::start().await;
    let instance = plane.asleep(Wanted::hello("members")).await;
    let files = Certificates::new(&["members.test"]);
    let keys = format!("admission = {{ rate_per_client = \"2/h\" }}\n{CERTIFICATE}");
    let extra = [route("members", &keys), files.asking("optional")];
    let gateway = Gateway::start(&plane, &extra.concat()).await;
    let at = gateway.addresses[1];
    let ask = async |shows: bool| {
        let client = files.client(at, "members.test", shows).build().unwrap();
        let url = format!("https://members.test:{}/", at.port());
        client.get(url).send().await.unwrap().status().as_u16()
    };
    for expected in [403, 403, 429, 429] {
        assert_eq!(ask(false).await, expected);
    }
    assert_eq!(plane.operations(&instance.id, "restore").await, 0);
    assert_eq!(ask(true).await, 200);
    gateway.stop().await;
    plane.stop().await;
}

//! A fleet as operators run it: etcd, a front and nodes as processes, and the commands of
//! `wakegate fleet`.
//!
//! Guarantees: what is proven goes through the programs and their files alone.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hypeman::wire::CreateIngress;
use serde_json::{Value, json};
use tokio::time::Instant;
use wakegate::fleet::engine::{Engine as _, Operation, read_all};
use wakegate::fleet::records::PREFIX;

use crate::support::browser::Browser;
use crate::support::etcd::{Etcd, has_etcd};
use crate::support::fleet::Authority;
use crate::support::member_process::MemberProcess;
use crate::support::reserved::Reserved;
use crate::support::{Plane, Wanted, eventually};

/// Within this a change is at a front, and a host that is away is told.
const SOON: Duration = Duration::from_secs(2);

/// One front and one node with its control plane.
struct World {
    etcd: Etcd,
    authority: Authority,
    plane: Plane,
    node: MemberProcess,
    front: MemberProcess,
}

// === impl World ===

impl World {
    /// Both serve; the front's file has more of `[fleet]`.
    async fn start(fleet: &str) -> Self {
        let (etcd, authority) = (Etcd::start(1).await, Authority::new());
        let plane = Plane::start().await;
        let endpoints = etcd.endpoints();
        let beside = (plane.address, &*plane.token);
        let mut node = MemberProcess::node(&authority, &endpoints, "h-1", beside, "", "");
        let mut front = MemberProcess::front(&authority, &endpoints, "f-1", fleet, "");
        node.start();
        front.start();
        node.is_ready().await;
        front.is_ready().await;
        Self {
            etcd,
            authority,
            plane,
            node,
            front,
        }
    }

    /// An instance that sleeps, of which the front knows that the node has it, and its route.
    async fn asleep(&self, name: &str) -> String {
        let instance = Box::pin(self.plane.asleep(Wanted::hello(name))).await;
        let put = format!("put --host {name}.test --instance {name}");
        self.front.fleet(&put).await.fine();
        let claimed = async || self.front.code(&format!("{name}.test")).await.0 == 200;
        eventually("the front knows who has it", claimed).await;
        self.plane.sleep(&instance.id).await;
        instance.id
    }

    async fn restores(&self, id: &str) -> usize {
        self.plane.operations(id, "restore").await
    }

    async fn stop(mut self) {
        self.front.kill();
        self.node.kill();
        self.plane.stop().await;
    }
}

/// How long it takes until it is so.
async fn took(what: &str, check: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    eventually(what, check).await;
    began.elapsed()
}

async fn soon(what: &str, check: impl AsyncFnMut() -> bool) {
    let took = took(what, check).await;
    assert!(took < SOON, "{what}: after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_an_operator_puts_wakes_its_instance_at_the_node_and_is_gone_when_it_is_removed()
 {
    if !has_etcd() {
        return;
    }
    let world = World::start("").await;
    let front = &world.front;
    let unknown = (404, "no_route".to_owned());
    assert_eq!(front.code("web.test").await, unknown);
    let wrong = front.fleet("put --host a..test --instance web").await;
    assert!(wrong.wrong().contains("a..test"));
    let wrong = front
        .fleet("put --host a.test --instance a --policy none")
        .await;
    assert!(wrong.wrong().contains("there is no policy `none`"));

    // A route whose instance nobody has.
    front
        .fleet("put --host web.test --instance web --port 8080")
        .await
        .fine();
    let nobody = (404, "instance_not_found".to_owned());
    soon("the route is at the front", async || {
        front.code("web.test").await == nobody
    })
    .await;
    let found = front.fleet("check").await.wrong();
    assert!(
        found.contains("`web.test/`: no host claims `web`"),
        "{found}"
    );

    let instance = world.plane.asleep(Wanted::hello("web")).await;
    let restored = world.restores(&instance.id).await;
    soon("the instance is known", async || {
        front.code("web.test").await.0 == 200
    })
    .await;
    assert_eq!(world.restores(&instance.id).await, restored + 1);
    assert_eq!(front.fleet("check").await.fine(), "");
    let answer = front.get("web.test").await;
    assert!(answer.text().await.unwrap().starts_with("hello from web"));
    assert_eq!(
        front
            .metric("wakegate_peer_requests_total{outcome=\"answered\"} ")
            .await,
        2.0
    );

    let routes: Value = serde_json::from_str(&front.fleet("routes --json").await.fine()).unwrap();
    assert_eq!(
        routes,
        json!([{"host": "web.test", "path": "/", "instance": "web", "port": 8080, "policy": null,
            "source": "op"}])
    );
    front.fleet("rm --host web.test").await.fine();
    soon("the route is gone", async || {
        front.code("web.test").await == unknown
    })
    .await;
    let again = front.fleet("rm --host web.test").await.wrong();
    assert!(again.contains("has no route `web.test/`"), "{again}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_publishes_and_serves_what_all_its_control_planes_have() {
    if !has_etcd() {
        return;
    }
    let (etcd, authority) = (Etcd::start(1).await, Authority::new());
    let (first, second) = (Plane::start().await, Plane::start().await);
    let more = second.declared_as("two", authority.dir.path());
    let (endpoints, beside) = (etcd.endpoints(), (first.address, &*first.token));
    let mut node = MemberProcess::node(&authority, &endpoints, "h-1", beside, "", &more);
    let mut front = MemberProcess::front(&authority, &endpoints, "f-1", "", "");
    node.start();
    front.start();
    node.is_ready().await;
    front.is_ready().await;
    let web = first.asleep(Wanted::hello("web")).await;
    let api = second.asleep(Wanted::hello("api")).await;
    // A name that the first has, too.
    let double = second.asleep(Wanted::hello("web")).await;
    let untouched = second.operations(&double.id, "restore").await;
    for name in ["web", "api"] {
        let put = format!("put --host {name}.test --instance {name}");
        front.fleet(&put).await.fine();
        let host = format!("{name}.test");
        eventually(&host, async || front.code(&host).await.0 == 200).await;
    }
    let engine = etcd.engine();
    let claim = async |name: &str| {
        let (all, _) = read_all(&engine, &format!("{PREFIX}i/h-1/{name}"))
            .await
            .unwrap();
        let value = all.first().map(|entry| entry.value.clone());
        serde_json::from_slice::<Value>(&value.unwrap_or_default()).unwrap_or_default()
    };
    assert_eq!(claim("web").await, json!({"id": web.id}));
    assert_eq!(claim("api").await, json!({"id": api.id, "hypeman": "two"}));
    assert_eq!(second.operations(&double.id, "restore").await, untouched);
    // One that is away loses nothing, and the other goes on.
    first.stop().await;
    let late = second.asleep(Wanted::hello("late")).await;
    eventually("it is published", async || {
        claim("late").await["id"] == late.id
    })
    .await;
    assert_eq!(claim("web").await, json!({"id": web.id}));
    front
        .fleet("put --host late.test --instance late")
        .await
        .fine();
    eventually("it is served", async || {
        front.code("late.test").await.0 == 200
    })
    .await;
    front.kill();
    node.kill();
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ingress_routes_of_one_host_for_different_ports_are_each_served_at_its_port() {
    if !has_etcd() {
        return;
    }
    let (etcd, authority) = (Etcd::start(1).await, Authority::new());
    let plane = Plane::start().await;
    let endpoints = etcd.endpoints();
    let third = Reserved::new();
    let more = format!("[[listener]]\naddress = \"127.0.0.1:{}\"\n", third.port());
    let mut front = MemberProcess::front(&authority, &endpoints, "f-1", "", &more);
    let second = Reserved::new();
    let more = format!("[[listener]]\naddress = \"127.0.0.1:{}\"\n", second.port());
    let mut other = MemberProcess::front(&authority, &endpoints, "f-2", "", &more);
    // The host's own ports are these fronts', at another address.
    let watch = "[ingress]\nwatch = true\ninterval = \"50ms\"\naddress = \"127.0.0.2\"\n";
    let beside = (plane.address, &*plane.token);
    let mut node = MemberProcess::node(&authority, &endpoints, "h-1", beside, "", watch);
    for (name, instance, port) in [
        ("a", "web", front.listen.port()),
        ("b", "admin", third.port()),
    ] {
        plane.asleep(Wanted::hello(instance)).await;
        let rules = json!([{"match": {"hostname": "shop.test", "port": port},
            "target": {"instance": instance, "port": 8080}}]);
        let resource = CreateIngress {
            name: name.to_owned(),
            rules: serde_json::from_value(rules).unwrap(),
            ..CreateIngress::default()
        };
        plane.client.create_ingress(&resource).await.unwrap();
    }
    for member in [&mut node, &mut front, &mut other] {
        member.start();
    }
    for member in [&mut node, &mut front, &mut other] {
        member.is_ready().await;
    }
    let said = async |address: SocketAddr| {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let asked = http.get(format!("http://{address}/"));
        let answer = asked.header("host", "shop.test").send().await;
        match answer {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    };
    let at = |ip: &str, port: u16| SocketAddr::new(ip.parse().unwrap(), port);
    // The lower port's is for every other port, too.
    let (low, high) = match front.listen.port() < third.port() {
        true => ("web", "admin"),
        false => ("admin", "web"),
    };
    let (lower, higher) = (
        front.listen.port().min(third.port()),
        front.listen.port().max(third.port()),
    );
    for (address, instance) in [
        (at("127.0.0.1", lower), low),
        (at("127.0.0.1", higher), high),
        (other.listen, low),
        (at("127.0.0.1", second.port()), low),
        // At the host itself, whose table has its directory's routes, too.
        (at("127.0.0.2", lower), low),
        (at("127.0.0.2", higher), high),
    ] {
        let expected = format!("hello from {instance}");
        eventually("its own instance answers", async || {
            said(address).await.starts_with(&expected)
        })
        .await;
    }
    let listed: Value = serde_json::from_str(&front.fleet("routes --json").await.fine()).unwrap();
    let route = |instance: &str| {
        json!({"host": "shop.test", "path": "/", "instance": instance, "port": 8080,
            "policy": null, "source": "h-1"})
    };
    let mut only = route(high);
    only["listen_port"] = json!(higher);
    assert_eq!(listed, json!([route(low), only]));
    let table = front.fleet("routes").await.fine();
    assert!(table.contains(&format!("shop.test:{higher}/")), "{table}");
    assert_eq!(front.fleet("check").await.fine(), "");
    let exported = front.fleet("export").await;
    assert!(
        exported.err.contains("left out: `shop.test:"),
        "{}",
        exported.err
    );
    assert_eq!(exported.fine().matches("[[route]]").count(), 1);
    for mut member in [node, front, other] {
        member.kill();
    }
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_and_the_command_say_the_same_of_members_and_of_routes_that_went_at_once() {
    if !has_etcd() {
        return;
    }
    let world = World::start("").await;
    let front = &world.front;
    let both = async || {
        let api = front.api().await;
        let said = front.fleet("status --json").await.fine();
        (api, serde_json::from_str::<Value>(&said).unwrap())
    };
    eventually("both are announced", async || {
        front.api().await["members"].as_array().unwrap().len() == 2
    })
    .await;
    let (api, said) = both().await;
    for status in [&api, &said] {
        assert!(status["revision"].as_i64().unwrap() > 1, "{status}");
        assert!(status["age_seconds"].as_f64().unwrap() < 10.0, "{status}");
        assert_eq!(
            (&status["claims"], &status["shrink"]),
            (&json!(0), &Value::Null)
        );
        let members = status["members"].as_array().unwrap();
        for (member, (name, role)) in members.iter().zip([("f-1", "front"), ("h-1", "node")]) {
            let of = |key: &str| member[key].clone();
            assert_eq!(
                [
                    of("name"),
                    of("role"),
                    of("zone"),
                    of("alive"),
                    of("draining")
                ],
                [
                    json!(name),
                    json!(role),
                    json!("z-1"),
                    json!(true),
                    json!(false)
                ]
            );
        }
    }
    let shown = front.fleet("status").await.fine();
    assert!(
        shown.contains("NAME") && shown.contains("h-1") && shown.contains("alive"),
        "{shown}"
    );

    // Routes of a file, two of which say something more, and alike.
    let routes = (0..40).map(|index| {
        let more = match index {
            0 | 1 => "response_headers.set = [\"x-a: b\"]\n",
            _ => "",
        };
        format!("[[route]]\nhost = \"a{index}.test\"\ninstance = \"i{index}\"\n{more}")
    });
    let file: String = routes.collect();
    let path = front.file("routes.toml");
    std::fs::write(&path, &file).unwrap();
    let imported = front.fleet(&format!("import {}", path.display())).await;
    let told = imported.err.clone();
    imported.fine();
    assert!(told.contains("40 routes and 1 policies"), "{told}");
    let nobody = (404, "instance_not_found".to_owned());
    soon("they are at the front", async || {
        front.code("a39.test").await == nobody
    })
    .await;
    let exported: toml::Table = toml::from_str(&front.fleet("export").await.fine()).unwrap();
    let exported = exported["route"].as_array().unwrap();
    assert_eq!(exported.len(), 40);
    let set = exported
        .iter()
        .filter(|route| route.get("response_headers").is_some());
    assert_eq!(set.count(), 2);

    // And the page shows it.
    let browser = Browser::start(true).await;
    browser.open(&format!("http://{}/", front.admin)).await;
    let shown = async |id: &str| {
        let script = format!("return document.getElementById('{id}').innerText");
        browser.run(&script).await.as_str().unwrap().to_owned()
    };
    eventually("the members are on the page", async || {
        let (text, members) = (shown("fleet-text").await, shown("members").await);
        let said = text.contains("The directory answers.") && text.contains("40 routes, 0 names");
        said && members.contains("f-1") && members.contains(&world.node.members.to_string())
    })
    .await;

    // Somebody empties the directory.
    let engine = world.etcd.engine();
    let keys = (0..40).map(|index| Operation::Delete(format!("{PREFIX}r/op/a{index}.test")));
    engine.commit(Vec::new(), keys.collect()).await.unwrap();
    eventually("it is noticed", async || {
        !front.api().await["shrink"].is_null()
    })
    .await;
    let (api, said) = both().await;
    for status in [&api, &said] {
        assert_eq!(
            status["shrink"],
            json!({"routes": 40, "of": 40}),
            "{status}"
        );
    }
    eventually("it is on the page", async || {
        let told = "40 of 40 routes are gone from the directory and stay in force";
        shown("fleet-problems").await.contains(told)
    })
    .await;
    browser.end().await;
    assert_eq!(front.code("a39.test").await, nobody);
    front.fleet("accept").await.fine();
    let unknown = (404, "no_route".to_owned());
    soon("they are gone", async || {
        front.code("a39.test").await == unknown
    })
    .await;
    assert_eq!(front.api().await["shrink"], Value::Null);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_is_unreachable_soon_and_its_instances_move_to_another() {
    if !has_etcd() {
        return;
    }
    let mut world = World::start("").await;
    world.asleep("web").await;
    let front = &world.front;
    // The same name at a second host: the older claim has it.
    let plane = Plane::start().await;
    let other = plane.asleep(Wanted::hello("web")).await;
    let beside = (plane.address, &*plane.token);
    let endpoints = world.etcd.endpoints();
    let mut second = MemberProcess::node(&world.authority, &endpoints, "h-2", beside, "", "");
    second.serve().await;
    eventually("it is claimed twice", async || {
        front.api().await["claimed_twice"] == json!([{"name": "web", "hosts": ["h-1", "h-2"]}])
    })
    .await;
    assert_eq!(front.code("web.test").await.0, 200);
    assert_eq!(plane.operations(&other.id, "restore").await, 0);
    let found = front.fleet("check").await.wrong();
    assert!(found.contains("`web` is claimed by h-1, h-2"), "{found}");

    world.node.kill();
    let began = Instant::now();
    let answer = front.get("web.test").await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(
        answer.json::<Value>().await.unwrap()["code"],
        "host_unreachable"
    );

    let nobody = front.fleet("move other --to h-2").await.wrong();
    assert!(nobody.contains("no host claims `other`"), "{nobody}");
    let nowhere = front.fleet("move web --to h-3").await.wrong();
    assert!(nowhere.contains("no member `h-3` is alive"), "{nowhere}");
    front.fleet("move web --to h-2 --force").await.fine();
    soon("it is at the other host", async || {
        front.code("web.test").await.0 == 200
    })
    .await;
    assert_eq!(plane.operations(&other.id, "restore").await, 1);
    assert_eq!(front.fleet("check").await.fine(), "");

    // A host that comes back claims what it has, and the other has it now.
    world.node.serve().await;
    eventually("it claims it again", async || {
        front.api().await["claimed_twice"] == json!([{"name": "web", "hosts": ["h-2", "h-1"]}])
    })
    .await;
    second.kill();
    plane.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_etcd_everything_that_is_known_goes_on_also_at_a_front_that_starts() {
    if !has_etcd() {
        return;
    }
    let mut world = World::start("").await;
    let id = world.asleep("web").await;
    let restored = world.restores(&id).await;
    let snapshot = world.front.file("directory");
    eventually("a copy is in the file", async || {
        let text = std::fs::read_to_string(&snapshot).unwrap_or_default();
        text.contains("i/h-1/web") && text.contains("h/h-1")
    })
    .await;
    world.etcd.kill(0);
    assert_eq!(world.front.code("web.test").await.0, 200);
    assert_eq!(world.restores(&id).await, restored + 1);
    world.front.kill();
    world.front.serve().await;
    world.plane.sleep(&id).await;
    assert_eq!(world.front.code("web.test").await.0, 200);
    assert_eq!(world.restores(&id).await, restored + 2);
    for member in [&world.front, &world.node] {
        let ready = reqwest::get(format!("http://{}/readyz", member.admin)).await;
        assert_eq!(ready.unwrap().status(), 200);
    }
    assert_eq!(world.front.api().await["age_seconds"], Value::Null);
    let away = world
        .front
        .fleet("put --host b.test --instance web")
        .await
        .wrong();
    assert!(away.contains("does not answer"), "{away}");
    // One that has never known anything has nothing to serve by.
    let endpoints = world.etcd.endpoints();
    let mut fresh = MemberProcess::front(&world.authority, &endpoints, "f-2", "", "");
    fresh.start();
    eventually("it says that it is not ready", async || {
        let ready = reqwest::get(format!("http://{}/readyz", fresh.admin)).await;
        ready.is_ok_and(|answer| answer.status() == 503)
    })
    .await;
    world.etcd.run(0);
    fresh.is_ready().await;
    world
        .front
        .fleet("put --host b.test --instance web")
        .await
        .fine();
    soon("news come again", async || {
        world.front.code("b.test").await.0 == 200
    })
    .await;
    fresh.kill();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_drains_says_so_and_takes_its_record_along_when_it_ends() {
    if !has_etcd() {
        return;
    }
    let mut world = World::start("").await;
    world.asleep("web").await;
    let front = &world.front;
    // An answer that takes its time.
    let slow = front.request("GET", "web.test", "/slow?delay=3s").send();
    let slow = crate::support::spawn(slow);
    eventually("it is under way", async || {
        world.node.metric("wakegate_inflight_requests ").await > 0.0
    })
    .await;
    world.node.signal("TERM");
    let of_node = async || {
        let members = front.api().await["members"].as_array().unwrap().clone();
        members
            .into_iter()
            .find(|member| member["name"] == "h-1")
            .unwrap()
    };
    eventually("it says that it drains", async || {
        let member = of_node().await;
        member["draining"] == json!(true) && member["alive"] == json!(true)
    })
    .await;
    let refused = front.fleet("move web --to h-1").await.wrong();
    assert!(refused.contains("has it already"), "{refused}");
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    world.node.drain().await;
    soon("it is known to have ended", async || {
        of_node().await["alive"] == json!(false)
    })
    .await;
    // What it has stays its own, and it comes back as it was.
    assert_eq!(
        front.code("web.test").await,
        (503, "host_unreachable".to_owned())
    );
    world.node.serve().await;
    soon("it is back", async || {
        let member = of_node().await;
        member["draining"] == json!(false) && member["alive"] == json!(true)
    })
    .await;
    // A host that was away is looked at once a second.
    soon("it serves", async || front.code("web.test").await.0 == 200).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_secret_is_sealed_in_etcd_and_another_key_takes_over_without_a_restart() {
    if !has_etcd() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("keys");
    let [old, new] = [1_u8, 2].map(|byte| BASE64_STANDARD.encode([byte; 32]));
    std::fs::write(&path, &old).unwrap();
    let world = World::start(&format!("key_file = \"{}\"", path.display())).await;
    let front = &world.front;
    let instance = world.plane.asleep(Wanted::hello("web")).await;
    let secret = "hunter2-0123456789-0123456789-0123456789";
    let file = front.file("routes.toml");
    let text = format!(
        "[[route]]\nhost = \"web.test\"\ninstance = \"web\"\n\
         auth = {{ header = \"x-key\", value = \"{secret}\" }}\n"
    );
    std::fs::write(&file, text).unwrap();
    front
        .fleet(&format!("import {}", file.display()))
        .await
        .fine();
    let engine = world.etcd.engine();
    let policies = async || {
        let (entries, _) = read_all(&engine, &format!("{PREFIX}p/")).await.unwrap();
        let values = entries
            .into_iter()
            .map(|entry| String::from_utf8(entry.value).unwrap());
        values.collect::<Vec<String>>()
    };
    let sealed = policies().await;
    assert!(
        sealed.len() == 1 && !sealed[0].contains("hunter2"),
        "{sealed:?}"
    );
    let is_served = async || {
        let asked = front
            .request("GET", "web.test", "/")
            .header("x-key", secret);
        asked.send().await.unwrap().status() == 200
    };
    soon("who knows the secret is let in", is_served).await;
    assert_eq!(front.get("web.test").await.status(), 403);
    assert!(front.fleet("export").await.fine().contains(secret));

    // A new key before the old one; then the old one goes.
    std::fs::write(&path, format!("{new}\n{old}\n")).unwrap();
    let found = front.fleet("check").await.wrong();
    assert!(
        found.contains("is not sealed with the first key"),
        "{found}"
    );
    front.fleet("seal").await.fine();
    assert_ne!(policies().await, sealed);
    std::fs::write(&path, &new).unwrap();
    assert_eq!(front.fleet("check").await.fine(), "");
    assert!(is_served().await);
    let snapshot = front.file("directory");
    eventually("the front has opened what is sealed anew", async || {
        let problems = front.api().await["problems"].clone();
        let text = std::fs::read_to_string(&snapshot).unwrap_or_default();
        problems == json!({}) && text.contains("p/import-") && !text.contains("hunter2")
    })
    .await;
    // A wrong key is told without a secret.
    std::fs::write(&path, BASE64_STANDARD.encode([3; 32])).unwrap();
    let found = front.fleet("check").await.wrong();
    assert!(
        found.contains("which is not in `fleet.key_file`"),
        "{found}"
    );
    for told in [found, front.said(), front.api().await.to_string()] {
        let secrets = [&old, &new, secret];
        assert!(
            !secrets.iter().any(|secret| told.contains(*secret)),
            "{told}"
        );
    }
    assert!(is_served().await, "what is in force stays in force");
    assert!(world.restores(&instance.id).await > 0);
    world.stop().await;
}

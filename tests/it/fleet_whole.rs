//! A whole fleet: three members of etcd, three fronts, four hosts with a node each, and clients that count
//! what they sent and what came of it. Everything that can be killed is killed meanwhile.
//!
//! Guarantees: what an instance has counted is held against what clients know; nothing is asked twice by
//! the clients themselves. Fronts reach nodes through relays, which can be cut.
//!
//! Minutes long, so it is not among the usual tests: `make fleet`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::support::etcd::{Etcd, has_etcd};
use crate::support::fleet::Authority;
use crate::support::member_process::MemberProcess;
use crate::support::relay::Relay;
use crate::support::{Plane, Wanted, eventually, reference, spawn};

const HOSTS: usize = 4;
const FRONTS: usize = 3;
const INSTANCES: usize = 40;
/// How many wakes there are without etcd, and for how long it is away.
const WAKES: usize = 1_000;
const AWAY: Duration = Duration::from_secs(60);
/// Within this a host that is away is told, and a change is at a front.
const SOON: Duration = Duration::from_secs(2);

/// A host: a control plane, its node, and the way to that.
struct Host {
    plane: Plane,
    node: MemberProcess,
    relay: Relay,
}

struct Fleet {
    etcd: Etcd,
    hosts: Vec<Host>,
    fronts: Vec<MemberProcess>,
    /// Ids by the hosts' numbers and the instances' names.
    instances: Vec<(usize, String, String)>,
    _authority: Authority,
}

/// Where clients send their requests.
#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    fronts: Vec<std::net::SocketAddr>,
}

/// What clients know of their POSTs, by the POSTs' ids: the status, or 0 for none.
type Sent = Arc<Mutex<BTreeMap<String, u16>>>;

/// Clients that send until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    sent: Sent,
}

// === impl Client ===

impl Client {
    async fn send(&self, front: usize, method: &str, name: &str, path: &str) -> u16 {
        let url = format!("http://{}{path}", self.fronts[front % self.fronts.len()]);
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, url);
        let sent = request.header("host", format!("{name}.test")).send().await;
        match sent {
            Ok(answer) => {
                let status = answer.status().as_u16();
                // An answer without its end is none.
                answer.bytes().await.map_or(0, |_| status)
            }
            Err(_) => 0,
        }
    }

    /// Posts to random instances by way of random fronts.
    fn post(&self, names: &[String], clients: usize, what: &'static str) -> Load {
        let (stop, sent, next) = (
            Arc::new(AtomicBool::new(false)),
            Sent::default(),
            Arc::new(AtomicU64::new(0)),
        );
        let tasks = (0..clients).map(|_| {
            let (client, names) = (self.clone(), names.to_vec());
            let (stop, sent, next) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&next));
            spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("{what}-{}", next.fetch_add(1, Ordering::Relaxed));
                    let name = &names[fastrand::usize(..names.len())];
                    let path = format!("/deliver?id={id}&delay=5ms");
                    let front = fastrand::usize(..client.fronts.len());
                    let status = client.send(front, "POST", name, &path).await;
                    sent.lock().await.insert(id, status);
                }
            })
        });
        let tasks = tasks.collect();
        Load { stop, tasks, sent }
    }
}

// === impl Load ===

impl Load {
    /// What was sent so far.
    async fn count(&self) -> usize {
        self.sent.lock().await.len()
    }

    /// Waits until more are sent.
    async fn goes_on(&self, more: usize) {
        let goal = self.count().await + more;
        eventually("clients go on", async || self.count().await >= goal).await;
    }

    async fn end(self) -> BTreeMap<String, u16> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::into_inner(self.sent).unwrap().into_inner()
    }
}

// === impl Fleet ===

impl Fleet {
    async fn start() -> Self {
        let (etcd, authority) = (Etcd::start(3).await, Authority::new());
        let endpoints = etcd.endpoints();
        let mut hosts = Vec::new();
        for index in 0..HOSTS {
            let plane = Plane::start().await;
            let beside = (plane.address, &*plane.token);
            let name = format!("h-{index}");
            let mut node = MemberProcess::node(&authority, &endpoints, &name, beside, "", "");
            let relay = Relay::to(node.members).await;
            let text = std::fs::read_to_string(&node.path).unwrap();
            let text = text.replace(
                "\nlisten =",
                &format!("\nadvertise = \"{}\"\nlisten =", relay.address),
            );
            std::fs::write(&node.path, text).unwrap();
            node.start();
            hosts.push(Host { plane, node, relay });
        }
        let mut fronts = Vec::new();
        for index in 0..FRONTS {
            let name = format!("f-{index}");
            let mut front = MemberProcess::front(&authority, &endpoints, &name, "", "");
            front.start();
            fronts.push(front);
        }
        for member in hosts
            .iter_mut()
            .map(|host| &mut host.node)
            .chain(&mut fronts)
        {
            member.is_ready().await;
        }
        let put = "put --host {name}.test --instance {name}";
        fronts[0].fleet(put).await.fine();
        let mut fleet = Self {
            etcd,
            hosts,
            fronts,
            instances: Vec::new(),
            _authority: authority,
        };
        for index in 0..INSTANCES {
            let (host, name) = (index % HOSTS, format!("app-{index}"));
            let instance = fleet.hosts[host]
                .plane
                .listening(Wanted::hello(&name))
                .await;
            fleet.instances.push((host, name, instance.id));
        }
        fleet.all_answer().await;
        fleet
    }

    fn client(&self) -> Client {
        let http = reqwest::Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(30))
            .build();
        Client {
            http: http.unwrap(),
            fronts: self.fronts.iter().map(|front| front.listen).collect(),
        }
    }

    fn names(&self) -> Vec<String> {
        self.instances
            .iter()
            .map(|(_, name, _)| name.clone())
            .collect()
    }

    /// Every front reaches every instance.
    async fn all_answer(&self) {
        let client = self.client();
        for front in 0..FRONTS {
            for (_, name, _) in &self.instances {
                eventually(name, async || {
                    client.send(front, "GET", name, "/").await == 200
                })
                .await;
            }
        }
    }

    async fn restores(&self, (host, _, id): &(usize, String, String)) -> usize {
        self.hosts[*host].plane.operations(id, "restore").await
    }

    /// What instances of this name have counted, at whichever host.
    async fn deliveries(&self, name: &str) -> BTreeMap<String, u64> {
        let url = format!("http://{}/deliveries", self.fronts[0].listen);
        let asked = reqwest::Client::new()
            .get(url)
            .header("host", format!("{name}.test"));
        asked.send().await.unwrap().json().await.unwrap()
    }

    /// Holds what instances counted against what clients know.
    async fn judge(&self, what: &str, sent: &BTreeMap<String, u16>) {
        let mut arrived: BTreeMap<String, u64> = BTreeMap::new();
        for (_, name, _) in &self.instances {
            for (id, count) in self.deliveries(name).await {
                *arrived.entry(id).or_default() += count;
            }
        }
        let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
        for (id, status) in sent {
            let count = arrived.get(id).copied().unwrap_or(0);
            assert!(count <= 1, "{what}: {id} arrived {count} times ({status})");
            assert!(
                *status != 200 || count == 1,
                "{what}: {id} is answered and never arrived"
            );
            let is_refused = matches!(status, 404 | 421);
            assert!(!is_refused, "{what}: {id}: {status}");
            *statuses.entry(*status).or_default() += 1;
        }
        println!("{what}: {} POSTs, by status: {statuses:?}", sent.len());
        assert!(statuses.get(&200).copied().unwrap_or(0) > sent.len() / 2);
    }
}

async fn one_wake_from_three_fronts_is_one_restore(fleet: &Fleet) {
    let (client, mut count) = (fleet.client(), 0);
    for instance in &fleet.instances {
        let (host, name, id) = instance;
        fleet.hosts[*host].plane.sleep(id).await;
        let before = fleet.restores(instance).await;
        let asked = (0..2 * FRONTS).map(|front| client.send(front, "GET", name, "/"));
        let statuses = join_all(asked).await;
        assert!(
            statuses.iter().all(|status| *status == 200),
            "{name}: {statuses:?}"
        );
        assert_eq!(fleet.restores(instance).await, before + 1, "{name}");
        count += 1;
    }
    println!("one wake from three fronts: {count} wakes, {count} restores");
}

async fn no_post_arrives_twice_while_everything_is_killed(fleet: &mut Fleet) {
    let load = fleet.client().post(&fleet.names(), 12, "killed");
    load.goes_on(200).await;
    for round in 0..2 {
        let front = &mut fleet.fronts[round + 1];
        front.kill();
        load.goes_on(60).await;
        front.serve().await;
        let node = &mut fleet.hosts[round].node;
        node.kill();
        load.goes_on(60).await;
        node.serve().await;
        load.goes_on(60).await;
        let leader = fleet.etcd.leader().await;
        fleet.etcd.kill(leader);
        load.goes_on(200).await;
        fleet.etcd.run(leader);
    }
    let sent = load.end().await;
    fleet.all_answer().await;
    fleet
        .judge("a front, a node and etcd's leader killed", &sent)
        .await;
}

async fn without_etcd_a_thousand_wakes_go_well(fleet: &mut Fleet) {
    for member in 0..3 {
        fleet.etcd.kill(member);
    }
    let (end, client) = (Instant::now() + AWAY, fleet.client());
    let mut failed = Vec::new();
    let rounds = WAKES / INSTANCES;
    for round in 0..rounds {
        if round == rounds / 2 {
            // A front that starts without etcd serves by its last copy.
            fleet.fronts[0].kill();
            fleet.fronts[0].serve().await;
        }
        for some in fleet.instances.chunks(HOSTS) {
            let woken = some.iter().map(async |(host, name, id)| {
                fleet.hosts[*host].plane.sleep(id).await;
                let front = fastrand::usize(..FRONTS);
                (name, front, client.send(front, "GET", name, "/").await)
            });
            let woken = join_all(woken).await;
            failed.extend(woken.into_iter().filter(|(_, _, status)| *status != 200));
        }
    }
    println!("without etcd: {WAKES} wakes, {} failures", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    sleep_until(end).await;
    for (_, name, _) in &fleet.instances {
        for front in 0..FRONTS {
            assert_eq!(client.send(front, "GET", name, "/").await, 200, "{name}");
        }
    }
    for member in 0..3 {
        fleet.etcd.run(member);
    }
    let put = "put --host again.test --instance app-0";
    eventually("etcd is back", async || {
        fleet.fronts[0].fleet(put).await.is_fine
    })
    .await;
    for front in 0..FRONTS {
        eventually("news come again", async || {
            client.send(front, "GET", "again", "/").await == 200
        })
        .await;
    }
}

/// What an instance has counted, asked at the instance itself.
async fn counted(ip: &str) -> BTreeMap<String, u64> {
    let answer = reqwest::get(format!("http://{ip}:8080/deliveries")).await;
    answer.unwrap().json().await.unwrap()
}

async fn a_name_that_two_hosts_claim_is_at_one_and_moves_under_load(fleet: &Fleet) {
    let (old, new) = (&fleet.hosts[0], &fleet.hosts[1]);
    let client = fleet.client();
    let ip = |instance: &hypeman::wire::Instance| instance.network.clone().unwrap().ip.unwrap();
    let first = old.plane.listening(Wanted::hello("moving")).await;
    for front in 0..FRONTS {
        eventually("it is known", async || {
            client.send(front, "GET", "moving", "/").await == 200
        })
        .await;
    }
    let second = new.plane.listening(Wanted::hello("moving")).await;
    let hosts = serde_json::json!([{"name": "moving", "hosts": ["h-0", "h-1"]}]);
    for front in &fleet.fronts {
        eventually("two claim it", async || {
            front.api().await["claimed_twice"] == hosts
        })
        .await;
    }
    let load = client.post(&["moving".to_owned()], 6, "moved");
    load.goes_on(150).await;
    assert_eq!(
        counted(&ip(&second)).await.len(),
        0,
        "the older claim has it"
    );
    fleet.fronts[0].fleet("move moving --to h-1").await.fine();
    eventually("it is at the other host", async || {
        !counted(&ip(&second)).await.is_empty()
    })
    .await;
    load.goes_on(50).await;
    // What the old instance has counted is asked before it goes, and it gets nothing any more.
    let mut arrived = counted(&ip(&first)).await;
    old.plane
        .client
        .delete_instance(&reference(&first.id))
        .await
        .unwrap();
    load.goes_on(150).await;
    let sent = load.end().await;
    for (id, count) in counted(&ip(&second)).await {
        *arrived.entry(id).or_default() += count;
    }
    for (id, status) in &sent {
        assert_eq!((*status, arrived.get(id)), (200, Some(&1)), "{id}");
    }
    println!(
        "a move under load: {} POSTs, each answered and arrived once",
        sent.len()
    );
}

async fn a_front_that_does_not_reach_a_host_says_so_and_others_go_on(fleet: &Fleet) {
    let (client, host) = (fleet.client(), &fleet.hosts[0]);
    let (_, name, _) = fleet
        .instances
        .iter()
        .find(|(host, _, _)| *host == 0)
        .unwrap();
    host.relay.cut([fleet.fronts[1].pid().unwrap()]);
    // The connection that there was finds out; from then on it is told at once.
    let began = Instant::now();
    let first = client.send(1, "POST", name, "/deliver?id=cut").await;
    assert!(matches!(first, 502 | 503), "{first}");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    eventually("it is told soon", async || {
        let began = Instant::now();
        let status = client.send(1, "GET", name, "/").await;
        status == 503 && began.elapsed() < SOON
    })
    .await;
    for front in [0, 2] {
        assert_eq!(client.send(front, "GET", name, "/").await, 200);
    }
    let (_, elsewhere, _) = fleet
        .instances
        .iter()
        .find(|(host, _, _)| *host == 1)
        .unwrap();
    assert_eq!(
        client.send(1, "GET", elsewhere, "/").await,
        200,
        "another host"
    );
    host.relay.cut([]);
    eventually("it is whole again", async || {
        client.send(1, "GET", name, "/").await == 200
    })
    .await;
    let count = fleet
        .deliveries(name)
        .await
        .get("cut")
        .copied()
        .unwrap_or(0);
    assert!(count <= 1, "{count}");
    println!("a partition between a front and a host: {first}, then 503 within {SOON:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: `make fleet`"]
async fn a_fleet_goes_on_while_its_parts_are_killed_and_cut_off() {
    if !has_etcd() {
        return;
    }
    let began = Instant::now();
    let mut fleet = Fleet::start().await;
    println!(
        "3 etcd, {FRONTS} fronts, {HOSTS} hosts, {INSTANCES} instances after {:?}",
        began.elapsed()
    );
    one_wake_from_three_fronts_is_one_restore(&fleet).await;
    a_name_that_two_hosts_claim_is_at_one_and_moves_under_load(&fleet).await;
    a_front_that_does_not_reach_a_host_says_so_and_others_go_on(&fleet).await;
    no_post_arrives_twice_while_everything_is_killed(&mut fleet).await;
    without_etcd_a_thousand_wakes_go_well(&mut fleet).await;
    for member in &mut fleet.fronts {
        member.kill();
    }
    for mut host in fleet.hosts {
        host.node.kill();
        host.plane.stop().await;
    }
    println!("all of it: {:?}", began.elapsed());
}

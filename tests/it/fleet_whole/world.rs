//! The fleet that is judged, and its clients.
//!
//! Guarantees: each host, front and member of etcd is at a machine of its own, where namespaces can be had;
//! clients ask nothing twice, and know what they sent and what came of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hypeman::wire::Instance;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::support::etcd::Etcd;
use crate::support::fleet::Authority;
use crate::support::machines::{Machine, Network};
use crate::support::member_process::MemberProcess;
use crate::support::relay::Relay;
use crate::support::{Plane, Wanted, eventually, reference, spawn};

pub const HOSTS: usize = 4;
pub const FRONTS: usize = 3;
pub const INSTANCES: usize = 40;
const ETCD: usize = 3;

/// A host: a control plane and its node.
pub struct Host {
    plane: Arc<Plane>,
    pub node: MemberProcess,
    /// The way to the node that fronts take where there is no network that can be cut.
    relay: Option<Relay>,
}

/// An instance that is there from the beginning.
pub struct Had {
    pub host: usize,
    pub name: String,
    pub id: String,
}

pub struct Fleet {
    pub etcd: Etcd,
    pub hosts: Vec<Host>,
    pub fronts: Vec<MemberProcess>,
    pub instances: Vec<Had>,
    _authority: Authority,
    /// The last to go.
    pub network: Option<Network>,
}

/// Where clients send their requests.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    fronts: Vec<SocketAddr>,
}

/// What clients know of their POSTs, by the POSTs' ids: the status, or 0 for none.
type Sent = Arc<Mutex<BTreeMap<String, u16>>>;

/// Clients that send until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    sent: Sent,
}

fn http() -> reqwest::Client {
    let http = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(60));
    http.build().unwrap()
}

// === impl Client ===

impl Client {
    pub async fn send(&self, front: usize, method: &str, name: &str, path: &str) -> u16 {
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

    pub async fn get(&self, front: usize, name: &str) -> u16 {
        self.send(front, "GET", name, "/").await
    }

    /// Posts to random instances by way of random fronts.
    pub fn post(&self, names: &[String], clients: usize, what: &'static str) -> Load {
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
    pub async fn goes_on(&self, more: usize) {
        let goal = self.count().await + more;
        eventually("clients go on", async || self.count().await >= goal).await;
    }

    pub async fn end(self) -> BTreeMap<String, u16> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        Arc::into_inner(self.sent).unwrap().into_inner()
    }
}

// === impl Host ===

impl Host {
    /// Does something with its control plane, at its machine.
    async fn with<F, W>(&self, what: W) -> F::Output
    where
        W: FnOnce(Arc<Plane>) -> F + Send + 'static,
        F: Future<Output: Send + 'static>,
    {
        let plane = Arc::clone(&self.plane);
        self.node.machine.run(move || what(plane)).await
    }

    /// A new instance that serves.
    pub async fn listening(&self, name: &str) -> Instance {
        let wanted = Wanted::hello(name);
        self.with(async move |plane: Arc<Plane>| plane.listening(wanted).await)
            .await
    }

    pub async fn sleep(&self, id: &str) {
        let id = id.to_owned();
        self.with(async move |plane: Arc<Plane>| plane.sleep(&id).await)
            .await;
    }

    pub async fn delete(&self, id: &str) {
        let id = reference(id);
        let gone = async move |plane: Arc<Plane>| plane.client.delete_instance(&id).await;
        self.with(gone).await.unwrap();
    }

    pub async fn restores(&self, id: &str) -> usize {
        self.plane.operations(id, "restore").await
    }

    /// What one of its instances has counted, asked at the instance itself.
    pub async fn counted(&self, instance: &Instance) -> BTreeMap<String, u64> {
        let ip = instance.network.clone().unwrap().ip.unwrap();
        self.with(async move |_| {
            let url = format!("http://{ip}:8080/deliveries");
            let answer = http().get(url).send().await.unwrap();
            answer.json().await.unwrap()
        })
        .await
    }
}

// === impl Fleet ===

impl Fleet {
    pub async fn start() -> Self {
        let (mut network, authority) = (Network::new(), Authority::new());
        let mut machine = |name: String| match &mut network {
            Some(network) => network.machine(&name),
            None => Machine::here(),
        };
        let places = (0..ETCD).map(|index| machine(format!("etcd{index}")));
        let etcd = Etcd::start_at(places.collect()).await;
        let endpoints = etcd.endpoints();
        let mut hosts = Vec::new();
        for index in 0..HOSTS {
            let (name, place) = (format!("h-{index}"), machine(format!("host{index}")));
            let plane = place.run(Plane::start).await;
            let beside = (plane.address, &*plane.token);
            let node =
                MemberProcess::node_at(&place, &authority, &endpoints, &name, beside, "", "");
            hosts.push(Host {
                plane: Arc::new(plane),
                node,
                relay: None,
            });
        }
        let mut fronts = Vec::new();
        for index in 0..FRONTS {
            let (name, place) = (format!("f-{index}"), machine(format!("front{index}")));
            let front = MemberProcess::front_at(&place, &authority, &endpoints, &name, "", "");
            fronts.push(front);
        }
        let mut fleet = Self {
            etcd,
            hosts,
            fronts,
            instances: Vec::new(),
            _authority: authority,
            network,
        };
        if fleet.network.is_none() {
            fleet.relay().await;
        }
        let nodes = fleet.hosts.iter_mut().map(|host| &mut host.node);
        for member in nodes.chain(&mut fleet.fronts) {
            member.start();
        }
        let nodes = fleet.hosts.iter_mut().map(|host| &mut host.node);
        for member in nodes.chain(&mut fleet.fronts) {
            member.is_ready().await;
        }
        let put = "put --host {name}.test --instance {name}";
        fleet.fronts[0].fleet(put).await.fine();
        for index in 0..INSTANCES {
            let (host, name) = (index % HOSTS, format!("app-{index}"));
            let id = fleet.hosts[host].listening(&name).await.id;
            fleet.instances.push(Had { host, name, id });
        }
        fleet.all_answer().await;
        fleet
    }

    /// Fronts reach nodes through relays, which can be cut.
    async fn relay(&mut self) {
        for host in &mut self.hosts {
            let relay = Relay::to(host.node.members).await;
            let text = std::fs::read_to_string(&host.node.path).unwrap();
            let advertised = format!("\nadvertise = \"{}\"\nlisten =", relay.address);
            let text = text.replace("\nlisten =", &advertised);
            std::fs::write(&host.node.path, text).unwrap();
            host.relay = Some(relay);
        }
    }

    pub fn client(&self) -> Client {
        Client {
            http: http(),
            fronts: self.fronts.iter().map(|front| front.listen).collect(),
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.instances.iter().map(|had| had.name.clone()).collect()
    }

    /// An instance of a host.
    pub fn one_of(&self, host: usize) -> &Had {
        self.instances.iter().find(|had| had.host == host).unwrap()
    }

    /// Every front reaches every instance.
    pub async fn all_answer(&self) {
        let client = self.client();
        for front in 0..FRONTS {
            for Had { name, .. } in &self.instances {
                eventually(name, async || client.get(front, name).await == 200).await;
            }
        }
    }

    pub async fn sleep(&self, had: &Had) {
        self.hosts[had.host].sleep(&had.id).await;
    }

    pub async fn restores(&self, had: &Had) -> usize {
        self.hosts[had.host].restores(&had.id).await
    }

    /// A front and a host do not reach each other any more, or do again.
    pub fn cut(&self, front: usize, host: usize, is_cut: bool) {
        let (front, host) = (&self.fronts[front], &self.hosts[host]);
        match &self.network {
            Some(_) => Network::cut(&front.machine, &host.node.machine, is_cut),
            None => {
                let pids = front.pid().filter(|_| is_cut);
                host.relay.as_ref().unwrap().cut(pids);
            }
        }
    }

    /// What instances of this name have counted, at the host that has it.
    pub async fn deliveries(&self, name: &str) -> BTreeMap<String, u64> {
        let url = format!("http://{}/deliveries", self.fronts[0].listen);
        let asked = http().get(url).header("host", format!("{name}.test"));
        asked.send().await.unwrap().json().await.unwrap()
    }

    /// Holds what instances counted against what clients know.
    pub async fn judge(&self, what: &str, sent: &BTreeMap<String, u16>) {
        let mut arrived: BTreeMap<String, u64> = BTreeMap::new();
        for Had { name, .. } in &self.instances {
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

    /// Everything ends.
    pub async fn stop(mut self) {
        for front in &mut self.fronts {
            front.kill();
        }
        for mut host in self.hosts {
            host.node.kill();
            let machine = Arc::clone(&host.node.machine);
            machine
                .run(async move || Arc::into_inner(host.plane).unwrap().stop().await)
                .await;
        }
    }
}

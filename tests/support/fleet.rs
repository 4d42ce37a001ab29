//! A fleet of gateways in one process: a CA, a directory in memory, members.
//!
//! Guarantees: the directory says what the test has put there, and what it says after it was read anew
//! is another matter, so that a test can make it stale.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, string::Ia5String,
};
use tokio::sync::oneshot;
use wakegate::app::{App, Membership};
use wakegate::config::Config;
use wakegate::fleet::{Claim, IdentityFiles, Member, PeerIdentity, Place, Placement, Role};
use wakegate::listener::Inherited;
use wakegate::telemetry::AccessSink;

use super::{Gateway, Plane, config, spawn};

pub const CELL: &str = "test-1";

/// A CA of members.
pub struct Authority {
    pub dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

// === impl Authority ===

impl Authority {
    pub fn new() -> Self {
        let (dir, key) = (tempfile::tempdir().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "fleet");
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { dir, issuer }
    }

    /// Issues a certificate with this URI, as the files of a member.
    pub fn issue(&self, file: &str, uri: &str) -> IdentityFiles {
        let (mut params, key) = (
            CertificateParams::new(Vec::new()).unwrap(),
            KeyPair::generate().unwrap(),
        );
        let uri = Ia5String::try_from(uri.to_owned()).unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| -> PathBuf { self.dir.path().join(format!("{file}.{end}")) };
        std::fs::write(path("crt"), leaf.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        IdentityFiles {
            cert: path("crt"),
            key: path("key"),
            ca: self.dir.path().join("ca.pem"),
        }
    }

    /// The identity of a member of the cell.
    pub fn identity(&self, role: &str, name: &str) -> Arc<PeerIdentity> {
        let files = self.issue(name, &format!("wakegate://{CELL}/{role}/{name}"));
        PeerIdentity::load(files, CELL).unwrap()
    }
}

/// A directory in memory.
#[derive(Default)]
pub struct Directory {
    now: Mutex<BTreeMap<String, Place>>,
    /// What it says of a name once it was read anew.
    truth: Mutex<BTreeMap<String, Place>>,
    members: Mutex<BTreeMap<String, Arc<Member>>>,
    pub reads: AtomicUsize,
}

// === impl Directory ===

impl Directory {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The directory says so from now on, whoever reads it.
    pub fn put(&self, name: &str, place: Place) {
        self.put_stale(name, place.clone());
        self.truth.lock().unwrap().insert(name.to_owned(), place);
    }

    /// It says so until it is read anew.
    pub fn put_stale(&self, name: &str, place: Place) {
        self.now.lock().unwrap().insert(name.to_owned(), place);
    }

    /// It says so once it was read anew.
    pub fn truth(&self, name: &str, place: Place) {
        self.truth.lock().unwrap().insert(name.to_owned(), place);
    }

    pub fn know(&self, member: &Arc<Member>) {
        let mut members = self.members.lock().unwrap();
        members.insert(member.name.clone(), Arc::clone(member));
    }
}

impl Placement for Directory {
    fn place(&self, name: &str) -> Place {
        let now = self.now.lock().unwrap();
        now.get(name).cloned().unwrap_or(Place::Unclaimed)
    }

    fn read_again<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Place> {
        Box::pin(async move {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let truth = self.truth.lock().unwrap().get(name).cloned();
            let truth = truth.unwrap_or(Place::Unclaimed);
            self.put_stale(name, truth.clone());
            truth
        })
    }

    fn member(&self, name: &str) -> Option<Arc<Member>> {
        self.members.lock().unwrap().get(name).cloned()
    }

    fn revision(&self) -> i64 {
        7
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").finish_non_exhaustive()
    }
}

/// A member's record.
pub fn member(name: &str, role: Role, address: SocketAddr) -> Arc<Member> {
    Arc::new(Member {
        name: name.to_owned(),
        role,
        endpoints: vec![address.to_string()],
        zone: None,
        spki: None,
        alive: true,
        draining: false,
    })
}

/// Where an instance is, by a member's claim.
pub fn at(host: &Arc<Member>, id: &str) -> Place {
    Place::Peer {
        host: Arc::clone(host),
        claim: Claim {
            id: id.to_owned(),
            generation: 3,
            plane: None,
        },
    }
}

/// The same, of one of the host's control planes.
pub fn of_plane(host: &Arc<Member>, id: &str, plane: &str) -> Place {
    Place::Peer {
        host: Arc::clone(host),
        claim: Claim {
            id: id.to_owned(),
            generation: 3,
            plane: Some(plane.into()),
        },
    }
}

/// A gateway that is a member.
pub struct Node {
    pub gateway: Gateway,
    pub member: Arc<Member>,
}

impl Gateway {
    /// A member of a fleet; returns where it listens for others, if it does.
    pub async fn start_member(
        config: Config,
        membership: Membership,
        access: AccessSink,
    ) -> (Self, Option<SocketAddr>) {
        let mut app = App::bind(config, access).await.unwrap();
        let at = app.join(membership, &mut Inherited::default()).unwrap();
        let (addresses, admin, handle) = (app.addresses(), app.admin_address(), app.handle());
        let door = app.door_address();
        let (stop, stopped) = oneshot::channel();
        let task = spawn(async move { app.run(async { drop(stopped.await) }).await });
        let gateway = Self {
            address: addresses[0],
            addresses,
            admin,
            door,
            handle,
            stop: Some(stop),
            task,
        };
        (gateway, at)
    }

    /// A front; `extra` is more TOML.
    pub async fn front(
        identity: Arc<PeerIdentity>,
        directory: &Arc<Directory>,
        extra: &str,
    ) -> Self {
        Self::front_with(identity, directory, extra, AccessSink::off()).await
    }

    pub async fn front_with(
        identity: Arc<PeerIdentity>,
        directory: &Arc<Directory>,
        extra: &str,
        access: AccessSink,
    ) -> Self {
        let membership = Membership {
            placement: Arc::clone(directory) as _,
            identity: Some(identity),
            listen: None,
            is_node: false,
        };
        // Nobody is there.
        let nowhere = ([127, 0, 0, 1], 1).into();
        let config = config(nowhere, "x", extra);
        Self::start_member(config, membership, access).await.0
    }
}

impl Node {
    pub async fn start(plane: &Plane, identity: Arc<PeerIdentity>, extra: &str) -> Self {
        let directory = Directory::new();
        Self::start_at(
            plane,
            identity,
            &directory,
            ([127, 0, 0, 1], 0).into(),
            extra,
        )
        .await
    }

    pub async fn start_at(
        plane: &Plane,
        identity: Arc<PeerIdentity>,
        directory: &Arc<Directory>,
        listen: SocketAddr,
        extra: &str,
    ) -> Self {
        let name = identity.own().name;
        let membership = Membership {
            placement: Arc::clone(directory) as _,
            identity: Some(identity),
            listen: Some(listen),
            is_node: true,
        };
        let config = config(plane.address, &plane.token, extra);
        let (gateway, at) = Gateway::start_member(config, membership, AccessSink::off()).await;
        Self {
            gateway,
            member: member(&name, Role::Node, at.unwrap()),
        }
    }
}

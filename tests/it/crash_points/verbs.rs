//! The verbs: what each needs before it, and the one call that it is.
//!
//! Guarantees: what is prepared is the same each time; the instance is called `one`, and its memory
//! has counted [`VISITS`] requests.

use reqwest::Method;
use serde_json::{Value, json};

use super::plane::{Call, ControlPlane, Kind};
use super::world::{Listing, count, url};
use crate::support::eventually;

/// The requests that the instance's memory has counted, and those of its snapshot.
pub const VISITS: u64 = 3;
pub const SNAPSHOT_VISITS: u64 = 2;

/// A call that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Start,
    Stop,
    Standby,
    Restore,
    /// A copy of one that is Stopped (process) or asleep (VM).
    Fork,
    ForkRunning,
    Snapshot,
    SnapshotRunning,
    SnapshotRestore,
    SnapshotFork,
    SnapshotDelete,
    SetSchedule,
    DeleteSchedule,
    Patch,
    Delete,
    DeleteAsleep,
}

/// What is there before a verb.
#[derive(Debug, Clone, Default)]
pub struct Prepared {
    pub instance: String,
    pub snapshot: String,
}

/// A new instance of our demo server.
pub fn new_instance(kind: Kind, name: &str) -> Value {
    let mut body = json!({ "name": name, "image": "wakegate/hello" });
    if kind == Kind::Vm {
        body["size"] = json!("256MB");
        body["vcpus"] = json!(1);
    }
    body
}

/// A call about one instance without a body.
pub fn verb(id: &str, verb: &str) -> Call {
    let mut call = Call::new(Method::POST, format!("/instances/{id}/{verb}"));
    if verb == "start" {
        call.body = Some(json!({}));
    }
    call
}

/// Sends requests to the instance's server, which counts them.
pub async fn visit(plane: &ControlPlane, id: &str, times: u64) {
    let before = count(plane, id).await.unwrap();
    let url = url(plane, id).await.unwrap();
    for _ in 0..times {
        super::plane::client().get(&url).send().await.unwrap();
    }
    assert_eq!(count(plane, id).await.unwrap(), before + times);
}

fn schedule(id: &str) -> Call {
    let path = format!("/instances/{id}/snapshot-schedule");
    Call {
        body: Some(json!({ "interval": "1h", "retention": { "max_count": 2 } })),
        ..Call::new(Method::PUT, path)
    }
}

// === impl Verb ===

impl Verb {
    /// Brings about what the verb needs: from nothing for processes, from the template's sleeping
    /// VM, with a snapshot, for VMs.
    pub async fn prepare(self, kind: Kind, plane: &ControlPlane) -> Prepared {
        let ready = match kind {
            Kind::Process if self == Self::Create => return Prepared::default(),
            Kind::Process => {
                let body = new_instance(kind, "one");
                let created = plane.must(&Call::post("/instances", body)).await;
                let id = created["id"].as_str().unwrap().to_owned();
                visit(plane, &id, VISITS).await;
                Prepared {
                    instance: id,
                    snapshot: String::new(),
                }
            }
            Kind::Vm => {
                let listing = Listing::read(plane).await;
                let id = |all: &[Value]| all[0]["id"].as_str().unwrap().to_owned();
                Prepared {
                    instance: id(&listing.instances),
                    snapshot: id(&listing.snapshots),
                }
            }
        };
        let id = &ready.instance;
        let (wake, sleep) = (verb(id, "restore"), verb(id, "standby"));
        match (self, kind) {
            (Self::Start, _) | (Self::Fork, Kind::Process) => {
                if kind == Kind::Vm {
                    plane.must(&wake).await;
                }
                plane.must(&verb(id, "stop")).await;
            }
            (
                Self::Stop
                | Self::Standby
                | Self::ForkRunning
                | Self::SnapshotRunning
                | Self::Patch
                | Self::SetSchedule
                | Self::Delete,
                Kind::Vm,
            ) => {
                plane.must(&wake).await;
                assert_eq!(count(plane, id).await, Some(VISITS));
            }
            (Self::Restore | Self::DeleteAsleep, Kind::Process) => drop(plane.must(&sleep).await),
            (Self::DeleteSchedule, _) => drop(plane.must(&schedule(id)).await),
            _ => {}
        }
        ready
    }

    /// The call that the verb is.
    pub fn call(self, kind: Kind, ready: &Prepared) -> Call {
        let id = &ready.instance;
        let snapshot = &ready.snapshot;
        let of_instance = |what: &str, body| Call::post(format!("/instances/{id}/{what}"), body);
        match self {
            Self::Create => Call::post("/instances", new_instance(kind, "two")),
            Self::Start => verb(id, "start"),
            Self::Stop => verb(id, "stop"),
            Self::Standby => verb(id, "standby"),
            Self::Restore => verb(id, "restore"),
            Self::Fork => {
                let target = match kind {
                    Kind::Process => "Running",
                    Kind::Vm => "Standby",
                };
                of_instance("fork", json!({ "name": "copy", "target_state": target }))
            }
            Self::ForkRunning => {
                // A process' memory cannot be copied.
                let target = match kind {
                    Kind::Process => "Stopped",
                    Kind::Vm => "Running",
                };
                let body = json!({ "name": "copy", "from_running": true, "target_state": target });
                of_instance("fork", body)
            }
            Self::Snapshot | Self::SnapshotRunning => {
                of_instance("snapshots", json!({ "kind": "Standby", "name": "new" }))
            }
            Self::SnapshotRestore => {
                of_instance(&format!("snapshots/{snapshot}/restore"), json!({}))
            }
            Self::SnapshotFork => Call::post(
                format!("/snapshots/{snapshot}/fork"),
                json!({ "name": "copy" }),
            ),
            Self::SnapshotDelete => Call::new(Method::DELETE, format!("/snapshots/{snapshot}")),
            Self::SetSchedule => schedule(id),
            Self::DeleteSchedule => {
                Call::new(Method::DELETE, format!("/instances/{id}/snapshot-schedule"))
            }
            Self::Patch => Call {
                body: Some(json!({ "auto_standby": { "enabled": true, "idle_timeout": "1h" } })),
                ..Call::new(Method::PATCH, format!("/instances/{id}"))
            },
            Self::Delete | Self::DeleteAsleep => {
                Call::new(Method::DELETE, format!("/instances/{id}"))
            }
        }
    }
}

/// Makes the template of VMs: one that sleeps, with a snapshot of an earlier moment.
pub async fn make_template(plane: &ControlPlane) {
    let body = new_instance(Kind::Vm, "one");
    let created = plane.must(&Call::post("/instances", body)).await;
    let id = created["id"].as_str().unwrap();
    eventually("the VM is up", async || count(plane, id).await.is_some()).await;
    visit(plane, id, SNAPSHOT_VISITS).await;
    plane.must(&verb(id, "standby")).await;
    let body = json!({ "kind": "Standby", "name": "kept" });
    plane
        .must(&Call::post(format!("/instances/{id}/snapshots"), body))
        .await;
    plane.must(&verb(id, "restore")).await;
    visit(plane, id, VISITS - SNAPSHOT_VISITS).await;
    plane.must(&verb(id, "standby")).await;
}

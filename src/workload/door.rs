//! What instances may ask for at the door, and what they are answered.
//!
//! Guarantees: whoever asks is identified first, whatever the path; an instance sees and changes what
//! is its own alone; a hold that was answered 200 outlives the gateway where there is a directory.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use http_body_util::LengthLimitError;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::due::Due;
use super::holds::{HoldError, Holds, TaskHold};
use super::host::{Facts, Host, Kept, Resident};
use super::identify::{Evidence, Identifier};
use super::refusal::Refusal;
use super::rest::Wishes;
use super::task::{Owner, TaskName};
use super::writers::Writers;
use crate::telemetry::{DoorOutcome, Metrics};
use hypeman::GoDuration;

const MOST_BODY_BYTES: usize = 4096;
const BODY: Duration = Duration::from_secs(10);

/// The door, as every handler has it. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    pub(super) host: Arc<dyn Host>,
    pub(super) holds: Arc<Holds>,
    pub(super) tasks: TaskTracker,
    /// Ends what goes on for nobody.
    pub(super) cut: CancellationToken,
    identifier: Arc<Identifier>,
    wishes: Wishes,
    pub(super) refreshing: Arc<Semaphore>,
    pub(super) due: Arc<Due>,
    writers: Arc<Writers>,
    metrics: Arc<Metrics>,
}

/// A connection at the door.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) address: IpAddr,
    pub(super) ended: CancellationToken,
    evidence: Evidence,
}

/// What a hold is asked for with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HoldRequest {
    r#for: String,
}

#[derive(Debug, Serialize)]
struct HoldAnswer {
    task: String,
    until: jiff::Timestamp,
}

#[derive(Debug, Serialize)]
struct HoldsAnswer {
    holds: Vec<HoldAnswer>,
}

/// Who the instance is.
#[derive(Debug, Serialize)]
struct SelfAnswer {
    id: String,
    name: String,
    hypeman: String,
    address: IpAddr,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<String>,
    #[serde(flatten)]
    facts: Facts,
    holds: Vec<HoldAnswer>,
}

type Asking = (Extension<Arc<Connection>>, Extension<Resident>);

// === impl Connection ===

impl Connection {
    pub(super) fn new(address: IpAddr) -> Self {
        Self {
            address,
            ended: CancellationToken::new(),
            evidence: Evidence::since(jiff::Timestamp::now()),
        }
    }
}

// === impl Door ===

impl Door {
    /// What goes on beyond a request is on `tasks`, and ends with `cut`.
    pub fn new(
        host: Arc<dyn Host>,
        holds: Arc<Holds>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        Self {
            identifier: Arc::new(Identifier::new(Arc::clone(&host))),
            wishes: Wishes::default(),
            refreshing: Arc::new(Semaphore::new(1)),
            due: Arc::default(),
            writers: Arc::default(),
            host,
            holds,
            tasks,
            cut,
            metrics,
        }
    }

    pub(super) fn routes(&self) -> Router {
        let routes: Router = Router::new()
            .route("/holds", get(list))
            .route("/holds/{task}", put(place).delete(take_back))
            .route("/idle", post(idle))
            .route("/self", get(about))
            .fallback(async || Refusal::Path)
            .method_not_allowed_fallback(async || Refusal::Method)
            .with_state(self.clone());
        // As a whole, so that whoever is not let in is told nothing of a path, nor of its methods.
        let entrance = Router::new().fallback_service(routes);
        entrance.layer(from_fn_with_state(self.clone(), enter))
    }

    /// The engine does as the holds say; those of an instance that is gone go.
    pub(super) async fn apply(&self, owner: &Owner) -> Kept {
        let kept = loop {
            let until = self.holds.until(owner);
            let kept = self.host.hold(owner, until).await;
            // Whoever tells last has told what is so.
            if self.holds.until(owner) == until {
                break kept;
            }
        };
        if kept == Kept::Gone && self.holds.until(owner).is_some() {
            tracing::info!(instance = %owner.id, "is gone, and its holds with it");
            let (holds, owner) = (Arc::clone(&self.holds), owner.clone());
            // Who cannot be forgotten now is so the next time.
            let forgetting = holds.on_disk(move |holds| {
                holds.forget(&owner);
                Ok(())
            });
            let _late = forgetting.await;
        }
        kept
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({:?})", self.holds)
    }
}

/// Lets instances in, and counts.
async fn enter(
    State(door): State<Door>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&door, &connection, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let outcome = response.extensions_mut().remove::<DoorOutcome>();
    let outcome = outcome.unwrap_or(match response.status().is_success() {
        true => DoorOutcome::Ok,
        false => DoorOutcome::Invalid,
    });
    door.metrics.count_door(outcome);
    if outcome == DoorOutcome::Stranger {
        tracing::debug!(address = %connection.address, "no instance, at the workloads' door");
    }
    let nosniff = HeaderValue::from_static("nosniff");
    let fields = response.headers_mut();
    fields.insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The request with its instance and its whole body.
async fn admit(door: &Door, connection: &Connection, request: Request) -> Result<Request, Refusal> {
    let identifying = door
        .identifier
        .identify(connection.address, &connection.evidence);
    let resident = identifying.await?;
    let (mut head, body) = request.into_parts();
    let reading = timeout(BODY, to_bytes(body, MOST_BODY_BYTES)).await;
    let body = reading.map_err(|_| Refusal::BodyLate)?;
    let body = body.map_err(|error| {
        let cause = std::error::Error::source(&error);
        let limit = cause.and_then(|cause| cause.downcast_ref::<LengthLimitError>());
        limit.map_or(Refusal::BodyBroken, |_| Refusal::BodyTooLong)
    })?;
    head.extensions.insert(resident);
    Ok(Request::from_parts(head, body.into()))
}

fn task_of(
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<TaskName, Refusal> {
    let Path(text) = path.map_err(|_| Refusal::Task)?;
    TaskName::parse(&text).ok_or(Refusal::Task)
}

/// How long a hold is for.
fn time_of(body: &[u8]) -> Result<Duration, Refusal> {
    let request: HoldRequest =
        serde_json::from_slice(body).map_err(|error| Refusal::Body(error.to_string()))?;
    let time = request.r#for.parse::<GoDuration>();
    let time = time.map_err(|error| Refusal::Body(error.to_string()))?;
    let time = time.to_std().filter(|time| !time.is_zero());
    time.ok_or_else(|| Refusal::Body(format!("`{}` is not longer than zero", request.r#for)))
}

fn answers(holds: Vec<TaskHold>) -> Vec<HoldAnswer> {
    let answers = holds.into_iter().map(|hold| HoldAnswer {
        task: hold.task.as_str().to_owned(),
        until: hold.until,
    });
    answers.collect()
}

async fn list(
    State(door): State<Door>,
    Extension(resident): Extension<Resident>,
) -> Json<HoldsAnswer> {
    let holds = answers(door.holds.of(&resident.owner));
    Json(HoldsAnswer { holds })
}

async fn place(
    State(door): State<Door>,
    (Extension(connection), Extension(resident)): Asking,
    task: Result<Path<String>, axum::extract::rejection::PathRejection>,
    body: Bytes,
) -> Result<Json<HoldAnswer>, Refusal> {
    let (task, time) = (task_of(task)?, time_of(&body)?);
    let owner = resident.owner.clone();
    let _turn = door.writers.turn(&owner).await?;
    // To its end, also when nobody waits for it any more: what was written is in force.
    let placing = {
        let (door, owner, task) = (door.clone(), owner.clone(), task.clone());
        let name = Arc::clone(&resident.name);
        door.tasks.clone().spawn(async move {
            let place = {
                let (owner, task) = (owner.clone(), task.clone());
                door.holds
                    .on_disk(move |holds| holds.place(&owner, &name, &task, time))
            };
            let placed = place.await?;
            door.wishes.end(&owner);
            match door.apply(&owner).await {
                Kept::Gone => Err(Refusal::Stranger),
                Kept::Yes | Kept::Unknown => Ok(placed),
            }
        })
    };
    let placed = placing.await;
    let (until, is_first) =
        placed.map_err(|error| HoldError::NotKept(std::io::Error::other(error)))??;
    if is_first {
        let reason = format!("kept awake by {task} until {until}");
        tracing::info!(instance = %owner.id, name = %resident.name, %task, %until, "kept awake");
        door.host.note_held(&resident, connection.address, &reason);
    }
    Ok(Json(HoldAnswer {
        task: task.as_str().to_owned(),
        until,
    }))
}

async fn take_back(
    State(door): State<Door>,
    Extension(resident): Extension<Resident>,
    task: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<StatusCode, Refusal> {
    let task = task_of(task)?;
    let owner = resident.owner;
    let _turn = door.writers.turn(&owner).await?;
    let taking = {
        let (owner, task) = (owner.clone(), task.clone());
        door.holds
            .on_disk(move |holds| holds.take_back(&owner, &task))
    };
    if !taking.await? {
        return Err(Refusal::UnknownHold);
    }
    door.apply(&owner).await;
    tracing::info!(instance = %owner.id, name = %resident.name, %task, "its hold is taken back");
    Ok(StatusCode::NO_CONTENT)
}

async fn idle(
    State(door): State<Door>,
    (Extension(connection), Extension(resident)): Asking,
) -> Result<Response, Refusal> {
    let holds = door.holds.of(&resident.owner);
    if !holds.is_empty() {
        let tasks: Vec<&str> = holds.iter().map(|hold| hold.task.as_str()).collect();
        return Err(Refusal::HoldsStand(tasks.join(", ")));
    }
    let wish = door.wishes.begin(&resident.owner);
    let resting = wish.carry_out(
        Arc::clone(&door.host),
        Arc::clone(&door.holds),
        connection.ended.clone(),
    );
    let cut = door.cut.clone();
    door.tasks.spawn(async move {
        cut.run_until_cancelled(resting).await.unwrap_or(());
    });
    // The answer is the last of its connection, so that nothing is open when it sleeps.
    let fields = [
        (CONNECTION, HeaderValue::from_static("close")),
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
    ];
    Ok((StatusCode::ACCEPTED, fields, "{}\n").into_response())
}

async fn about(
    State(door): State<Door>,
    (Extension(connection), Extension(resident)): Asking,
) -> Json<SelfAnswer> {
    let Resident {
        owner,
        name,
        state,
        idle_timeout,
        since: _,
    } = resident;
    Json(SelfAnswer {
        id: owner.id.to_string(),
        name: name.to_string(),
        hypeman: owner.hypeman.to_string(),
        address: connection.address,
        state,
        idle_timeout: idle_timeout.map(|idle| GoDuration::from(idle).to_string()),
        facts: door.host.facts(&owner),
        holds: answers(door.holds.of(&owner)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_says_for_how_long_and_nothing_else() {
        for (body, part) in [
            ("", "EOF"),
            ("10m", "JSON"),
            ("{}", "missing field `for`"),
            ("[\"10m\", 1]", "JSON"),
            (r#"{"for": 600}"#, "expected a string"),
            (r#"{"for": "10m", "why": "x"}"#, "unknown field `why`"),
            (r#"{"for": "10m", "for": "1m"}"#, "duplicate field"),
            (r#"{"for": "10 minutes"}"#, "10 minutes"),
            (r#"{"for": "0s"}"#, "longer than zero"),
            (r#"{"for": "-1m"}"#, "longer than zero"),
        ] {
            let said = time_of(body.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(part), "{body}: {said}");
        }
        let time = time_of(br#"{ "for": "1h30m" }"#).unwrap();
        assert_eq!(time, Duration::from_secs(5400));
    }
}

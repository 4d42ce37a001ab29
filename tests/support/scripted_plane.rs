//! A control plane that plays the part which a test writes for it, over a real socket.
//!
//! Guarantees: without a reaction of the test's, an instance answers as the contract says (a name
//! means the exact id, the exact name, or the only id that begins with it; calls about one instance
//! wait behind a restore of it); every call is counted, by what was asked for and by the instance
//! that it led to; what is started ends with its owner.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::scripted_app::{Application, Power};
use super::spawn;

/// Stands for every instance where a reaction or a count asks for a name.
pub const ALL: &str = "*";

/// A call that a control plane takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    List,
    Get,
    Hold,
    Wait,
    Restore,
    Standby,
    Start,
}

/// What a call gets instead of the answer by the contract.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// The answer by the contract, after this time.
    Slow(Duration),
    /// No answer before the reaction is taken back.
    Hang,
    /// This answer.
    Answer(Answer),
}

/// An answer of the test's own.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    fields: Vec<(&'static str, String)>,
    content: Content,
    after: Duration,
}

#[derive(Debug, Clone)]
enum Content {
    Text(String),
    Endless,
}

/// An instance, as the control plane sees it. Every member may be changed at any time.
#[derive(Clone)]
pub struct Scripted {
    pub id: String,
    pub name: String,
    pub state: &'static str,
    pub after_restore: &'static str,
    pub restore_takes: Duration,
    /// Whether other calls about the instance wait behind its restore, as the contract says.
    pub calls_wait: bool,
    members: Value,
    /// What its application feels of its state.
    power: Option<Power>,
}

/// The control plane.
pub struct ScriptedPlane {
    pub address: SocketAddr,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    stage: Mutex<Stage>,
    changed: watch::Sender<()>,
    /// Bytes of endless answers.
    endless: AtomicU64,
}

#[derive(Default)]
struct Stage {
    instances: BTreeMap<String, Actor>,
    /// Names that lead to an instance although it has another.
    aliases: HashMap<String, String>,
    /// Elements that a list has besides the instances.
    also_listed: Vec<Value>,
    reactions: HashMap<(Operation, String), Reaction>,
    calls: HashMap<(Operation, String), Vec<Instant>>,
}

struct Actor {
    part: Scripted,
    lock: Arc<RwLock<()>>,
}

type Body = BoxBody<Bytes, Infallible>;

// === impl Answer ===

impl Answer {
    pub fn json(status: u16, value: &Value) -> Self {
        Self::text(status, "application/json", &value.to_string())
    }

    /// The control plane's own word for a failure.
    pub fn error(status: u16, code: &str) -> Self {
        let message = format!("scripted: {code}");
        Self::json(status, &json!({ "code": code, "message": message }))
    }

    /// As a proxy in front of a control plane that is not there.
    pub fn html(status: u16) -> Self {
        let page = format!("<html><body><h1>{status}</h1></body></html>");
        Self::text(status, "text/html", &page)
    }

    pub fn redirect(to: &str) -> Self {
        Self::text(302, "text/html", "").field("location", to)
    }

    pub fn text(status: u16, content_type: &str, text: &str) -> Self {
        Self {
            status,
            fields: vec![("content-type", content_type.to_owned())],
            content: Content::Text(text.to_owned()),
            after: Duration::ZERO,
        }
    }

    /// The beginning of an answer that has no end.
    pub fn endless(status: u16) -> Self {
        Self {
            content: Content::Endless,
            ..Self::text(status, "application/json", "")
        }
    }

    pub fn field(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

impl From<Answer> for Reaction {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

// === impl Scripted ===

impl Scripted {
    pub fn running(name: &str, ip: IpAddr) -> Self {
        let noise: String = (0..22).map(|_| fastrand::alphanumeric()).collect();
        Self {
            // No name that a test asks for begins an id, unless the test says so.
            id: format!("q0{}", noise.to_lowercase()),
            name: name.to_owned(),
            state: "Running",
            after_restore: "Running",
            restore_takes: Duration::ZERO,
            calls_wait: true,
            members: json!({
                "image": "scripted", "created_at": "2026-01-01T00:00:00Z",
                "network": { "enabled": true, "name": "default", "ip": ip.to_string() },
                "auto_standby": { "enabled": true, "idle_timeout": "1m0s" },
            }),
            power: None,
        }
    }

    /// Of this application, which has power while the instance is awake.
    pub fn of(state: &'static str, name: &str, app: &Application) -> Self {
        Self {
            state,
            power: Some(Arc::clone(&app.power)),
            ..Self::running(name, app.ip)
        }
    }

    pub fn asleep(name: &str, ip: IpAddr) -> Self {
        Self {
            state: "Standby",
            ..Self::running(name, ip)
        }
        .with("/has_snapshot", json!(true))
    }

    pub fn id(self, id: &str) -> Self {
        let id = id.to_owned();
        Self { id, ..self }
    }

    pub fn restore_takes(self, restore_takes: Duration) -> Self {
        Self {
            restore_takes,
            ..self
        }
    }

    /// Sets a member of what the control plane answers, whatever its type should be.
    pub fn with(mut self, pointer: &str, value: Value) -> Self {
        self.set(pointer, Some(value));
        self
    }

    pub fn without(mut self, pointer: &str) -> Self {
        self.set(pointer, None);
        self
    }

    /// The same for an instance that is there already; `None` takes the member away.
    pub fn set(&mut self, pointer: &str, value: Option<Value>) {
        let (parent, member) = pointer.rsplit_once('/').unwrap();
        let parent = self.members.pointer_mut(parent).unwrap();
        if parent.is_null() {
            *parent = json!({});
        }
        let parent = parent.as_object_mut().unwrap();
        match value {
            Some(value) => parent.insert(member.to_owned(), value),
            None => parent.remove(member),
        };
    }

    fn switch(&self, there: bool) {
        let on = there && matches!(self.state, "Running" | "Initializing");
        if let Some(power) = &self.power {
            power.send_replace(on);
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({ "id": self.id, "name": self.name, "state": self.state });
        for (member, value) in self.members.as_object().unwrap() {
            body[member] = value.clone();
        }
        body
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.body())
    }
}

// === impl ScriptedPlane ===

impl ScriptedPlane {
    pub const TOKEN: &str = "scripted";

    pub async fn start() -> Self {
        super::raise_descriptors();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::<Script>::default();
        let task = spawn(serve(listener, Arc::clone(&script)));
        Self {
            address,
            script,
            task,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.script.stage()
    }

    /// Makes the change, and lets calls that hang look again.
    fn act<T>(&self, act: impl FnOnce(&mut Stage) -> T) -> T {
        let result = act(&mut self.stage());
        self.script.changed.send_replace(());
        result
    }

    /// Adds an instance; returns its id.
    pub fn add(&self, part: Scripted) -> String {
        let id = part.id.clone();
        part.switch(true);
        let lock = Arc::default();
        self.act(|stage| stage.instances.insert(id.clone(), Actor { part, lock }));
        id
    }

    pub fn change(&self, id: &str, change: impl FnOnce(&mut Scripted)) {
        self.act(|stage| {
            let part = &mut stage.instances.get_mut(id).unwrap().part;
            change(part);
            part.switch(true);
        });
    }

    /// Puts it to sleep, as an operator or its policy does.
    pub fn sleep(&self, id: &str) {
        self.change(id, |part| part.state = "Standby");
    }

    /// Puts all of them to sleep.
    pub fn all_sleep(&self) {
        self.act(|stage| {
            for actor in stage.instances.values_mut() {
                actor.part.state = "Standby";
                actor.part.switch(true);
            }
        });
    }

    /// Takes it away; what it was may be added again.
    pub fn delete(&self, id: &str) -> Scripted {
        let part = self.act(|stage| stage.instances.remove(id).unwrap().part);
        part.switch(false);
        part
    }

    /// Lets `name` lead to an instance of another name.
    pub fn alias(&self, name: &str, id: &str) {
        self.act(|stage| stage.aliases.insert(name.to_owned(), id.to_owned()));
    }

    /// Puts something into every list besides the instances.
    pub fn also_list(&self, element: Value) {
        self.act(|stage| stage.also_listed.push(element));
    }

    /// From now on, a call about `which` (a name, an id, or [`ALL`]) gets this.
    pub fn on(&self, operation: Operation, which: &str, reaction: impl Into<Reaction>) {
        let key = (operation, which.to_owned());
        self.act(|stage| stage.reactions.insert(key, reaction.into()));
    }

    /// Takes a reaction back.
    pub fn heal(&self, operation: Operation, which: &str) {
        let key = (operation, which.to_owned());
        self.act(|stage| stage.reactions.remove(&key));
    }

    /// Calls about `which` so far: as it was asked for, by the id that was led to, or all.
    pub fn calls(&self, operation: Operation, which: &str) -> usize {
        self.times(operation, which).len()
    }

    /// When they came.
    pub fn times(&self, operation: Operation, which: &str) -> Vec<Instant> {
        let key = (operation, which.to_owned());
        self.stage().calls.get(&key).cloned().unwrap_or_default()
    }

    /// Bytes of endless answers that were taken so far.
    pub fn endless_bytes(&self) -> u64 {
        self.script.endless.load(Ordering::Relaxed)
    }
}

impl Drop for ScriptedPlane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Script ===

impl Script {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part(&self, id: &str) -> Option<Scripted> {
        let stage = self.stage();
        stage.instances.get(id).map(|actor| actor.part.clone())
    }

    fn enter(&self, id: &str, state: &'static str) {
        if let Some(actor) = self.stage().instances.get_mut(id) {
            actor.part.state = state;
            actor.part.switch(true);
        }
        self.changed.send_replace(());
    }

    /// Counts a call, and finds the instance that is meant.
    fn begin(&self, operation: Operation, name: &str) -> Result<String, Answer> {
        let mut stage = self.stage();
        let found = stage.resolve(name);
        let now = Instant::now();
        let mut keys = vec![ALL, name];
        keys.extend(found.as_deref().ok().filter(|id| *id != name));
        for key in keys.into_iter().map(str::to_owned).collect::<Vec<_>>() {
            stage.calls.entry((operation, key)).or_default().push(now);
        }
        found
    }

    /// The reaction to a call, when it is not to hang any longer.
    async fn reaction(
        &self,
        operation: Operation,
        name: &str,
        id: Option<&str>,
    ) -> Option<Reaction> {
        let mut changes = self.changed.subscribe();
        loop {
            let reaction = {
                let stage = self.stage();
                [Some(name), id, Some(ALL)]
                    .into_iter()
                    .flatten()
                    .find_map(|which| stage.reactions.get(&(operation, which.to_owned())).cloned())
            };
            match reaction {
                Some(Reaction::Hang) => changes.changed().await.unwrap(),
                reaction => return reaction,
            }
        }
    }

    async fn answer(&self, operation: Operation, name: &str) -> Answer {
        let id = self.begin(operation, name).ok();
        match self.reaction(operation, name, id.as_deref()).await {
            Some(Reaction::Answer(answer)) => {
                sleep(answer.after).await;
                return answer;
            }
            Some(Reaction::Slow(pause)) => sleep(pause).await,
            Some(Reaction::Hang) | None => {}
        }
        // It may have come or gone meanwhile.
        let found = self.stage().resolve(name);
        match found {
            Ok(id) => self.contract(operation, &id).await,
            Err(answer) => answer,
        }
    }

    async fn list(&self) -> Answer {
        let _counted = self.begin(Operation::List, "");
        match self.reaction(Operation::List, "", None).await {
            Some(Reaction::Answer(answer)) => return answer,
            Some(Reaction::Slow(pause)) => sleep(pause).await,
            Some(Reaction::Hang) | None => {}
        }
        let stage = self.stage();
        let instances = stage.instances.values().map(|actor| actor.part.body());
        let all: Vec<Value> = instances.chain(stage.also_listed.iter().cloned()).collect();
        Answer::json(200, &Value::Array(all))
    }

    /// What the contract says about an instance that there is.
    async fn contract(&self, operation: Operation, id: &str) -> Answer {
        let gone = || Answer::error(404, "not_found");
        let Some((lock, waits)) = ({
            let stage = self.stage();
            let actor = stage.instances.get(id);
            actor.map(|actor| (Arc::clone(&actor.lock), actor.part.calls_wait))
        }) else {
            return gone();
        };
        let changes = matches!(
            operation,
            Operation::Restore | Operation::Start | Operation::Standby
        );
        let (_write, _read) = match (changes, waits) {
            (true, _) => (Some(lock.write().await), None),
            (false, true) => (None, Some(lock.read().await)),
            (false, false) => (None, None),
        };
        let Some(part) = self.part(id) else {
            return gone();
        };
        match (operation, part.state) {
            (Operation::Restore, "Standby") => {
                sleep(part.restore_takes).await;
                self.enter(id, part.after_restore);
            }
            (Operation::Restore, "Running" | "Initializing")
            | (Operation::Start, "Running")
            | (Operation::Standby, "Standby")
            | (Operation::Get | Operation::List, _) => {}
            (Operation::Start, "Stopped") => self.enter(id, "Running"),
            (Operation::Standby, "Running") => self.enter(id, "Standby"),
            (Operation::Hold, "Standby") => return Answer::error(409, "instance_in_standby"),
            (Operation::Hold, state) => {
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
                let until = (state == "Running").then(|| until.to_string());
                return Answer::json(
                    200,
                    &json!({
                        "supported": true, "configured": true, "enabled": true,
                        "eligible": state == "Running", "active_inbound_connections": 0,
                        "tracking_mode": "conntrack_events_v4_tcp", "status": "idle_countdown",
                        "reason": "idle_timeout_not_elapsed", "hold_until": until,
                    }),
                );
            }
            (Operation::Wait, _) => {
                let settled = async {
                    let mut changes = self.changed.subscribe();
                    while self
                        .part(id)
                        .is_some_and(|part| part.state == "Initializing")
                    {
                        changes.changed().await.unwrap();
                    }
                };
                let timed_out = tokio::time::timeout(Duration::from_secs(5), settled).await;
                let state = self.part(id).map_or("Unknown", |part| part.state);
                let answer = json!({ "state": state, "timed_out": timed_out.is_err() });
                return Answer::json(200, &answer);
            }
            (Operation::Restore | Operation::Start | Operation::Standby, _) => {
                return Answer::error(409, "invalid_state");
            }
        }
        match self.part(id) {
            Some(part) => Answer::json(200, &part.body()),
            None => gone(),
        }
    }
}

// === impl Stage ===

impl Stage {
    fn resolve(&self, name: &str) -> Result<String, Answer> {
        if self.instances.contains_key(name) {
            return Ok(name.to_owned());
        }
        if let Some(id) = self.aliases.get(name) {
            return Ok(id.clone());
        }
        let mut named = self.instances.values().map(|actor| &actor.part);
        if let Some(part) = named.find(|part| part.name == name) {
            return Ok(part.id.clone());
        }
        let from = self.instances.range(name.to_owned()..);
        let mut beginning = from.map(|(id, _)| id).take_while(|id| id.starts_with(name));
        match (beginning.next(), beginning.next()) {
            (Some(only), None) if !name.is_empty() => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Answer::error(409, "ambiguous")),
            _ => Err(Answer::error(404, "not_found")),
        }
    }
}

async fn serve(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let script = Arc::clone(&script);
        connections.spawn(async move {
            let service = service_fn(move |request| respond(Arc::clone(&script), request));
            let http = hyper::server::conn::http1::Builder::new();
            let _ended = http.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn respond(
    script: Arc<Script>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let answer = match (request.method(), &segments[..]) {
        (&Method::GET, ["instances"]) => script.list().await,
        (&Method::GET, ["ingresses"]) => Answer::json(200, &json!([])),
        (&Method::GET, ["health"]) => Answer::json(200, &json!({ "status": "ok" })),
        (&Method::GET, ["instances", name]) => script.answer(Operation::Get, name).await,
        (&Method::GET, ["instances", name, "wait"]) => script.answer(Operation::Wait, name).await,
        (&Method::POST, ["instances", name, "restore"]) => {
            script.answer(Operation::Restore, name).await
        }
        (&Method::POST, ["instances", name, "standby"]) => {
            script.answer(Operation::Standby, name).await
        }
        (&Method::POST, ["instances", name, "start"]) => {
            script.answer(Operation::Start, name).await
        }
        (&Method::POST, ["instances", name, "auto-standby", "hold"]) => {
            script.answer(Operation::Hold, name).await
        }
        _ => Answer::error(404, "Not Found"),
    };
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.fields {
        response = response.header(*name, value);
    }
    let body = match answer.content {
        Content::Text(text) => Full::from(text).boxed(),
        Content::Endless => endless(script),
    };
    Ok(response.body(body).unwrap())
}

/// JSON that goes on and on inside a string.
fn endless(script: Arc<Script>) -> Body {
    let beginning = Bytes::from_static(b"{\"id\":\"one\",\"message\":\"");
    let more = Bytes::from(vec![b'x'; 64 * 1024]);
    let chunks = std::iter::once(beginning).chain(std::iter::repeat(more));
    let chunks = chunks.map(move |chunk| {
        let size = u64::try_from(chunk.len()).unwrap();
        script.endless.fetch_add(size, Ordering::Relaxed);
        Ok(Frame::data(chunk))
    });
    BodyExt::boxed(StreamBody::new(stream::iter(chunks)))
}

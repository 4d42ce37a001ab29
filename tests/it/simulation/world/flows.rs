//! Connections that outlive the sleep of their instance, and the application at their end.
//!
//! Guarantees: an application does nothing while its instance does not run, and what is sent to it meanwhile is
//! there when it wakes, as TCP has it; a lost connection is reset, or nothing of it is heard any more; whatever the
//! application got and said is kept, to be held against what its clients know.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hypeman::Error as ControlPlaneError;
use hypeman::wire::{AutoStandbyState, AutoStandbyStatus};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use wakegate::upstream::{InstanceSide, Opcode, control};
use wakegate::wake::{Endpoint, OpenConnection};

use super::plane::{HELD, api};
use super::{Inner, View, World};
use crate::simulation::parked::Frames;

/// What is under way between gateway and instance, as the kernel keeps it.
const PIPE: usize = 64 * 1024;
/// For how long the other side's kernel sends again what nobody answers.
const GIVE_UP: Duration = Duration::from_secs(900);
/// How long a handshake that nobody answers is waited for.
const CONNECT: Duration = Duration::from_millis(250);
/// The world's clock begins here.
const BIRTH: Timestamp = Timestamp::UNIX_EPOCH;
/// Between two messages of an application's own accord.
const SPEAKS_MS: u64 = 20_000;

/// How easily connections are lost, each of a hundred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lossy {
    /// When the instance falls asleep.
    pub asleep: u8,
    /// When it wakes: it was booted, or its host does not keep them.
    pub awake: u8,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    No,
    /// With a word.
    Reset,
    /// Nothing is heard of it any more.
    Silently,
}

#[derive(Debug)]
struct Flow {
    id: String,
    /// Whose it is, for the judge.
    session: usize,
    lost: watch::Sender<Lost>,
    /// The gateway's side has ended, or the application's.
    is_over: bool,
}

/// All connections, and what went over them.
#[derive(Debug)]
pub struct Flows {
    pub(super) lossy: Lossy,
    all: Vec<Flow>,
    /// Whether an instance runs has changed.
    changed: watch::Sender<u64>,
    visits: Vec<(String, Instant)>,
    /// When it did not run last: by id.
    rested: BTreeMap<String, Instant>,
    /// Whether nobody needed an instance when its status was told last.
    was_free: BTreeMap<String, bool>,
    buried: BTreeSet<String>,
    /// What applications have got: by session.
    received: BTreeMap<usize, Vec<u32>>,
    standbys: usize,
}

/// The gateway's side of a connection.
pub struct Side {
    io: DuplexStream,
    open: OpenConnection,
    last_heard: Instant,
    world: World,
    place: usize,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            lossy: Lossy::default(),
            all: Vec::new(),
            changed: watch::Sender::new(0),
            visits: Vec::new(),
            rested: BTreeMap::new(),
            was_free: BTreeMap::new(),
            buried: BTreeSet::new(),
            received: BTreeMap::new(),
            standbys: 0,
        }
    }
}

impl Flows {
    pub(super) fn change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    pub(super) fn visit(&mut self, id: &str, until: Instant) {
        self.visits.push((id.to_owned(), until));
    }

    fn visitors(&self, id: &str, now: Instant) -> usize {
        let there = |(of, until): &&(String, Instant)| of == id && *until > now;
        self.visits.iter().filter(there).count()
    }

    /// Connections that the control plane counts. It does not hear of those that are lost without a word.
    pub(super) fn count(&self, id: &str, now: Instant) -> usize {
        let there =
            |flow: &&Flow| flow.id == id && !flow.is_over && *flow.lost.borrow() != Lost::Reset;
        self.all.iter().filter(there).count() + self.visitors(id, now)
    }
}

impl Inner {
    /// An instance loses what it has open.
    pub(super) fn lose_flows(&mut self, id: &str) {
        let mut random = self.random("lost", id);
        self.flows
            .buried
            .extend((!self.vms.iter().any(|vm| vm.id == id)).then(|| id.to_owned()));
        let mut lost = 0;
        for flow in self.flows.all.iter().filter(|flow| flow.id == id) {
            let how = if random.bool() {
                Lost::Reset
            } else {
                Lost::Silently
            };
            lost += usize::from(flow.lost.send_if_modified(|lost| {
                let is_new = *lost == Lost::No;
                if is_new {
                    *lost = how;
                }
                is_new
            }));
        }
        self.flows.change();
        if lost > 0 {
            self.tell(&format!("{id} loses its connections"));
        }
    }

    fn chance(&mut self, what: &'static str, id: &str, percent: u8) -> bool {
        self.random(what, id).u8(0..100) < percent
    }

    /// It sleeps, or was stopped.
    pub(super) fn fell_asleep(&mut self, id: &str, is_stopped: bool) {
        self.flows.rested.insert(id.to_owned(), Instant::now());
        let percent = self.flows.lossy.asleep;
        if is_stopped || self.chance("lost asleep", id, percent) {
            self.lose_flows(id);
        }
        self.flows.change();
    }

    /// It runs again, and may know nothing of before.
    pub(super) fn woke(&mut self, id: &str, has_moved: bool) {
        self.flows.rested.insert(id.to_owned(), Instant::now());
        let percent = self.flows.lossy.awake;
        if has_moved || self.chance("lost awake", id, percent) {
            self.lose_flows(id);
        }
        self.flows.change();
    }

    fn clock(&self, at: Instant) -> Timestamp {
        let since = at.saturating_duration_since(self.born);
        BIRTH + SignedDuration::try_from(since).unwrap()
    }

    pub(super) fn status(&mut self, id: &str) -> Result<AutoStandbyStatus, ControlPlaneError> {
        let now = Instant::now();
        let flows = self.flows.count(id, now);
        let is_visited = self.flows.visitors(id, now) > 0;
        let vm = self.by_id(id).ok_or_else(|| api(404, "not_found"))?;
        let mut status = HELD.clone();
        let count = vm.open + flows;
        let held = (vm.held_until > now).then_some(vm.held_until);
        let others = vm.open > 0 || is_visited;
        status.active_inbound_connections = count as u64;
        status.status = AutoStandbyState::IdleCountdown;
        if vm.state != "Running" {
            status.eligible = false;
            status.status = AutoStandbyState::Ineligible;
            "instance_not_running".clone_into(&mut status.reason);
        } else if count > 0 {
            status.status = AutoStandbyState::Active;
            "active_inbound_connections".clone_into(&mut status.reason);
        }
        status.hold_until = held.map(|until| self.clock(until));
        let is_free = !others && held.is_none();
        self.flows.was_free.insert(id.to_owned(), is_free);
        Ok(status)
    }

    pub(super) fn standby(&mut self, id: &str) -> Result<(), ControlPlaneError> {
        let mut restoring = self.restoring.iter();
        let is_restoring = restoring.any(|((_, of), count)| of == id && *count > 0);
        let was_free = self.flows.was_free.get(id).copied();
        let vm = self.by_id(id).ok_or_else(|| api(404, "not_found"))?;
        match vm.state {
            _ if is_restoring => return Err(api(409, "conflict")),
            "Running" => vm.begin_stretch("Standby"),
            "Standby" => return Ok(()),
            _ => return Err(api(409, "invalid_state")),
        }
        self.flows.standbys += 1;
        self.tell(&format!("{id} is put to sleep by its gateway"));
        if was_free != Some(true) {
            self.wrong(format!("{id} was put to sleep, and somebody needed it"));
        }
        self.fell_asleep(id, false);
        Ok(())
    }
}

impl World {
    pub fn set_lossy(&self, lossy: Lossy) {
        self.lock().flows.lossy = lossy;
    }

    /// The time of the world's clock.
    pub fn clock(&self) -> Timestamp {
        self.lock().clock(Instant::now())
    }

    /// How often gateways have put instances to sleep.
    pub fn standbys(&self) -> usize {
        self.lock().flows.standbys
    }

    /// What the application got of a session.
    pub fn received(&self, session: usize) -> Vec<u32> {
        let inner = self.lock();
        inner
            .flows
            .received
            .get(&session)
            .cloned()
            .unwrap_or_default()
    }

    /// Whether a session has lost a connection, or its instance did not run within this time.
    pub fn may_be_lost(&self, session: usize, within: Duration) -> bool {
        let inner = self.lock();
        let mut of_it = inner
            .flows
            .all
            .iter()
            .filter(|flow| flow.session == session);
        of_it.any(|flow| {
            let rested = inner.flows.rested.get(&flow.id);
            let vm = inner.vms.iter().find(|vm| vm.id == flow.id);
            *flow.lost.borrow() != Lost::No
                || vm.is_none_or(|vm| vm.state != "Running")
                || rested.is_some_and(|at| at.elapsed() <= within)
        })
    }

    /// Whether an instance of a session has ever been deleted.
    pub fn may_be_gone(&self, session: usize) -> bool {
        let inner = self.lock();
        let mut of_it = inner
            .flows
            .all
            .iter()
            .filter(|flow| flow.session == session);
        of_it.any(|flow| inner.flows.buried.contains(&flow.id))
    }

    /// Connections that are still there.
    pub fn flows_left(&self) -> usize {
        let inner = self.lock();
        inner.flows.all.iter().filter(|flow| !flow.is_over).count()
    }

    fn runs(&self, id: &str) -> bool {
        let mut inner = self.lock();
        let vm = inner.by_id(id);
        vm.is_some_and(|vm| matches!(vm.state, "Running" | "Initializing"))
    }

    /// Waits until it runs, or does not.
    async fn until_runs(&self, id: &str, so: bool) {
        let mut changed = self.lock().flows.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if self.runs(id) == so || changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn below(&self, what: &'static str, about: &str, most: u64) -> u64 {
        self.lock().random(what, about).u64(0..most)
    }

    /// The application's side, until its end.
    async fn serve(
        self,
        (place, session, id): (usize, usize, String),
        mut io: DuplexStream,
        mut lost: watch::Receiver<Lost>,
    ) {
        let (mut frames, mut said) = (Frames::default(), 0_u32);
        // Each has occasions of its own: in which order several go on at once is nobody's choice.
        let own = place.to_string();
        let mut outgoing: VecDeque<Vec<u8>> = VecDeque::new();
        let living = async {
            loop {
                self.until_runs(&id, true).await;
                if let Some(part) = outgoing.pop_front() {
                    io.write_all(&part).await?;
                    // It may fall asleep between two parts.
                    sleep(Duration::from_millis(self.below("part", &own, 50))).await;
                    continue;
                }
                let mut room = [0; 512];
                let speaks = Duration::from_millis(100 + self.below("speaks", &own, SPEAKS_MS));
                tokio::select! {
                    biased;
                    () = self.until_runs(&id, false) => {}
                    read = io.read(&mut room) => match read? {
                        0 => return Ok(()),
                        count => for (opcode, payload) in frames.take(&room[..count]) {
                            match opcode {
                                Opcode::Ping => io.write_all(&control(10, &payload, None)).await?,
                                Opcode::Data => self.got(session, &payload),
                                Opcode::Close => return Ok(()),
                                Opcode::Pong | Opcode::Continuation | Opcode::Reserved => {}
                            }
                        },
                    },
                    () = sleep(speaks) => {
                        said += 1;
                        let frame = control(1, format!("{place}.{said}").as_bytes(), None);
                        let cut = self.below("cut", &own, frame.len() as u64);
                        let (first, rest) = frame.split_at(usize::try_from(cut).unwrap());
                        outgoing.extend([first.to_vec(), rest.to_vec()]);
                    }
                }
            }
        };
        let is_lost = tokio::select! {
            biased;
            () = until_lost(&mut lost) => true,
            lived = living => {
                // Its other side has gone, or it has been closed.
                drop::<io::Result<()>>(lived);
                false
            }
        };
        if is_lost && *lost.borrow() == Lost::Silently {
            // What comes is taken by nobody, and nothing is said.
            let mut nobody = [0; 512];
            let taking = async { while io.read(&mut nobody).await.is_ok_and(|count| count > 0) {} };
            let _given_up = timeout(GIVE_UP, taking).await;
        }
        self.lock().flows.all[place].is_over = true;
    }

    fn got(&self, session: usize, payload: &[u8]) {
        let text = std::str::from_utf8(payload).unwrap();
        let (of, number) = text.split_once('.').unwrap();
        let mut inner = self.lock();
        inner.tell(&format!(
            "session {session}: the application has got {text}"
        ));
        if of != session.to_string() {
            inner.wrong(format!("session {session} has got {text}"));
        }
        let all = inner.flows.received.entry(session).or_default();
        all.push(number.parse().unwrap());
    }
}

async fn until_lost(lost: &mut watch::Receiver<Lost>) {
    let _gone = lost.wait_for(|lost| *lost != Lost::No).await.is_ok();
}

impl View {
    /// A connection to the application of an epoch's instance.
    pub async fn open_flow(
        &self,
        endpoint: &Endpoint,
        session: usize,
        tasks: &TaskTracker,
    ) -> io::Result<Side> {
        let mut open = endpoint.open_connection();
        sleep(Duration::from_micros(100)).await;
        let found = {
            let mut inner = self.world.lock();
            let now = Instant::now();
            let found = inner.vms.iter().find(|vm| vm.ip == endpoint.ip());
            let found = found.filter(|vm| matches!(vm.state, "Running" | "Initializing"));
            match found.map(|vm| (vm.id.clone(), vm.listens_at > now)) {
                None => None,
                Some((_, true)) => return Err(io::ErrorKind::ConnectionRefused.into()),
                Some((id, false)) => {
                    let place = inner.flows.all.len();
                    let (lost, hears) = watch::channel(Lost::No);
                    inner.tell(&format!("session {session}: connection {place} to {id}"));
                    inner.flows.all.push(Flow {
                        id: id.clone(),
                        session,
                        lost,
                        is_over: false,
                    });
                    Some((place, id, hears))
                }
            }
        };
        let Some((place, id, lost)) = found else {
            sleep(CONNECT).await;
            return Err(io::ErrorKind::TimedOut.into());
        };
        let (near, far) = duplex(PIPE);
        let whose = (place, session, id);
        tasks.spawn(self.world.clone().serve(whose, far, lost));
        open.established();
        Ok(Side {
            io: near,
            open,
            last_heard: Instant::now(),
            world: self.world.clone(),
            place,
        })
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let mut inner = self.world.0.lock().unwrap();
        let flow = &mut inner.flows.all[self.place];
        flow.is_over = true;
        let id = flow.id.clone();
        if let Some(vm) = inner.by_id(&id) {
            vm.idle_since = vm.idle_since.max(Instant::now());
        }
    }
}

impl AsyncRead for Side {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, into);
        if polled.is_ready() {
            self.last_heard = Instant::now();
            self.open.heard(self.last_heard);
        }
        polled
    }
}

impl AsyncWrite for Side {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open.sent(Instant::now());
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl InstanceSide for Side {
    fn be_quiet(&mut self, payload_at: Instant) {
        self.open.be_quiet(payload_at);
    }

    fn go_on(&mut self) -> bool {
        self.open.go_on()
    }

    fn attach(&mut self, mut open: OpenConnection) {
        open.established();
        self.open = open;
    }

    fn last_heard(&self) -> Instant {
        self.last_heard
    }

    fn expect_answers(&self, _within: Option<Duration>) {}

    fn ask_kernel(&self, _asks: bool) {}
}

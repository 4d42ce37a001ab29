//! The instance of a history, and its application.
//!
//! Guarantees: everything is drawn from one seed; an application does nothing while it sleeps, and what is sent
//! to it meanwhile is there when it wakes, as TCP has it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::parser::Parser;
use crate::upstream::park::InstanceSide;
use crate::upstream::websocket::{Opcode, control};
use crate::wake::{Endpoint, OpenConnection};

/// Longer than anything of a history.
pub(super) const FOREVER: Duration = Duration::from_secs(3600);
/// What is under way between gateway and instance, as the kernel keeps it.
pub(super) const PIPE: usize = 64 * 1024;

/// What is drawn once for a history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Troubles {
    pub(super) reconnects: bool,
    /// Connections end when the instance falls asleep.
    pub(super) is_lossy: bool,
    /// Each of a hundred.
    pub(super) boots: u8,
    pub(super) moves: u8,
    pub(super) refuses: u8,
    pub(super) fails: u8,
    pub(super) breaks: u8,
}

/// The instance, and what is seen of it.
pub(super) struct Inner {
    pub(super) random: fastrand::Rng,
    pub(super) troubles: Troubles,
    pub(super) live: Option<Endpoint>,
    pub(super) epoch: u64,
    pub(super) ip: u8,
    /// Ends what the instance has open, and whether with a word.
    pub(super) connections: Vec<(CancellationToken, watch::Sender<bool>)>,
    pub(super) count: u32,
    /// What the application has got.
    pub(super) received: Vec<u32>,
    /// What the client has got: of which connection, and which message of that.
    pub(super) answered: Vec<(u32, u32)>,
    /// What each connection of the application has sent.
    pub(super) sent: Vec<u32>,
    pub(super) reopened: u32,
    pub(super) story: Vec<String>,
    pub(super) born: Instant,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) inner: Arc<Mutex<Inner>>,
    pub(super) epochs: Arc<watch::Sender<u64>>,
    pub(super) awake: Arc<watch::Sender<bool>>,
    pub(super) end: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl World {
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap())
    }

    pub(super) fn tell(&self, line: &str) {
        self.with(|inner| {
            let at = inner.born.elapsed().as_millis();
            inner.story.push(format!("{at:7} ms  {line}"));
        });
    }

    pub(super) fn chance(&self, percent: u8) -> bool {
        self.with(|inner| inner.random.u8(0..100) < percent)
    }

    pub(super) fn below(&self, most: u64) -> u64 {
        self.with(|inner| inner.random.u64(0..most))
    }

    pub(super) async fn pause(&self, most_ms: u64) {
        sleep(Duration::from_millis(1 + self.below(most_ms))).await;
    }

    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        self.with(|inner| inner.live.clone())
    }

    /// All connections are lost: with a reset, or so that nothing of them is heard.
    pub(super) fn lose(&self, is_silent: bool) {
        for (cut, silent) in self.with(|inner| std::mem::take(&mut inner.connections)) {
            match is_silent {
                true => drop(silent.send_replace(true)),
                false => cut.cancel(),
            }
        }
    }

    pub(super) fn fall_asleep(&self) {
        let Some(endpoint) = self.with(|inner| inner.live.take()) else {
            return;
        };
        self.tell("asleep");
        self.awake.send_replace(false);
        if self.with(|inner| inner.troubles.is_lossy) {
            self.lose(false);
        }
        endpoint.cut().cancel();
    }

    /// It wakes, if it sleeps: whether it was booted.
    pub(super) fn wake_up(&self) -> (Endpoint, bool) {
        if let Some(endpoint) = self.endpoint() {
            return (endpoint, false);
        }
        let (boots, moves) = self.with(|inner| (inner.troubles.boots, inner.troubles.moves));
        let (is_booted, has_moved) = (self.chance(boots), self.chance(moves));
        if is_booted || has_moved {
            let is_silent = self.chance(50);
            self.lose(is_silent);
        }
        let endpoint = self.with(|inner| {
            inner.epoch += 1;
            inner.ip += u8::from(has_moved);
            let ip = IpAddr::from([10, 0, 0, inner.ip]);
            let endpoint = Endpoint::alone_at(inner.epoch, ip);
            inner.live = Some(endpoint.clone());
            endpoint
        });
        self.tell(&format!("awake, booted: {is_booted}, moved: {has_moved}"));
        self.awake.send_replace(true);
        self.epochs.send_replace(endpoint.epoch());
        (endpoint, is_booted)
    }

    /// A new connection to the application.
    pub(super) fn connect(&self, endpoint: &Endpoint) -> Side {
        let (near, far) = duplex(PIPE);
        let (cut, silent) = (CancellationToken::new(), watch::Sender::new(false));
        let (killed, silenced) = (cut.clone(), silent.subscribe());
        let number = self.with(|inner| {
            inner.connections.push((cut, silent));
            inner.count += 1;
            inner.sent.push(0);
            inner.count
        });
        self.tasks
            .spawn(self.clone().serve(number, far, (killed, silenced)));
        let mut open = endpoint.open_connection();
        open.established();
        Side {
            io: near,
            open,
            last_heard: Instant::now(),
        }
    }

    /// The application, which does nothing while it sleeps.
    pub(super) async fn serve(
        self,
        number: u32,
        mut io: DuplexStream,
        (killed, mut silenced): (CancellationToken, watch::Receiver<bool>),
    ) {
        let (mut awake, mut parser) = (self.awake.subscribe(), Parser::default());
        let mut outgoing: VecDeque<Vec<u8>> = VecDeque::new();
        let living = async {
            loop {
                until(&mut awake, true).await;
                if let Some(part) = outgoing.pop_front() {
                    io.write_all(&part).await?;
                    // It may fall asleep between two parts.
                    self.pause(50).await;
                    continue;
                }
                let mut room = [0; 512];
                let speaks = Duration::from_millis(100 + self.below(20_000));
                tokio::select! {
                    biased;
                    () = until(&mut awake, false) => {}
                    read = io.read(&mut room) => match read? {
                        0 => return Ok(()),
                        count => for (opcode, payload) in parser.take(&room[..count]) {
                            match opcode {
                                Opcode::Ping => io.write_all(&control(10, &payload, None)).await?,
                                Opcode::Data => {
                                    let text = String::from_utf8(payload).unwrap();
                                    self.tell(&format!("{number} has got {text}"));
                                    self.with(|inner| inner.received.push(text.parse().unwrap()));
                                }
                                Opcode::Close => return Ok(()),
                                Opcode::Pong | Opcode::Continuation | Opcode::Reserved => {}
                            }
                        },
                    },
                    () = sleep(speaks) => {
                        let place = usize::try_from(number).unwrap() - 1;
                        let next = self.with(|inner| {
                            inner.sent[place] += 1;
                            inner.sent[place]
                        });
                        let frame = control(1, format!("{number}.{next}").as_bytes(), None);
                        let cut = usize::try_from(self.below(frame.len() as u64)).unwrap();
                        let (first, rest) = frame.split_at(cut);
                        outgoing.extend([first.to_vec(), rest.to_vec()]);
                    }
                }
            }
        };
        let lived: Option<std::io::Result<()>> = tokio::select! {
            biased;
            () = killed.cancelled() => None,
            () = until(&mut silenced, true) => None,
            lived = living => Some(lived),
        };
        if lived.is_none() && *silenced.borrow() {
            // So long the other side's kernel sends again.
            let _given_up = timeout(FOREVER / 9, self.end.cancelled()).await;
        }
    }
}

/// The gateway's side of a connection to the application.
pub(super) struct Side {
    io: DuplexStream,
    open: OpenConnection,
    last_heard: Instant,
}

impl AsyncRead for Side {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, into);
        if polled.is_ready() {
            self.last_heard = Instant::now();
        }
        polled
    }
}

impl AsyncWrite for Side {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
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

/// Waits until it is so.
pub(super) async fn until(watched: &mut watch::Receiver<bool>, so: bool) {
    let _gone = watched.wait_for(|is| *is == so).await.is_ok();
}

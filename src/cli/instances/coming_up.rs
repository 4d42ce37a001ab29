//! Waiting until an instance is up, and why one is not.
//!
//! Guarantees: whoever waits hears when the program has ended, does not exist or listens elsewhere,
//! with its exit code and its last lines; nothing that a program has written reaches a terminal
//! unescaped.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::session::{Session, failed};
use crate::cli::output::Failure;
use crate::telemetry::visible;
use hypeman::wire::{Address, Instance, InstanceState};
use hypeman::{InstanceRef, LogQuery, LogSource};

/// The pauses between two looks at an instance's port.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(200);
/// A connection on one machine takes no longer.
const CONNECT: Duration = Duration::from_secs(1);
/// The time between two looks at what the control plane notes.
const NOTES: Duration = Duration::from_millis(500);
/// What begins a line of the control plane's log that the instance's owner should know.
const NOTE: &str = "note: ";
/// The time that a program has left to come to its port when it is known to listen elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// The lines of a program's log that say why it does not run.
const LAST_LINES: u32 = 20;

impl Session {
    /// Waits until the program answers at the instance's `port`. Returns the instance and where
    /// that is.
    pub(in crate::cli) async fn answers(
        &self,
        id: &InstanceRef,
        port: u16,
        patience: Duration,
    ) -> Result<(Instance, SocketAddr), Failure> {
        let mut end = Instant::now() + patience;
        let (mut pause, mut noted) = (SHORTEST, BTreeSet::new());
        let mut look_at_notes = Instant::now() + NOTES;
        loop {
            let instance = self.client.get_instance(id).await.map_err(failed)?;
            match (&instance.state, instance.address()) {
                (InstanceState::Running, Address::At(ip)) => {
                    let address = SocketAddr::new(ip, port);
                    let connected = timeout(CONNECT, TcpStream::connect(address)).await;
                    if matches!(connected, Ok(Ok(_))) {
                        return Ok((instance, address));
                    }
                }
                (InstanceState::Running, Address::Off) => {
                    let name = visible(&instance.name);
                    let text = format!("{name} has no network, so that nobody reaches it");
                    return Err(Failure::failed(text));
                }
                (
                    InstanceState::Created
                    | InstanceState::Initializing
                    | InstanceState::Paused
                    | InstanceState::Running,
                    _,
                ) => {}
                // Its idle timeout is shorter than the time that its program takes.
                (InstanceState::Standby, _) => {
                    let restored = self.client.restore_instance(id).await;
                    restored.map_err(failed)?;
                }
                _ => return Err(self.why_not(&instance).await),
            }
            let now = Instant::now();
            if now >= look_at_notes || now >= end {
                look_at_notes = now + NOTES;
                if self.note_news(id, &mut noted).await {
                    end = end.min(now + ELSEWHERE);
                }
            }
            if now >= end {
                let last = self.last_lines(id).await;
                let name = visible(&instance.name);
                let text = format!("{name} runs and does not answer at port {port}{last}");
                return Err(Failure::failed(text));
            }
            sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST);
        }
    }

    /// Prints what the control plane has noted since the program was started; whether that was
    /// something new.
    async fn note_news(&self, id: &InstanceRef, noted: &mut BTreeSet<String>) -> bool {
        let mut is_new = false;
        for line in self.log(id, LogSource::Hypeman, 100).await {
            let Some((_, text)) = line.split_once(' ') else {
                continue;
            };
            if text == "started" {
                // What was before is about another run.
                is_new = false;
                continue;
            }
            if let Some(note) = text.strip_prefix(NOTE)
                && noted.insert(note.to_owned())
            {
                self.output.note(&format!("{}\n", visible(note)));
                is_new = true;
            }
        }
        is_new
    }

    /// The last lines of one of an instance's logs, as far as there are any.
    async fn log(&self, id: &InstanceRef, source: LogSource, tail: u32) -> Vec<String> {
        let query = LogQuery {
            tail: Some(tail),
            follow: false,
            source,
        };
        let mut all = Vec::new();
        // A log that is not there, or breaks off, has said what it has said.
        let Ok(mut lines) = self.client.logs(id, query).await else {
            return all;
        };
        while let Ok(Some(line)) = lines.next().await {
            all.push(line);
        }
        all
    }

    /// The program's last lines, to stand below a message.
    async fn last_lines(&self, id: &InstanceRef) -> String {
        let lines = self.log(id, LogSource::App, LAST_LINES).await;
        if lines.is_empty() {
            return "; it has printed nothing".to_owned();
        }
        let lines = lines.iter().map(|line| format!("\n  {}", visible(line)));
        format!("; its last lines:{}", lines.collect::<String>())
    }

    /// Why an instance that should run does not.
    pub(in crate::cli) async fn why_not(&self, instance: &Instance) -> Failure {
        let last = match InstanceRef::parse(&instance.id) {
            Ok(id) => self.last_lines(&id).await,
            Err(_) => String::new(),
        };
        let why = why(instance).map(|why| format!(": {why}"));
        let name = visible(&instance.name);
        let state = visible(&instance.state.to_string());
        let why = why.unwrap_or_default();
        Failure::failed(format!("{name} is {state}{why}{last}"))
    }
}

/// Why an instance does not run, as far as its server says so.
pub(super) fn why(instance: &Instance) -> Option<String> {
    let message = instance
        .exit_message
        .as_deref()
        .or(instance.state_error.as_deref());
    let message = message.map(visible);
    match (message, instance.exit_code) {
        (Some(message), Some(code)) => Some(format!("{message} (exit code {code})")),
        (None, Some(code)) => Some(format!("exit code {code}")),
        (message, None) => message,
    }
}

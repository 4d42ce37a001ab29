//! The connection to the agent in a VM.
//!
//! Guarantees: orders are sent in their order; every status is heard, and the last one can be read
//! after the VM has ended; an answer goes to who asked, and to nobody when that one has left.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::socket::{connect, next_line};
use crate::guest::{AgentMessage, Answer, Order, Question, Status};

/// An agent takes orders at once; so many wait only while its VM stands still.
const WAITING: usize = 256;

type Pending = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answer>>>>;

/// A connection to an agent.
#[derive(Debug)]
pub(super) struct AgentConnection {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<Status>,
    pending: Pending,
    last: AtomicU64,
}

// === impl AgentConnection ===

impl AgentConnection {
    /// Connects to the socket in `folder`. The connection lives as long as its VM.
    pub(super) async fn connect(
        folder: &Path,
        alive: impl Fn() -> bool,
        tasks: &TaskTracker,
    ) -> std::io::Result<Self> {
        let (reader, mut writer) = connect(folder, "agent.sock", alive).await?.into_split();
        let (orders, mut queue) = mpsc::channel::<Order>(WAITING);
        let (publisher, status) = watch::channel(Status::default());
        let pending = Pending::default();
        tasks.spawn(async move {
            while let Some(order) = queue.recv().await {
                let Ok(mut text) = serde_json::to_vec(&order) else {
                    continue;
                };
                text.push(b'\n');
                if writer.write_all(&text).await.is_err() {
                    return;
                }
            }
        });
        let unanswered = Arc::clone(&pending);
        tasks.spawn(async move {
            let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
            while let Ok(true) = next_line(&mut reader, &mut line).await {
                match serde_json::from_slice::<AgentMessage>(&line) {
                    Ok(AgentMessage::Status(status)) => drop(publisher.send_replace(status)),
                    Ok(AgentMessage::Answer { number, answer }) => {
                        let mut pending = unanswered.lock().unwrap_or_else(PoisonError::into_inner);
                        let caller = pending.remove(&number);
                        // Who does not wait any more needs no answer.
                        let _left = caller.map(|caller| caller.send(answer));
                    }
                    // Half a line of an earlier connection may come first.
                    Err(_) => {}
                }
            }
        });
        // Numbers of an earlier control plane's questions must not come again.
        let last = AtomicU64::new(fastrand::u64(..) >> 1);
        Ok(Self {
            orders,
            status,
            pending,
            last,
        })
    }

    /// Sends an order; a VM that has ended does not need it any more, and one that takes none is
    /// ended by whoever waits for it.
    pub(super) fn order(&self, order: Order) {
        let _ended = self.orders.try_send(order);
    }

    /// Asks a question and waits for the answer; `None` when none comes.
    pub(super) async fn ask(&self, question: Question, patience: Duration) -> Option<Answer> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, answer) = oneshot::channel();
        let pending = || self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending().insert(number, sender);
        self.order(Order::Ask { number, question });
        let answer = tokio::time::timeout(patience, answer).await;
        pending().remove(&number);
        answer.ok()?.ok()
    }

    /// The last status of a VM that has ended, when everything was heard.
    pub(super) async fn last_words(&self) -> Status {
        let mut status = self.status();
        while status.changed().await.is_ok() {}
        status.borrow().clone()
    }

    /// The agent's status; its sender goes when the VM has ended and everything was heard.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncBufReadExt as _;
    use tokio::net::UnixListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn answers_find_their_questions_and_a_question_without_one_ends() {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskTracker::new());
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        // An agent that answers every second question with its own path, and in the other order.
        tasks.spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (reader, mut writer) = stream.into_split();
            writer.write_all(b"half a line}\n").await.unwrap();
            let mut lines = BufReader::new(reader).lines();
            let mut held = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(Order::Ask { number, .. }) = serde_json::from_str(&line) else {
                    continue;
                };
                held.push(number);
                if held.len() == 3 {
                    for number in [held[2], held[0]] {
                        let output = String::new();
                        let code = i32::try_from(number - held[0]).ok();
                        let answer = Answer::Command { code, output };
                        let message =
                            serde_json::to_string(&AgentMessage::Answer { number, answer })
                                .unwrap();
                        writer
                            .write_all(format!("{message}\n").as_bytes())
                            .await
                            .unwrap();
                    }
                }
            }
        });
        let agent = AgentConnection::connect(folder.path(), || true, &tasks)
            .await
            .unwrap();
        let question = || Question::Path {
            path: "/".to_owned(),
            follow: false,
        };
        let code = |answer: Option<Answer>| match answer {
            Some(Answer::Command { code, .. }) => code,
            Some(Answer::Path(_)) | None => None,
        };
        let (first, second, third) = tokio::join!(
            agent.ask(question(), SOON),
            agent.ask(question(), Duration::from_millis(100)),
            agent.ask(question(), SOON),
        );
        assert_eq!((code(first), second, code(third)), (Some(0), None, Some(2)));
    }
}

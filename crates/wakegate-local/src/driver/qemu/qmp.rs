//! QEMU's control connection (QMP: docs/interop/qmp-spec).
//!
//! Guarantees: one command at a time, each answered or failed; an answer never goes to another
//! command, also when whoever asked has left.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::socket::{connect, next_line};
use crate::driver::error::QmpError;

/// The longest that a command may take; all are answered at once by a QEMU that is well.
const PATIENCE: Duration = Duration::from_secs(10);

const MONITOR: &str = "human-monitor-command";

/// The control of one QEMU.
#[derive(Debug)]
pub(super) struct Qmp {
    connection: Mutex<QmpConnection>,
}

/// Both directions of the socket, for one command at a time.
#[derive(Debug)]
struct QmpConnection {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    last: u64,
}

// === impl Qmp ===

impl Qmp {
    /// Connects to the socket in `folder`, as soon as it is there, for as long as `alive` says.
    pub(super) async fn connect(
        folder: &Path,
        alive: impl Fn() -> bool,
        tasks: &TaskTracker,
    ) -> Result<Arc<Self>, QmpError> {
        let stream = connect(folder, "qmp.sock", alive).await;
        let (reader, writer) = stream.map_err(QmpError::Connect)?.into_split();
        let (sender, answers) = mpsc::channel(16);
        tasks.spawn(async move {
            let (mut reader, mut line) = (BufReader::new(reader), Vec::new());
            while let Ok(true) = next_line(&mut reader, &mut line).await {
                let Ok(message) = serde_json::from_slice::<Value>(&line) else {
                    continue;
                };
                // The greeting and events are nobody's answer.
                if message.get("id").is_some() && sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        let connection = QmpConnection {
            writer,
            answers,
            last: 0,
        };
        let qmp = Arc::new(Self {
            connection: Mutex::new(connection),
        });
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Runs one command and returns what it returned.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        let mut connection = self.connection.lock().await;
        connection.last += 1;
        let id = connection.last;
        let mut message = json!({ "execute": command, "id": id });
        if let (Value::Object(message), false) = (&mut message, arguments.is_null()) {
            message.insert("arguments".to_owned(), arguments);
        }
        let exchange = async {
            let text = format!("{message}\n");
            let sent = connection.writer.write_all(text.as_bytes()).await;
            sent.map_err(|_| QmpError::Gone)?;
            loop {
                let mut answer = connection.answers.recv().await.ok_or(QmpError::Gone)?;
                // An earlier command's, whose caller has left.
                if answer.get("id").and_then(Value::as_u64) != Some(id) {
                    continue;
                }
                if let Some(error) = answer.get("error") {
                    let reason = error.get("desc").and_then(Value::as_str);
                    let reason = reason.unwrap_or("without a reason").to_owned();
                    return Err(QmpError::Refused { command, reason });
                }
                return Ok(answer
                    .get_mut("return")
                    .map(Value::take)
                    .unwrap_or_default());
            }
        };
        timeout(PATIENCE, exchange)
            .await
            .unwrap_or(Err(QmpError::TimedOut(command)))
    }

    /// Runs one command of the human monitor, and returns what it says.
    pub(super) async fn monitor(&self, line: &str) -> Result<String, QmpError> {
        let command = json!({ "command-line": line });
        let answer = self.execute(MONITOR, command).await?;
        Ok(answer.as_str().unwrap_or_default().trim().to_owned())
    }

    /// Forwards a port, as a rule of the user network says.
    pub(super) async fn forward(&self, rule: &str) -> Result<(), QmpError> {
        // Its only answer is a complaint.
        match self
            .monitor(&format!("hostfwd_add network {rule}"))
            .await?
            .as_str()
        {
            "" => Ok(()),
            complaint => Err(refused(complaint)),
        }
    }

    /// Forwards a port of this address no more, if it ever did.
    pub(super) async fn forward_no_more(&self, from: SocketAddrV4) -> Result<(), QmpError> {
        // It always says something.
        let line = format!("hostfwd_remove network tcp:{from}");
        match self.monitor(&line).await? {
            done if done.ends_with("removed") || done.ends_with("not found") => Ok(()),
            complaint => Err(refused(&complaint)),
        }
    }

    /// The VM's state: `running`, `paused`, `inmigrate`, `postmigrate`, …
    pub(super) async fn status(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-status", Value::Null).await?;
        Ok(word(&answer, "status"))
    }

    /// The state of a migration: `active`, `completed`, `failed`, … or nothing.
    pub(super) async fn migration(&self) -> Result<String, QmpError> {
        let answer = self.execute("query-migrate", Value::Null).await?;
        Ok(word(&answer, "status"))
    }
}

fn refused(complaint: &str) -> QmpError {
    QmpError::Refused {
        command: MONITOR,
        reason: complaint.to_owned(),
    }
}

fn word(answer: &Value, key: &str) -> String {
    let word = answer.get(key).and_then(Value::as_str);
    word.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;

    use super::*;

    /// A QEMU that answers as its lines say, `$id` being the command's.
    fn pretend(folder: &Path, tasks: &TaskTracker, answers: &'static [&'static str]) {
        let listener = UnixListener::bind(folder.join("qmp.sock")).unwrap();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"{\"QMP\": {}}\n").await.unwrap();
            let (mut id, mut buffer) = (0, [0; 4096]);
            for answer in answers {
                assert!(stream.read(&mut buffer).await.unwrap() > 0);
                id += 1;
                let text = answer.replace("$id", &id.to_string());
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_reason_and_events_are_no_answers() {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskTracker::new());
        pretend(
            folder.path(),
            &tasks,
            &[
                "{\"return\": {}, \"id\": $id}\n",
                "{\"event\": \"STOP\"}\n{\"error\": {\"desc\": \"no such thing\"}, \"id\": $id}\n",
                "{\"return\": {\"status\": \"old\"}, \"id\": 1}\n\
                 {\"return\": {\"status\": \"running\"}, \"id\": $id}\n",
            ],
        );
        let qmp = Qmp::connect(folder.path(), || true, &tasks).await.unwrap();
        let refused = qmp.execute("cont", Value::Null).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "QEMU refused `cont`: no such thing",
            "and it is not the event's"
        );
        assert_eq!(qmp.status().await.unwrap(), "running");
        assert!(matches!(qmp.status().await, Err(QmpError::Gone)));
    }

    #[tokio::test]
    async fn a_ports_forwarding_ends_when_the_monitor_says_that_it_is_removed_or_was_not_there() {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskTracker::new());
        let said = |text: &str| format!("{{\"return\": \"{text}\\r\\n\", \"id\": $id}}\n");
        let rule = "host forwarding rule for tcp:127.78.1.2:80";
        let answers = [
            "{\"return\": {}, \"id\": $id}\n".to_owned(),
            said("Could not set up host forwarding rule 'tcp:127.78.1.2:80-:80'"),
            said(&format!("{rule} removed")),
            said(""),
            said(&format!("{rule} not found")),
            said("unknown command"),
        ];
        let answers: &[&str] = answers.map(|answer| &*answer.leak()).to_vec().leak();
        pretend(folder.path(), &tasks, answers);
        let qmp = Qmp::connect(folder.path(), || true, &tasks).await.unwrap();
        let from = "127.78.1.2:80".parse().unwrap();
        let busy = qmp.forward("tcp:127.78.1.2:80-:80").await;
        assert!(matches!(busy, Err(QmpError::Refused { .. })));
        qmp.forward_no_more(from).await.unwrap();
        qmp.forward("tcp:127.78.1.2:80-:80").await.unwrap();
        qmp.forward_no_more(from).await.unwrap();
        let strange = qmp.forward_no_more(from).await;
        assert!(matches!(strange, Err(QmpError::Refused { .. })));
    }

    #[tokio::test]
    async fn a_process_that_never_listens_is_not_waited_for_once_it_is_gone() {
        let (folder, tasks) = (tempfile::tempdir().unwrap(), TaskTracker::new());
        let error = Qmp::connect(folder.path(), || false, &tasks).await;
        let error = error.unwrap_err();
        assert!(matches!(error, QmpError::Connect(_)));
    }
}

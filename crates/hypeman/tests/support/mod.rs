//! A server of canned answers, which keeps what it was asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hypeman::{Attempt, Client, ClientBuilder, Observer, Outcome};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a server does with one request.
pub enum Reply {
    /// It answers with this status and a body of JSON.
    Answer(u16, String),
    /// It answers with this status, these further lines of the head, and this body.
    Odd(u16, &'static str, String),
    /// It answers so after a while.
    Late(Duration, u16, String),
    /// It sends exactly this.
    Raw(Vec<u8>),
    /// It sends this and keeps the connection open.
    Begin(Vec<u8>),
    /// It closes the connection.
    Close,
    /// It never answers.
    Hang,
    /// It answers with this status and a body of this text again and again, without an end.
    Endless(u16, &'static str),
    /// It sends this, then a space now and then, without an end.
    Trickle(&'static [u8]),
}

/// One request that a server has read.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// The `Authorization` field.
    pub authorization: Option<String>,
    /// The `Accept` field.
    pub accept: Option<String>,
    pub body: String,
}

/// A server on a port of its own, which ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    _task: JoinSet<()>,
}

/// An observer that keeps what it hears: attempts that begin, without an outcome, and that end.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Vec<Heard>>>);

type Heard = (Attempt, Option<Outcome>);

pub fn answer(status: u16, body: &str) -> Reply {
    Reply::Answer(status, body.to_owned())
}

impl Server {
    /// Serves these replies in their order, then a 599 to whatever else comes.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let mut replies: VecDeque<Reply> = replies.into_iter().collect();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else {
                    continue;
                };
                kept.lock().unwrap().push(request);
                let reply = replies.pop_front().unwrap_or_else(|| answer(599, ""));
                connections.spawn(reply.send(stream));
            }
        });
        Self {
            address,
            requests,
            _task: task,
        }
    }

    pub fn builder(&self) -> ClientBuilder {
        Client::builder(format!("http://{}", self.address)).api_key("hunter2")
    }

    pub fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Reply {
    async fn send(self, mut stream: TcpStream) {
        let bytes = match self {
            Self::Answer(status, body) => whole(status, JSON, &body),
            Self::Odd(status, lines, body) => whole(status, lines, &body),
            Self::Late(pause, status, body) => {
                tokio::time::sleep(pause).await;
                whole(status, JSON, &body)
            }
            Self::Raw(bytes) => bytes,
            Self::Begin(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return std::future::pending().await;
            }
            Self::Close => Vec::new(),
            Self::Hang => std::future::pending().await,
            Self::Endless(status, what) => {
                let head = format!("HTTP/1.1 {status} -\r\nconnection: close\r\n{JSON}\r\n");
                let mut written = stream.write_all(head.as_bytes()).await;
                let chunk = what.repeat(4096 / what.len() + 1);
                while written.is_ok() {
                    written = stream.write_all(chunk.as_bytes()).await;
                }
                return;
            }
            Self::Trickle(head) => {
                let mut written = stream.write_all(head).await;
                while written.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    written = stream.write_all(b" ").await;
                }
                return;
            }
        };
        // A client that has gone is no fault of the server.
        drop(stream.write_all(&bytes).await);
    }
}

const JSON: &str = "content-type: application/json\r\n";

fn whole(status: u16, lines: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n");
    format!("{head}{lines}\r\n{body}").into_bytes()
}

async fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let field = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| {
                let (key, value) = line.split_once(':')?;
                let found = key.eq_ignore_ascii_case(name);
                found.then(|| value.trim().to_owned())
            })
        };
        let length = field("content-length").map_or(0, |text| text.parse().unwrap());
        if body.len() < length {
            continue;
        }
        let line = head.lines().next()?;
        return Some(Request {
            line: line.trim_end_matches(" HTTP/1.1").to_owned(),
            authorization: field("authorization"),
            accept: field("accept"),
            body: body.to_owned(),
        });
    }
}

impl Recorder {
    /// The attempts that are over.
    pub fn ended(&self) -> Vec<(&'static str, u32, Outcome)> {
        let heard = self.0.lock().unwrap();
        let ended = heard.iter().filter_map(|(attempt, outcome)| {
            outcome.map(|outcome| (attempt.operation, attempt.number, outcome))
        });
        ended.collect()
    }

    /// The number of attempts that have begun.
    pub fn begun(&self) -> usize {
        let heard = self.0.lock().unwrap();
        heard
            .iter()
            .filter(|(_, outcome)| outcome.is_none())
            .count()
    }
}

impl Observer for Recorder {
    fn attempt_began(&self, attempt: Attempt) {
        self.0.lock().unwrap().push((attempt, None));
    }

    fn attempt_ended(&self, attempt: Attempt, outcome: Outcome, _: Duration) {
        self.0.lock().unwrap().push((attempt, Some(outcome)));
    }
}

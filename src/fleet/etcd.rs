//! etcd as the engine, by its JSON gateway.
//!
//! Guarantees: every call has a deadline and goes to the next member if one does not answer; a watch
//! ends when the member that it is at has no quorum or does not answer; the password is in no message.

mod answers;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use self::answers::{NOT_ETCD, Refusal, cluster, encode, entry, field, news_of, number, refusal};
use super::engine::{
    Compare, Engine, EngineError, MOST_OPERATIONS, News, Operation, Outcome, Page, Range, Span,
    Watch,
};
use crate::config::{FleetConfig, Secret};

/// How long one member may take for a call.
const DEADLINE: Duration = Duration::from_secs(3);
/// How long for a page, since it counts all the keys behind it (1.2 s for two million), and more for each key.
const FOR_PAGE: Duration = Duration::from_secs(10);
const FOR_KEY: Duration = Duration::from_micros(200);
const CONNECT: Duration = Duration::from_secs(1);
/// How often the member at which there is a watch is asked whether it is one of a quorum.
const BEAT: Duration = Duration::from_secs(2);
/// The longest answer, and the longest of a watch, which has a thousand revisions at most.
const LONGEST: usize = 64 * 1024 * 1024;
/// A longer answer is read by a thread of its own.
const LONG: usize = 1024 * 1024;

/// etcd.
pub struct EtcdEngine(Arc<Client>);

struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// The member that answered last.
    current: AtomicUsize,
    login: Option<(String, PathBuf)>,
    token: Mutex<Option<Secret>>,
}

// === impl EtcdEngine ===

impl EtcdEngine {
    /// One that asks these members. Files are read now, the password's at each login.
    pub fn new(config: &FleetConfig) -> Result<Self, String> {
        let mut http = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .connect_timeout(CONNECT)
            .tcp_keepalive(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none());
        let read = |path: &PathBuf| {
            let read = std::fs::read(path);
            read.map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        if let Some(tls) = &config.tls {
            if let Some(ca) = &tls.ca {
                let wrong = |error| format!("{}: {error}", ca.display());
                let roots = reqwest::Certificate::from_pem_bundle(&read(ca)?).map_err(wrong)?;
                http = http.tls_certs_only(roots);
            }
            if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
                let mut both = read(cert)?;
                both.push(b'\n');
                both.extend(read(key)?);
                let wrong = |error| format!("{}: {error}", cert.display());
                http = http.identity(reqwest::Identity::from_pem(&both).map_err(wrong)?);
            }
        }
        let login = config.user.clone().zip(config.password_file.clone());
        Ok(Self(Arc::new(Client {
            http: http.build().map_err(|error| error.to_string())?,
            endpoints: config.endpoints.clone(),
            current: AtomicUsize::new(0),
            login,
            token: Mutex::default(),
        })))
    }
}

impl fmt::Debug for EtcdEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdEngine({})", self.0.endpoints.join(", "))
    }
}

// === impl Client ===

impl Client {
    /// Asks the members in turn, the one that answered last first.
    async fn call(&self, path: &str, body: &Value) -> Result<Value, EngineError> {
        self.call_within(path, body, DEADLINE).await
    }

    /// The same, where each may take so long.
    async fn call_within(
        &self,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Value, EngineError> {
        let first = self.current.load(Ordering::Relaxed);
        let mut said = String::new();
        for offset in 0..self.endpoints.len() {
            let index = (first + offset) % self.endpoints.len().max(1);
            match self.call_at(index, path, body, deadline).await {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Refusal::Away(text)) => said = text,
                Err(Refusal::Token) => "the user is not let in".clone_into(&mut said),
                Err(Refusal::Final(error)) => return Err(error),
            }
        }
        Err(EngineError::Unavailable(said))
    }

    /// Asks one member, and logs in if it wants that.
    async fn call_at(
        &self,
        index: usize,
        path: &str,
        body: &Value,
        deadline: Duration,
    ) -> Result<Value, Refusal> {
        let asked = async {
            match self.once(index, path, body).await {
                Err(Refusal::Token) if self.login.is_some() => {
                    self.log_in(index).await?;
                    self.once(index, path, body).await
                }
                answer => answer,
            }
        };
        match timeout(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Away("no answer in time".to_owned())),
        }
    }

    async fn log_in(&self, index: usize) -> Result<(), Refusal> {
        let Some((user, file)) = &self.login else {
            return Ok(());
        };
        let password = tokio::fs::read_to_string(file).await.map_err(|error| {
            let text = format!("cannot read {}: {error}", file.display());
            Refusal::Final(EngineError::Refused(text))
        })?;
        let password = Secret::new(&password);
        let body = json!({ "name": user, "password": password.reveal() });
        let answer = self.once(index, "/v3/auth/authenticate", &body).await?;
        let token = field(&answer, "/token").as_str().map(Secret::new);
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    async fn send(
        &self,
        index: usize,
        path: &str,
        body: String,
    ) -> Result<reqwest::Response, Refusal> {
        let endpoint = self
            .endpoints
            .get(index)
            .map(String::as_str)
            .unwrap_or_default();
        let mut request = self.http.post(format!("{endpoint}{path}"));
        request = request
            .header("content-type", "application/json")
            .body(body);
        let token = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(token) = token {
            request = request.header("authorization", token.reveal());
        }
        // An error of the client names the URL, which has no secret in it, and not the fields.
        let failed = |error: reqwest::Error| {
            // The last cause says what has happened: that nobody listens, or a name that nobody knows.
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Refusal::Away(format!("{endpoint}: {cause}"))
        };
        let response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        if status == 200 {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        Err(refusal(status, &body))
    }

    async fn once(&self, index: usize, path: &str, body: &Value) -> Result<Value, Refusal> {
        let mut response = self.send(index, path, body.to_string()).await?;
        let mut bytes = Vec::new();
        let broken = |error: reqwest::Error| Refusal::Away(error.to_string());
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if bytes.len() + chunk.len() > LONGEST {
                return Err(Refusal::Final(EngineError::TooLong(LONGEST)));
            }
            bytes.extend_from_slice(&chunk);
        }
        let answer = match bytes.len() > LONG {
            true => {
                let reading = spawn_blocking(move || serde_json::from_slice(&bytes).ok());
                reading.await.ok().flatten()
            }
            false => serde_json::from_slice(&bytes).ok(),
        };
        // Whatever else stands at the address may say yes to everything: an answer in which nothing is
        // must not look as if nothing were there.
        let answer = answer.filter(|answer: &Value| {
            !path.starts_with("/v3/kv/") || number(field(answer, "/header/revision")) > 0
        });
        answer.ok_or_else(|| Refusal::Away(NOT_ETCD.to_owned()))
    }

    /// Whether this member is one of a quorum, and its revision.
    async fn look_at(&self, index: usize) -> Result<i64, EngineError> {
        let body = json!({ "key": encode("/wakegate/v1/m/accepted"), "keys_only": true });
        match self.call_at(index, "/v3/kv/range", &body, DEADLINE).await {
            Ok(answer) => Ok(number(field(&answer, "/header/revision"))),
            Err(Refusal::Final(error)) => Err(error),
            Err(Refusal::Away(text)) => Err(EngineError::Unavailable(text)),
            Err(Refusal::Token) => Err(EngineError::Unavailable("not let in".to_owned())),
        }
    }
}

/// A watch at one member.
struct Watching {
    client: Arc<Client>,
    index: usize,
    response: reqwest::Response,
    buffer: Vec<u8>,
    /// So much of it has no end of a line.
    seen: usize,
    beat: Interval,
}

// === impl Watching ===

impl Watching {
    /// The next news; `None` for what is none.
    async fn next(&mut self) -> Result<Option<News>, EngineError> {
        if let Some(line) = self.line() {
            return news_of(&line);
        }
        let broken = |text: String| EngineError::Unavailable(text);
        tokio::select! {
            chunk = self.response.chunk() => {
                let chunk = chunk.map_err(|error| broken(error.to_string()))?;
                let chunk = chunk.ok_or_else(|| broken("the watch ended".to_owned()))?;
                self.buffer.extend_from_slice(&chunk);
                match self.buffer.len() > LONGEST {
                    true => Err(broken("an answer of the watch is too long".to_owned())),
                    false => Ok(None),
                }
            }
            _ = self.beat.tick() => {
                let revision = self.client.look_at(self.index).await?;
                Ok(Some(News::Alive(revision)))
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let new = self.buffer.get(self.seen..).unwrap_or_default();
        let Some(end) = new.iter().position(|byte| *byte == b'\n') else {
            self.seen = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.seen + end + 1);
        self.seen = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}

impl Engine for EtcdEngine {
    fn range(&self, range: Range) -> BoxFuture<'_, Result<Page, EngineError>> {
        async move {
            let body = json!({
                "key": encode(&range.from),
                "range_end": encode(&range.to),
                "limit": range.limit.to_string(),
                "revision": range.revision.to_string(),
            });
            // One key is no page.
            let keys = u32::try_from(range.limit).unwrap_or(u32::MAX);
            let deadline = match keys {
                0 | 1 => DEADLINE,
                _ => FOR_PAGE + FOR_KEY * keys,
            };
            let asked = self.0.call_within("/v3/kv/range", &body, deadline);
            let answer = asked.await?;
            let found = field(&answer, "/kvs")
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            Ok(Page {
                entries: found.iter().filter_map(entry).collect(),
                revision: number(field(&answer, "/header/revision")),
                cluster: cluster(&answer),
                more: field(&answer, "/more").as_bool().unwrap_or_default(),
            })
        }
        .boxed()
    }

    fn watch_spans(
        &self,
        spans: Vec<Span>,
        revision: i64,
    ) -> BoxFuture<'_, Result<Watch, EngineError>> {
        async move {
            // Several on one stream; their events come in their order, each span's for itself.
            let asked = spans.iter().map(|span| {
                let create = json!({ "create_request": {
                    "key": encode(&span.from),
                    "range_end": encode(&span.to),
                    "start_revision": revision.to_string(),
                }});
                create.to_string()
            });
            let body = asked.collect::<Vec<_>>().join("\n");
            let first = self.0.current.load(Ordering::Relaxed);
            let mut said = String::new();
            for offset in 0..self.0.endpoints.len() {
                let index = (first + offset) % self.0.endpoints.len().max(1);
                // A member without a quorum would open a watch at which nothing comes; and asking
                // logs in.
                let opening = async {
                    self.0.look_at(index).await?;
                    let sent = self.0.send(index, "/v3/watch", body.clone()).await;
                    sent.map_err(|refused| match refused {
                        Refusal::Final(error) => error,
                        Refusal::Away(text) => EngineError::Unavailable(text),
                        Refusal::Token => EngineError::Unavailable("not let in".to_owned()),
                    })
                };
                let response = match timeout(DEADLINE, opening).await {
                    Ok(Ok(response)) => response,
                    Ok(Err(EngineError::Unavailable(text))) => {
                        said = text;
                        continue;
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {
                        "no answer in time".clone_into(&mut said);
                        continue;
                    }
                };
                self.0.current.store(index, Ordering::Relaxed);
                let mut beat = interval(BEAT);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let watching = Watching {
                    client: Arc::clone(&self.0),
                    index,
                    response,
                    buffer: Vec::new(),
                    seen: 0,
                    beat,
                };
                let news = stream::unfold(Some(watching), |watching| async move {
                    let mut watching = watching?;
                    loop {
                        match watching.next().await {
                            Ok(None) => {}
                            Ok(Some(news)) => return Some((Ok(news), Some(watching))),
                            Err(error) => {
                                // The next call begins with the next member.
                                let next = watching.index + 1;
                                watching.client.current.store(next, Ordering::Relaxed);
                                return Some((Err(error), None));
                            }
                        }
                    }
                });
                return Ok(news.boxed());
            }
            Err(EngineError::Unavailable(said))
        }
        .boxed()
    }

    fn commit(
        &self,
        compares: Vec<Compare>,
        operations: Vec<Operation>,
    ) -> BoxFuture<'_, Result<Outcome, EngineError>> {
        async move {
            if operations.len() > MOST_OPERATIONS {
                return Err(EngineError::TooLarge(operations.len()));
            }
            let compares: Vec<Value> = compares
                .iter()
                .map(|compare| match compare {
                    Compare::Absent(key) => json!({
                        "key": encode(key), "target": "CREATE", "create_revision": "0",
                    }),
                    Compare::Created(key, at) => json!({
                        "key": encode(key), "target": "CREATE", "create_revision": at.to_string(),
                    }),
                    Compare::Modified(key, at) => json!({
                        "key": encode(key), "target": "MOD", "mod_revision": at.to_string(),
                    }),
                })
                .collect();
            let operations: Vec<Value> = operations
                .iter()
                .map(|operation| match operation {
                    Operation::Put { key, value, lease } => json!({ "request_put": {
                        "key": encode(key), "value": encode(value), "lease": lease.to_string(),
                    }}),
                    Operation::Delete(key) => {
                        json!({ "request_delete_range": { "key": encode(key) } })
                    }
                })
                .collect();
            let body = json!({ "compare": compares, "success": operations });
            let answer = self.0.call("/v3/kv/txn", &body).await?;
            Ok(Outcome {
                is_done: field(&answer, "/succeeded").as_bool().unwrap_or_default(),
                revision: number(field(&answer, "/header/revision")),
            })
        }
        .boxed()
    }

    fn grant(&self, seconds: i64) -> BoxFuture<'_, Result<i64, EngineError>> {
        async move {
            let body = json!({ "TTL": seconds.to_string() });
            let answer = self.0.call("/v3/lease/grant", &body).await?;
            match number(field(&answer, "/ID")) {
                // A key with that lease would never go.
                0 => Err(EngineError::Unavailable(NOT_ETCD.to_owned())),
                lease => Ok(lease),
            }
        }
        .boxed()
    }

    fn keep_alive(&self, lease: i64) -> BoxFuture<'_, Result<bool, EngineError>> {
        async move {
            let body = json!({ "ID": lease.to_string() });
            let answer = self.0.call("/v3/lease/keepalive", &body).await?;
            Ok(number(field(&answer, "/result/TTL")) > 0)
        }
        .boxed()
    }

    fn revoke(&self, lease: i64) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            let body = json!({ "ID": lease.to_string() });
            self.0.call("/v3/lease/revoke", &body).await.map(drop)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::fleet::engine::read_all;

    #[tokio::test]
    async fn what_says_yes_to_everything_is_not_an_empty_directory_nor_a_lease_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _some = stream.read(&mut request).await;
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
                let _gone = stream.write_all(answer).await;
            }
        };
        let config = FleetConfig {
            endpoints: vec![format!("http://{address}")],
            ..FleetConfig::default()
        };
        let engine = EtcdEngine::new(&config).unwrap();
        let asking = async {
            let unavailable = |error| matches!(error, Some(EngineError::Unavailable(_)));
            assert!(unavailable(read_all(&engine, "/wakegate/").await.err()));
            let done = engine.commit(Vec::new(), Vec::new()).await;
            assert!(unavailable(done.err()));
            assert!(unavailable(engine.grant(30).await.err()));
        };
        tokio::select! {
            () = serving => {}
            () = asking => {}
        }
    }
}

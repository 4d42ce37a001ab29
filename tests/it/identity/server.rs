//! A server of the test's own: a judge of requests, a publisher of keys, an application.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderName, Response, StatusCode};
use axum::response::IntoResponse as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::spawn;

type Answer = dyn Fn(&Parts) -> Option<Response<Body>> + Send + Sync;

/// A server; the heads of requests are kept.
pub struct Server {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<Parts>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// At an address of its own. A request that `answer` has nothing for is never answered.
    pub async fn start(
        answer: impl Fn(&Parts) -> Option<Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::at(listener, answer)
    }

    pub fn at(
        listener: TcpListener,
        answer: impl Fn(&Parts) -> Option<Response<Body>> + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer): (_, Arc<Answer>) = (Arc::clone(&heads), Arc::new(answer));
        let app = Router::new().fallback(move |request: Request| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let (head, _) = request.into_parts();
                let answer = answer(&head);
                kept.lock().unwrap().push(head);
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        let task = spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            heads,
            task,
        }
    }

    /// An application that says what it was asked.
    pub fn echo(listener: TcpListener) -> Self {
        Self::at(listener, |head| {
            let mut text = format!("{}\n", head.uri);
            for (name, value) in &head.headers {
                writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
            }
            Some(text.into_response())
        })
    }

    /// The requests so far.
    pub fn asked(&self) -> usize {
        self.heads.lock().unwrap().len()
    }

    /// The methods and paths of the requests so far.
    pub fn lines(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let lines = heads
            .iter()
            .map(|head| format!("{} {}", head.method, head.uri));
        lines.collect()
    }

    /// A field of the request at this position.
    pub fn field(&self, position: usize, name: &str) -> Option<String> {
        let heads = self.heads.lock().unwrap();
        let value = heads.get(position)?.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }

    /// A field of the last request.
    pub fn last(&self, name: &str) -> Option<String> {
        let heads = self.heads.lock().unwrap();
        let value = heads.last()?.headers.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with these fields.
pub fn answer(status: u16, fields: &[(&str, &str)]) -> Response<Body> {
    let mut response = Response::new(Body::from("said by the judge"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

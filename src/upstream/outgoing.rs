//! A request on its way to an instance.
//!
//! Guarantees: a request that may arrive twice, or has not been sent, is kept whole until it is
//! certain that it need not be sent again; a request that may not arrive twice is sent once.

use std::fmt;
use std::mem::take;

use http::header::CONTENT_LENGTH;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};
use http1::{BodyLength, InterimSink, write_request, write_request_lines};
use hyper::body::Body as _;

use super::bound_auth::ClientConnection;
use super::field_names::spelled;
use super::forwarded::ForwardedHeaders;
use super::h1::Sending;
use super::headers::prepare_interim;
use super::request_body::{BodyError, RequestBody};
use super::response_clock::ResponseClock;
use crate::client::{OriginalNames, Request};
use crate::config::FieldNames;
use crate::flow::ClientBuffers;

/// A request as an instance is to get it.
pub struct Outgoing {
    pub(super) head: Request<()>,
    /// The forwarding fields, where they are not among the head's.
    pub(super) forwarded: Option<ForwardedHeaders>,
    pub(super) body: RequestBody,
    interim: Option<InterimSink>,
    client: Option<ClientConnection>,
    /// The client's side of the budget of bytes in memory.
    buffers: Option<ClientBuffers>,
    has_bound_credentials: bool,
    field_names: FieldNames,
    upgrade: bool,
    /// Whether it is idempotent, and its body, if any, can be sent twice.
    repeatable: bool,
    /// The request as HTTP/1.1 writes it, with its body, when it was made and not sent.
    unsent: Option<Box<Sending>>,
}

// === impl Outgoing ===

impl Outgoing {
    /// Makes one of a request whose fields, and `forwarded` besides, are for the instance.
    /// `upgrade` says that it wants to leave HTTP; `interim` takes 1xx responses, where its client
    /// can be sent some.
    pub fn new(
        request: impl Into<Request<RequestBody>>,
        forwarded: Option<ForwardedHeaders>,
        upgrade: bool,
        interim: Option<InterimSink>,
    ) -> Self {
        let (head, body) = request.into().split();
        Self {
            repeatable: is_repeatable(&head, &body, upgrade),
            head,
            forwarded,
            body,
            interim,
            client: None,
            buffers: None,
            has_bound_credentials: false,
            field_names: FieldNames::default(),
            upgrade,
            unsent: None,
        }
    }

    /// Whether it may arrive twice.
    pub fn may_repeat(&self) -> bool {
        self.repeatable
    }

    /// Whether it could arrive twice if its body were read beforehand.
    pub fn gains_from_buffer(&self) -> bool {
        self.head.method().is_idempotent() && !self.body.is_repeatable()
    }

    /// Reads its body beforehand, if that has no more than so many bytes.
    pub async fn read_beforehand(&mut self, limit: usize) -> Result<(), BodyError> {
        let body = take(&mut self.body);
        self.body = body.buffer(limit, self.head.extensions()).await?;
        self.repeatable = is_repeatable(&self.head, &self.body, self.upgrade);
        Ok(())
    }

    /// It has come over `client`, and may have brought credentials that are for a whole connection.
    pub fn set_client(&mut self, client: ClientConnection, has_bound_credentials: bool) {
        self.client = Some(client);
        self.has_bound_credentials = has_bound_credentials;
    }

    /// Its body, and its response's head while it comes, count to this side of the budget.
    pub fn count_to(&mut self, buffers: Option<ClientBuffers>) {
        self.buffers = buffers;
    }

    /// The names of its fields are spelled by this rule.
    pub fn spell(&mut self, field_names: FieldNames) {
        self.field_names = field_names;
    }

    /// The same once more, if it is a handshake alone; nobody waits for its 1xx responses.
    pub fn handshake(&self) -> Option<Self> {
        let is_alone = self.upgrade && self.unsent.is_none() && self.body.is_nothing();
        is_alone.then(|| Self {
            head: self.head.clone(),
            forwarded: self.forwarded.clone(),
            body: RequestBody::default(),
            interim: None,
            buffers: self.buffers.clone(),
            unsent: None,
            ..*self
        })
    }

    /// Its fields, but for the forwarding fields that are beside them.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.head.headers_mut()
    }

    /// The connection of its client.
    pub(super) fn client(&self) -> Option<ClientConnection> {
        self.client
    }

    /// The client's side of the budget.
    pub(super) fn buffers(&self) -> Option<&ClientBuffers> {
        self.buffers.as_ref()
    }

    /// Whether it brings credentials that are for a whole connection.
    pub(super) fn has_bound_credentials(&self) -> bool {
        self.has_bound_credentials
    }

    /// Whether it wants to leave HTTP.
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Passes a 1xx response on: 103 Early Hints, above all. 100 is the gateway's own, and 101 is a
    /// final one.
    pub(super) fn pass_interim(&self, status: StatusCode, fields: &HeaderMap) {
        if let Some(sink) = &self.interim {
            pass(sink, status, fields);
        }
    }

    /// The request as HTTP/1.1 writes it, into `room`. A request that may arrive twice stays here,
    /// too.
    pub(super) fn begin_sending(&mut self, mut room: Vec<u8>) -> Sending {
        if let Some(sending) = self.unsent.take() {
            return *sending;
        }
        let again = self.repeatable.then(|| self.body.again()).flatten();
        let body = again.unwrap_or_else(|| take(&mut self.body));
        let head = &self.head;
        let length = match body.size_hint().exact() {
            // Where nothing is said, there is nothing (RFC 9112 §6.3, rule 7).
            Some(0) if body.is_nothing() && !head.has(&CONTENT_LENGTH) => BodyLength::Nothing,
            Some(length) => BodyLength::Length(length),
            None => BodyLength::Chunked,
        };
        room.clear();
        let (method, target) = (head.method().as_str(), head.uri().path_and_query());
        let target = target.map_or("/", PathAndQuery::as_str);
        let add = |out: &mut Vec<u8>| {
            if let Some(forwarded) = &self.forwarded {
                forwarded.write(out);
            }
        };
        let length = match self.field_names {
            FieldNames::Lower => match head.lines() {
                Some(lines) => write_request_lines(&mut room, method, target, lines, length, add),
                None => {
                    let fields = head.headers().iter();
                    let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
                    write_request(&mut room, method, target, fields, length, add)
                }
            },
            rule @ (FieldNames::Title | FieldNames::Original) => {
                let original = head.extensions().get::<OriginalNames>();
                let fields = head.headers().iter().map(|(name, value)| {
                    let name = spelled(name.as_str(), rule, original);
                    (name, value.as_bytes())
                });
                // What frames the body has these letters also where it is not the client's.
                let framing = match length {
                    BodyLength::Chunked => Some("transfer-encoding"),
                    BodyLength::Length(_) => Some("content-length"),
                    BodyLength::Nothing | BodyLength::UntilClose => None,
                };
                let framing = framing.map(|name| (spelled(name, rule, original), &b""[..]));
                let fields: Vec<_> = fields.chain(framing).collect();
                let fields = fields.iter().map(|(name, value)| (&**name, *value));
                write_request(&mut room, method, target, fields, length, add)
            }
        };
        let buffers = match body.is_nothing() {
            true => None,
            false => self.buffers.clone(),
        };
        Sending::new(room, length, body, buffers)
    }

    /// Nothing of it was sent.
    pub(super) fn keep_unsent(&mut self, sending: Sending) {
        self.unsent = Some(Box::new(sending));
    }

    /// The request in the form that hyper takes. A request that may arrive twice stays here, too.
    pub(super) fn give(&mut self) -> http::Request<RequestBody> {
        let again = self.repeatable.then(|| self.body.again()).flatten();
        let mut request = match again {
            Some(body) => self.head.clone().map(|()| body),
            None => take(&mut self.head).map(|()| take(&mut self.body)),
        }
        .into_http();
        if let Some(forwarded) = &self.forwarded {
            forwarded.insert(request.headers_mut());
        }
        let (clock, sink) = (ResponseClock::new(), self.interim.clone());
        request.extensions_mut().insert(clock.clone());
        hyper::ext::on_informational(&mut request, move |interim| {
            clock.restart();
            if let Some(sink) = &sink {
                pass(sink, interim.status(), interim.headers());
            }
        });
        request
    }

    /// hyper has not sent it.
    pub(super) fn give_back(&mut self, request: http::Request<RequestBody>) {
        (self.head, self.body) = Request::from(request).split();
    }
}

/// Whether a request may arrive twice.
fn is_repeatable(head: &Request<()>, body: &RequestBody, upgrade: bool) -> bool {
    head.method().is_idempotent() && !upgrade && body.is_repeatable()
}

fn pass(sink: &InterimSink, status: StatusCode, fields: &HeaderMap) {
    if !matches!(status.as_u16(), 100 | 101) {
        let mut fields = fields.clone();
        prepare_interim(&mut fields);
        sink(status, &fields);
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Targets may have secrets in them.
        write!(f, "Outgoing({})", self.head.method())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(method: &str) -> Outgoing {
        let request = http::Request::builder()
            .method(method)
            .uri("/a")
            .header("x-a", "1");
        let request = request.body(RequestBody::default()).unwrap();
        Outgoing::new(request, None, false, None)
    }

    #[test]
    fn what_may_arrive_twice_is_still_there_and_nothing_else_is_until_it_comes_back() {
        let mut get = outgoing("GET");
        let first = get.give();
        assert!(get.may_repeat());
        let second = get.give();
        assert_eq!(
            (first.uri(), first.headers()),
            (second.uri(), second.headers())
        );
        let mut post = outgoing("POST");
        let unsent = post.give();
        assert!(!post.may_repeat() && post.head.headers().is_empty());
        post.give_back(unsent);
        assert!(!post.may_repeat() && post.head.headers().contains_key("x-a"));
    }
}

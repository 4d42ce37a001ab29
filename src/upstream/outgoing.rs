//! A request on its way to an instance.
//!
//! Guarantees: a copy shares its head with the first, and is made only of a request that may arrive twice.

use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};

use super::body::RequestBody;
use super::fields::Fields;
use super::headers::prepare_response;
use super::stamp::Stamp;

/// Takes 1xx answers for a client.
pub type InterimSink = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

/// A request as an instance is to get it.
pub struct Outgoing {
    pub(super) head: Arc<Parts>,
    /// Fields besides the head's.
    pub(super) stamp: Option<Stamp>,
    pub(super) body: RequestBody,
    interim: Option<InterimSink>,
    upgrade: bool,
}

// === impl Outgoing ===

impl Outgoing {
    /// From a request whose fields are for the instance, `stamp` besides. `upgrade`: it wants to leave HTTP;
    /// `interim` takes 1xx answers, where its client can be sent some.
    pub fn new(
        request: Request<RequestBody>,
        stamp: Option<Stamp>,
        upgrade: bool,
        interim: Option<InterimSink>,
    ) -> Self {
        let (head, body) = request.into_parts();
        Self {
            head: Arc::new(head),
            stamp,
            body,
            interim,
            upgrade,
        }
    }

    /// The same again: idempotent, and its body, if any, can be sent twice.
    pub fn copy(&self) -> Option<Self> {
        if !self.head.method.is_idempotent() || self.upgrade {
            return None;
        }
        Some(Self {
            head: Arc::clone(&self.head),
            stamp: self.stamp.clone(),
            body: self.body.again()?,
            interim: self.interim.clone(),
            upgrade: false,
        })
    }

    /// Whether it wants to leave HTTP.
    pub(super) fn is_upgrade(&self) -> bool {
        self.upgrade
    }

    /// Passes a 1xx answer on: 103 Early Hints, above all. 100 is the gateway's own, and 101 a final one.
    pub(super) fn pass_interim(&self, status: StatusCode, fields: &HeaderMap) {
        if let Some(sink) = &self.interim {
            pass(sink, status, fields);
        }
    }

    /// As hyper takes it.
    pub(super) fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::from_parts(Arc::unwrap_or_clone(self.head), self.body);
        if let Some(stamp) = self.stamp {
            stamp.insert(request.headers_mut());
        }
        if let Some(sink) = self.interim {
            hyper::ext::on_informational(&mut request, move |interim| {
                pass(&sink, interim.status(), interim.headers());
            });
        }
        request
    }

    pub(super) fn interim(&self) -> Option<InterimSink> {
        self.interim.clone()
    }
}

fn pass(sink: &InterimSink, status: StatusCode, fields: &HeaderMap) {
    if !matches!(status.as_u16(), 100 | 101) {
        let mut fields = fields.clone();
        let there = Fields::of(&fields);
        prepare_response(&mut fields, there, false);
        sink(status, &fields);
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Targets may have secrets in them.
        write!(f, "Outgoing({})", self.head.method)
    }
}

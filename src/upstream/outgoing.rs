//! A request on its way to an instance.
//!
//! Guarantees: a request that may arrive twice, or has not been sent, is kept whole until it is
//! certain that it need not be sent again; a request that may not arrive twice is sent once.

use std::fmt;
use std::mem::{replace, take};

use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use http1::InterimSink;

use super::forwarded::ForwardedHeaders;
use super::headers::prepare_interim;
use super::request_body::RequestBody;
use super::response_clock::ResponseClock;

/// A request as an instance is to get it.
pub struct Outgoing {
    pub(super) head: Parts,
    /// The forwarding fields, where they are not among the head's.
    pub(super) forwarded: Option<ForwardedHeaders>,
    pub(super) body: RequestBody,
    interim: Option<InterimSink>,
    upgrade: bool,
    /// Whether it is idempotent, and its body, if any, can be sent twice.
    repeatable: bool,
}

// === impl Outgoing ===

impl Outgoing {
    /// Makes one of a request whose fields, and `forwarded` besides, are for the instance.
    /// `upgrade` says that it wants to leave HTTP; `interim` takes 1xx responses, where its client
    /// can be sent some.
    pub fn new(
        request: Request<RequestBody>,
        forwarded: Option<ForwardedHeaders>,
        upgrade: bool,
        interim: Option<InterimSink>,
    ) -> Self {
        let (head, body) = request.into_parts();
        Self {
            repeatable: head.method.is_idempotent() && !upgrade && body.is_repeatable(),
            head,
            forwarded,
            body,
            interim,
            upgrade,
        }
    }

    /// Whether it may arrive twice.
    pub fn may_repeat(&self) -> bool {
        self.repeatable
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

    /// The request in the form that hyper takes. A request that may arrive twice stays here, too.
    pub(super) fn give(&mut self) -> Request<RequestBody> {
        let again = self.repeatable.then(|| self.body.again()).flatten();
        let mut request = match again {
            Some(body) => Request::from_parts(self.head.clone(), body),
            None => {
                let (nothing, ()) = Request::default().into_parts();
                Request::from_parts(replace(&mut self.head, nothing), take(&mut self.body))
            }
        };
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
    pub(super) fn give_back(&mut self, request: Request<RequestBody>) {
        (self.head, self.body) = request.into_parts();
    }
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
        write!(f, "Outgoing({})", self.head.method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(method: &str) -> Outgoing {
        let request = Request::builder()
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
        assert!(!post.may_repeat() && post.head.headers.is_empty());
        post.give_back(unsent);
        assert!(!post.may_repeat() && post.head.headers.contains_key("x-a"));
    }
}

//! The forwarding fields of a request that brought none of them.
//!
//! Guarantees: an instance is sent the same fields, whether they were put among the others or written behind them. All
//! but the request's id are the same for a connection's requests, and written once.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::headers::{
    FORWARDED, ForwardedElement, X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO,
    X_REQUEST_ID, tokens,
};
use crate::names::RequestId;
use http1::line;

/// Fields that a request is to have, and which are not among its others yet.
#[derive(Debug, Clone)]
pub struct ForwardedHeaders {
    provenance: Arc<ForwardedElement>,
    request_id: RequestId,
}

// === impl ForwardedHeaders ===

impl ForwardedHeaders {
    pub(super) fn new(provenance: &Arc<ForwardedElement>, request_id: &RequestId) -> Self {
        Self {
            provenance: Arc::clone(provenance),
            request_id: request_id.clone(),
        }
    }

    /// As lines of a head of HTTP/1.1.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.provenance.lines);
        line(out, X_REQUEST_ID.as_str(), self.request_id.as_bytes());
    }

    /// Among the others, in place of those of its name.
    pub fn insert(&self, headers: &mut HeaderMap) {
        let from = &self.provenance;
        for (name, value) in [
            (X_FORWARDED_HOST, &from.named),
            (X_FORWARDED_FOR, &from.client),
            (FORWARDED, &from.element),
            (X_FORWARDED_PROTO, &HeaderValue::from_static(from.scheme)),
            (X_REQUEST_ID, self.request_id.header()),
        ] {
            headers.insert(name, value.clone());
        }
    }

    /// Among the others, behind what a trusted peer has said.
    pub(super) fn extend(&self, headers: &mut HeaderMap) {
        let from = &self.provenance;
        let mut unless_told = |name: HeaderName, value: &HeaderValue| {
            if !headers.contains_key(&name) {
                headers.insert(name, value.clone());
            }
        };
        unless_told(X_FORWARDED_HOST, &from.named);
        unless_told(X_FORWARDED_PROTO, &HeaderValue::from_static(from.scheme));
        append(headers, X_FORWARDED_FOR, &from.client);
        append(headers, FORWARDED, &from.element);
        headers.insert(X_REQUEST_ID, self.request_id.header().clone());
    }
}

/// One more element of a list.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let elements = tokens(headers, &name).chain(element.to_str());
    let list = elements.collect::<Vec<_>>().join(", ");
    let list = HeaderValue::try_from(list).unwrap_or_else(|_| element.clone());
    headers.insert(name, list);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::names::Hostname;

    #[test]
    fn what_is_written_and_what_is_inserted_is_the_same() {
        for (client, secure) in [("10.0.0.9", false), ("2001:db8::1", true)] {
            let client: IpAddr = client.parse().unwrap();
            let (host, named) = (
                Hostname::parse("a.b").unwrap(),
                HeaderValue::from_static("A.b:8"),
            );
            let provenance = Arc::new(ForwardedElement::of(client, secure, &host, Some(named)));
            let stamp = ForwardedHeaders::new(&provenance, &RequestId::generate());
            let (mut written, mut headers) = (Vec::new(), HeaderMap::new());
            stamp.write(&mut written);
            stamp.insert(&mut headers);
            let mut expected = Vec::new();
            for (name, value) in &headers {
                line(&mut expected, name.as_str(), value.as_bytes());
            }
            assert_eq!(written, expected);
            assert_eq!(headers.len(), 5);
            assert_eq!(headers["x-forwarded-host"], "A.b:8");
        }
    }
}

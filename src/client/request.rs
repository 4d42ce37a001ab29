//! A client's request.
//!
//! Guarantees: its fields are what [`PassingFields`] says of them, whatever version of HTTP it has come in.

use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Extensions, Method, Uri, Version};
use http1::{FieldLines, PassingFields};

/// A request, with as little work done for it as it needs: most pass through with their fields as
/// they came.
#[derive(Clone, Default)]
pub struct Request<B> {
    method: Method,
    uri: Uri,
    version: Version,
    /// In a box: a request is moved several times.
    fields: Box<PassingFields>,
    extensions: Extensions,
    body: B,
}

// === impl Request ===

impl<B> Request<B> {
    /// A GET of `/` without a field.
    pub fn new(body: B) -> Self {
        Self {
            method: Method::default(),
            uri: Uri::default(),
            version: Version::default(),
            fields: Box::default(),
            extensions: Extensions::default(),
            body,
        }
    }

    /// A request with these fields.
    pub fn of_lines(
        method: Method,
        uri: Uri,
        version: Version,
        lines: FieldLines,
        body: B,
    ) -> Self {
        Self {
            method,
            uri,
            version,
            fields: Box::new(lines.into()),
            extensions: Extensions::default(),
            body,
        }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The method, to be changed.
    pub fn method_mut(&mut self) -> &mut Method {
        &mut self.method
    }

    /// The target.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The target, to be changed.
    pub fn uri_mut(&mut self) -> &mut Uri {
        &mut self.uri
    }

    /// The version of HTTP.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The version of HTTP, to be changed.
    pub fn version_mut(&mut self) -> &mut Version {
        &mut self.version
    }

    /// What else belongs to it.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// What else belongs to it, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// The body, to be changed.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// A map of its fields, which may have to be made.
    pub fn headers(&self) -> &HeaderMap {
        self.fields.headers()
    }

    /// A map of its fields, to be changed.
    pub fn headers_mut(&mut self) -> &mut HeaderMap {
        self.fields.headers_mut()
    }

    /// The lines that its fields are, if they are still lines.
    pub fn lines(&self) -> Option<&FieldLines> {
        self.fields.lines()
    }

    /// The same, to have some left out.
    pub fn lines_mut(&mut self) -> Option<&mut FieldLines> {
        self.fields.lines_mut()
    }

    /// The first value of a field.
    pub fn field(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.fields.first(name)
    }

    /// All values of a field, in their order.
    pub fn values(&self, name: HeaderName) -> impl Iterator<Item = &[u8]> {
        self.fields.values(name)
    }

    /// The first two values of a field.
    pub fn first_two(&self, name: HeaderName) -> (Option<&[u8]>, Option<&[u8]>) {
        self.fields.first_two(name)
    }

    /// Whether it has a field.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.fields.has(name)
    }

    /// The same with another body.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Request<C> {
        let (head, body) = self.split();
        Request {
            method: head.method,
            uri: head.uri,
            version: head.version,
            fields: head.fields,
            extensions: head.extensions,
            body: change(body),
        }
    }

    /// The head and the body.
    pub fn split(self) -> (Request<()>, B) {
        let head = Request {
            method: self.method,
            uri: self.uri,
            version: self.version,
            fields: self.fields,
            extensions: self.extensions,
            body: (),
        };
        (head, self.body)
    }

    /// In the form that HTTP/2 takes.
    pub fn into_http(mut self) -> http::Request<B> {
        let headers = std::mem::take(self.headers_mut());
        let mut request = http::Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

impl<B> From<http::Request<B>> for Request<B> {
    fn from(request: http::Request<B>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            method: head.method,
            uri: head.uri,
            version: head.version,
            fields: Box::new(head.headers.into()),
            extensions: head.extensions,
            body,
        }
    }
}

impl<B> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Targets and fields may be secrets.
        write!(f, "Request({})", self.method)
    }
}

#[cfg(test)]
mod tests {
    use http::header::HOST;
    use http1::{HeadLimits, RequestReader};

    use super::*;

    #[test]
    fn what_it_is_stays_the_same_in_the_form_that_http_2_takes_and_back() {
        let head = b"PUT /a HTTP/1.0\r\nHost: a.b\r\n\r\n";
        let limits = HeadLimits {
            bytes: 1000,
            fields: 10,
        };
        let read = RequestReader::new(limits).read_head(head, |head| {
            let lines = FieldLines::of(head.bytes, head.fields).unwrap();
            let uri = Uri::from_static("/a");
            let mut request = Request::of_lines(Method::PUT, uri, head.version, lines, 1);
            request.extensions_mut().insert("more");
            request
        });
        let request = read.unwrap().unwrap().1.map(|body| body + 1);
        assert!(request.has(&HOST) && request.lines().is_some());
        let http = request.into_http();
        let (head, body) = Request::from(http).split();
        assert_eq!(
            (head.method(), head.uri().path(), body),
            (&Method::PUT, "/a", 2)
        );
        assert_eq!(head.version(), Version::HTTP_10);
        assert_eq!(head.extensions().get(), Some(&"more"));
        assert_eq!(head.values(HOST).collect::<Vec<_>>(), [b"a.b"]);
    }
}

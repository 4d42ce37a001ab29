//! How an answer is read, whoever it is from.
//!
//! Guarantees: no more of an answer is read than its bound allows, and an error keeps its status
//! however its body is; an error is the API's own only if it says so in JSON with a `code` and a
//! `message`, and no redirect is.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::Response;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::decode::{Decode, decode};
use super::elements::Elements;
use super::error::Error;
use super::listed::Listed;

/// The part of an error's body that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
/// The part of an error's message that is kept, in characters.
const MAX_MESSAGE_CHARS: usize = 500;
/// How long an error's body may take.
const ERROR_PATIENCE: Duration = Duration::from_secs(2);
/// How long an answer that nobody needs may take, so that its connection can be used again.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);
/// The longest pause that a server is granted.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// What is agreed on for the answers of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) op: &'static str,
    /// The time limit of the call, and its end.
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
    /// The longest answer about one object, in bytes.
    pub(super) object_bytes: usize,
    /// The longest list, in bytes.
    pub(super) list_bytes: usize,
}

/// What is made of a good answer.
pub(super) trait Answer: Sized {
    /// What the request accepts.
    const ACCEPT: &'static str = "application/json";

    async fn read(terms: &Terms, response: Response) -> Result<Self, Error>;
}

pub(super) struct Json<T>(pub(super) T);
pub(super) struct Nothing;
pub(super) struct Stream(pub(super) Response);

// === impl Answer ===

impl<T: DeserializeOwned> Answer for Json<T> {
    async fn read(terms: &Terms, mut response: Response) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        terms.check_length(&response, terms.object_bytes)?;
        while let Some(chunk) = terms.chunk(&mut response).await? {
            terms.check(bytes.len() + chunk.len(), terms.object_bytes)?;
            bytes.extend_from_slice(&chunk);
        }
        let answer = decode(&bytes);
        answer
            .map(Self)
            .map_err(|error| terms.undecodable(error.to_string()))
    }
}

impl<T: Decode> Answer for Listed<T> {
    async fn read(terms: &Terms, mut response: Response) -> Result<Self, Error> {
        let (mut listed, mut length) = (Self::default(), 0);
        let mut elements = Elements::new(terms.object_bytes);
        let no_list = |_| terms.undecodable("it is not a list, or not all of one".to_owned());
        terms.check_length(&response, terms.list_bytes)?;
        while let Some(chunk) = terms.chunk(&mut response).await? {
            length += chunk.len();
            terms.check(length, terms.list_bytes)?;
            let pushed = elements.push(&chunk, T::decode_first, |element| listed.add(element));
            pushed.map_err(no_list)?;
        }
        elements.end().map_err(no_list)?;
        Ok(listed)
    }
}

impl Answer for Nothing {
    const ACCEPT: &'static str = "*/*";

    async fn read(terms: &Terms, mut response: Response) -> Result<Self, Error> {
        terms.check_is_no_page(&response)?;
        // The status has said it all.
        let drain = async {
            let mut left = MAX_ERROR_BYTES;
            while let Ok(Some(chunk)) = response.chunk().await {
                let Some(rest) = left.checked_sub(chunk.len()) else {
                    break;
                };
                left = rest;
            }
        };
        drop(timeout(DRAIN_PATIENCE, drain).await);
        Ok(Self)
    }
}

impl Answer for Stream {
    const ACCEPT: &'static str = "text/event-stream";

    async fn read(terms: &Terms, response: Response) -> Result<Self, Error> {
        terms.check_is_no_page(&response)?;
        Ok(Self(response))
    }
}

// === impl Terms ===

impl Terms {
    /// The error that a refusing answer is.
    pub(super) async fn refusal(&self, mut response: Response) -> Error {
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        let reading = async {
            while let Ok(Some(chunk)) = response.chunk().await {
                let left = MAX_ERROR_BYTES - body.len();
                body.extend_from_slice(chunk.get(..left).unwrap_or(&chunk));
                if body.len() == MAX_ERROR_BYTES {
                    break;
                }
            }
        };
        let end = self.deadline.min(Instant::now() + ERROR_PATIENCE);
        // What there is of it until then.
        drop(timeout_at(end, reading).await);
        let words = match is_json(&headers) && !status.is_redirection() {
            true => Words::of(status, &body),
            false => None,
        };
        let from_api = words.is_some();
        let words = words.unwrap_or_else(|| Words {
            code: status.canonical_reason().unwrap_or_default().to_owned(),
            message: String::from_utf8_lossy(&body).into_owned(),
        });
        Error::Api {
            op: self.op,
            status: status.as_u16(),
            code: words.code,
            message: words.message.chars().take(MAX_MESSAGE_CHARS).collect(),
            from_api,
            retry_after: retry_after(&headers),
        }
    }

    pub(super) fn timed_out(&self) -> Error {
        Error::Timeout {
            op: self.op,
            after: self.limit,
        }
    }

    /// Which of our errors a transport error is. The URL is dropped from its text.
    pub(super) fn broken(&self, error: reqwest::Error) -> Error {
        let op = self.op;
        let source = error.without_url();
        if source.is_connect() {
            let source = source.into();
            Error::Connect { op, source }
        } else if source.is_timeout() {
            self.timed_out()
        } else {
            let source = source.into();
            Error::Transport { op, source }
        }
    }

    fn undecodable(&self, reason: String) -> Error {
        Error::Decode {
            op: self.op,
            reason,
        }
    }

    /// A web page for an answer is somebody else's, and no success: one before the server, say,
    /// that wants a sign-in.
    fn check_is_no_page(&self, response: &Response) -> Result<(), Error> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let is_page = kind.is_some_and(|kind| {
            let kind = kind.as_bytes().to_ascii_lowercase();
            kind.starts_with(b"text/html")
        });
        match is_page {
            true => Err(self.undecodable("it is a web page".to_owned())),
            false => Ok(()),
        }
    }

    async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Error> {
        response.chunk().await.map_err(|error| self.broken(error))
    }

    fn check(&self, length: usize, limit: usize) -> Result<(), Error> {
        match length > limit {
            true => Err(Error::TooLong { op: self.op, limit }),
            false => Ok(()),
        }
    }

    /// The same for the length that the answer announces, if it does.
    fn check_length(&self, response: &Response, limit: usize) -> Result<(), Error> {
        let announced = response.content_length().unwrap_or_default();
        self.check(usize::try_from(announced).unwrap_or(usize::MAX), limit)
    }
}

/// What an error of the API says.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    code: String,
    message: String,
}

impl Words {
    fn of(status: StatusCode, body: &[u8]) -> Option<Self> {
        let words = match decode::<Value>(body) {
            Ok(Value::Object(members)) => {
                let text = |name| members.get(name)?.as_str().map(str::to_owned);
                text("code")
                    .zip(text("message"))
                    .map(|(code, message)| Self { code, message })
            }
            Ok(_) => None,
            Err(_) => Self::unescaped(status, body),
        };
        words.filter(|words| !words.code.is_empty())
    }

    /// What the server's validator says: it does not escape the quotes in its messages. Its codes
    /// are reason phrases.
    fn unescaped(status: StatusCode, body: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(body);
        let rest = text.trim().strip_prefix(r#"{"code":""#)?;
        let (code, message) = rest.split_once(r#"","message":""#)?;
        let message = message.strip_suffix(r#""}"#)?;
        (Some(code) == status.canonical_reason()).then(|| Self {
            code: code.to_owned(),
            message: message.to_owned(),
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|text| text.split(';').next());
    let kind = kind.unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The pause that a server asks for, in seconds or as the time of its end, which is the server's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let field = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let text = field(header::RETRY_AFTER)?;
    if let Ok(seconds) = text.parse::<f64>() {
        let most = MAX_RETRY_AFTER.as_secs_f64();
        return (seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(most)));
    }
    let time = |text| DateTimeParser::new().parse_timestamp(text).ok();
    let now = field(header::DATE).and_then(time);
    let pause = time(text)?.duration_since(now.unwrap_or_else(Timestamp::now));
    let pause = Duration::try_from(pause).unwrap_or_default();
    Some(pause.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().cloned();
        pairs
            .map(|(name, value)| (name, value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_pause_is_read_as_seconds_or_as_a_time() {
        let date = (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        for (text, seconds) in [
            ("0", Some(0.0)),
            ("7", Some(7.0)),
            (" 1.5 ", Some(1.5)),
            ("86400", Some(60.0)),
            ("99999999999999999999", Some(60.0)),
            ("inf", Some(60.0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10.0)),
            ("Sun, 06 Nov 1994 09:49:47 GMT", Some(60.0)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(0.0)),
            ("-1", None),
            ("nan", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = headers(&[(header::RETRY_AFTER, text), date.clone()]);
            let expected = seconds.map(Duration::from_secs_f64);
            assert_eq!(retry_after(&headers), expected, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
        // Without the server's own clock, ours is as good.
        let long_ago = headers(&[(header::RETRY_AFTER, date.1)]);
        assert_eq!(retry_after(&long_ago), Some(Duration::ZERO));
    }

    #[test]
    fn words_are_the_apis_with_a_code_and_a_message() {
        for (body, expected) in [
            (
                r#"{"code":"a","message":"b","details":[]}"#,
                Some(("a", "b")),
            ),
            (r#"{"message":"b","code":"a"}"#, Some(("a", "b"))),
            (
                r#"{"code":"Not Found","message":"no "q""}"#,
                Some(("Not Found", r#"no "q""#)),
            ),
            (r#"{"code":"not_found","message":"no "q""}"#, None),
            (r#"{"code":"Not Found","message":"cut o"#, None),
            (r#"{"code":"not_found","message":""}{}"#, None),
            (r#"{"code":"","message":"b"}"#, None),
            (r#"{"code":"a"}"#, None),
            (r#"{"code":404,"message":"b"}"#, None),
            (r#"{"message":"Not Found"}"#, None),
            (r#"["not_found","resource not found"]"#, None),
            ("", None),
        ] {
            let words = Words::of(StatusCode::NOT_FOUND, body.as_bytes());
            let words = words.as_ref();
            let told = words.map(|words| (words.code.as_str(), words.message.as_str()));
            assert_eq!(told, expected, "{body}");
        }
    }

    #[test]
    fn json_is_told_by_its_content_type() {
        for (text, is) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/html", false),
            ("text/plain", false),
            ("application/jsonp", false),
            ("text/x+json", false),
            ("", false),
        ] {
            let headers = headers(&[(header::CONTENT_TYPE, text)]);
            assert_eq!(is_json(&headers), is, "{text}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}

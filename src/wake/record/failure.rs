//! Why a wake failed, in the gateway's words and in the control plane's.
//!
//! Guarantees: the code is the one that clients got; what a control plane said is one line of
//! visible characters, bounded, without what looks like a credential that it echoed.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
#[cfg(test)]
use utoipa::ToSchema;

use crate::telemetry::is_invisible;
use crate::wake::error::{WakeError, WakeStage};
use hypeman::Error as ControlPlaneError;
use hypeman::wire::InstanceState;

/// The longest code and message that are kept of an answer, in characters.
const CODE: usize = 64;
const MESSAGE: usize = 300;
/// The part of a message that is looked at, in characters.
const READ: usize = 4 * MESSAGE;
/// What takes the place of a credential.
const HIDDEN: &str = "[hidden]";
/// The schemes of `Authorization`, which a credential always follows.
const SCHEMES: [&str; 2] = ["bearer", "basic"];
/// Other words before a credential.
const BEFORE_CREDENTIALS: [&str; 10] = [
    "authorization",
    "passwd",
    "key",
    "api-key",
    "password",
    "secret",
    "token",
    "api_key",
    "apikey",
    "x-api-key",
];

/// Why a wake failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeFailure {
    /// The code that those got who waited for it; `wakegate explain` says what it means.
    pub code: &'static str,
    /// The stage that it failed in.
    pub stage: WakeStage,
    /// The last word of the control plane, where that was in the way.
    pub answer: Option<Arc<PlaneAnswer>>,
    /// What is wrong at the instance itself, in one sentence, where that is the reason.
    pub reason: Option<Arc<str>>,
    /// The time of the failure.
    pub at: jiff::Timestamp,
}

/// The last word of a control plane, for operators. It may name what clients must not hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ToSchema))]
pub struct PlaneAnswer {
    /// The operation that was asked for, such as `restore`.
    pub operation: &'static str,
    /// The answer's HTTP status; absent when there was no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The answer's code, at most 64 characters; `connect`, `timeout`, `transport` or `decode`
    /// when there was no answer of use; absent when the answer has none.
    #[cfg_attr(test, schema(value_type = Option<String>))]
    #[serde(skip_serializing_if = "str::is_empty")]
    pub code: Box<str>,
    /// The answer's message, at most 300 characters.
    #[cfg_attr(test, schema(value_type = String))]
    pub message: Box<str>,
}

/// A character of a token, as RFC 7235 has it, without the padding.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/')
}

/// A character that no credential has within it, as texts write it.
fn ends_credential(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '}' | ')' | '<' | '>')
}

fn looks_secret(text: &str) -> bool {
    text.len() >= 20 || text.len() >= 8 && text.bytes().any(|b| !b.is_ascii_alphabetic())
}

/// The text without what looks like a credential: what follows a word that announces one, a JSON
/// Web Token, and the user part of a URL.
fn without_credentials(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    let (mut announced, mut is_scheme) = (false, false);
    while !rest.is_empty() {
        let other = rest.find(is_of_token).unwrap_or(rest.len());
        let (between, from) = rest.split_at(other);
        out.push_str(between);
        // In a query, others follow.
        let in_query = between.ends_with('=');
        let is_end = |c| ends_credential(c) || in_query && c == '&';
        let end = from.find(is_end).unwrap_or(from.len());
        let (credential, after) = from.split_at(end);
        let is_jwt = credential.starts_with("eyJ") && credential.len() >= 20;
        if is_jwt || announced && looks_secret(credential) || is_scheme && credential.len() >= 8 {
            out.push_str(HIDDEN);
            (announced, is_scheme, rest) = (false, false, after);
            continue;
        }
        let (token, after) = from.split_at(from.find(|c| !is_of_token(c)).unwrap_or(from.len()));
        if after.starts_with("://")
            && let Some(at) = credential.rfind('@')
        {
            out.push_str(token);
            out.push_str("://");
            out.push_str(HIDDEN);
            rest = from.get(at..).unwrap_or_default();
            continue;
        }
        out.push_str(token);
        let word = token.trim_end_matches('.').to_ascii_lowercase();
        is_scheme = SCHEMES.contains(&word.as_str());
        announced = is_scheme || BEFORE_CREDENTIALS.contains(&word.as_str());
        rest = after;
    }
    out
}

/// One line of at most so many visible characters.
fn tidy(text: &str, most: usize) -> Box<str> {
    let visible = |c| if is_invisible(c) { ' ' } else { c };
    let read: String = text.chars().take(READ).map(visible).collect();
    let words: Vec<&str> = read.split_whitespace().collect();
    let line = without_credentials(&words.join(" "));
    if line.chars().count() <= most {
        return line.into();
    }
    let mut cut: String = line.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut.into()
}

// === impl WakeFailure ===

impl WakeFailure {
    /// The failure of a wake that ends now, whose waiters get `error`. `answer` is what the control
    /// plane said last, if that is the reason.
    pub fn new(error: &WakeError, stage: WakeStage, answer: Option<Arc<PlaneAnswer>>) -> Self {
        Self {
            code: error.code(),
            stage,
            answer,
            reason: None,
            at: jiff::Timestamp::now(),
        }
    }

    /// The failure of a wake whose instance is awake, and TLS with it refused for this reason.
    pub fn of_tls(error: &WakeError, stage: WakeStage, reason: &str) -> Self {
        Self {
            reason: Some(tidy(reason, MESSAGE).into()),
            ..Self::new(error, stage, None)
        }
    }
}

// === impl PlaneAnswer ===

impl PlaneAnswer {
    /// The control plane answered with a state that leads nowhere.
    pub fn of_state(operation: &'static str, state: &InstanceState) -> Self {
        Self::of_use_to_nobody(operation, &format!("the instance is {state}"))
    }

    /// The control plane answered, and what it described leads nowhere for this reason.
    pub fn of_use_to_nobody(operation: &'static str, why: &str) -> Self {
        Self {
            operation,
            status: Some(200),
            code: "".into(),
            message: tidy(why, MESSAGE),
        }
    }
}

impl From<&ControlPlaneError> for PlaneAnswer {
    fn from(error: &ControlPlaneError) -> Self {
        let operation = match error {
            ControlPlaneError::Api {
                op,
                status,
                code,
                message,
                ..
            } => {
                return Self {
                    operation: op,
                    status: Some(*status),
                    code: tidy(code, CODE),
                    message: tidy(message, MESSAGE),
                };
            }
            ControlPlaneError::Connect { op, .. }
            | ControlPlaneError::Timeout { op, .. }
            | ControlPlaneError::Transport { op, .. }
            | ControlPlaneError::Decode { op, .. }
            | ControlPlaneError::TooLong { op, .. } => *op,
            _ => "call",
        };
        let said = error.to_string();
        let said = said
            .strip_prefix(operation)
            .and_then(|said| said.strip_prefix(": "))
            .unwrap_or(&said);
        let mut cause = error.source();
        while let Some(deeper) = cause.and_then(std::error::Error::source) {
            cause = Some(deeper);
        }
        let message = match cause {
            Some(cause) => tidy(&format!("{said} ({cause})"), MESSAGE),
            None => tidy(said, MESSAGE),
        };
        Self {
            operation,
            status: None,
            code: tidy(&error.outcome().to_string(), CODE),
            message,
        }
    }
}

impl fmt::Display for PlaneAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.operation)?;
        if let Some(status) = self.status {
            write!(f, " answered {status}")?;
            if !self.code.is_empty() {
                write!(f, " {}", self.code)?;
            }
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> PlaneAnswer {
        PlaneAnswer::from(&ControlPlaneError::Api {
            op: "restore",
            status: 500,
            code: "internal_error".to_owned(),
            message: message.to_owned(),
            from_api: true,
            retry_after: None,
        })
    }

    #[test]
    fn an_answer_is_kept_in_its_own_words() {
        let answer = said("snapshot cannot be read");
        assert_eq!(
            answer.to_string(),
            "restore answered 500 internal_error: snapshot cannot be read"
        );
        let timeout = ControlPlaneError::Timeout {
            op: "get",
            after: std::time::Duration::from_secs(3),
        };
        let answer = PlaneAnswer::from(&timeout);
        assert_eq!((answer.status, &*answer.code), (None, "timeout"));
        assert!(
            answer.to_string().starts_with("get: no answer from"),
            "{answer}"
        );
        let refused = ControlPlaneError::Connect {
            op: "restore",
            source: "connection refused".into(),
        };
        let answer = PlaneAnswer::from(&refused);
        assert!(answer.message.ends_with("(connection refused)"), "{answer}");
        let stopped = PlaneAnswer::of_state("get", &InstanceState::Stopped);
        assert_eq!(
            stopped.to_string(),
            "get answered 200: the instance is Stopped"
        );
    }

    #[test]
    fn a_message_is_one_line_of_visible_text_and_bounded() {
        let answer = said("<b>no\r\nsuch\u{1b}[31m\tfile\u{202e}\u{2028}&c");
        assert_eq!(&*answer.message, "<b>no such [31m file &c");
        let long = said(&"x y ".repeat(5000));
        assert_eq!(long.message.chars().count(), MESSAGE);
        assert!(long.message.ends_with('…'));
        let dense = said(&"ü".repeat(10_000));
        assert_eq!(dense.message.chars().count(), MESSAGE);
        let code = ControlPlaneError::Api {
            op: "get",
            status: 400,
            code: "c".repeat(10_000),
            message: String::new(),
            from_api: true,
            retry_after: None,
        };
        assert_eq!(PlaneAnswer::from(&code).code.chars().count(), CODE);
    }

    #[test]
    fn a_credential_that_was_echoed_is_not_kept_and_other_words_are() {
        for (message, kept) in [
            (
                "bad header: Authorization: Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln here",
                "bad header: Authorization: Bearer [hidden] here",
            ),
            (
                "key \"eyJhbGciOiJIUzI1NiJ9.e30.c2ln\" expired",
                "key \"[hidden]\" expired",
            ),
            (
                "{\"authorization\":\"bearer abc123def456==\"}",
                "{\"authorization\":\"bearer [hidden]\"}",
            ),
            ("?token=0123456789abcdef&x=1", "?token=[hidden]&x=1"),
            ("Basic dXNlcjpwYXNzd29yZA==", "Basic [hidden]"),
            ("bearer token missing", "bearer token missing"),
            ("Basic dXNlcjpwYXNz", "Basic [hidden]"),
            (
                "cannot open postgres://app:hunter2pass@db/x",
                "cannot open postgres://[hidden]@db/x",
            ),
            ("key sk_live_abcdef", "key [hidden]"),
            ("password: Tr0ub4dor&3xyz", "password: [hidden]"),
            ("password: Tr0ub4dor$3!xyz", "password: [hidden]"),
            ("the key is wrong", "the key is wrong"),
            (
                "cannot read /var/lib/hypeman/guests/abcdefghijklmnopqrstuvwx/snapshot",
                "cannot read /var/lib/hypeman/guests/abcdefghijklmnopqrstuvwx/snapshot",
            ),
        ] {
            assert_eq!(&*said(message).message, kept);
        }
        // Not even its beginning, where the message is cut.
        let late = format!("{} Bearer {}", "x".repeat(285), "k1".repeat(200));
        assert!(!said(&late).message.contains("k1"), "{late}");
    }
}

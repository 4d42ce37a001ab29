//! The ways to find out who has sent a request.
//!
//! Guarantees: each way judges a request by itself and changes nothing of it; what is taken away of
//! a request once it is let in is said by the ways of its route together.

mod auth_client;
mod certificate;
mod credential;
mod field;
mod forward;
mod identity;
mod key_cache;
mod key_source;
mod refusal;
mod signed;
mod token;

pub(super) use self::auth_client::AuthClient;
pub(super) use self::certificate::judge as judge_certificate;
pub(super) use self::credential::{take_all, take_subprotocol, tokens};
pub(super) use self::field::judge as judge_field;
pub(super) use self::forward::{ForwardAnswer, Question, judge as judge_forward};
pub(super) use self::identity::Identity;
pub(super) use self::key_cache::{KeyCaches, RouteKeys};
pub(super) use self::key_source::KeyFetcher;
pub use self::refusal::{AuthRedirect, Challenge};
pub(super) use self::refusal::{Refusal, bearer_challenge};
pub(super) use self::signed::judge as judge_signed_url;
pub(super) use self::token::judge as judge_tokens;

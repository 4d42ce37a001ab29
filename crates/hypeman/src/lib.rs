// The README's links, to this documentation: the first definition of a link counts.
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::max_answer_bytes`]: crate::ClientBuilder::max_answer_bytes"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::max_list_bytes`]: crate::ClientBuilder::max_list_bytes"
)]
#![cfg_attr(feature = "client", doc = "[`Error::TooLong`]: crate::Error::TooLong")]
#![cfg_attr(
    feature = "client",
    doc = "[`Error::is_from_api`]: crate::Error::is_from_api"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`Error::is_not_found`]: crate::Error::is_not_found"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`Error::retry_after`]: crate::Error::retry_after"
)]
#![cfg_attr(feature = "client", doc = "[`Listed`]: crate::Listed")]
#![cfg_attr(feature = "client", doc = "[`BuildError`]: crate::BuildError")]
#![cfg_attr(
    feature = "client",
    doc = "[`Client::auto_standby_hold`]: crate::Client::auto_standby_hold"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`Client::list_instance_summaries`]: crate::Client::list_instance_summaries"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::change_timeout`]: crate::ClientBuilder::change_timeout"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::connect_timeout`]: crate::ClientBuilder::connect_timeout"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::max_repeats`]: crate::ClientBuilder::max_repeats"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`ClientBuilder::timeout`]: crate::ClientBuilder::timeout"
)]
#![cfg_attr(feature = "client", doc = "[`Error`]: crate::Error")]
#![cfg_attr(
    feature = "client",
    doc = "[`Error::is_missing_operation`]: crate::Error::is_missing_operation"
)]
#![cfg_attr(
    feature = "client",
    doc = "[`Error::is_retryable`]: crate::Error::is_retryable"
)]
#![cfg_attr(feature = "client", doc = "[`GoDuration`]: crate::GoDuration")]
#![cfg_attr(feature = "client", doc = "[`Observer`]: crate::Observer")]
#![cfg_attr(feature = "client", doc = "[`Outcome`]: crate::Outcome")]
#![cfg_attr(feature = "client", doc = "[`wire`]: crate::wire")]
//!
#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod duration;

#[cfg(feature = "client")]
mod client;

pub use duration::{GoDuration, GoDurationError};

#[cfg(feature = "client")]
pub use client::{
    ApiKey, Attempt, BuildError, Client, ClientBuilder, Config, ControlPlane, Error, InstanceId,
    InstanceIdError, InstanceRef, InstanceSummary, Listed, LogLines, LogQuery, LogSource, Observer,
    OddElement, Outcome, ResourceRef, wire,
};

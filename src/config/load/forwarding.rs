//! Reads how a `[[route]]` passes its requests on.
//!
//! Guarantees: a rule that would break a message's framing is refused.

use super::auth::read_auth;
use crate::config::forwarding::ForwardingConfig;
use crate::config::reader::Section;
use crate::config::settings::Settings as _;

pub(super) fn read_forwarding(s: &mut Section<'_, '_>) -> ForwardingConfig {
    let mut forwarding = ForwardingConfig::default();
    forwarding.read(s);
    s.section("auth", |s| forwarding.auth = read_auth(s));
    forwarding
}

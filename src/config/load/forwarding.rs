//! Reads how a `[[route]]` passes its requests on.
//!
//! Guarantees: a rule that would break a message's framing is refused.

use std::time::Duration;

use super::auth::read_auth;
use super::parse::set;
use crate::config::forwarding::{
    FieldNames, ForwardingConfig, HeaderEdits, Protocol, ProxyProtocol, Rename, parse_field,
};
use crate::config::reader::Section;
use crate::config::values::parse_field_name;

pub(super) fn read_forwarding(s: &mut Section<'_, '_>) -> ForwardingConfig {
    let mut forwarding = ForwardingConfig::default();
    let protocol = s.parsed("protocol", |text| match text {
        "h1" => Ok(Protocol::H1),
        "h2c" => Ok(Protocol::H2c),
        _ => Err(format!("`{text}` is not \"h1\" or \"h2c\"")),
    });
    set(&mut forwarding.protocol, protocol);
    forwarding.proxy_protocol = s.parsed("proxy_protocol", |text| match text {
        "v1" => Ok(ProxyProtocol::V1),
        "v2" => Ok(ProxyProtocol::V2),
        _ => Err(format!("`{text}` is not \"v1\" or \"v2\"")),
    });
    let names = s.parsed("field_names", |text| match text {
        "lower" => Ok(FieldNames::Lower),
        "title" => Ok(FieldNames::Title),
        "original" => Ok(FieldNames::Original),
        _ => Err(format!(
            "`{text}` is not \"lower\", \"title\" or \"original\""
        )),
    });
    set(&mut forwarding.field_names, names);
    s.flag("strip_path", &mut forwarding.strip_path);
    s.flag("redirect_http", &mut forwarding.redirect_http);
    let mut hsts = Duration::ZERO;
    s.duration("hsts", &mut hsts);
    forwarding.hsts = (!hsts.is_zero()).then_some(hsts);
    s.flag("early_continue", &mut forwarding.early_continue);
    s.section("request_headers", |s| {
        forwarding.request_headers = read_edits(s);
    });
    s.section("response_headers", |s| {
        forwarding.response_headers = read_edits(s);
    });
    s.section("auth", |s| forwarding.auth = read_auth(s));
    forwarding
}

fn read_edits(s: &mut Section<'_, '_>) -> HeaderEdits {
    HeaderEdits {
        rename: s.list("rename", Rename::parse).unwrap_or_default(),
        remove: s.list("remove", parse_field_name).unwrap_or_default(),
        set: s.list("set", parse_field).unwrap_or_default(),
        add: s.list("add", parse_field).unwrap_or_default(),
    }
}

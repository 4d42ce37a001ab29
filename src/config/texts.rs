//! Texts that more than one section knows how to read.
//!
//! Guarantees: a message says what is wrong and what may be meant, and quotes nothing that may be a
//! secret.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, header};
use ipnet::{IpNet, Ipv4Net};

use super::pattern::HostPattern;
use super::problem::Complaint;
use super::values::parse_field_name;
use hypeman::InstanceRef;

/// A base URL. A message never has it in it as a whole: whoever writes a password into it has not
/// meant to publish it.
pub(super) fn parse_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text);
    let is_ours = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let url = url.ok().filter(is_ours);
    let has_user = |url: &reqwest::Url| !url.username().is_empty() || url.password().is_some();
    if text.contains('@') && url.as_ref().is_none_or(has_user) {
        return Err(
            "has a user name or password in it; a secret belongs in a file of its own \
             (`api_key_file`, `headers_file`)"
                .to_owned(),
        );
    }
    let url = url.ok_or_else(|| match text.split_once("://") {
        Some((scheme, _)) if !matches!(scheme, "http" | "https") => {
            format!("is a URL of the scheme `{scheme}`; write http:// or https://")
        }
        Some(_) => format!("`{text}` is not a URL"),
        // `localhost:4973` would be a URL whose scheme is `localhost`.
        None => format!("`{text}` is not a URL; write `http://{text}`"),
    })?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment, which a base URL cannot have".to_owned());
    }
    if url.port() == Some(0) {
        return Err("has the port 0, at which nothing listens".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The URL of a server that says who somebody is.
pub(super) fn parse_auth_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text);
    let is_ours = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let url = url.ok().filter(is_ours);
    let has_user = |url: &reqwest::Url| !url.username().is_empty() || url.password().is_some();
    match url {
        Some(url) if has_user(&url) => {
            Err("has a user name or password in it, which would be in logs".to_owned())
        }
        Some(url) if url.fragment().is_some() => {
            Err("has a fragment, which no server sees".to_owned())
        }
        Some(_) => Ok(text.to_owned()),
        // It may have a secret in it.
        None => Err("is not a URL like \"http://127.0.0.1:9000/check\"".to_owned()),
    }
}

/// A path prefix, without a slash at its end.
pub(super) fn parse_path(text: &str) -> Result<String, String> {
    let fine = text.starts_with('/')
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#'));
    let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
    if !fine || dots || text.contains("//") {
        return Err(format!("`{text}` is not a path prefix like \"/v1\""));
    }
    let trimmed = text.trim_end_matches('/');
    Ok(if trimmed.is_empty() {
        "/".to_owned()
    } else {
        trimmed.to_owned()
    })
}

/// An instance's name or id.
pub(super) fn parse_instance(text: &str) -> Result<InstanceRef, String> {
    InstanceRef::parse(text).map_err(|error| error.to_string())
}

/// Methods that are written in capitals (IANA: "HTTP Method Registry"; PURGE is that of caches).
const METHODS: &str = "GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH ACL BIND COPY LABEL \
                       LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE ORDERPATCH PROPFIND \
                       PROPPATCH PURGE QUERY REBIND REPORT SEARCH UNBIND UNCHECKOUT UNLINK UNLOCK \
                       UPDATE CHECKIN CHECKOUT";

/// A method.
pub(super) fn parse_method(text: &str) -> Result<String, String> {
    let method: http::Method = text
        .parse()
        .map_err(|_| format!("`{text}` is not an HTTP method"))?;
    // The case of methods counts (RFC 9110 §9.1), so that no request would have this one.
    let upper = text.to_ascii_uppercase();
    if text != upper && METHODS.split(' ').any(|method| method == upper) {
        return Err(format!(
            "methods are in capitals: write `{upper}` for `{text}`"
        ));
    }
    Ok(method.as_str().to_owned())
}

/// A host pattern. What people copy out of a browser has more in it.
pub(super) fn parse_host(text: &str) -> Result<HostPattern, Complaint> {
    HostPattern::parse(text).map_err(|error| {
        let host = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        let host = match host.rsplit_once(':') {
            Some((before, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => before,
            _ => host,
        };
        match host != text && HostPattern::parse(host).is_ok() {
            true => Complaint::new(
                "is a host alone, without scheme, port and path",
                format!("write \"{host}\""),
            ),
            false => error.to_string().into(),
        }
    })
}

/// The name of a field that can say who asks (seed: ingress, "Reserved auth headers").
pub(super) fn parse_auth_name(text: &str) -> Result<HeaderName, String> {
    let name = parse_field_name(text)?;
    let reserved = [header::HOST, header::AUTHORIZATION, header::COOKIE].contains(&name)
        || name.as_str().starts_with("proxy-")
        || name.as_str().starts_with("sec-websocket-");
    if reserved {
        return Err(format!(
            "`{name}` has a meaning of its own; use another name"
        ));
    }
    Ok(name)
}

/// A network, or one address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse::<IpAddr>().map(Into::into));
    let network = network.map_err(|_| format!("`{text}` is not a network like \"10.0.0.0/8\""))?;
    Ok(canonical(network))
}

/// A network of IPv4 addresses that are written as IPv6 (`::ffff:10.0.0.0/104`) as one of IPv4:
/// clients are compared by their canonical addresses.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else {
        return network;
    };
    let v4 = v6
        .addr()
        .to_ipv4_mapped()
        .zip(v6.prefix_len().checked_sub(96));
    let v4 = v4.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok());
    v4.map_or(network, IpNet::V4)
}

/// The target of a request that the gateway makes itself.
pub(super) fn parse_target(text: &str) -> Result<Arc<str>, String> {
    let uri: http::Uri = text
        .parse()
        .map_err(|_| format!("`{text}` is not a path like \"/health\""))?;
    if !text.starts_with('/') || uri.authority().is_some() {
        return Err(format!("`{text}` is not a path like \"/health\""));
    }
    Ok(text.into())
}

/// The status of an error.
pub(super) fn parse_error_status(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|status| (400..600).contains(status))
        .ok_or_else(|| format!("`{text}` is not a status from 400 to 599"))
}

/// A part of a user agent, in lower case.
pub(super) fn parse_agent(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("an empty text is in every user agent".to_owned()),
        false => Ok(text.to_lowercase()),
    }
}

/// An IANA time zone.
pub(super) fn parse_zone(text: &str) -> Result<String, String> {
    match jiff::tz::TimeZone::get(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "`{text}` is not a time zone like \"Europe/Berlin\" or \"UTC\""
        )),
    }
}

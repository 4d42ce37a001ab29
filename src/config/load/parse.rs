//! What the readers of all sections share.

use std::net::SocketAddr;

use crate::config::reader::Section;

/// Puts a value in its place, if there is one.
pub(super) fn set<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

pub(super) fn positive(s: &mut Section<'_, '_>, key: &'static str) -> Option<usize> {
    let value = s.number(key)?;
    if value == 0 {
        s.problem(key, "must be at least 1");
    }
    Some(value)
}

pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an IP address and port, like \"127.0.0.1:8080\" or \"[::]:8080\"")
    })
}

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
    Ok(text.trim_end_matches('/').to_owned())
}

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

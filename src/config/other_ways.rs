//! Signed URLs and servers that judge requests, as ways in, typed.
//!
//! Guarantees: a key has been read, and is never printed; a server's URL can be asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
#[cfg(test)]
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::duration_text::go_text;
use super::reader::Section;
use super::settings::{Setting, list, settings, text};
#[cfg(test)]
use super::shape::{GoText, text_schema};
use super::texts::{parse_auth_name, parse_auth_url};
use crate::identity::UrlKey;

settings! {
    /// A URL that is signed, until it expires (`wakegate sign-url`).
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct SignedUrlAuth {
        /// The key that URLs are signed with.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<KeyFile> = None;
    }
}

settings! {
    /// A server that is asked about each request.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    #[cfg_attr(test, derive(JsonSchema))]
    pub struct ForwardAuth {
        /// Its URL. It is sent the request's fields, and `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri`
        /// and `-For`; what it answers with 2xx is let in.
        pub url: String = String::new(), by text(parse_auth_url);
        /// The fields of its answer that the instance is sent. Nobody else can send it such a field.
        #[serde(serialize_with = "names", skip_serializing_if = "Vec::is_empty")]
        #[cfg_attr(test, schemars(with = "Vec<String>"))]
        pub response_headers: Vec<HeaderName> = Vec::new(), by list(parse_auth_name);
        /// How long it may take to answer.
        #[serde(serialize_with = "go_text")]
        #[cfg_attr(test, schemars(with = "GoText"))]
        pub timeout: Duration = Duration::from_secs(2);
    }
}

/// A file with a key, read with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
    key: UrlKey,
}

#[cfg(test)]
text_schema!(KeyFile, "KeyFile", "url.key");

fn names<S: Serializer>(names: &[HeaderName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(names.iter().map(HeaderName::as_str))
}

// === impl KeyFile ===

impl KeyFile {
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let path = Path::new(path);
        let bytes = std::fs::read(path)
            .map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
        let key = UrlKey::new(&bytes).map_err(|error| format!("`{}` {error}", path.display()))?;
        let path = path.to_owned();
        Ok(Self { path, key })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The key.
    pub fn key(&self) -> &UrlKey {
        &self.key
    }
}

impl Setting for KeyFile {
    fn take(s: &mut Section<'_, '_>, key: &'static str) -> Option<Self> {
        s.parsed(key, Self::read)
    }
}

impl Serialize for KeyFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.path.display())
    }
}

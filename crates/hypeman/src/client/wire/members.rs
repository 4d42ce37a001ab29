//! Members of an object that this version of the crate does not know, or cannot read.
//!
//! Guarantees: they are sent back as they were read, `null` included; `Debug` shows their names and
//! not their values, since a later server may keep a secret in one of them.

use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The members of an object that this version does not know or cannot read, by name.
///
/// Each type that is read from a server has these as `other`, nested objects too, so that an object
/// can be read, changed and sent back without a loss. A field that is set wins over a value of the
/// same name here. To write a field's default where a value could not be read, remove that value.
///
/// ```
/// use hypeman::wire::AutoStandbyPolicy;
///
/// let text = r#"{"enabled":true,"idle_timeout":"5m0s","grace":{"ports":[22]}}"#;
/// let mut policy: AutoStandbyPolicy = serde_json::from_str(text)?;
/// assert_eq!(policy.other["grace"]["ports"][0], 22);
/// policy.enabled = false;
/// assert!(serde_json::to_string(&policy)?.contains(r#""grace":{"ports":[22]}"#));
///
/// let text = r#"{"enabled":true,"idle_timeout":"1d"}"#;
/// let mut policy: AutoStandbyPolicy = serde_json::from_str(text)?;
/// assert_eq!(policy.idle_timeout, None);
/// assert_eq!(policy.other["idle_timeout"], "1d");
/// assert_eq!(serde_json::to_string(&policy)?, text);
/// policy.idle_timeout = Some("24h".parse()?);
/// assert_eq!(serde_json::to_string(&policy)?, r#"{"enabled":true,"idle_timeout":"24h0m0s"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Members(pub Map<String, Value>);

impl Deref for Members {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

//! Members that are `null` where they could be absent.
//!
//! Guarantees: `null` reads as the type's default, as absence does.

use serde::{Deserialize, Deserializer};

/// Reads `null` as the default.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

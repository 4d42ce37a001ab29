//! JSON objects in which no name stands twice.
//!
//! Guarantees: an object that two readers could read in two ways is refused (RFC 7515 §4, RFC 7519
//! §4): which of two values counts is nobody's guess.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// An object with each name once.
#[derive(Debug, Default)]
pub(super) struct UniqueObject(pub(super) Map<String, Value>);

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = UniqueObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with each name once")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<UniqueObject, A::Error> {
        let mut object = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(UniqueObject(object))
    }
}

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(UniqueVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_a_name_twice_is_none() {
        let read = |text: &str| serde_json::from_str::<UniqueObject>(text).ok();
        assert!(read(r#"{"a": 1, "a": 1}"#).is_none());
        assert!(read(r#"{"a": 1, "\u0061": 2}"#).is_none());
        assert!(read("[1]").is_none() && read("{} {}").is_none());
        assert_eq!(read(r#"{"a": 1, "b": 2}"#).unwrap().0.len(), 2);
    }
}

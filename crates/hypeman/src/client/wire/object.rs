//! How an object of the API is read and written.
//!
//! Guarantees: reading fails for want of a required member alone. Any other member whose value
//! cannot be read has its type's default, and the value stays among `other`; of a list or a map,
//! only the elements that cannot be read do. Writing puts all of it back, and no name comes twice:
//! a field that was set since wins over the value in `other`. No error shows a value.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::ser::{Error as _, SerializeMap};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::members::Members;
use super::redacted::RedactedMap;

/// A list or a map, which is read element by element.
pub(super) trait Collection: Default + PartialEq + Serialize {
    /// What can be read of a value, and the rest.
    fn read(value: Value) -> (Self, Option<Value>);
}

/// Writes an object's members, those in `other` last.
pub(super) struct Writer<'a, M> {
    map: M,
    other: &'a Members,
    written: Vec<&'static str>,
}

/// The name of a field on the wire.
macro_rules! member {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// Implements `Serialize` for an object with these members:
/// `required` and `always` ones are written whatever they are,
/// `strict` and `optional` ones unless they have their type's default,
/// `each` is for lists and maps, which are written unless they are empty.
macro_rules! request {
    ($type:ident {
        $(required $($required:ident $(as $required_name:literal)?),+;)?
        $(always $($always:ident $(as $always_name:literal)?),+;)?
        $(strict $($strict:ident $(as $strict_name:literal)?),+;)?
        $(optional $($optional:ident $(as $optional_name:literal)?),+;)?
        $(nullable $nullable:ident = $null:path;)?
        $(each $($each:ident $(as $each_name:literal)?),+;)?
    }) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let Self {
                    $($($required,)+)? $($($always,)+)? $($($strict,)+)?
                    $($($optional,)+)? $($nullable,)? $($($each,)+)? other
                } = self;
                let mut writer = Writer::begin::<S>(serializer, other)?;
                $($(writer.required(member!($required $($required_name)?), $required)?;)+)?
                $($(writer.always(member!($always $($always_name)?), $always)?;)+)?
                $($(writer.optional(member!($strict $($strict_name)?), $strict)?;)+)?
                $($(writer.optional(member!($optional $($optional_name)?), $optional)?;)+)?
                $(writer.optional(member!($nullable), $nullable)?;)?
                $($(writer.each(member!($each $($each_name)?), $each)?;)+)?
                writer.end()
            }
        }
    };
}

/// Implements `Serialize`, as [`request`] does, and `Deserialize`: the object cannot be read
/// without its `required` members, nor with a `strict` one that is there and cannot be read. A
/// `null` says something where the member is `nullable`.
macro_rules! object {
    ($type:ident {
        $(required $($required:ident $(as $required_name:literal)?),+;)?
        $(always $($always:ident $(as $always_name:literal)?),+;)?
        $(strict $($strict:ident $(as $strict_name:literal)?),+;)?
        $(optional $($optional:ident $(as $optional_name:literal)?),+;)?
        $(nullable $nullable:ident = $null:path;)?
        $(each $($each:ident $(as $each_name:literal)?),+;)?
    }) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                let mut members = <Members as serde::Deserialize>::deserialize(input)?;
                Ok(Self {
                    $($($required: members.required(member!($required $($required_name)?))?,)+)?
                    $($($always: members.optional(member!($always $($always_name)?)),)+)?
                    $($($strict: members.strict(member!($strict $($strict_name)?))?,)+)?
                    $($($optional: members.optional(member!($optional $($optional_name)?)),)+)?
                    $($nullable: members.nullable(member!($nullable), $null),)?
                    $($($each: members.each(member!($each $($each_name)?)),)+)?
                    other: members,
                })
            }
        }

        request!($type {
            $(required $($required $(as $required_name)?),+;)?
            $(always $($always $(as $always_name)?),+;)?
            $(strict $($strict $(as $strict_name)?),+;)?
            $(optional $($optional $(as $optional_name)?),+;)?
            $(nullable $nullable = $null;)?
            $(each $($each $(as $each_name)?),+;)?
        });
    };
}

pub(super) use {member, object, request};

// === Reading ===

impl Members {
    /// Takes a member that the object cannot do without.
    pub(super) fn required<T, E>(&mut self, name: &'static str) -> Result<T, E>
    where
        T: DeserializeOwned,
        E: serde::de::Error,
    {
        let value = self.remove(name).ok_or_else(|| E::missing_field(name))?;
        read(name, &value)
    }

    /// Takes a member that may be absent or `null`, and must not be misunderstood.
    pub(super) fn strict<T, E>(&mut self, name: &'static str) -> Result<T, E>
    where
        T: DeserializeOwned + Default,
        E: serde::de::Error,
    {
        match self.remove(name) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => read(name, &value),
        }
    }

    /// Takes a member that may be anything, and leaves it where it cannot be read.
    pub(super) fn optional<T: DeserializeOwned + Default>(&mut self, name: &'static str) -> T {
        match self.remove(name) {
            None | Some(Value::Null) => T::default(),
            Some(value) => T::deserialize(&value).unwrap_or_else(|_| {
                self.insert(name.to_owned(), value);
                T::default()
            }),
        }
    }

    /// Takes a member that may be anything, and has a meaning when it is `null`.
    pub(super) fn nullable<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        null: fn() -> T,
    ) -> Option<T> {
        match self.get(name) {
            Some(Value::Null) => {
                self.remove(name);
                Some(null())
            }
            Some(_) | None => self.optional(name),
        }
    }

    /// Takes what can be read of a list or a map, and leaves the rest of it.
    pub(super) fn each<T: Collection>(&mut self, name: &'static str) -> T {
        match self.remove(name) {
            None | Some(Value::Null) => T::default(),
            Some(value) => {
                let (read, rest) = T::read(value);
                if let Some(rest) = rest {
                    self.insert(name.to_owned(), rest);
                }
                read
            }
        }
    }

    /// Whether a member that the type has as a field was there and could not be read.
    pub(super) fn has_unreadable(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_null())
    }
}

fn read<T: DeserializeOwned, E: serde::de::Error>(name: &str, value: &Value) -> Result<T, E> {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    // The reason may show the value.
    T::deserialize(value)
        .map_err(|_| E::custom(format_args!("`{name}` cannot be read: it is {kind}")))
}

impl<T: DeserializeOwned + PartialEq + Serialize> Collection for Vec<T> {
    fn read(value: Value) -> (Self, Option<Value>) {
        let Value::Array(values) = value else {
            return (Self::new(), Some(value));
        };
        let (mut items, mut rest) = (Self::with_capacity(values.len()), Vec::new());
        for value in values {
            match T::deserialize(&value) {
                Ok(item) => items.push(item),
                Err(_) => rest.push(value),
            }
        }
        (items, (!rest.is_empty()).then_some(Value::Array(rest)))
    }
}

impl<T: DeserializeOwned + PartialEq + Serialize> Collection for BTreeMap<String, T> {
    fn read(value: Value) -> (Self, Option<Value>) {
        let Value::Object(values) = value else {
            return (Self::new(), Some(value));
        };
        let (mut items, mut rest) = (Self::new(), Map::new());
        for (name, value) in values {
            match T::deserialize(&value) {
                Ok(item) => drop(items.insert(name, item)),
                Err(_) => drop(rest.insert(name, value)),
            }
        }
        (items, (!rest.is_empty()).then_some(Value::Object(rest)))
    }
}

impl Collection for RedactedMap {
    fn read(value: Value) -> (Self, Option<Value>) {
        let (items, rest) = BTreeMap::read(value);
        (Self(items), rest)
    }
}

// === Writing ===

impl<'a, M: SerializeMap> Writer<'a, M> {
    pub(super) fn begin<S>(serializer: S, other: &'a Members) -> Result<Self, S::Error>
    where
        S: Serializer<SerializeMap = M, Error = M::Error>,
    {
        Ok(Self {
            map: serializer.serialize_map(None)?,
            other,
            written: Vec::new(),
        })
    }

    /// Writes a member whatever it is.
    pub(super) fn required(
        &mut self,
        name: &'static str,
        value: &impl Serialize,
    ) -> Result<(), M::Error> {
        self.written.push(name);
        self.map.serialize_entry(name, value)
    }

    /// Writes a flag or a count. While it has its default, what could not be read goes instead.
    pub(super) fn always<T: Default + PartialEq + Serialize>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), M::Error> {
        if *value == T::default() && self.other.contains_key(name) {
            return Ok(());
        }
        self.required(name, value)
    }

    /// Writes a member that is set.
    pub(super) fn optional<T: Default + PartialEq + Serialize>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), M::Error> {
        if *value == T::default() {
            return Ok(());
        }
        self.required(name, value)
    }

    /// Writes a list or a map, with the elements that could not be read.
    pub(super) fn each<T: Default + PartialEq + Serialize>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), M::Error> {
        match self.other.get(name) {
            Some(rest) if *value != T::default() => {
                let read = serde_json::to_value(value).map_err(M::Error::custom)?;
                self.required(name, &together(read, rest))
            }
            Some(_) | None => self.optional(name, value),
        }
    }

    /// Writes what `other` has besides.
    pub(super) fn end(mut self) -> Result<M::Ok, M::Error> {
        for (name, value) in self.other.iter() {
            if !self.written.contains(&name.as_str()) {
                self.map.serialize_entry(name, value)?;
            }
        }
        self.map.end()
    }
}

/// The elements that were read and the rest. A rest of another kind was replaced.
fn together(read: Value, rest: &Value) -> Value {
    match (read, rest) {
        (Value::Array(mut read), Value::Array(rest)) => {
            read.extend(rest.iter().cloned());
            Value::Array(read)
        }
        (Value::Object(mut read), Value::Object(rest)) => {
            for (name, value) in rest {
                read.entry(name.as_str()).or_insert_with(|| value.clone());
            }
            Value::Object(read)
        }
        (read, _) => read,
    }
}

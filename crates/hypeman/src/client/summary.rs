//! The little that a list of many instances is most often read for.
//!
//! Guarantees: what can be read as an [`Instance`] can be read as a summary, which says the same; of
//! an element whose members are of the usual kinds nothing is copied that the summary does not have.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::decode::{Decode, decode};
use super::wire::{Address, Instance, InstanceNetwork, InstanceState};

/// Which instance it is, in which state, and where: what is needed to follow thousands of them. See
/// [`Client::list_instance_summaries`](super::Client::list_instance_summaries).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceSummary {
    /// The full id, which never changes.
    pub id: String,
    /// The name, unique on the server.
    pub name: String,
    /// The state, which the server derives on each read.
    pub state: InstanceState,
    /// Where the instance is.
    pub address: Address,
}

/// An instance whose members are of the usual kinds.
#[derive(Deserialize)]
struct Usual<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    network: Object<UsualNetwork<'a>>,
}

#[derive(Deserialize)]
struct UsualNetwork<'a> {
    enabled: Option<bool>,
    #[serde(borrow)]
    ip: Option<Cow<'a, str>>,
}

/// An object: serde's structs can be read from lists as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_map(Object(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<PhantomData<T>> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

impl From<Instance> for InstanceSummary {
    fn from(instance: Instance) -> Self {
        Self {
            address: instance.address(),
            id: instance.id,
            name: instance.name,
            state: instance.state,
        }
    }
}

impl From<Usual<'_>> for InstanceSummary {
    fn from(usual: Usual<'_>) -> Self {
        let UsualNetwork { enabled, ip } = usual.network.0;
        Self {
            id: usual.id.into_owned(),
            name: usual.name.into_owned(),
            state: usual.state.as_ref().into(),
            address: InstanceNetwork::place(enabled, ip.as_deref()),
        }
    }
}

impl Decode for InstanceSummary {
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        match serde_json::from_slice::<Object<Usual<'_>>>(bytes) {
            Ok(Object(usual)) => Ok(usual.into()),
            Err(_) => decode::<Instance>(bytes).map(Self::from),
        }
    }

    fn decode_first(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut values = serde_json::Deserializer::from_slice(bytes).into_iter();
        let Object::<Usual<'_>>(usual) = values.next()?.ok()?;
        Some((usual.into(), values.byte_offset()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::client::elements::Elements;
    use crate::client::listed::Listed;

    fn both(text: &[u8]) -> [Result<InstanceSummary, String>; 2] {
        let whole = decode::<Instance>(text).map(InstanceSummary::from);
        [InstanceSummary::decode(text), whole].map(|read| read.map_err(|error| error.to_string()))
    }

    #[test]
    fn a_usual_element_is_read_without_its_other_members() {
        let text =
            br#"{"id":"a","name":"w\u00e9b","state":"Standby","env":{"K":"\ud800"},"vcpus":1e999,
            "network":{"enabled":true,"name":"default","ip":"10.0.0.7","mac":"02:00"}}"#;
        let usual = serde_json::from_slice::<Object<Usual<'_>>>(text);
        let usual = usual.map(|Object(usual)| InstanceSummary::from(usual));
        let expected = InstanceSummary {
            id: "a".to_owned(),
            name: "wéb".to_owned(),
            state: InstanceState::Standby,
            address: Address::At([10, 0, 0, 7].into()),
        };
        assert_eq!(usual.unwrap(), expected);
        assert_eq!(both(text), [Ok(expected.clone()), Ok(expected)]);
    }

    #[test]
    fn an_odd_element_is_read_as_the_whole_instance_is() {
        for text in [
            r#"{"id":"a","name":"b","state":"Napping"}"#,
            r#"{"id":"a","name":"b","state":"Running","network":null}"#,
            r#"{"id":"a","name":"b","state":"Running","network":7}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{}}"#,
            r#"{"id":"a","name":"b","state":"Running","network":["x"]}"#,
            r#"{"id":"a","name":"b","state":"Running","network":[true,"10.0.0.1"]}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{"ip":7}}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{"ip":null,"enabled":null}}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{"ip":"","enabled":"no"}}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{"ip":"10.0.0.1","enabled":false}}"#,
            r#"{"id":"a","name":"b","name":"c","state":"Running","network":{"ip":"x"}}"#,
            r#"{"id":"a","name":"b","state":"Running","network":{"ip":"10.0.0.1","ip":"10.0.0.2"}}"#,
            r#"["a","b","Running",[true,"10.0.0.1"]]"#,
            r#"{"id":"a","name":"b","state":7,"network":{}}"#,
            r#"{"id":"a","name":"\ud800","state":"Running","network":{}}"#,
            r#"{"id":7}"#,
            "{}",
            "7",
            "tru",
        ] {
            let [little, whole] = both(text.as_bytes());
            assert_eq!(little, whole, "{text}");
        }
    }

    #[test]
    fn a_list_in_any_pieces_is_read_alike() {
        let elements = [
            r#"{"id":"a","name":"one","state":"Running","network":{"enabled":true,"ip":"10.0.0.1"}}"#,
            r#"{"id":"b","name":"two","state":"Standby"}"#,
            r#"{"id":7}"#,
            r#"{"id":"c","name":"three","state":"Running","network":{"ip":"10.0.0.2"}} "#,
        ];
        let text = format!("[{}]", elements.join(" , "));
        let read = |pieces: &[&[u8]]| {
            let (mut list, mut listed) = (Elements::new(999), Listed::<InstanceSummary>::default());
            for piece in pieces {
                let read = InstanceSummary::decode_first;
                list.push(piece, read, |element| listed.add(element))
                    .unwrap();
            }
            list.end().unwrap();
            listed
        };
        let whole = read(&[text.as_bytes()]);
        let names: Vec<&str> = whole.iter().map(|one| one.name.as_str()).collect();
        assert_eq!((names, whole.odd.len()), (vec!["one", "two", "three"], 1));
        for at in 0..text.len() {
            let (head, tail) = text.as_bytes().split_at(at);
            assert_eq!(read(&[head, tail]), whole, "{at}");
        }
    }

    proptest! {
        #[test]
        fn a_summary_says_what_the_whole_instance_says(
            network in prop_oneof![
                Just(Value::Null), Just(json!(7)), Just(json!("x")), Just(json!([])), Just(json!([true, "10.0.0.1"])),
                (odd(), odd()).prop_map(|(enabled, ip)| json!({"enabled": enabled, "ip": ip, "mac": 7})),
            ],
            (id, name, state) in (odd(), odd(), odd()),
            left_out in prop::option::of(0_usize..4),
        ) {
            let mut element = json!({"id": id, "name": name, "state": state, "network": network, "env": {"a": 1}});
            if let Some(number) = left_out {
                element.as_object_mut().unwrap().remove(["id", "name", "state", "network"][number]);
            }
            let [little, whole] = both(element.to_string().as_bytes());
            prop_assert_eq!(little, whole, "{}", element);
        }
    }

    fn odd() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            Just(json!(1.5)),
            Just(json!({"a": []})),
            "[a-z\"\\\\é]{0,3}".prop_map(Value::from),
            Just(json!("Running")),
            Just(json!("10.0.0.9")),
        ]
    }
}

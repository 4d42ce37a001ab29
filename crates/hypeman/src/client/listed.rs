//! A list as it was read: what could be read of it, and what could not.
//!
//! Guarantees: an element that cannot be read costs no other its place; the number of those that
//! are described is bounded, and the others are counted. No description has a value in it but the
//! id and the name.

use std::fmt;
use std::ops::Deref;
use std::vec;

use serde_json::Value;

use super::decode::{Decode, decode};
use super::elements::Element;

/// How many elements that cannot be read are described.
const MOST_ODD: usize = 100;
/// The longest id or name that is taken from one.
const MOST_CHARS: usize = 255;

/// The elements of a list. It can be used like the slice of those that could be read.
///
/// ```no_run
/// # async fn example(client: hypeman::Client) -> Result<(), hypeman::Error> {
/// let listed = client.list_instances(&Default::default()).await?;
/// for odd in &listed.odd {
///     eprintln!("{odd}");
/// }
/// for instance in listed {
///     println!("{} is {}", instance.name, instance.state);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The elements that could be read, in the server's order.
    pub items: Vec<T>,
    /// The elements that could not be read, the first 100 of them.
    pub odd: Vec<OddElement>,
    /// The number of further elements that could not be read.
    pub more_odd: usize,
}

/// An element of a list that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OddElement {
    /// The place of the element in the list, from 0.
    pub index: usize,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The reason, for people.
    pub reason: String,
}

// === impl Listed ===

impl<T> Listed<T> {
    /// Whether one of the elements that could not be read may have this id. While that is so, the
    /// absence of the id from `items` does not mean that nothing has it.
    pub fn may_have_odd(&self, id: &str) -> bool {
        let may_be = |odd: &OddElement| odd.id.as_ref().is_none_or(|other| other == id);
        self.more_odd > 0 || self.odd.iter().any(may_be)
    }

    /// Takes the next element.
    pub(super) fn add(&mut self, element: Element<'_, T>)
    where
        T: Decode,
    {
        let odd = match element {
            Element::Read(item) => return self.items.push(item),
            Element::Whole(text) => match T::decode(text) {
                Ok(item) => return self.items.push(item),
                Err(error) => OddElement::of(text, &error),
            },
            Element::TooLong => OddElement::because("it is too long".to_owned()),
        };
        if self.odd.len() == MOST_ODD {
            self.more_odd += 1;
        } else {
            let index = self.items.len() + self.odd.len();
            self.odd.push(OddElement { index, ..odd });
        }
    }
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl<T> From<Vec<T>> for Listed<T> {
    fn from(items: Vec<T>) -> Self {
        Self {
            items,
            odd: Vec::new(),
            more_odd: 0,
        }
    }
}

impl<T> Deref for Listed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> IntoIterator for Listed<T> {
    type Item = T;
    type IntoIter = vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Listed<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

// === impl OddElement ===

impl OddElement {
    fn because(reason: String) -> Self {
        Self {
            index: 0,
            id: None,
            name: None,
            reason,
        }
    }

    fn of(text: &[u8], error: &serde_json::Error) -> Self {
        let kind = match decode(text) {
            Ok(Value::Object(members)) => {
                let text = |name| {
                    let text: &str = members.get(name)?.as_str()?;
                    Some(text.chars().take(MOST_CHARS).collect())
                };
                return Self {
                    id: text("id"),
                    name: text("name"),
                    ..Self::because(error.to_string())
                };
            }
            Ok(Value::Null) => "null",
            Ok(Value::Bool(_)) => "a boolean",
            Ok(Value::Number(_)) => "a number",
            Ok(Value::String(_)) => "a text",
            Ok(Value::Array(_)) => "a list",
            Err(error) => return Self::because(error.to_string()),
        };
        Self::because(format!("it is {kind}, not an object"))
    }
}

impl fmt::Display for OddElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {}", self.index)?;
        match (&self.name, &self.id) {
            (Some(name), Some(id)) => write!(f, " ({name:?}, id {id:?})")?,
            (Some(name), None) => write!(f, " ({name:?})")?,
            (None, Some(id)) => write!(f, " (id {id:?})")?,
            (None, None) => {}
        }
        write!(f, " cannot be read: {}", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::wire::Instance;

    fn listed(elements: &[&str]) -> Listed<Instance> {
        let mut listed = Listed::default();
        for text in elements {
            listed.add(Element::Whole(text.as_bytes()));
        }
        listed
    }

    #[test]
    fn an_odd_element_is_described_and_the_others_are_read() {
        let good = r#"{"id":"a","name":"web","state":"Running"}"#;
        let odd = r#"{"id":"b","name":"api","state":7}"#;
        let listed = listed(&[odd, good, "7", r#"{"name":"x"}"#, "tru"]);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, "web");
        let texts: Vec<String> = listed.odd.iter().map(ToString::to_string).collect();
        assert!(
            texts[0].starts_with(r#"element 0 ("api", id "b") cannot be read: `state`"#),
            "{texts:?}"
        );
        assert_eq!(
            texts[1],
            "element 2 cannot be read: it is a number, not an object"
        );
        assert!(
            texts[2].starts_with(r#"element 3 ("x") cannot be read: missing field `id`"#),
            "{texts:?}"
        );
        assert!(
            texts[3].starts_with("element 4 cannot be read: "),
            "{texts:?}"
        );
    }

    #[test]
    fn an_id_is_ruled_out_only_where_every_odd_element_has_another() {
        let odd = r#"{"id":"b","name":"api"}"#;
        assert!(!listed(&[]).may_have_odd("b"));
        assert!(listed(&[odd]).may_have_odd("b") && !listed(&[odd]).may_have_odd("c"));
        assert!(listed(&[odd, "{}"]).may_have_odd("c"));
        let many = listed(&[odd; MOST_ODD + 1]);
        assert_eq!((many.odd.len(), many.more_odd), (MOST_ODD, 1));
        assert!(many.may_have_odd("c"));
    }
}

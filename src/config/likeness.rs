//! What a table says, as a text that two tables share exactly if they say the same.
//!
//! Guarantees: the order of keys makes no difference, and neither does where they were written;
//! whatever else does, does.

use std::fmt::Write as _;

use toml::de::{DeTable, DeValue};

/// What a table says besides the keys in `own`.
pub(super) fn likeness(table: &DeTable<'_>, own: &[&str]) -> String {
    let mut text = String::new();
    write_table(table, own, &mut text);
    text
}

fn write_table(table: &DeTable<'_>, own: &[&str], out: &mut String) {
    let pairs = table.iter().map(|(key, value)| (&**key.get_ref(), value));
    let mut pairs: Vec<_> = pairs.filter(|(key, _)| !own.contains(key)).collect();
    pairs.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in pairs {
        write_text(key, out);
        write_value(value.get_ref(), out);
    }
}

/// With its length, so that no text looks like the end of another.
fn write_text(text: &str, out: &mut String) {
    // A `String` takes everything.
    let _never_fails = write!(out, "{}:{text}", text.len());
}

fn write_value(value: &DeValue<'_>, out: &mut String) {
    // Each kind has a letter of its own.
    match value {
        DeValue::String(text) => {
            out.push('s');
            write_text(text, out);
        }
        DeValue::Integer(number) => {
            out.push('i');
            write_text(&number.to_string(), out);
        }
        DeValue::Float(number) => {
            out.push('f');
            write_text(&number.to_string(), out);
        }
        DeValue::Boolean(flag) => out.push_str(if *flag { "y" } else { "n" }),
        DeValue::Datetime(time) => {
            out.push('d');
            write_text(&time.to_string(), out);
        }
        DeValue::Array(items) => {
            out.push('[');
            items
                .iter()
                .for_each(|item| write_value(item.get_ref(), out));
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push('{');
            write_table(table, &[], out);
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        let table = DeTable::parse(text).unwrap();
        likeness(table.get_ref(), &["host", "port"])
    }

    #[test]
    fn tables_that_say_the_same_are_alike_wherever_and_in_whatever_order_they_say_it() {
        assert_eq!(of("host = \"a\"\nport = 1\n"), "");
        assert_eq!(
            of("host = \"a\"\nwake = { x = \"y\", z = [1, 2] }\nb = 1\n"),
            of("b = 1\n[wake]\nz = [1, 2]\nx = 'y'\n"),
        );
        assert_eq!(
            of("a = 1\nb = true\nport = 2"),
            of("# x\n\nb = true\na = 1\n")
        );
    }

    #[test]
    fn tables_that_say_anything_else_are_not_alike() {
        let all = [
            "",
            "a = 1",
            "a = 2",
            "b = 1",
            "a = \"1\"",
            "a = 1.0",
            "a = true",
            "a = false",
            "a = [1]",
            "a = [[1]]",
            "a = [1, 1]",
            "a = [\"1i\"]",
            "a = [\"1\", \"i\"]",
            "a = {}",
            "a = []",
            "a = { a = 1 }",
            "a = { b = 1 }",
            "a = { b = {} }\nc = 1",
            "a = { b = { c = 1 } }",
            "a = { b = {}, c = 1 }",
            "a = { port = 1 }",
            "a = 2026-01-01",
        ];
        for (at, one) in all.iter().enumerate() {
            for other in &all[at + 1..] {
                assert_ne!(of(one), of(other), "{one} and {other}");
            }
        }
    }
}

//! Lists of tables, and what several tables say alike.
//!
//! Guarantees: what is read once for several tables is what would have been read from each of them;
//! what is wrong is read, and reported, for each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use toml::de::DeTable;

use super::Section;
use crate::config::likeness::likeness;
use crate::config::problem::Complaint;

/// How many tables a list has, of which the file has so many and variables speak of these. A
/// variable beyond a gap is that of no table: what is between would be tables that nobody wrote.
fn end_of(in_file: usize, in_environment: &BTreeSet<usize>) -> usize {
    let more = (in_file..).take_while(|index| in_environment.contains(index));
    in_file + more.count()
}

impl<'a> Section<'_, 'a> {
    /// What `read` makes of all keys but those in `own`. Tables that say the same of them are read
    /// once, and share it.
    pub(in crate::config) fn shared<T>(
        &mut self,
        own: &[&str],
        earlier: &mut HashMap<String, Arc<T>>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Arc<T> {
        // Where there are variables, the table is not all that is said.
        let table = self.table.filter(|_| !self.diagnostics.has_variables);
        let Some(likeness) = table.map(|table| likeness(table, own)) else {
            return Arc::new(read(self));
        };
        if let Some(shared) = earlier.get(&likeness) {
            self.is_read = true;
            return Arc::clone(shared);
        }
        let problems = self.diagnostics.count();
        let fresh = Arc::new(read(self));
        // What is wrong with one table is wrong with each that says the same.
        if self.diagnostics.count() == problems && !self.has_strays(own) {
            earlier.insert(likeness, Arc::clone(&fresh));
        }
        fresh
    }

    /// Whether the file has keys here that nobody has asked for, those in `own` apart.
    fn has_strays(&self, own: &[&str]) -> bool {
        let names = self.table.into_iter().flat_map(|table| table.iter());
        let mut names = names.map(|(key, _)| &**key.get_ref());
        names.any(|name| !own.contains(&name) && !self.keys.contains(&name))
    }

    /// A table that has been read, or one that says the same; for what is wrong with it here.
    pub(in crate::config) fn section_again(
        &mut self,
        key: &'static str,
        tell: impl FnOnce(&mut Section<'_, 'a>),
    ) {
        self.section(key, |s| {
            s.is_read = true;
            tell(s);
        });
    }

    /// A list of tables; one call of `read` for each, in the file or in the environment.
    pub(in crate::config) fn tables(
        &mut self,
        key: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'a>),
    ) {
        self.keys.push(key);
        let mut tables = Vec::new();
        if let Some(value) = self.in_file(key) {
            let items = value
                .get_ref()
                .as_array()
                .map(|items| items.iter().collect::<Vec<_>>());
            let as_tables = items.and_then(|items| {
                items
                    .into_iter()
                    .map(|item| Some((item.span().start, item.get_ref().as_table()?)))
                    .collect::<Option<Vec<_>>>()
            });
            if let Some(as_tables) = as_tables {
                tables = as_tables;
            } else {
                let mend = format!("write `[[{}]]` above each one's keys", self.key_path(key));
                let complaint = Complaint::new("is not a list of tables", mend);
                self.report("wrong_type", value.span().start, key, complaint);
            }
        }
        let (stems, in_environment) = self.in_environment(key);
        for index in 0..end_of(tables.len(), &in_environment) {
            let table = tables.get(index).copied();
            self.item((key, index), &stems, table, &mut read);
        }
    }

    /// The same for a list whose tables are in texts of their own. Returns whether there is nothing
    /// else in these.
    pub(in crate::config) fn tables_of(
        &mut self,
        key: &'static str,
        texts: &[&'a str],
        mut read: impl FnMut(&mut Section<'_, 'a>),
    ) -> bool {
        self.keys.push(key);
        let (stems, in_environment) = self.in_environment(key);
        let mut index = 0;
        for text in texts {
            let (table, errors) = DeTable::parse_recoverable(text);
            let table = table.get_ref();
            let items = table.get(key).and_then(|value| value.get_ref().as_array());
            let Some(items) = items.filter(|_| errors.is_empty() && table.len() == 1) else {
                return false;
            };
            for item in items {
                let Some(table) = item.get_ref().as_table() else {
                    return false;
                };
                let table = Some((item.span().start, table));
                self.item((key, index), &stems, table, &mut read);
                index += 1;
            }
        }
        for index in index..end_of(index, &in_environment) {
            self.item((key, index), &stems, None, &mut read);
        }
        true
    }

    /// How the variables of a list begin, and which tables of it they speak of.
    fn in_environment(&self, key: &str) -> (Vec<String>, BTreeSet<usize>) {
        let upper = key.to_ascii_uppercase();
        let stems: Vec<String> = self
            .prefixes
            .iter()
            .map(|prefix| format!("{prefix}{upper}_"))
            .collect();
        let spoken_of = self
            .diagnostics
            .variables
            .keys()
            .filter_map(|name| stems.iter().find_map(|stem| name.strip_prefix(stem)))
            .map(|rest| rest.split('_').next().and_then(|n| n.parse().ok()))
            .map(|index| index.unwrap_or(0))
            .filter(|index| *index < 1024)
            .collect();
        (stems, spoken_of)
    }

    /// Reads one table of a list.
    fn item<'s>(
        &'s mut self,
        (key, index): (&'static str, usize),
        stems: &[String],
        table: Option<(usize, &'s DeTable<'a>)>,
        read: impl FnOnce(&mut Section<'_, 'a>),
    ) {
        let mut prefixes: Vec<String> =
            stems.iter().map(|stem| format!("{stem}{index}_")).collect();
        if index == 0 {
            prefixes.extend(stems.iter().cloned());
        }
        let path = self.key_path(&format!("{key}[{index}]"));
        self.below(table, path, prefixes, read);
    }
}

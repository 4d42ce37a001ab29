//! The place at which a setting was written.
//!
//! Guarantees: lines and columns count from 1 on, columns in characters.

use std::fmt;

/// What a configuration without a file is called.
pub(super) const ENVIRONMENT: &str = "environment";

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file's name, as it was given.
        name: String,
        /// Line and column; `None` where the file as a whole is meant.
        at: Option<(usize, usize)>,
    },
    /// In an environment variable of this name, or in a flag of the command line.
    Named(String),
}

/// A place as JSON has it.
#[derive(Debug)]
pub(super) struct PlaceFields<'p> {
    pub(super) file: Option<&'p str>,
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    pub(super) variable: Option<&'p str>,
}

/// The beginnings of a text's lines.
#[derive(Debug)]
pub(super) struct Lines(Vec<usize>);

// === impl Place ===

impl Place {
    /// A file as a whole.
    pub fn file(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::File { name, at: None }
    }

    pub(super) fn fields(&self) -> PlaceFields<'_> {
        let (mut file, mut at, mut variable) = (None, None, None);
        match self {
            Self::File { name, at: found } => {
                (file, at) = (Some(name.as_str()).filter(|n| *n != ENVIRONMENT), *found);
            }
            Self::Named(name) => variable = Some(name.as_str()),
        }
        let (line, column) = at.unzip();
        PlaceFields {
            file,
            line,
            column,
            variable,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, at: None } | Self::Named(name) => f.write_str(name),
            Self::File {
                name,
                at: Some((line, column)),
            } => write!(f, "{name}:{line}:{column}"),
        }
    }
}

// === impl Lines ===

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(starts).collect())
    }

    /// Line and column of a byte offset of the same text.
    pub(super) fn at(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.0.partition_point(|start| *start <= offset);
        let start = self.0.get(line.saturating_sub(1)).copied();
        let tail = start.and_then(|start| text.get(start..offset));
        (line, tail.map_or(0, |tail| tail.chars().count()) + 1)
    }
}

//! The pages of the book and the documents beside it: their blocks, headings and links.
//!
//! Guarantees: what is in a fence is a block and nothing else; a link or a word in code is found
//! wherever it stands in the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One document.
#[derive(Debug)]
pub struct Page {
    /// Its path below the repository's root.
    pub path: PathBuf,
    pub text: String,
}

/// What stands between two fences.
#[derive(Debug)]
pub struct Block {
    /// The page and the line of its first fence.
    pub place: String,
    /// The words after the first fence, such as `toml` and `wakegate`.
    pub words: Vec<String>,
    pub text: String,
}

/// A line outside all blocks.
#[derive(Debug)]
pub struct Line<'a> {
    pub number: usize,
    pub text: &'a str,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> Page {
    Page {
        path: path.strip_prefix(root()).unwrap().to_owned(),
        text: std::fs::read_to_string(path).unwrap(),
    }
}

/// The pages of the book, its table of contents among them.
pub fn book() -> Vec<Page> {
    let mut found = Vec::new();
    markdown(&root().join("docs"), &mut found);
    found.sort();
    found.iter().map(|path| read(path)).collect()
}

/// The pages of the book, and every document that leads to it.
pub fn all() -> Vec<Page> {
    let beside = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "examples/README.md",
    ];
    let beside = beside.map(|name| read(&root().join(name)));
    book().into_iter().chain(beside).collect()
}

/// The name by which a heading is linked to, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | ' ');
    let kept = heading.chars().filter(|c| kept(*c));
    kept.map(|c| if c == ' ' { '-' } else { c })
        .collect::<String>()
        .to_lowercase()
}

// === impl Page ===

impl Page {
    pub fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (index, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (fence, open.take()) {
                (Some(info), None) => {
                    let words = info.split([',', ' ']).filter(|word| !word.is_empty());
                    open = Some(Block {
                        place: format!("{}:{}", self.name(), index + 1),
                        words: words.map(str::to_owned).collect(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(mut block)) => {
                    block.text.push_str(line);
                    block.text.push('\n');
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block without an end", self.name());
        blocks
    }

    /// The lines outside all blocks.
    pub fn lines(&self) -> Vec<Line<'_>> {
        let mut is_block = false;
        let mut lines = Vec::new();
        for (index, text) in self.text.lines().enumerate() {
            if text.trim_start().starts_with("```") {
                is_block = !is_block;
            } else if !is_block {
                let number = index + 1;
                lines.push(Line { number, text });
            }
        }
        lines
    }

    /// The anchors of its headings.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut anchors = BTreeSet::new();
        for line in self.lines() {
            let heading = line.text.trim_start_matches('#');
            if heading.len() == line.text.len() || !heading.starts_with(' ') {
                continue;
            }
            let anchor = anchor(heading.trim());
            let count = seen.entry(anchor.clone()).or_default();
            anchors.insert(match count {
                0 => anchor,
                _ => format!("{anchor}-{count}"),
            });
            *count += 1;
        }
        anchors
    }
}

// === impl Block ===

impl Block {
    pub fn is(&self, word: &str) -> bool {
        self.words.iter().any(|own| own == word)
    }

    /// The file's name, where its reader is to save it.
    pub fn file(&self) -> Option<&str> {
        self.words
            .iter()
            .find_map(|word| word.strip_prefix("file="))
    }
}

// === impl Line ===

impl Line<'_> {
    /// What stands in backticks.
    pub fn code(&self) -> Vec<&str> {
        self.text.split('`').skip(1).step_by(2).collect()
    }

    /// Where its links and images lead.
    pub fn links(&self) -> Vec<String> {
        let plain: String = self.text.split('`').step_by(2).collect();
        let starts = plain.split("](").skip(1);
        let targets = starts.filter_map(|rest| rest.split_once(')'));
        targets.map(|(target, _)| target.to_owned()).collect()
    }
}

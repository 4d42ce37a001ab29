//! Which module of a crate names which, read from its source, and whether any of these arrows form
//! a circle.
//!
//! Guarantees: `circles(src)` is empty when, in every folder below `src`, the files and folders
//! that are side by side name each other in one direction only. So there is no circle among rooms
//! (the folders and files at the top) nor among the files of a room, nor of a room within a room.
//!
//! What counts as an arrow: each path that begins with `crate`, `super`, `self` or a module that is
//! declared in the same file, in `use` and in code, to the file that it leads to; a path through a
//! re-export leads to the file that is re-exported. What does not count: a re-export (`pub use`, of
//! whatever visibility) of a module's own descendants, `mod` declarations, paths in visibilities
//! (`pub(in …)`), comments, texts, and tests (`#[cfg(test)]` modules, files named `tests.rs`).
//! Methods that are called without a path leave no arrow.
//!
//! Another package includes it by `#[path]`: it needs the standard library alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module's path from the crate's root, which is empty.
type Module = Vec<String>;

/// One import: the names of its path, and the name that it has here.
struct Import {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// What the source of one file names.
#[derive(Default)]
struct Source {
    imports: Vec<Import>,
    /// Paths in code.
    paths: Vec<Vec<String>>,
}

/// Every circle, in words; none is a crate whose arrows point one way.
pub(crate) fn circles(src: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut levels: BTreeMap<Module, BTreeMap<(String, String), Vec<String>>> = BTreeMap::new();
    for (from, into) in arrows(src) {
        let shared = from.iter().zip(&into).take_while(|(a, b)| a == b).count();
        let entry = |module: &Module| {
            module
                .get(shared)
                .map_or("mod.rs", String::as_str)
                .to_owned()
        };
        let level = levels
            .entry(from.iter().take(shared).cloned().collect())
            .or_default();
        let evidence = format!("{} names {}", from.join("::"), into.join("::"));
        level
            .entry((entry(&from), entry(&into)))
            .or_default()
            .push(evidence);
    }
    for (folder, arrows) in levels {
        let entries: BTreeSet<&String> = arrows
            .keys()
            .flat_map(|(from, into)| [from, into])
            .collect();
        let reaches = |start: &String| {
            let (mut seen, mut left) = (BTreeSet::new(), vec![start]);
            while let Some(here) = left.pop() {
                for (_, into) in arrows.keys().filter(|(from, _)| from == here) {
                    if seen.insert(into) {
                        left.push(into);
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&String, BTreeSet<&String>> = entries
            .iter()
            .map(|entry| (*entry, reaches(entry)))
            .collect();
        let in_circle = |from: &String, into: &String| {
            let back = reached
                .get(into)
                .is_some_and(|reached| reached.contains(from));
            back && reached
                .get(from)
                .is_some_and(|reached| reached.contains(into))
        };
        for ((from, into), evidence) in &arrows {
            if in_circle(from, into) {
                let folder = if folder.is_empty() {
                    "the crate".to_owned()
                } else {
                    folder.join("::")
                };
                found.push(format!(
                    "in {folder}, {from} -> {into} is part of a circle: {}",
                    evidence.join(", ")
                ));
            }
        }
    }
    found
}

/// Each arrow from a module's file to another's.
pub(crate) fn arrows(src: &Path) -> BTreeSet<(Module, Module)> {
    let mut sources = BTreeMap::new();
    read_folder(src, &Module::new(), &mut sources);
    let mut arrows = BTreeSet::new();
    for (module, source) in &sources {
        for import in &source.imports {
            if let Some(target) = resolve(&sources, module, &import.path, 0) {
                let is_reexport = import.is_public && target.starts_with(module);
                if target != *module && !is_reexport {
                    arrows.insert((module.clone(), target));
                }
            }
        }
        for path in &source.paths {
            match resolve(&sources, module, path, 0) {
                Some(target) if target != *module => drop(arrows.insert((module.clone(), target))),
                _ => {}
            }
        }
    }
    arrows
}

fn read_folder(folder: &Path, module: &Module, sources: &mut BTreeMap<Module, Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let child: Module = module.iter().cloned().chain([stem.clone()]).collect();
        if path.is_dir() {
            if stem != "tests" && stem != "bin" {
                read_folder(&path, &child, sources);
            }
            continue;
        }
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        // A binary beside a library is a crate of its own.
        let is_own_crate = module.is_empty() && stem == "main" && folder.join("lib.rs").exists();
        if !is_source || stem == "tests" || is_own_crate {
            continue;
        }
        let is_root = module.is_empty() && matches!(stem.as_str(), "lib" | "main");
        let named = if is_root || stem == "mod" {
            module.clone()
        } else {
            child
        };
        sources.insert(named, read_source(&std::fs::read_to_string(&path).unwrap()));
    }
}

/// The module whose file a path of `from`'s leads to; none for a path out of the crate.
fn resolve(
    sources: &BTreeMap<Module, Source>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let mut names = path.iter().peekable();
    let mut here = from.clone();
    let mut is_relative = false;
    while let Some(name) = names.peek() {
        match name.as_str() {
            "crate" => here.clear(),
            "self" => {}
            "super" => drop(here.pop()?),
            _ => break,
        }
        is_relative = true;
        names.next();
    }
    if !is_relative {
        let child: Module = here
            .iter()
            .cloned()
            .chain(names.peek().map(|name| (*name).clone()))
            .collect();
        sources.get(&child)?;
    }
    while let Some(name) = names.peek() {
        let child: Module = here.iter().cloned().chain([(*name).clone()]).collect();
        if !sources.contains_key(&child) {
            break;
        }
        here = child;
        names.next();
    }
    let item = names.next();
    let exports = sources.get(&here)?.imports.iter();
    let mut exports = exports.filter(|import| import.is_public && Some(&import.name) == item);
    match exports.next() {
        Some(export) if depth < 16 => resolve(sources, &here, &export.path, depth + 1),
        _ => Some(here),
    }
}

fn read_source(text: &str) -> Source {
    let text = without_tests(&bare(text));
    let mut source = Source::default();
    let words = split_words(&text);
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if word == "use" {
            let is_public = is_after_pub(&words, at);
            let end = words
                .iter()
                .skip(at)
                .position(|word| word == ";")
                .map_or(words.len(), |n| at + n);
            let tree: Vec<String> = words.get(at + 1..end).unwrap_or_default().to_vec();
            expand(&tree, &mut Vec::new(), is_public, &mut source.imports);
            at = end;
        } else if is_name(word) && words.get(at + 1).is_some_and(|next| next == "::") {
            let is_visibility = at > 0 && words.get(at - 1).is_some_and(|before| before == "in");
            let is_tail = at > 0 && words.get(at - 1).is_some_and(|before| before == "::");
            let mut path = vec![word.clone()];
            while words.get(at + 1).is_some_and(|next| next == "::")
                && words.get(at + 2).is_some_and(|next| is_name(next))
            {
                path.extend(words.get(at + 2).cloned());
                at += 2;
            }
            if !is_visibility && !is_tail {
                source.paths.push(path);
            }
        }
        at += 1;
    }
    source
}

/// Whether `pub` or `pub(…)` is before the word at `at`.
fn is_after_pub(words: &[String], at: usize) -> bool {
    let before = words.get(..at).unwrap_or_default();
    match before.last().map(String::as_str) {
        Some("pub") => true,
        Some(")") => {
            let open = before.iter().rposition(|word| word == "(").unwrap_or(0);
            open > 0 && before.get(open - 1).is_some_and(|word| word == "pub")
        }
        _ => false,
    }
}

/// Takes a tree of imports apart.
fn expand(tree: &[String], prefix: &mut Vec<String>, is_public: bool, imports: &mut Vec<Import>) {
    let depth = prefix.len();
    let mut alias = None;
    let mut at = 0;
    while let Some(word) = tree.get(at) {
        match word.as_str() {
            "::" => {}
            "{" => {
                let inside = tree.get(at + 1..tree.len() - 1).unwrap_or_default();
                let (mut level, mut start) = (0, 0);
                for (index, word) in inside.iter().enumerate() {
                    match word.as_str() {
                        "{" => level += 1,
                        "}" => level -= 1,
                        "," if level == 0 => {
                            expand(
                                inside.get(start..index).unwrap_or_default(),
                                prefix,
                                is_public,
                                imports,
                            );
                            start = index + 1;
                        }
                        _ => {}
                    }
                }
                expand(
                    inside.get(start..).unwrap_or_default(),
                    prefix,
                    is_public,
                    imports,
                );
                prefix.truncate(depth);
                return;
            }
            "as" => {
                alias = tree.get(at + 1).cloned();
                break;
            }
            // `{self, …}` is the module before it.
            "self" if !prefix.is_empty() => {}
            _ => prefix.push(word.clone()),
        }
        at += 1;
    }
    if let Some(last) = prefix.last().filter(|_| !tree.is_empty()) {
        let name = alias.unwrap_or_else(|| last.clone());
        imports.push(Import {
            path: prefix.clone(),
            name,
            is_public,
        });
    }
    prefix.truncate(depth);
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter.is_alphanumeric() || letter == '_' {
            let mut word = String::from(letter);
            while let Some(more) = letters.next_if(|c| c.is_alphanumeric() || *c == '_') {
                word.push(more);
            }
            words.push(word);
        } else if letter == ':' && letters.next_if_eq(&':').is_some() {
            words.push("::".to_owned());
        } else if !letter.is_whitespace() {
            words.push(letter.to_string());
        }
    }
    words
}

/// Leaves out modules that are built for tests only.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        let (mut level, mut end) = (0, after.len());
        for (at, letter) in after.char_indices() {
            match letter {
                '{' => level += 1,
                '}' if level == 1 => {
                    end = at + 1;
                    break;
                }
                '}' => level -= 1,
                ';' if level == 0 => {
                    end = at + 1;
                    break;
                }
                _ => {}
            }
        }
        rest = after.get(end..).unwrap_or_default();
    }
    kept + rest
}

/// Leaves out comments, texts and single characters.
fn bare(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let is = |at: usize, letter: char| letters.get(at) == Some(&letter);
    let mut kept = String::new();
    let mut at = 0;
    while let Some(letter) = letters.get(at) {
        let hashes = letters
            .iter()
            .skip(at + 1)
            .take_while(|c| **c == '#')
            .count();
        let in_word = at > 0
            && letters
                .get(at - 1)
                .is_some_and(|c| c.is_alphanumeric() || *c == '_');
        if *letter == '/' && is(at + 1, '/') {
            while at < letters.len() && !is(at, '\n') {
                at += 1;
            }
        } else if *letter == 'r' && !in_word && is(at + 1 + hashes, '"') {
            at += hashes + 2;
            while at < letters.len() && !(is(at, '"') && (0..hashes).all(|n| is(at + 1 + n, '#'))) {
                at += 1;
            }
            at += hashes + 1;
        } else if *letter == '"' {
            at += 1;
            while at < letters.len() && !is(at, '"') {
                at += if is(at, '\\') { 2 } else { 1 };
            }
            at += 1;
        } else if *letter == '\'' && is(at + 1, '\\') {
            at += 3;
            while at < letters.len() && !is(at, '\'') {
                at += 1;
            }
            at += 1;
        } else if *letter == '\'' && is(at + 2, '\'') {
            at += 3;
        } else {
            kept.push(*letter);
            at += 1;
        }
    }
    kept
}

#[test]
fn a_circle_is_found_at_each_level_and_a_reexport_is_none() {
    let write = |files: &[(&str, &str)]| {
        let name = format!("module-graph-{}-{}", std::process::id(), files.len());
        let root = std::env::temp_dir().join(name);
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let circles = circles(&root);
        std::fs::remove_dir_all(root).unwrap();
        circles
    };
    let straight = write(&[
        ("lib.rs", "mod a; mod b; pub use a::Thing;"),
        (
            "a/mod.rs",
            "mod deep; pub(crate) use deep::{Deep as Other, self};",
        ),
        (
            "a/deep.rs",
            "// crate::b\npub(in crate::b) struct Deep; const TEXT: &str = \"crate::b::X\";",
        ),
        (
            "b.rs",
            "use crate::a::{Other};\n#[cfg(test)]\nmod tests { use super::*; use crate::c; }",
        ),
    ]);
    assert!(straight.is_empty(), "{straight:?}");
    let rooms = write(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod deep; pub use deep::Deep;"),
        ("a/deep.rs", "pub struct Deep(crate::b::Thing);"),
        ("b/mod.rs", "mod thing; pub use thing::*;"),
        ("b/thing.rs", "use crate::a::Deep; pub struct Thing;"),
    ]);
    assert_eq!(rooms.len(), 2, "{rooms:?}");
    let parent = write(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod deep; use deep::Deep; pub struct Own;"),
        ("a/deep.rs", "use super::Own; pub struct Deep;"),
    ]);
    assert_eq!(parent.len(), 2, "{parent:?}");
}

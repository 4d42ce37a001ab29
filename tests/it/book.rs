//! The book: its pages are linked, its configurations and commands are the program's, its reference
//! is the code's, and its tutorial is true.

mod commands;
mod configuration;
mod pages;
mod reference;
mod tutorial;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use self::pages::{Page, all, book, root};

/// A path without its `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Where a link leads: a path below the root, and an anchor.
fn target(page: &Page, link: &str) -> (PathBuf, Option<String>) {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    let path = match path {
        "" => page.path.clone(),
        path => plain(&page.path.parent().unwrap().join(path)),
    };
    (path, anchor)
}

fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_link_leads_to_a_page_and_its_heading() {
    let pages = all();
    let anchors: BTreeMap<&Path, BTreeSet<String>> = pages
        .iter()
        .map(|page| (page.path.as_path(), page.anchors()))
        .collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in &pages {
        for line in page.lines() {
            for link in line.links() {
                if link.contains("://") {
                    continue;
                }
                count += 1;
                let (path, anchor) = target(page, &link);
                let place = format!("{}:{}: {link}", page.name(), line.number);
                if !root().join(&path).exists() {
                    wrong.push(format!("{place} does not exist"));
                } else if page.path.starts_with("docs") && !path.starts_with("docs") {
                    wrong.push(format!("{place} is not in the book"));
                }
                let known = anchors.get(path.as_path());
                if anchor.is_some_and(|anchor| !known.is_some_and(|all| all.contains(&anchor))) {
                    wrong.push(format!("{place} names no heading"));
                }
            }
        }
    }
    assert!(count > 100, "the links were found: {count}");
    nothing_wrong(&wrong);
}

#[test]
fn the_table_of_contents_has_every_page_once() {
    let pages = book();
    let summary = Path::new("docs/SUMMARY.md");
    let contents = pages.iter().find(|page| page.path == summary).unwrap();
    let links = contents.lines();
    let links = links.iter().flat_map(pages::Line::links);
    let mut listed: Vec<PathBuf> = links.map(|link| target(contents, &link).0).collect();
    listed.sort();
    let pages = pages.iter().map(|page| page.path.clone());
    let pages: Vec<PathBuf> = pages.filter(|path| path != summary).collect();
    assert_eq!(listed, pages);
}

#[test]
fn every_file_of_the_source_that_is_named_exists() {
    let folders = [
        "src/",
        "crates/",
        "tests/",
        "deploy/",
        "config/",
        "benches/",
        "examples/",
        "fuzz/",
        "docs/",
    ];
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in all() {
        for line in page.lines() {
            for name in line.code() {
                let is_path = folders.iter().any(|folder| name.starts_with(folder));
                if !is_path || name.contains([' ', '*', '{', '…']) {
                    continue;
                }
                count += 1;
                if !root().join(name).exists() {
                    wrong.push(format!("{}:{}: {name}", page.name(), line.number));
                }
            }
        }
    }
    assert!(count > 60, "the names were found: {count}");
    nothing_wrong(&wrong);
}

#[test]
fn every_configuration_passes_check() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in all() {
        for block in page.blocks().iter().filter(|block| block.is("toml")) {
            let place = &block.place;
            if !block.is("wakegate") {
                wrong.push(format!(
                    "{place}: is it a configuration? mark it `toml,wakegate`"
                ));
                continue;
            }
            count += 1;
            if let Some(said) = configuration::refusal(&block.text) {
                wrong.push(format!("{place}: {said}"));
            }
        }
    }
    assert!(count > 150, "the blocks were found: {count}");
    nothing_wrong(&wrong);
}

#[test]
fn every_command_is_one() {
    let mut wrong = Vec::new();
    let (mut shown, mut mentioned) = (0, 0);
    for page in all() {
        for block in page.blocks() {
            if !block.is("console") && !block.is("sh") {
                continue;
            }
            for command in commands::of(&block) {
                shown += 1;
                if let Some(problem) = commands::problem(&command) {
                    wrong.push(format!("{}: {command}: {problem}", block.place));
                }
            }
        }
        for line in page.lines() {
            for code in line.code() {
                let is_ours = code.starts_with("wakegate ") || code.starts_with("wakegate-local ");
                if !is_ours || code.contains('…') {
                    continue;
                }
                mentioned += 1;
                if let Some(problem) = commands::mentioned_problem(code) {
                    wrong.push(format!(
                        "{}:{}: {code}: {problem}",
                        page.name(),
                        line.number
                    ));
                }
            }
        }
    }
    assert!(shown > 60 && mentioned > 60, "{shown} and {mentioned}");
    nothing_wrong(&wrong);
}

#[test]
fn every_setting_in_the_environment_is_one() {
    // What is no setting: of the tests, and of the control plane for development.
    let others = ["WAKEGATE_BIN", "WAKEGATE_LOCAL_FOLDER"];
    let known = reference::variables();
    let is_known = |name: &str| {
        let first = name
            .split('_')
            .map(|part| match part.parse::<usize>() {
                Ok(_) => "0",
                Err(_) => part,
            })
            .collect::<Vec<_>>()
            .join("_");
        // The number of the first of a list may be left out.
        let short = |variable: &String| variable.replace("_0_", "_") == first;
        known.contains(&first) || known.iter().any(short) || others.contains(&name)
    };
    let mut wrong = Vec::new();
    for page in all() {
        for (index, line) in page.text.lines().enumerate() {
            let words =
                line.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
            let names = words.filter(|word| word.starts_with("WAKEGATE_") && word.len() > 9);
            let unknown = names.filter(|name| !is_known(name));
            wrong.extend(unknown.map(|name| format!("{}:{}: {name}", page.name(), index + 1)));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_metric_that_is_named_exists() {
    let list = std::fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
    let mut wrong = Vec::new();
    for page in all() {
        for (index, line) in page.text.lines().enumerate() {
            let words = line.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
            let is_name = |word: &&str| word.starts_with("wakegate_") && word.len() > 9;
            let names = words.filter(is_name);
            let unknown = names.filter(|name| !list.contains(&format!("`{name}`")));
            wrong.extend(unknown.map(|name| format!("{}:{}: {name}", page.name(), index + 1)));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_key_has_an_example_that_is_not_its_default() {
    let names: BTreeSet<String> = reference::key_names().into_iter().collect();
    let examples = reference::examples();
    let written: BTreeSet<String> = examples.keys().cloned().collect();
    assert_eq!(names, written);
    for (name, example) in &examples {
        let key = name.rsplit('.').next().unwrap();
        assert!(example.contains(key), "{name}: {example}");
        assert!(reference::changes_something(example), "{name}: {example}");
    }
}

#[test]
fn the_reference_is_what_the_code_says() {
    let mut wrong = Vec::new();
    for (name, text) in reference::pages() {
        let file = root().join("docs/reference").join(&name);
        if std::fs::read_to_string(file).unwrap_or_default() != text {
            wrong.push(format!(
                "{name}: write it anew: cargo test --test it -- --ignored the_reference_is_written"
            ));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
#[ignore = "it writes files of the book"]
fn the_reference_is_written() {
    for (name, text) in reference::pages() {
        let file = root().join("docs/reference").join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

#[test]
fn the_readme_is_short() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lines = readme.lines().count();
    assert!(lines <= 120, "{lines} lines");
}

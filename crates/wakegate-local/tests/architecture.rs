//! The rooms of this crate: which way their imports point, and how long a file may be.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../../tests/support/module_graph.rs"]
mod module_graph;

use std::path::{Path, PathBuf};

const MOST_LINES: usize = 600;

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

#[test]
fn no_rooms_and_no_files_of_a_room_name_each_other_in_a_circle() {
    let arrows = module_graph::arrows(&src());
    assert!(
        arrows.len() > 100,
        "the imports were found: {}",
        arrows.len()
    );
    let circles = module_graph::circles(&src());
    assert!(circles.is_empty(), "\n{}", circles.join("\n"));
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_file_says_first_what_it_is_and_is_short() {
    let mut files = Vec::new();
    sources(&src(), &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!(
                "{}: does not begin with what it is",
                file.display()
            ));
        }
        if text.lines().count() > MOST_LINES {
            wrong.push(format!("{}: more than {MOST_LINES} lines", file.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

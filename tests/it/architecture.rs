//! The rooms' doors: which room may name which, how long a file may be, and that it says what it
//! guarantees.

use std::path::{Path, PathBuf};

const EVERYTHING: &[&str] = &[
    "admin",
    "app",
    "backoff",
    "cli",
    "config",
    "deadline",
    "drain",
    "hold",
    "keep_warm",
    "listener",
    "proxy",
    "router",
    "telemetry",
    "upstream",
    "wake",
];

/// A room and what it may name after `crate::`, besides `names`.
const DOORS: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("config", &[]),
    ("telemetry", &["config"]),
    ("backoff", &[]),
    ("wake", &["backoff", "config", "telemetry"]),
    ("keep_warm", &["config", "wake"]),
    ("hold", &["config", "telemetry"]),
    ("router", &["config"]),
    ("upstream", &["config", "deadline", "telemetry", "wake"]),
    (
        "proxy",
        &[
            "backoff",
            "config",
            "hold",
            "keep_warm",
            "router",
            "telemetry",
            "upstream",
            "wake",
        ],
    ),
    ("deadline", &[]),
    ("drain", &[]),
    ("listener", &["config", "deadline", "drain", "telemetry"]),
    ("admin", &["config", "drain", "telemetry", "wake"]),
    ("app", EVERYTHING),
    ("cli", EVERYTHING),
];
const MOST_LINES: usize = 600;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn rooms_name_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    assert!(files.len() > 40, "the sources were found");
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap();
        let room = first.trim_end_matches(".rs");
        if matches!(room, "main" | "lib") {
            continue;
        }
        let (_, doors) = DOORS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{} is in no room of the table", inside.display()));
        let text = std::fs::read_to_string(&file).unwrap();
        let is_test = inside.ends_with("tests.rs");
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!(
                "{}: {lines} lines; one job each?",
                inside.display()
            ));
        }
        if !is_test && !text.starts_with("//!") {
            wrong.push(format!(
                "{}: does not begin with what it guarantees",
                inside.display()
            ));
        }
        for (number, line) in text.lines().enumerate() {
            for (at, _) in line.match_indices("crate::") {
                let named: String = line
                    .get(at + 7..)
                    .unwrap_or_default()
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                    .collect();
                let lower = named.starts_with(|c: char| c.is_ascii_lowercase());
                let known = EVERYTHING.contains(&named.as_str());
                let allowed = named == "names" || named == room || doors.contains(&named.as_str());
                if lower && known && !allowed {
                    wrong.push(format!(
                        "{}:{}: `{room}` may not name `{named}`",
                        inside.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn only_its_owner_spells_a_metric_name_or_reads_the_environment() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    sources(&root, &mut files);
    for file in files {
        let inside = file
            .strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        if !inside.starts_with("telemetry") && text.contains("\"wakegate_") {
            wrong.push(format!("{inside}: spells a metric name"));
        }
        if !inside.starts_with("config")
            && !inside.starts_with("cli")
            && text.contains("std::env::var")
        {
            wrong.push(format!("{inside}: reads the environment"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_test_that_the_edge_cases_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for place in ["src", "crates", "tests"] {
        sources(&root.join(place), &mut files);
    }
    let texts: Vec<String> = files
        .iter()
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    let table = include_str!("../../docs/EDGE_CASES.md");
    let cells = table
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit(" | ").next());
    let names: Vec<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(names.len() > 50, "the table was read");
    for name in names {
        let definition = format!("fn {name}(");
        assert!(
            texts.iter().any(|text| text.contains(&definition)),
            "no test is called {name}"
        );
    }
}

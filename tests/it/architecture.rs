//! What Cargo does not enforce of the architecture: which room of the gateway may name which, that
//! no import goes in a circle, how long a file may be, and that it says what it guarantees.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::support::module_graph::{arrows, circles};

/// A room of the gateway and the rooms that it may name, besides `names`. `app` and `cli` put the
/// others together and may name all.
const ROOMS: &[(&str, &[&str])] = &[
    ("names", &[]),
    ("backoff", &[]),
    ("deadline", &[]),
    ("drain", &[]),
    ("client", &[]),
    ("descriptors", &[]),
    ("file_stamp", &[]),
    ("private_files", &[]),
    ("problem", &[]),
    ("validity", &[]),
    ("pem", &[]),
    ("signatures", &[]),
    ("workers", &[]),
    ("identity", &[]),
    ("config", &["descriptors", "identity"]),
    ("flow", &["config", "deadline"]),
    ("telemetry", &["config"]),
    (
        "acme",
        &[
            "backoff",
            "config",
            "file_stamp",
            "fleet",
            "pem",
            "private_files",
            "telemetry",
            "validity",
        ],
    ),
    (
        "instance_tls",
        &["config", "file_stamp", "pem", "signatures"],
    ),
    (
        "fleet",
        &[
            "backoff",
            "config",
            "file_stamp",
            "pem",
            "private_files",
            "router",
            "signatures",
            "telemetry",
        ],
    ),
    (
        "wake",
        &[
            "backoff",
            "config",
            "descriptors",
            "instance_tls",
            "telemetry",
        ],
    ),
    ("keep_warm", &["config", "wake"]),
    ("hold", &["config", "telemetry"]),
    ("router", &["config"]),
    (
        "upstream",
        &[
            "backoff",
            "client",
            "config",
            "deadline",
            "descriptors",
            "fleet",
            "flow",
            "instance_tls",
            "telemetry",
            "wake",
            "workers",
        ],
    ),
    (
        "proxy",
        &[
            "acme",
            "backoff",
            "client",
            "config",
            "fleet",
            "flow",
            "hold",
            "identity",
            "instance_tls",
            "keep_warm",
            "router",
            "telemetry",
            "upstream",
            "wake",
            "workers",
        ],
    ),
    (
        "listener",
        &[
            "acme",
            "client",
            "config",
            "deadline",
            "descriptors",
            "drain",
            "file_stamp",
            "fleet",
            "flow",
            "pem",
            "private_files",
            "signatures",
            "telemetry",
            "validity",
            "workers",
        ],
    ),
    (
        "admin",
        &["config", "drain", "flow", "problem", "telemetry", "wake"],
    ),
    (
        "workload",
        &[
            "config",
            "descriptors",
            "file_stamp",
            "flow",
            "private_files",
            "problem",
            "telemetry",
        ],
    ),
];
const COMPOSITION: [&str; 2] = ["app", "cli"];
const CRATES: [&str; 4] = [
    "src",
    "crates/http1/src",
    "crates/hypeman/src",
    "crates/wakegate-local/src",
];
const MOST_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let files = entries.flat_map(|entry| {
        let path = entry.unwrap().path();
        match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => vec![path],
            Some(_) | None => Vec::new(),
        }
    });
    files.collect()
}

#[test]
fn rooms_name_only_what_they_may() {
    let mut wrong = BTreeSet::new();
    let all = arrows(&root().join("src"));
    assert!(all.len() > 300, "the imports were found: {}", all.len());
    for (from, into) in all {
        let (Some(room), Some(named)) = (from.first(), into.first()) else {
            continue;
        };
        if COMPOSITION.contains(&room.as_str()) || room == named || named == "names" {
            continue;
        }
        let allowed = ROOMS.iter().find(|(name, _)| name == room);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("`{room}` is not in the table"));
        if !allowed.contains(&named.as_str()) {
            wrong.insert(format!(
                "{} may not name {}",
                from.join("::"),
                into.join("::")
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_import_goes_in_a_circle() {
    let circles = CRATES.map(|folder| circles(&root().join(folder)));
    let circles: Vec<_> = circles.iter().flatten().collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn each_file_says_first_what_it_guarantees_and_is_short() {
    let mut wrong = Vec::new();
    for file in CRATES
        .map(|folder| sources(&root().join(folder)))
        .iter()
        .flatten()
    {
        let text = std::fs::read_to_string(file).unwrap();
        let is_test = file.ends_with("tests.rs") || file.to_str().unwrap().ends_with("_tests.rs");
        let says = text.lines().any(|line| line.starts_with("//!"));
        if !is_test && !says {
            wrong.push(format!(
                "{}: does not say what it guarantees",
                file.display()
            ));
        }
        let lines = text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines; one job each?", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_its_owner_spells_a_metric_name_or_reads_the_environment() {
    let root = root().join("src");
    let mut wrong = Vec::new();
    for file in sources(&root) {
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
    let files = ["src", "crates", "tests"].map(|place| sources(&root().join(place)));
    let texts = files.iter().flatten().map(std::fs::read_to_string);
    let texts: Vec<String> = texts.collect::<Result<_, _>>().unwrap();
    let tables = [
        include_str!("../../docs/explanation/edge-cases.md"),
        include_str!("../../docs/reference/application.md"),
    ];
    let mut cells = Vec::new();
    let mut is_pinned = false;
    for line in tables.iter().flat_map(|table| table.lines()) {
        let row = line.strip_suffix(" |");
        let row = row.filter(|_| line.starts_with("| "));
        let cell = row.and_then(|row| row.rsplit(" | ").next());
        // The rules between a table's head and its rows are no row, and no end of the table.
        is_pinned = match cell {
            Some("pinned by") => true,
            _ => is_pinned && line.starts_with('|'),
        };
        cells.extend(cell.filter(|cell| is_pinned && *cell != "pinned by"));
    }
    let names: Vec<&str> = cells
        .iter()
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

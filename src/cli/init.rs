//! `wakegate init` and `wakegate schema`: a configuration to begin with.
//!
//! Guarantees: no file is overwritten unless that is asked for; what is written passes `wakegate
//! check`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::args::InitArguments;
use super::output::{Failure, Output};
use crate::config::{Variables, load, schema};

const STARTER: &str = include_str!("../../config/starter.toml");
const SCHEMA_FILE: &str = "wakegate.schema.json";

/// Prints the schema.
pub(super) fn print_schema(output: Output) {
    output.print(schema());
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// The starter with what was given in the place of its examples.
fn starter(arguments: &InitArguments) -> String {
    let mut text = STARTER.to_owned();
    let mut put = |example: &str, key: &str, value: Option<String>| {
        if let Some(value) = value {
            text = text.replacen(example, &format!("{key} = {value}\n"), 1);
        }
    };
    let quote = |value: &Option<String>| value.as_deref().map(quoted);
    put(
        "url = \"http://127.0.0.1:4973\"\n",
        "url",
        quote(&arguments.hypeman),
    );
    let listen = arguments.listen.map(|address| quoted(&address.to_string()));
    put("address = \"127.0.0.1:8080\"\n", "address", listen);
    put(
        "host = \"{instance}.example.com\"\n",
        "host",
        quote(&arguments.host),
    );
    let instance = quote(&arguments.instance);
    put("instance = \"{instance}\"\n", "instance", instance);
    put(
        "port = 8080\n",
        "port",
        arguments.port.map(|port| port.to_string()),
    );
    text
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    let options = match force {
        true => options.write(true).create(true).truncate(true),
        false => options.write(true).create_new(true),
    };
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| {
        let file = path.display();
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            Failure::failed(format_args!(
                "{file} is there already; give another name, or `--force`"
            ))
        } else {
            Failure::failed(format_args!("cannot write {file}: {error}"))
        }
    })
}

/// Writes a configuration, and the schema for editors beside it.
pub(super) fn run(arguments: &InitArguments, output: Output) -> Result<(), Failure> {
    let (path, text) = (&arguments.file, starter(arguments));
    load(&path.display().to_string(), &text, &Variables::default())
        .map_err(|error| Failure::failed(format_args!("that would not be valid: {error}")))?;
    write(path, &text, arguments.force)?;
    // The schema is this version's, whatever was there.
    write(&path.with_file_name(SCHEMA_FILE), schema(), true)?;
    output.print(&format!(
        "wrote {file}, and {SCHEMA_FILE} beside it for editors\n\
         next: edit it, then `wakegate check -c {file}` and `wakegate serve -c {file}`\n",
        file = path.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_starter_is_valid_says_only_defaults_and_takes_what_it_is_given() {
        let plain = load("starter", STARTER, &Variables::default()).unwrap();
        let least = "[[route]]\nhost = \"{instance}.example.com\"\ninstance = \"{instance}\"\n";
        let least = load("least", least, &Variables::default()).unwrap();
        assert_eq!(plain, least);
        // Without their marks, the examples that name no file are valid, too.
        let keeps = |line: &&str| {
            let file = [
                "_file",
                "tls =",
                "[[route]]",
                "# host = \"api",
                "# instance = \"api",
                "# port = 3000",
            ];
            !file
                .iter()
                .any(|part| line.starts_with('#') && line.contains(part))
        };
        let open: String = STARTER
            .lines()
            .filter(keeps)
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.trim_start().starts_with('[') || rest.contains(" = ") => {
                    format!("{rest}\n")
                }
                _ => format!("{line}\n"),
            })
            .collect();
        load("open", &open, &Variables::default()).unwrap();
        let text = starter(&InitArguments {
            file: "x".into(),
            host: Some("*".to_owned()),
            instance: Some("app".to_owned()),
            port: Some(3000),
            hypeman: Some("http://10.0.0.1:8080".to_owned()),
            listen: Some(([0, 0, 0, 0], 80).into()),
            force: false,
        });
        let loaded = load("given", &text, &Variables::default()).unwrap();
        assert_eq!(loaded.hypeman[0].url, "http://10.0.0.1:8080");
        assert_eq!(loaded.listener[0].address.to_string(), "0.0.0.0:80");
        let route = &loaded.route[0];
        assert_eq!((route.host(), route.port), ("*", 3000));
        assert_eq!(route.instance.to_string(), "app");
    }
}

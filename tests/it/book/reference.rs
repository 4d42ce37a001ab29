//! The pages of the reference that are made of the code.
//!
//! Guarantees: every key of the configuration, every error code, every command and every call of
//! the admin API has its place, with the words that the code has for it; a key's example is one
//! (`examples.toml`), and differs from its default.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};
use wakegate::app::needs_restart;
use wakegate::config::{Config, Variables, load, schema};

use super::commands::helps;
use super::configuration::{completed, with_files};
use crate::support::wakegate;

const EXAMPLES: &str = include_str!("examples.toml");
const API: &str = include_str!("../../../src/admin/openapi.json");
const NOTE: &str =
    "<!-- Made from the code: cargo test --test it -- --ignored the_reference_is_written -->\n\n";
/// Defaults that the schema cannot tell, since another key or the machine has them.
const DEFAULTS: &[(&str, &str)] = &[
    ("server.workers", "the number of processors"),
    ("ingress.tls.min_version", "`\"1.2\"`"),
    ("ingress.tls.client_auth", "`\"required\"`"),
    ("fleet.name", "the name in the certificate"),
    ("fleet.tls.ca", "the system's"),
    (
        "hypeman.api_key_file",
        "none; see [Configuration](../configuration.md#environment-variables)",
    ),
    ("listener.tls.min_version", "`\"1.2\"`"),
    ("listener.tls.client_auth", "`\"required\"`"),
    ("route.hypeman", "the first `[[hypeman]]`"),
    (
        "route.wake.timeout",
        "that of [`wake.timeout`](wake.md#waketimeout)",
    ),
    (
        "route.wake.require_memory",
        "that of [`wake.require_memory`](wake.md#wakerequire_memory)",
    ),
    (
        "route.wake.start_stopped",
        "that of [`wake.start_stopped`](wake.md#wakestart_stopped)",
    ),
    (
        "route.wake.ready",
        "that of [`wake.ready`](wake.md#wakeready)",
    ),
    ("route.wake.on_tls_hello", "`false`"),
    (
        "route.wake.max_held",
        "that of [`wake.max_held_per_route`](wake.md#wakemax_held_per_route)",
    ),
    ("route.keep_warm.zone", "`\"UTC\"`"),
    ("route.waiting_page", "`false`"),
];

/// What a text means, by the end of its key: the longest that fits.
const TEXTS: &[(&str, &str)] = &[
    ("_file", "path of a file"),
    (".cert", "path of a file"),
    (".key", "path of a file"),
    (".ocsp", "path of a file"),
    (".client_ca", "path of a file"),
    (".dir", "path of a folder"),
    (".internal", "path of a folder"),
    (
        ".address",
        "IP address and port, such as `\"0.0.0.0:8080\"`",
    ),
    ("ingress.address", "IP address"),
    ("fleet.zone", "text"),
    (
        ".listen",
        "IP address and port, such as `\"10.0.0.42:7443\"`",
    ),
    (".advertise", "host and port"),
    (".snapshot", "path of a file"),
    ("fleet.endpoints", "URLs"),
    ("fleet.publish_hosts", "hosts"),
    (".identity.ca", "path of a file"),
    ("fleet.tls.ca", "path of a file"),
    (".url", "URL"),
    (".endpoint", "URL"),
    (".cron", "five fields of cron"),
    (".zone", "time zone, as IANA names it"),
    ("route.path", "path"),
    (".health_path", "path"),
    (".warmup", "path"),
    ("listener.host", "host"),
    (".trusted_proxies", "networks"),
    (".clients", "networks"),
    (".methods", "methods"),
    ("paths", "paths"),
    (".also", "instances"),
    (".instances", "instances"),
    ("_headers.remove", "names of fields"),
];

/// One key of the configuration.
#[derive(Debug)]
struct Key {
    /// Its path, with `[]` behind lists of tables.
    path: String,
    description: String,
    kinds: Vec<String>,
    /// The words that it may be, and what they mean.
    words: Vec<(String, String)>,
    default: Option<Value>,
    is_required: bool,
}

/// A page and its text, by the page's path below `docs/reference`.
pub fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    let schema: Value = serde_json::from_str(schema()).unwrap();
    let examples = examples();
    for (name, section) in schema["properties"].as_object().unwrap() {
        let page = section_page(name, section, &examples);
        pages.insert(format!("configuration/{name}.md"), page);
    }
    pages.insert("errors.md".to_owned(), errors_page());
    pages.insert("cli.md".to_owned(), cli_page());
    pages.insert("admin-api.md".to_owned(), api_page());
    pages
}

// --- the configuration ---

/// The examples by their keys.
pub fn examples() -> BTreeMap<String, String> {
    let parts = EXAMPLES.split("#: ").skip(1);
    let pairs = parts.map(|part| part.split_once('\n').unwrap());
    pairs
        .map(|(key, text)| (key.to_owned(), text.to_owned()))
        .collect()
}

/// Every key's name, without the marks of lists.
pub fn key_names() -> Vec<String> {
    let schema: Value = serde_json::from_str(schema()).unwrap();
    let keys = keys_of(&schema);
    keys.iter().map(|key| key.path.replace("[]", "")).collect()
}

/// Every variable, with 0 for the number of each list.
pub fn variables() -> Vec<String> {
    let schema: Value = serde_json::from_str(schema()).unwrap();
    keys_of(&schema).iter().map(Key::variable).collect()
}

fn keys_of(schema: &Value) -> Vec<Key> {
    let mut keys = Vec::new();
    for (name, section) in schema["properties"].as_object().unwrap() {
        collect(section, name, false, &mut keys);
    }
    keys
}

/// The alternatives of a schema.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let lists = ["anyOf", "oneOf"].map(|key| schema[key].as_array());
    let all: Vec<&Value> = lists.into_iter().flatten().flatten().collect();
    match all.is_empty() {
        true => vec![schema],
        false => all.into_iter().flat_map(alternatives).collect(),
    }
}

fn description(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn collect(schema: &Value, path: &str, is_required: bool, keys: &mut Vec<Key>) {
    let mut key = Key {
        path: path.to_owned(),
        description: description(schema),
        kinds: Vec::new(),
        words: Vec::new(),
        default: schema.get("default").cloned(),
        is_required,
    };
    let mut tables: Vec<(String, &Map<String, Value>, &Value)> = Vec::new();
    for one in alternatives(schema) {
        if let Some(properties) = one["properties"].as_object() {
            tables.push((path.to_owned(), properties, &one["required"]));
        } else if let Some(properties) = one["items"]["properties"].as_object() {
            tables.push((format!("{path}[]"), properties, &one["items"]["required"]));
        } else if let Some(word) = one.get("const") {
            key.words.push((word.to_string(), description(one)));
        } else if let Some(words) = one["enum"].as_array() {
            let words = words.iter().map(|word| (word.to_string(), String::new()));
            key.words.extend(words);
        } else {
            key.kinds.extend(kind(one));
        }
    }
    if !key.kinds.is_empty() || !key.words.is_empty() {
        if !tables.is_empty() {
            key.kinds.push("a table of the keys below".to_owned());
        }
        keys.push(key);
    }
    for (path, properties, required) in tables {
        let required = required.as_array();
        for (name, below) in properties {
            let is_required = required.is_some_and(|all| all.iter().any(|one| one == name));
            collect(below, &format!("{path}.{name}"), is_required, keys);
        }
    }
}

/// What a plain value is, in words; nothing where it is `null`.
fn kind(schema: &Value) -> Option<String> {
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        one => vec![one.as_str().unwrap_or_default()],
    };
    let name = *names.iter().find(|name| **name != "null")?;
    let example = schema["examples"][0].as_str();
    let (least, most) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let text = match name {
        "boolean" => "`true` or `false`".to_owned(),
        "object" => "table of texts".to_owned(),
        "integer" | "number" => {
            let noun = if name == "integer" {
                "whole number"
            } else {
                "number"
            };
            match (least, most) {
                // As many as its type holds, which is no limit of the key's.
                (Some(least), Some(_)) if least <= 0.0 && name == "integer" => noun.to_owned(),
                (Some(least), Some(most)) => format!("{noun} from {least} to {most}"),
                (Some(least), None) if least > 0.0 => format!("{noun}, at least {least}"),
                _ => noun.to_owned(),
            }
        }
        "array" => {
            let mut words = Vec::new();
            let mut kinds = Vec::new();
            for one in alternatives(&schema["items"]) {
                match one.get("const") {
                    Some(word) => words.push(format!("`{word}`")),
                    None => kinds.extend(kind(one)),
                }
            }
            match words.is_empty() {
                true => format!("list of {}", plural(&kinds.join(" or "))),
                false => format!("list of any of {}", words.join(", ")),
            }
        }
        _ if schema.get("pattern").is_some() => "duration".to_owned(),
        _ => match example {
            Some("64KiB") => "size".to_owned(),
            Some("10/m") => "rate".to_owned(),
            Some("x-name: value") => "field, `\"name: value\"`".to_owned(),
            Some("x-old: x-new") => "two names of fields, `\"old: new\"`".to_owned(),
            Some("page.html") => "path of a file".to_owned(),
            Some("{instance}.example.com") => {
                "host: a name, a pattern with `{captures}`, `*.suffix`, or `*`".to_owned()
            }
            Some("{instance}") => {
                "instance: a name, an id, or a `{capture}` of the host".to_owned()
            }
            _ => "text".to_owned(),
        },
    };
    Some(text)
}

fn plural(kind: &str) -> String {
    let (noun, rest) = kind.split_once(',').unwrap_or((kind, ""));
    let comma = if rest.is_empty() { "" } else { "," };
    match noun.strip_prefix("two names of fields") {
        Some(_) => format!("pairs of names of fields{comma}{rest}"),
        None => format!("{noun}s{comma}{rest}"),
    }
}

/// `a, b or c`.
fn alternatives_of(all: &[String]) -> String {
    match all {
        [but_one @ .., last] if !but_one.is_empty() => format!("{} or {last}", but_one.join(", ")),
        _ => all.concat(),
    }
}

/// A value as TOML writes it.
fn literal(value: &Value) -> String {
    let text = match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    };
    format!("`{text}`")
}

// === impl Key ===

impl Key {
    fn name(&self) -> String {
        self.path.replace("[]", "")
    }

    fn variable(&self) -> String {
        let path = self.path.replace("[]", "_0").replace('.', "_");
        format!("WAKEGATE_{}", path.to_uppercase())
    }

    fn kind(&self) -> String {
        let name = self.name();
        let fits = TEXTS.iter().filter(|(end, _)| name.ends_with(end));
        let special = fits.max_by_key(|(end, _)| end.len());
        let own = self
            .kinds
            .iter()
            .map(|kind| match (kind.as_str(), special) {
                ("text", Some((_, text))) => (*text).to_owned(),
                ("list of texts", Some((_, text))) => format!("list of {text}"),
                ("whole number", _) if name.ends_with("port") => "port, 1 to 65535".to_owned(),
                _ => kind.clone(),
            });
        let words = self.words.iter().map(|(word, _)| format!("`{word}`"));
        alternatives_of(&words.chain(own).collect::<Vec<_>>())
    }

    fn default(&self) -> String {
        let name = self.name();
        if let Some((_, text)) = DEFAULTS.iter().find(|(key, _)| *key == name) {
            return (*text).to_owned();
        }
        match &self.default {
            Some(value) => literal(value),
            None if self.is_required => "none: it must be given".to_owned(),
            None => "none".to_owned(),
        }
    }
}

/// A configuration as the gateway has it.
fn loaded(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let text = with_files(&completed(text), folder.path());
    let loaded = load("example", &text, &Variables::default());
    loaded.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Whether a configuration differs from one that says nothing.
pub fn changes_something(text: &str) -> bool {
    loaded(text) != loaded("")
}

fn section_page(name: &str, section: &Value, examples: &BTreeMap<String, String>) -> String {
    let mut keys = Vec::new();
    collect(section, name, false, &mut keys);
    let is_list = section["type"] == "array";
    let title = match is_list {
        true => format!("[[{name}]]"),
        false => format!("[{name}]"),
    };
    let mut page = format!("# `{title}`\n\n{NOTE}{}\n\n", description(section));
    page.push_str("| key | type | default |\n|---|---|---|\n");
    for key in &keys {
        let (name, anchor) = (key.name(), key.name().replace('.', ""));
        let (kind, default) = (key.kind().replace('|', "\\|"), key.default());
        writeln!(page, "| [`{name}`](#{anchor}) | {kind} | {default} |").unwrap();
    }
    for key in &keys {
        let name = key.name();
        let example = examples.get(&name);
        let example = example.unwrap_or_else(|| panic!("examples.toml has none of {name}"));
        let restart = needs_restart(&loaded(""), &loaded(example));
        // An example may need other keys beside its own.
        let restart = restart.filter(|key| name.starts_with(key));
        let change = match restart {
            Some(_) => "needs a restart",
            None => "while the gateway runs",
        };
        write!(
            page,
            "\n## `{name}`\n\n{}\n\n- Type: {}\n- Default: {}\n- Variable: `{}`\n- Change: {change}\n",
            key.description,
            key.kind(),
            key.default(),
            key.variable(),
        )
        .unwrap();
        let meanings = key.words.iter().filter(|(_, meaning)| !meaning.is_empty());
        let meanings: Vec<String> = meanings
            .map(|(word, meaning)| format!("- `{word}`: {meaning}\n"))
            .collect();
        if meanings.len() > 1 || (meanings.len() == 1 && !key.kinds.is_empty()) {
            write!(page, "\n{}", meanings.concat()).unwrap();
        }
        write!(page, "\n```toml,wakegate\n{example}```\n").unwrap();
    }
    page
}

// --- errors ---

fn explained(code: Option<&str>) -> String {
    let mut explain = wakegate();
    let output = explain.arg("explain").args(code).output().unwrap();
    assert!(output.status.success(), "{code:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A text in which no `<` begins a tag, but where it is code.
fn without_tags(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(index, part)| match index % 2 {
        0 => part.replace('<', "\\<"),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

fn errors_page() -> String {
    let mut page = format!(
        "# Errors\n\n{NOTE}\
         When wakegate answers a request itself, the answer has a stable `code`. `wakegate explain CODE` prints what is here.\n\n\
         A program gets problem JSON (RFC 9457), a browser a small page, and gRPC a status with the code in its message:\n\n\
         ```json\n\
         {{\"type\":\"about:blank\",\"title\":\"Gateway Timeout\",\"status\":504,\"code\":\"app_not_listening\",\
         \"detail\":\"…\",\"request_id\":\"…\"}}\n\
         ```\n\n\
         What is worth trying again has a `Retry-After`. The access line has the code as `error`, and\n\
         `wakegate_errors_total` counts each.\n"
    );
    let list = explained(None);
    let mut codes: Vec<(u16, &str)> = list
        .lines()
        .map(|line| line.split_once(' ').unwrap())
        .map(|(code, status)| (status.trim().parse().unwrap(), code))
        .collect();
    // Among those of one status, the program's own order.
    codes.sort_by_key(|(status, _)| *status);
    page.push_str("\n| status | codes |\n|---|---|\n");
    let mut statuses: Vec<u16> = codes.iter().map(|(status, _)| *status).collect();
    statuses.dedup();
    for status in &statuses {
        let own = codes.iter().filter(|(other, _)| other == status);
        let own: Vec<String> = own
            .map(|(_, code)| format!("[`{code}`](#{code})"))
            .collect();
        writeln!(page, "| {status} | {} |", own.join(", ")).unwrap();
    }
    for (status, code) in codes {
        let text = explained(Some(code));
        let text = without_tags(&text);
        let (_, rest) = text.split_once("\n\n").unwrap();
        let (meaning, help) = rest.split_once("\n\nWhat to do: ").unwrap();
        write!(
            page,
            "\n## `{code}`\n\n**{status}.** {meaning}\n\n*What to do:* {}\n",
            help.trim_end()
        )
        .unwrap();
    }
    page
}

// --- the command line ---

fn cli_page() -> String {
    let mut page = format!(
        "# Command line\n\n{NOTE}\
         What `--help` says of each command. Exit codes: 0 for success, 1 for a failure while it runs, 2 for wrong usage,\n\
         78 for a bad configuration.\n\n\
         The program `wakegate-local`, of the package of that name, has `wakegate-local serve`, which takes what\n\
         `wakegate local` takes, and `wakegate-local image build`. The packaged gateway is built without `demo`, `local` and `image`.\n\n\
         `wakegate completions` prints completions for your shell, and `wakegate man` writes manual pages.\n"
    );
    for (name, help) in helps() {
        write!(page, "\n## `{name}`\n\n```text\n{help}\n```\n").unwrap();
    }
    page
}

// --- the admin API ---

fn reference_name(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// The type of a member, in words.
fn member_kind(schema: &Value) -> String {
    if let Some(name) = reference_name(schema) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let parts: Vec<String> = ["oneOf", "anyOf"]
        .iter()
        .filter_map(|key| schema[*key].as_array())
        .flatten()
        .filter(|one| one["type"] != "null")
        .map(member_kind)
        .collect();
    if !parts.is_empty() {
        return parts.join(" or ");
    }
    let name = match &schema["type"] {
        Value::Array(names) => names.iter().find(|name| *name != "null"),
        one => Some(one),
    };
    match name.and_then(Value::as_str) {
        Some("array") => format!("list of {}", member_kind(&schema["items"])),
        Some("object") if schema.get("additionalProperties").is_some() => {
            format!("object of {}", member_kind(&schema["additionalProperties"]))
        }
        Some(name) => name.to_owned(),
        None => "any".to_owned(),
    }
}

/// The text beside a member, which stands beside its reference where it has one.
fn member_text(schema: &Value) -> String {
    let own = schema.get("description");
    let beside = schema["oneOf"][0].get("description");
    let text = own.or(beside).and_then(Value::as_str).unwrap_or_default();
    text.replace('\n', " ")
}

fn schema_members(schema: &Value, text: &mut String) {
    for part in schema["allOf"].as_array().into_iter().flatten() {
        match reference_name(part) {
            Some(_) => writeln!(text, "Everything of {}, and:\n", member_kind(part)).unwrap(),
            None => schema_members(part, text),
        }
    }
    let Some(members) = schema["properties"].as_object() else {
        return;
    };
    let required = schema["required"].as_array();
    text.push_str("| member | type | what it says |\n|---|---|---|\n");
    for (name, member) in members {
        let is_required = required.is_some_and(|all| all.iter().any(|one| one == name));
        let absent = if is_required { "" } else { ", may be absent" };
        let (kind, says) = (member_kind(member), member_text(member));
        writeln!(text, "| `{name}` | {kind}{absent} | {says} |").unwrap();
    }
}

/// What a call answers when all is well.
fn answer_of(call: &Value) -> String {
    let answers = call["responses"].as_object().unwrap();
    let (status, answer) = answers
        .iter()
        .find(|(code, _)| code.starts_with('2'))
        .unwrap();
    let content = answer["content"]
        .as_object()
        .and_then(|content| content.iter().next());
    match content {
        Some((kind, _)) if kind == "text/event-stream" => format!("{status}, server-sent events"),
        Some((_, content))
            if content["schema"]
                .as_object()
                .is_some_and(|all| !all.is_empty()) =>
        {
            format!("{status}, {}", member_kind(&content["schema"]))
        }
        Some(_) => format!("{status}, JSON"),
        None => status.clone(),
    }
}

fn api_page() -> String {
    let api: Value = serde_json::from_str(API).unwrap();
    let mut page = format!(
        "# Admin API\n\n{NOTE}{}\n\n\
         [The admin listener](admin.md) says who may call it, and `/api/openapi.json` is this page for programs. An action that \
         was not done is answered with a [problem](#problem).\n\n\
         | call | what it does | answer |\n|---|---|---|\n",
        api["info"]["description"].as_str().unwrap()
    );
    let mut parameters = BTreeMap::new();
    for (path, calls) in api["paths"].as_object().unwrap() {
        for (method, call) in calls.as_object().unwrap() {
            let own = call["parameters"].as_array().into_iter().flatten();
            let mut query = Vec::new();
            for parameter in own {
                let name = parameter["name"].as_str().unwrap();
                let text = parameter["description"].as_str().unwrap_or_default();
                if parameter["in"] == "query" {
                    query.push(format!("{name}="));
                }
                let of: &mut Vec<String> = parameters.entry((name, text)).or_default();
                of.push(format!("`{} {path}`", method.to_uppercase()));
            }
            let query = match query.is_empty() {
                true => String::new(),
                false => format!("?{}", query.join("&")),
            };
            let (method, summary) = (method.to_uppercase(), call["summary"].as_str().unwrap());
            let answer = answer_of(call);
            writeln!(page, "| `{method} {path}{query}` | {summary} | {answer} |").unwrap();
        }
    }
    page.push_str("\n## Parameters\n\n| parameter | of | what it says |\n|---|---|---|\n");
    for ((name, text), calls) in parameters {
        writeln!(page, "| `{name}` | {} | {text} |", calls.join(", ")).unwrap();
    }
    for (name, schema) in api["components"]["schemas"].as_object().unwrap() {
        let text = schema["description"].as_str().unwrap_or_default();
        write!(page, "\n## {name}\n\n{text}\n\n").unwrap();
        if let Some(words) = schema["enum"].as_array() {
            let words: Vec<String> = words.iter().map(literal).collect();
            writeln!(page, "One of {}.", words.join(", ")).unwrap();
        }
        schema_members(schema, &mut page);
    }
    page
}

//! Everything that a person wants to know of one instance.
//!
//! Guarantees: what is not known has no line; nothing in a line moves the cursor or colours the
//! terminal.

use serde_json::Value;

use super::coming_up::why;
use crate::telemetry::visible;
use hypeman::GoDuration;
use hypeman::wire::{Health, Idle, Instance, InstanceState};

/// Words as a shell would read them.
fn shell_words(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
        match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', "'\\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The words of a member that only some servers have.
pub(in crate::cli) fn words(instance: &Instance, member: &str) -> Vec<String> {
    let words = instance.other.get(member).and_then(Value::as_array);
    let words = words.into_iter().flatten();
    words.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The lines for people.
pub(super) fn details(instance: &Instance) -> String {
    let mut lines: Vec<(&str, String)> = vec![
        ("name", instance.name.clone()),
        ("id", instance.id.clone()),
        ("state", instance.state.to_string()),
    ];
    let mut add = |title, text: Option<String>| lines.extend(text.map(|text| (title, text)));
    let has_ended = !matches!(
        instance.state,
        InstanceState::Running | InstanceState::Standby | InstanceState::Initializing
    );
    add("why", why(instance).filter(|_| has_ended));
    add("exit code", instance.exit_code.map(|code| code.to_string()));
    add("image", Some(instance.image.clone()));
    let command = [words(instance, "entrypoint"), words(instance, "cmd")].concat();
    add(
        "command",
        (!command.is_empty()).then(|| shell_words(&command)),
    );
    let address = instance
        .network
        .as_ref()
        .and_then(|network| network.ip.clone());
    add("address", address.filter(|address| !address.is_empty()));
    let idle = match instance.idle() {
        Idle::Never => None,
        Idle::After(timeout) => Some(GoDuration::from(timeout).to_string()),
        Idle::Unreadable => Some("?".to_owned()),
    };
    add("sleeps after", idle);
    add("size", instance.size.clone());
    add(
        "processors",
        instance.vcpus.map(|number| number.to_string()),
    );
    let time = |time: Option<jiff::Timestamp>| time.map(|time| format!("{time:.0}"));
    add("created", time(instance.created_at));
    add("started", time(instance.started_at));
    add("stopped", time(instance.stopped_at).filter(|_| has_ended));
    add("expires", time(instance.expires_at));
    if let Some(health) = instance.health_status.as_ref()
        && health.status != Health::Disabled
    {
        let error = health.last_error.as_ref().map(|error| format!(": {error}"));
        let (status, error) = (&health.status, error.unwrap_or_default());
        add("health", Some(format!("{status}{error}")));
    }
    if let Some(restarts) = &instance.restart_status {
        let next = time(restarts.next_attempt_at).map(|at| format!(", the next at {at}"));
        let blocked = restarts.blocked_reason.as_ref();
        let blocked = blocked.map(|why| format!(", no more: {why}"));
        let (number, next, blocked) = (restarts.attempts, next, blocked);
        let more = [next, blocked].into_iter().flatten().collect::<String>();
        add("restarts", Some(format!("{number}{more}")));
    }
    for (name, value) in &instance.env.0 {
        add("env", Some(format!("{name}={value}")));
    }
    for (key, value) in &instance.tags {
        add("tag", Some(format!("{key}={value}")));
    }
    let width = lines
        .iter()
        .map(|(title, _)| title.len())
        .max()
        .unwrap_or(0);
    let line = |(title, text): &(&str, String)| format!("{title:<width$}  {}\n", visible(text));
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_shown_with_why_it_stopped_and_nothing_moves_the_cursor() {
        let text = r#"{"id":"i1","name":"web","state":"Stopped","image":"local/exec",
            "cmd":["sh","-c","exit 3"],"exit_code":3,"exit_message":"exit status: 3\u001b[31m",
            "stopped_at":"2026-01-02T03:04:05.678Z","env":{"A":"b"},"has_snapshot":false}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        let shown = details(&instance);
        for line in [
            "state      Stopped\n",
            "why        exit status: 3\\u001b[31m (exit code 3)\n",
            "exit code  3\n",
            "command    sh -c 'exit 3'\n",
            "stopped    2026-01-02T03:04:0",
            "env        A=b\n",
        ] {
            assert!(shown.contains(line), "{line}{shown}");
        }
        assert!(
            !shown.contains("health") && !shown.contains("address"),
            "{shown}"
        );
    }
}

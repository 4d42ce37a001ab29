//! `wakegate fleet`: what is in the directory of a fleet, and changes of it.
//!
//! Guarantees: what no member could serve is not written; what is taken away by hand is never taken for
//! a loss; a status comes from the gateway of the configuration if it runs, else from the directory.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::args::{
    ConfigArguments, FleetCommand, GatewayArguments, ListArguments, MoveArguments, NameArguments,
    PutArguments,
};
use super::fleet_directory::{Opened, operators, policy_in, route_name};
use super::fleet_import::import;
use super::gateway::Gateway;
use super::output::{Failure, Output};
use super::table::table;
use crate::config::{declared_policy, declared_route};
use crate::fleet::engine::{Entry, read_one};
use crate::fleet::operator::{accept, put_routes, relocate, remove, replace};
use crate::fleet::records::{ClaimRecord, Key, MemberRecord, RouteRecord, read, write};
use crate::fleet::{Directory, FleetStatus, Placement as _, Role, SealKeys};

/// Runs one.
pub(super) async fn run(command: FleetCommand, output: Output) -> Result<(), Failure> {
    match command {
        FleetCommand::Status(arguments) => status(&arguments, output).await,
        FleetCommand::Routes(arguments) => routes(&arguments, output).await,
        FleetCommand::Put(arguments) => put_route(&arguments).await,
        FleetCommand::Rm(arguments) => rm(&arguments).await,
        FleetCommand::Import(arguments) => import(&arguments, output).await,
        FleetCommand::Export(config) => export(&config, output).await,
        FleetCommand::Move(arguments) => relocate_name(&arguments).await,
        FleetCommand::Accept(config) => {
            let opened = Opened::of(config.config.as_deref())?;
            accept(&*opened.engine).await.map_err(Failure::failed)?;
            Ok(())
        }
        FleetCommand::Check(arguments) => check(&arguments, output).await,
        FleetCommand::Seal(config) => seal(&config, output).await,
    }
}

async fn status(arguments: &GatewayArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(arguments)?;
    let asked = gateway.call(Method::GET, "/api/fleet", &[]).await;
    let status = match asked {
        Ok(status) => status,
        Err(error) if arguments.url.is_some() => return Err(error.into()),
        // No gateway of this configuration runs here.
        Err(_) => {
            let opened = Opened::of(arguments.config.config.as_deref())?;
            let (directory, _) = opened.read().await?;
            serde_json::to_value(directory.status()).map_err(Failure::failed)?
        }
    };
    if arguments.json {
        output.print(&format!("{status:#}\n"));
        return Ok(());
    }
    let text = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let age = status.get("age_seconds").and_then(Value::as_f64);
    let heard = age.map_or("never heard".to_owned(), |age| {
        format!("heard {age:.1} s ago")
    });
    output.print(&format!(
        "revision {}, {heard}, {} routes, {} names\n",
        text(&status, "revision"),
        text(&status, "routes"),
        text(&status, "claims"),
    ));
    if let Some(shrink) = status.get("shrink").filter(|shrink| !shrink.is_null()) {
        output.print(&format!(
            "{} of {} routes are gone from the directory and stay in force: `wakegate fleet accept`\n",
            text(shrink, "routes"),
            text(shrink, "of"),
        ));
    }
    let unlisted = status.get("unlisted").and_then(Value::as_u64);
    if let Some(count) = unlisted.filter(|count| *count > 0) {
        output.print(&format!(
            "{count} of what this node has published are not in its host's list and stay until that is \
             confirmed, or `wakegate fleet accept`\n",
        ));
    }
    let members = status.get("members").and_then(Value::as_array);
    let rows: Vec<[String; 4]> = members
        .into_iter()
        .flatten()
        .map(|member| {
            let is = |key: &str| member.get(key).and_then(Value::as_bool) == Some(true);
            let alive = match (is("alive"), is("draining")) {
                (true, true) => "draining",
                (true, false) => "alive",
                (false, _) => "silent",
            };
            [
                text(member, "name"),
                text(member, "role"),
                text(member, "zone"),
                alive.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output.print(&table(["NAME", "ROLE", "ZONE", "STATE"], &rows));
    }
    Ok(())
}

async fn routes(arguments: &ListArguments, output: Output) -> Result<(), Failure> {
    let opened = Opened::of(arguments.config.config.as_deref())?;
    let (directory, _) = opened.read().await?;
    let lines = directory.lines();
    if arguments.json {
        let lines = serde_json::to_value(lines).map_err(Failure::failed)?;
        output.print(&format!("{lines:#}\n"));
        return Ok(());
    }
    let rows: Vec<[String; 5]> = lines
        .into_iter()
        .map(|line| {
            let name = line.name();
            let policy = line.policy.unwrap_or_else(|| "-".to_owned());
            [
                name,
                line.instance,
                line.port.to_string(),
                policy,
                line.source,
            ]
        })
        .collect();
    output.print(&table(
        ["ROUTE", "INSTANCE", "PORT", "POLICY", "SOURCE"],
        &rows,
    ));
    Ok(())
}

async fn put_route(arguments: &PutArguments) -> Result<(), Failure> {
    let opened = Opened::of(arguments.name.config.config.as_deref())?;
    let name = route_name(&arguments.name)?;
    let mut keys = Map::new();
    if let Some(policy) = &arguments.policy {
        let key = Key::Policy(policy.clone()).text();
        let (entry, _) = read_one(&*opened.engine, &key)
            .await
            .map_err(Failure::failed)?;
        let missing = || Failure::failed(format_args!("there is no policy `{policy}`"));
        let entry = entry.ok_or_else(missing)?;
        keys = opened
            .policy(&entry)
            .map_err(|problem| Failure::failed(format_args!("the policy `{policy}` {problem}")))?;
    }
    let policy = declared_policy(&keys, &opened.config.wake, "").map_err(Failure::failed)?;
    declared_route(&name, &arguments.instance, arguments.port, &policy)
        .map_err(|problem| Failure::failed(format_args!("`{name}`: {problem}")))?;
    let record = RouteRecord {
        instance: arguments.instance.clone(),
        port: arguments.port,
        policy: arguments.policy.clone(),
        more: Map::new(),
    };
    let key = operators(&name);
    let (there, _) = read_one(&*opened.engine, &key.text())
        .await
        .map_err(Failure::failed)?;
    let there = there.into_iter().collect();
    let written = put_routes(&*opened.engine, vec![(key, record)], there).await;
    written.map_err(Failure::failed)
}

async fn rm(arguments: &NameArguments) -> Result<(), Failure> {
    let opened = Opened::of(arguments.config.config.as_deref())?;
    let name = route_name(arguments)?;
    let count = remove(&*opened.engine, &[operators(&name)]).await;
    match count.map_err(Failure::failed)? {
        0 => Err(Failure::failed(format_args!(
            "the directory has no route `{name}` that an operator wrote"
        ))),
        _ => Ok(()),
    }
}

/// What policies say. One that cannot be opened is none that says nothing: a route without it would let
/// anybody in.
fn policies_of(
    entries: &[Entry],
    keys: &SealKeys,
) -> Result<BTreeMap<String, Map<String, Value>>, Failure> {
    let mut policies = BTreeMap::new();
    for entry in entries {
        if let Some(Key::Policy(name)) = Key::parse(&entry.key) {
            let policy = policy_in(entry, keys).map_err(|problem| {
                Failure::failed(format_args!("the policy `{name}` {problem}"))
            })?;
            policies.insert(name, policy);
        }
    }
    Ok(policies)
}

async fn export(config: &ConfigArguments, output: Output) -> Result<(), Failure> {
    let opened = Opened::of(config.config.as_deref())?;
    let (directory, entries) = opened.read().await?;
    let policies = policies_of(&entries, &opened.keys)?;
    let lines = directory.lines().into_iter();
    let (of_ports, lines): (Vec<_>, Vec<_>) = lines.partition(|line| line.listen_port.is_some());
    for line in of_ports {
        output.note(&format!(
            "left out: `{}` of `{}` is for one port, and a file's routes are for every one; `[ingress] watch = true` \
             there serves it\n",
            line.name(),
            line.source
        ));
    }
    let routes = lines.into_iter().map(|line| {
        let mut keys = Map::new();
        keys.insert("host".to_owned(), line.host.into());
        if line.path != "/" {
            keys.insert("path".to_owned(), line.path.into());
        }
        keys.insert("instance".to_owned(), line.instance.into());
        let port = match line.port {
            0 => "{port}".into(),
            port => Value::from(port),
        };
        keys.insert("port".to_owned(), port);
        let policy = line
            .policy
            .and_then(|policy| policies.get(&policy).cloned());
        keys.extend(policy.unwrap_or_default());
        Value::Object(keys)
    });
    let routes: Vec<Value> = routes.collect();
    let text = toml::to_string(&json!({ "route": routes })).map_err(Failure::failed)?;
    output.print(&text);
    Ok(())
}

async fn relocate_name(arguments: &MoveArguments) -> Result<(), Failure> {
    let opened = Opened::of(arguments.config.config.as_deref())?;
    let (directory, entries) = opened.read().await?;
    let claims = entries.iter().filter_map(|entry| {
        let Some(Key::Claim { host, name }) = Key::parse(&entry.key) else {
            return None;
        };
        (name == arguments.name).then_some((entry.created, host, entry))
    });
    let mut claims: Vec<_> = claims.collect();
    claims.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
    let Some((_, first, entry)) = claims.first() else {
        return Err(Failure::failed(format_args!(
            "no host claims `{}`",
            arguments.name
        )));
    };
    if *first == arguments.to {
        return Err(Failure::failed(format_args!("`{first}` has it already")));
    }
    let hosts = claims.iter().map(|(_, host, _)| host.as_str());
    let before: Vec<&str> = hosts.take_while(|host| *host != arguments.to).collect();
    let node = |host: &str| directory.member_as(Role::Node, host);
    let to = &arguments.to;
    let problem = match node(to) {
        Some(member) if member.alive && !member.draining => None,
        Some(member) if member.alive => Some(format!("`{to}` is draining")),
        Some(_) | None => Some(format!("no member `{to}` is alive")),
    };
    if let Some(problem) = problem
        && !arguments.force
    {
        return Err(Failure::failed(format_args!(
            "{problem}; if the instance is there nevertheless, `--force`"
        )));
    }
    let is_silent = |host: &&&str| !node(host).is_some_and(|member| member.alive);
    if let Some(silent) = before.iter().find(is_silent)
        && !arguments.force
    {
        return Err(Failure::failed(format_args!(
            "`{silent}` is silent, so nobody knows whether it has let go of the instance; if it is \
             dead, `--force`"
        )));
    }
    let mut record: ClaimRecord = read(&entry.value).map_err(Failure::failed)?;
    // Which of its control planes has it is the other host's to say.
    record.plane = None;
    let to = (to.as_str(), write(&record));
    let done = relocate(&*opened.engine, &arguments.name, &before, to).await;
    done.map_err(Failure::failed)
}

/// Seals every policy with the first key that is not.
async fn seal(config: &ConfigArguments, output: Output) -> Result<(), Failure> {
    let opened = Opened::of(config.config.as_deref())?;
    if !opened.keys.can_seal() {
        return Err(Failure::failed("there is no `fleet.key_file` to seal with"));
    }
    let (_, entries) = opened.read().await?;
    let mut count = 0;
    for entry in &entries {
        let Some(Key::Policy(name)) = Key::parse(&entry.key) else {
            continue;
        };
        if opened.keys.is_current(&entry.value) {
            continue;
        }
        let keys = opened
            .policy(entry)
            .map_err(|problem| Failure::failed(format_args!("the policy `{name}` {problem}")))?;
        let (_, value) = opened.sealed(&name, &keys)?;
        let replaced = replace(&*opened.engine, entry, value).await;
        replaced.map_err(Failure::failed)?;
        count += 1;
    }
    output.note(&format!("{count} policies are sealed anew\n"));
    Ok(())
}

/// Everything that somebody should look at.
fn findings(
    status: &FleetStatus,
    directory: &Directory,
    entries: &[Entry],
    keys: &SealKeys,
) -> Vec<String> {
    let mut found = Vec::new();
    for (key, problem) in &status.problems {
        found.push(format!("{key}: {problem}"));
    }
    for twice in &status.claimed_twice {
        let (name, hosts) = (&twice.name, twice.hosts.join(", "));
        found.push(format!("`{name}` is claimed by {hosts}; the first has it"));
    }
    let mut claimed = BTreeSet::new();
    let mut hosts: BTreeMap<String, usize> = BTreeMap::new();
    for entry in entries {
        match Key::parse(&entry.key) {
            Some(Key::Claim { host, name }) => {
                *hosts.entry(host).or_default() += 1;
                claimed.insert(name);
                let record = read::<ClaimRecord>(&entry.value);
                claimed.extend(record.ok().map(|record| record.id));
            }
            Some(Key::Node(name)) => {
                let record = read::<MemberRecord>(&entry.value);
                if record.is_ok_and(|record| record.endpoints.is_empty()) {
                    found.push(format!("{name}: says nowhere that others reach it"));
                }
            }
            Some(Key::Policy(name)) if !keys.is_current(&entry.value) => {
                found.push(format!(
                    "policy `{name}`: is not sealed with the first key of `fleet.key_file`: \
                     `wakegate fleet seal`"
                ));
            }
            Some(
                Key::Route { .. }
                | Key::Policy(_)
                | Key::Front(_)
                | Key::Removed
                | Key::Accepted
                | Key::Past,
            )
            | None => {}
        }
    }
    for (host, count) in hosts {
        if !directory.is_alive(&Key::Node(host.clone())) {
            found.push(format!("`{host}` is silent and claims {count} names"));
        }
    }
    for line in directory.lines() {
        if !line.instance.starts_with('{') && !claimed.contains(&line.instance) {
            let name = line.name();
            found.push(format!("`{name}`: no host claims `{}`", line.instance));
        }
    }
    found
}

async fn check(arguments: &ListArguments, output: Output) -> Result<(), Failure> {
    let opened = Opened::of(arguments.config.config.as_deref())?;
    let (directory, entries) = opened.read().await?;
    let found = findings(&directory.status(), &directory, &entries, &opened.keys);
    if arguments.json {
        output.print(&format!("{:#}\n", json!({ "findings": found })));
    } else {
        for one in &found {
            output.print(&format!("{one}\n"));
        }
    }
    match found.len() {
        0 => Ok(()),
        1 => Err(Failure::failed("1 finding")),
        count => Err(Failure::failed(format_args!("{count} findings"))),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn a_policy_that_cannot_be_opened_is_not_exported_as_one_that_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let key = base64::prelude::BASE64_STANDARD.encode([7; 32]);
        std::fs::write(&path, key).unwrap();
        let keys = SealKeys::load(&path).unwrap();
        let key = Key::Policy("inside".to_owned()).text();
        let entry = Entry {
            value: keys.seal(&key, b"{\"hsts\":\"1d\"}".to_vec()).unwrap(),
            key,
            created: 1,
            modified: 1,
        };
        let entries = [entry];
        let opened = policies_of(&entries, &keys).ok().unwrap();
        assert_eq!(opened["inside"]["hsts"], "1d");
        assert!(policies_of(&entries, &SealKeys::default()).is_err());
    }
}

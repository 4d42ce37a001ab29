//! `wakegate status`, `routes`, `wake`, `standby`, `reload`, `drain`: clients of a running
//! gateway's admin API, which `wakes` uses, too.
//!
//! Guarantees: they find the gateway by the same configuration that it was started with, and say
//! what it said when it refuses; a token is never printed, and that of a file's configuration goes
//! nowhere but to the address that the configuration has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::args::{GatewayArguments, RoutesArguments, WhichArguments};
use super::output::{Failure, Output};
use super::table::table;
use crate::config::{AdminConfig, Secret, Variables, load_admin};
use crate::telemetry::is_invisible;

/// Longer than any wake is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Who sets it for a command means the gateway that the command is for.
const TOKEN_VARIABLE: &str = "WAKEGATE_ADMIN_TOKEN";

/// A call to a gateway failed.
pub(super) enum CallError {
    /// It did not answer.
    Unreachable(String),
    /// It said no.
    Refused(StatusCode, String),
}

/// A running gateway.
pub(super) struct Gateway {
    base: String,
    token: Option<Secret>,
    http: reqwest::Client,
}

/// Where this machine reaches a listener: an address that is everybody's is also its own.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        ip if !ip.is_unspecified() => address,
        IpAddr::V4(_) => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(_) => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
    }
}

/// Whether a URL leads to this listener of this machine and nowhere else.
fn is_at(url: &str, listener: SocketAddr) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else {
        return false;
    };
    let host = url.host_str().unwrap_or_default();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let is_here = match ip {
        Ok(ip) => {
            ip == reachable(listener).ip() || listener.ip().is_unspecified() && ip.is_loopback()
        }
        Err(_) => host == "localhost" && reachable(listener).ip().is_loopback(),
    };
    is_here && url.port_or_known_default() == Some(listener.port())
}

/// `[admin]` of the configuration, which need not be complete otherwise.
pub(super) fn admin_of(file: Option<&std::path::Path>) -> Result<AdminConfig, Failure> {
    load_admin(file, &Variables::from_process()).map_err(Failure::bad_config)
}

/// The URL of a gateway as it was given, without slashes at its end.
fn base_of(given: &str) -> Result<String, Failure> {
    let url = reqwest::Url::parse(given).ok();
    let has_user = |url: &reqwest::Url| !url.username().is_empty() || url.password().is_some();
    let is_meant = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let is_url = url.as_ref().is_some_and(is_meant);
    if url.as_ref().is_some_and(has_user) || !is_url && given.contains('@') {
        // Not repeated: whoever writes a password into it has not meant to publish it.
        return Err(Failure::failed(
            "the URL has a user name or password in it; the admin token comes from `--token-file`",
        ));
    }
    if is_url {
        return Ok(given.trim_end_matches('/').to_owned());
    }
    let with_scheme = format!("http://{given}");
    let port = given.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    let mend = match reqwest::Url::parse(&with_scheme) {
        Ok(_) if matches!(port, Some(Ok(_))) && !given.contains("://") => with_scheme,
        Ok(_) | Err(_) => "http://127.0.0.1:9900".to_owned(),
    };
    Err(Failure::failed(format_args!(
        "`{given}` is not the URL of an admin listener; write it like `{mend}`"
    )))
}

/// Why there was no answer, in words for whoever typed the command.
fn why_unreachable(error: &reqwest::Error) -> String {
    if error.is_connect() {
        return "no gateway answers there; is it running, and is `admin.address` right?".to_owned();
    }
    if error.is_timeout() {
        return "it did not answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("what answers there is not a gateway's admin listener, or has ended ({cause})")
}

fn client(base: &str, timeout: Duration) -> Result<reqwest::Client, Failure> {
    let mut builder = reqwest::Client::builder();
    if base.starts_with("http:") {
        // It needs no CA certificates, which an otherwise empty container does not have.
        builder = builder.tls_certs_only([]);
    }
    builder
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(3))
        .timeout(timeout)
        .build()
        .map_err(Failure::failed)
}

// === impl Gateway ===

impl Gateway {
    pub(super) fn of(arguments: &GatewayArguments) -> Result<Self, Failure> {
        let admin = admin_of(arguments.config.config.as_deref())?;
        let token = match &arguments.token_file {
            Some(path) => {
                let read = std::fs::read_to_string(path);
                let text = read.map_err(|error| {
                    Failure::failed(format_args!("cannot read {}: {error}", path.display()))
                })?;
                Some(Secret::new(&text))
            }
            None => {
                let goes_there = arguments.url.as_ref().is_none_or(|url| {
                    std::env::var_os(TOKEN_VARIABLE).is_some() || is_at(url, admin.address)
                });
                admin.token.filter(|_| goes_there)
            }
        };
        let base = match &arguments.url {
            Some(url) => base_of(url)?,
            None => format!("http://{}", reachable(admin.address)),
        };
        let http = client(&base, PATIENCE)?;
        Ok(Self { base, token, http })
    }

    /// What it answers; nothing when there is nothing to say.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Value, CallError> {
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = request.query(query);
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.reveal()),
            None => request,
        };
        let unreachable = |error: reqwest::Error| {
            let (base, why) = (&self.base, why_unreachable(&error));
            CallError::Unreachable(format!("{base}: {why}"))
        };
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(unreachable)?;
        let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            if body.is_null() && !bytes.is_empty() {
                let base = &self.base;
                return Err(CallError::Unreachable(format!(
                    "{base}: what answers there is not a gateway's admin listener"
                )));
            }
            return Ok(body);
        }
        let detail = at(&body, "detail").as_str().unwrap_or("it gave no reason");
        let hint = match status {
            StatusCode::UNAUTHORIZED => {
                " (give `--token-file`, or the gateway's `-c FILE` without `--url`)"
            }
            StatusCode::NOT_FOUND if body.is_null() => {
                " (this is not a gateway's admin listener, or the gateway is older than this program)"
            }
            _ => "",
        };
        let code = at(&body, "code").as_str().unwrap_or("error");
        Err(CallError::Refused(
            status,
            format!("{code}: {detail}{hint}"),
        ))
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(message) | CallError::Refused(_, message) => {
                Self::failed(message)
            }
        }
    }
}

fn json(output: Output, value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    output.print(&format!("{text}\n"));
}

/// A field of an answer; null when it is not there.
pub(super) fn at<'v>(value: &'v Value, key: &str) -> &'v Value {
    value.get(key).unwrap_or(&Value::Null)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The path of a call about one instance.
pub(super) fn instance_path(name: &str) -> String {
    let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("/api/instances/{encoded}")
}

/// A failed wake's code, phase and the control plane's words or ours, in one line; empty when it has none.
pub(super) fn reason(failure: &Value) -> String {
    let code = text(at(failure, "code"));
    if code.is_empty() {
        // What keeps an instance awake is no failure.
        return text(at(failure, "reason")).to_owned();
    }
    let mut line = format!("{code} in phase {}", text(at(failure, "phase")));
    let said = at(failure, "control_plane");
    if !said.is_null() {
        line.push_str("; ");
        line.push_str(text(at(said, "operation")));
        let status = at(said, "status").as_u64();
        let status = status.map(|status| format!(" answered {status}"));
        line.push_str(&status.unwrap_or_default());
        match (at(said, "status").is_null(), text(at(said, "code"))) {
            (true, _) | (false, "") => {}
            (false, code) => {
                line.push(' ');
                line.push_str(code);
            }
        }
        line.push_str(": ");
        line.push_str(text(at(said, "message")));
    }
    let own = text(at(failure, "reason"));
    if !own.is_empty() {
        line.push_str("; ");
        line.push_str(own);
    }
    line
}

/// Milliseconds for people.
pub(super) fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1e3),
    }
}

/// How long ago something was, for people.
fn ago(ms: f64) -> String {
    let whole = Duration::from_secs_f64((ms / 1e3).clamp(0.0, 1e9).floor());
    format!("{} ago", hypeman::GoDuration::from(whole))
}

/// A number of things that have a regular plural.
fn counted(number: &Value, thing: &str) -> String {
    let plural = if number.as_u64() == Some(1) { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// What is wrong with an instance, for a line below the table: why its last wake failed, and when
/// the next is tried.
fn trouble(one: &Value) -> Option<String> {
    let failure = at(one, "last_failure");
    let ms = at(failure, "ago_ms").as_f64()?;
    let (name, reason) = (text(at(one, "name")), reason(failure));
    let breaker = at(one, "breaker");
    let next = at(breaker, "retry_after_ms").as_f64().map(|left| {
        let (failures, left) = (at(breaker, "failures"), duration(left));
        format!("; {failures} failed in a row, the next is tried in {left}")
    });
    let (ago, next) = (ago(ms), next.unwrap_or_default());
    let line = format!("{name}: {reason} ({ago}{next})");
    Some(line.chars().filter(|c| !is_invisible(*c)).collect())
}

pub(super) async fn status(arguments: GatewayArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments)?;
    let status = gateway.call(Method::GET, "/api/status", &[]).await?;
    let instances = gateway.call(Method::GET, "/api/instances", &[]).await?;
    if arguments.json {
        json(
            output,
            &serde_json::json!({ "status": status, "instances": instances }),
        );
        return Ok(());
    }
    let counts = at(&status, "instances");
    let listeners = at(&status, "listeners")
        .as_array()
        .cloned()
        .unwrap_or_default();
    let listeners: Vec<&str> = listeners.iter().map(text).collect();
    let state = match at(&status, "draining").as_bool() {
        Some(true) => "draining",
        _ => "serving",
    };
    let up = Duration::from_secs_f64(
        at(&status, "uptime_seconds")
            .as_f64()
            .unwrap_or(0.0)
            .max(0.0),
    );
    output.print(&format!(
        "wakegate {} {state} at {}, up {}\n\
         {}; {} answered, {} held, {} at instances\n",
        text(at(&status, "version")),
        listeners.join(", "),
        hypeman::GoDuration::from(Duration::from_secs(up.as_secs())),
        counted(at(&status, "routes"), "route"),
        counted(at(&status, "served"), "request"),
        at(&status, "held"),
        at(&status, "inflight"),
    ));
    for ca in at(&status, "ca").as_array().into_iter().flatten() {
        output.print(&format!("certificates are of the CA {}\n", text(ca)));
    }
    for plane in at(&status, "hypeman").as_array().into_iter().flatten() {
        let word = match at(plane, "up").as_bool() {
            Some(true) => "answers",
            Some(false) => "does not answer",
            None => "not asked yet",
        };
        let error = match text(at(plane, "error")) {
            "" => String::new(),
            error => format!(" ({error})"),
        };
        output.print(&format!(
            "control plane {} at {}: {word}{error}\n",
            text(at(plane, "name")),
            text(at(plane, "url"))
        ));
    }
    output.print(&format!(
        "instances: {} awake, {} waking, {} asleep, {} stopped, {} failing\n",
        at(counts, "awake"),
        at(counts, "waking"),
        at(counts, "asleep"),
        at(counts, "stopped"),
        at(counts, "failing"),
    ));
    let rows: Vec<[String; 6]> = instances
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| {
            let usual = at(one, "usual_wake_ms").as_f64();
            let stage = at(at(one, "wake"), "stage").as_str();
            let state = text(at(one, "state"));
            [
                text(at(one, "name")).to_owned(),
                stage.map_or_else(|| state.to_owned(), |stage| format!("{state} ({stage})")),
                at(one, "held").to_string(),
                at(one, "inflight").to_string(),
                usual.map_or_else(String::new, |ms| format!("{ms:.1} ms")),
                text(at(one, "id")).to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let titles = ["NAME", "STATE", "HELD", "INSIDE", "USUAL WAKE", "ID"];
        output.print(&format!("\n{}", table(titles, &rows)));
    }
    let troubles = instances.as_array().into_iter().flatten();
    let troubles: Vec<String> = troubles.filter_map(trouble).collect();
    if !troubles.is_empty() {
        output.print("\nwakes that failed last (`wakegate wakes NAME` has all):\n");
    }
    for line in troubles {
        output.print(&format!("  {line}\n"));
    }
    Ok(())
}

pub(super) async fn routes(arguments: RoutesArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments.gateway)?;
    let filter = arguments.filter.as_deref().unwrap_or("");
    let query = [("filter", filter), ("limit", "1000000")];
    let routes = gateway.call(Method::GET, "/api/routes", &query).await?;
    if arguments.gateway.json {
        json(output, &routes);
        return Ok(());
    }
    let rows: Vec<[String; 6]> = routes
        .as_array()
        .into_iter()
        .flatten()
        .map(|route| {
            [
                text(at(route, "host")).to_owned(),
                text(at(route, "path")).to_owned(),
                format!(
                    "{}:{}",
                    text(at(route, "instance")),
                    port_text(at(route, "port"))
                ),
                text(at(route, "protocol")).to_owned(),
                text(at(route, "hypeman")).to_owned(),
                text(at(route, "source")).to_owned(),
            ]
        })
        .collect();
    let titles = ["HOST", "PATH", "INSTANCE", "PROTOCOL", "HYPEMAN", "FROM"];
    output.print(&table(titles, &rows));
    Ok(())
}

/// Does something to each of the named instances; those after one that fails have their turn, too.
pub(super) async fn act(
    arguments: WhichArguments,
    action: &'static str,
    force: bool,
    output: Output,
) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments.gateway)?;
    let hypeman = arguments.hypeman.as_deref();
    let hypeman = hypeman.map(|name| ("hypeman", name));
    let force = force.then_some(("force", "true"));
    let query: Vec<_> = hypeman.into_iter().chain(force).collect();
    let mut failed = Vec::new();
    for name in &arguments.names {
        let path = format!("{}/{action}", instance_path(name));
        match gateway.call(Method::POST, &path, &query).await {
            Ok(done) if arguments.gateway.json => json(output, &done),
            Ok(done) => output.print(&format!(
                "{}: {} after {:.1} ms\n",
                text(at(&done, "name")),
                text(at(&done, "outcome")).replace('_', " "),
                at(&done, "took_ms").as_f64().unwrap_or(0.0)
            )),
            Err(error) => failed.push(format!("{name}: {}", Failure::from(error).message)),
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(failed.join("\n"))),
    }
}

pub(super) async fn reload(arguments: GatewayArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments)?;
    gateway.call(Method::POST, "/api/reload", &[]).await?;
    output.print("reloaded\n");
    Ok(())
}

pub(super) async fn drain(arguments: GatewayArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments)?;
    gateway.call(Method::POST, "/api/drain", &[]).await?;
    output.print("draining\n");
    Ok(())
}

/// For a container's engine: whether the gateway answers.
pub(super) async fn healthcheck(
    file: Option<&std::path::Path>,
    url: Option<String>,
) -> Result<(), Failure> {
    let base = match url {
        Some(url) => base_of(&url)?,
        None => format!("http://{}", reachable(admin_of(file)?.address)),
    };
    let http = client(&base, Duration::from_secs(3))?;
    let url = format!("{}/healthz", base.trim_end_matches('/'));
    let answer = http.get(&url).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(Failure::failed(format_args!("{url}: {}", answer.status()))),
        Err(error) => Err(Failure::failed(format_args!(
            "{url}: {}",
            why_unreachable(&error)
        ))),
    }
}

/// A route's port, as its configuration has it.
fn port_text(port: &Value) -> String {
    match port.as_u64() {
        Some(0) => "{port}".to_owned(),
        _ => port.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_listener_of_this_machine_or_anothers() {
        for (url, listener, expected) in [
            ("http://127.0.0.1:9900", "127.0.0.1:9900", true),
            ("http://127.0.0.1:9900/", "0.0.0.0:9900", true),
            ("http://[::1]:9900", "[::]:9900", true),
            ("http://localhost:9900", "127.0.0.1:9900", true),
            ("http://10.0.0.7:9900", "10.0.0.7:9900", true),
            ("http://127.0.0.1", "127.0.0.1:80", true),
            ("http://127.0.0.1:9901", "127.0.0.1:9900", false),
            ("http://10.0.0.8:9900", "10.0.0.7:9900", false),
            ("http://10.0.0.8:9900", "0.0.0.0:9900", false),
            ("http://localhost:9900", "10.0.0.7:9900", false),
            ("http://gateway.example:9900", "127.0.0.1:9900", false),
            ("http://127.0.0.1.example:9900", "127.0.0.1:9900", false),
            ("http://127.0.0.1:9900@example:80", "127.0.0.1:9900", false),
            ("127.0.0.1:9900", "127.0.0.1:9900", false),
        ] {
            let listener = listener.parse().unwrap();
            assert_eq!(is_at(url, listener), expected, "{url} {listener}");
        }
    }
}

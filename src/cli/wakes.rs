//! `wakegate wakes`: the last wakes of a running gateway, and with `--follow` those to come.
//!
//! Guarantees: each wake is shown once, the newest last, also when the gateway was started anew
//! meanwhile; following ends in good order when it is interrupted or its reader has gone; a name
//! that the gateway does not know is said to be unknown instead of being waited for.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

use super::args::WakesArguments;
use super::gateway::{CallError, Gateway, at, duration, instance_path, reason, text};
use super::output::{Failure, Output};
use super::signals::end_signal;
use super::table::Columns;
use crate::backoff::Backoff;

/// The time between two looks for new wakes.
const LOOK: Duration = Duration::from_millis(500);
/// The time between two tries to reach a gateway that has gone.
const TRIES: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));

const TITLES: [&str; 8] = [
    "TIME", "INSTANCE", "OUTCOME", "TOTAL", "PHASES", "ROUTE", "CLIENT", "WHY",
];
/// Wide enough for most, so that the lines to come fit, too.
const WIDTHS: [usize; 8] = [24, 12, 9, 7, 40, 20, 15, 0];

/// Shows wakes as they come.
struct Printer {
    output: Output,
    json: bool,
    name: Option<String>,
    columns: Columns<8>,
}

/// The cells of a wake.
fn row(wake: &Value) -> [String; 8] {
    let own = |key: &str| text(at(wake, key)).to_owned();
    let time = text(at(wake, "time"));
    let time = time.parse::<jiff::Timestamp>();
    let phases = at(wake, "phases_ms").as_object().into_iter().flatten();
    let phases = phases.map(|(phase, ms)| {
        let ms = ms.as_f64().unwrap_or(0.0);
        format!("{phase} {}", duration(ms))
    });
    let name = match text(at(wake, "name")) {
        "" => own("instance"),
        name => name.to_owned(),
    };
    [
        time.map_or_else(|_| own("time"), |time| format!("{time:.3}")),
        name,
        own("outcome").replace('_', " "),
        duration(at(wake, "took_ms").as_f64().unwrap_or(0.0)),
        phases.collect::<Vec<_>>().join(", "),
        own("route"),
        own("client"),
        reason(wake),
    ]
}

/// Wakes from a gateway, the oldest first.
async fn wakes(gateway: &Gateway, after: Option<&str>) -> Result<Vec<Value>, CallError> {
    let query: Vec<_> = after.map(|id| ("after", id)).into_iter().collect();
    let answer = gateway.call(Method::GET, "/api/wakes", &query).await?;
    let wakes = answer.as_array().cloned().unwrap_or_default();
    Ok(wakes.into_iter().rev().collect())
}

/// Fails when the gateway knows no instance of exactly this name or id.
async fn check_name(gateway: &Gateway, name: &str) -> Result<(), Failure> {
    let found = match gateway.call(Method::GET, &instance_path(name), &[]).await {
        Ok(found) => found,
        Err(CallError::Refused(StatusCode::NOT_FOUND, _)) => Value::Null,
        Err(error) => return Err(error.into()),
    };
    if is_of(&found, "id", name) {
        return Ok(());
    }
    Err(Failure::failed(format_args!(
        "{name}: the gateway knows no instance of this name or id and remembers no wake of one; \
         `wakegate status` lists the instances"
    )))
}

/// Whether an object is about the instance that a person names.
fn is_of(object: &Value, id: &str, name: &str) -> bool {
    text(at(object, id)) == name || text(at(object, "name")) == name
}

/// What to say when there is nothing to show.
async fn why_nothing(gateway: &Gateway) -> &'static str {
    let config = gateway.call(Method::GET, "/api/config", &[]).await;
    let ledger = config.map(|config| at(at(&config, "wake"), "ledger").as_u64());
    match ledger {
        Ok(Some(0)) => "the gateway remembers no wakes, since its `wake.ledger` is 0\n",
        Ok(_) | Err(_) => "no wake yet\n",
    }
}

pub(super) async fn run(arguments: WakesArguments, output: Output) -> Result<(), Failure> {
    let end = end_signal();
    let gateway = Gateway::of(&arguments.gateway)?;
    let mut printer = Printer {
        output,
        json: arguments.gateway.json,
        name: arguments.name,
        columns: Columns::new(WIDTHS),
    };
    let all = wakes(&gateway, None).await?;
    let cursor = all.last().map(|wake| text(at(wake, "id")).to_owned());
    let mut shown: Vec<&Value> = all.iter().filter(|wake| printer.shows(wake)).collect();
    if let (Some(name), true) = (&printer.name, shown.is_empty()) {
        check_name(&gateway, name).await?;
    }
    if shown.is_empty() {
        output.note(why_nothing(&gateway).await);
    }
    let lines = arguments.lines.unwrap_or(usize::MAX);
    shown.drain(..shown.len().saturating_sub(lines));
    printer.begin(&shown);
    for wake in shown {
        printer.print(wake);
    }
    if !arguments.follow {
        return Ok(());
    }
    tokio::select! {
        () = end => Ok(()),
        ended = follow(&gateway, printer, cursor) => ended,
    }
}

/// Shows the wakes after the one with the id `cursor` as they come, until nobody reads them.
async fn follow(
    gateway: &Gateway,
    mut printer: Printer,
    mut cursor: Option<String>,
) -> Result<(), Failure> {
    let mut failures = 0;
    while !(printer.output.is_closed)() {
        let fresh = match wakes(gateway, cursor.as_deref()).await {
            Ok(fresh) => fresh,
            Err(CallError::Refused(status, message)) if status.is_client_error() => {
                return Err(Failure::failed(message));
            }
            Err(error) => {
                if failures == 0 {
                    let message = Failure::from(error).message;
                    let note = format!("wakegate: {message}; trying again\n");
                    printer.output.note(&note);
                }
                sleep(TRIES.nth(failures)).await;
                failures = (failures + 1).min(16);
                continue;
            }
        };
        if std::mem::take(&mut failures) > 0 {
            printer.output.note("wakegate: the gateway answers again\n");
        }
        for wake in &fresh {
            let id = text(at(wake, "id"));
            if id.is_empty() {
                return Err(Failure::failed(
                    "the gateway is older than this program: its wakes have no ids, by which new ones \
                     are told from old ones; `wakegate wakes` without `--follow` shows them",
                ));
            }
            cursor = Some(id.to_owned());
            if printer.shows(wake) {
                printer.print(wake);
            }
        }
        sleep(LOOK).await;
    }
    Ok(())
}

// === impl Printer ===

impl Printer {
    fn shows(&self, wake: &Value) -> bool {
        let name = self.name.as_ref();
        name.is_none_or(|name| is_of(wake, "instance", name))
    }

    /// Writes the titles, with columns that suit these wakes.
    fn begin(&mut self, wakes: &[&Value]) {
        if self.json {
            return;
        }
        for wake in wakes {
            self.columns.fit(&row(wake));
        }
        let titles = TITLES.map(str::to_owned);
        self.output.print(&self.columns.line(&titles));
    }

    fn print(&mut self, wake: &Value) {
        if self.json {
            self.output.print(&format!("{wake}\n"));
            return;
        }
        let row = row(wake);
        self.columns.fit(&row);
        self.output.print(&self.columns.line(&row));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_that_failed_is_one_line_with_its_reason() {
        let wake = serde_json::json!({
            "id": "1-1", "time": "2026-11-26T00:25:41.123456789Z", "instance": "i1", "name": "web",
            "route": "web.test/", "client": "10.0.0.1", "outcome": "timed_out", "took_ms": 2001.4,
            "phases_ms": { "asking": 1.25, "restoring": 2000.0 }, "waiting": 1,
            "code": "wake_failed", "phase": "restoring",
            "control_plane": { "operation": "restore", "status": 500, "code": "internal_error",
                               "message": "no\nsuch \u{1b}[31m file" },
        });
        let (row, columns) = (row(&wake), Columns::new([0; 8]));
        assert_eq!(
            columns.line(&row),
            "2026-11-26T00:25:41.123Z  web  timed out  2.0 s  asking 1.2 ms, restoring 2.0 s  \
             web.test/  10.0.0.1  wake_failed in phase restoring; restore answered 500 \
             internal_error: nosuch [31m file\n"
        );
    }

    #[test]
    fn a_wake_of_an_older_gateway_is_shown_as_far_as_it_goes() {
        let wake = serde_json::json!({
            "time": "2026-11-26T00:25:41Z", "instance": "i1", "route": "r", "client": "c",
            "outcome": "woken", "took_ms": 12.3, "phases_ms": {}, "waiting": 1,
        });
        let row = row(&wake);
        assert_eq!((row[1].as_str(), row[7].as_str()), ("i1", ""));
    }
}

//! `wakegate check`: a rehearsal of `wakegate serve`.
//!
//! Guarantees: it goes through what `serve` goes through, up to the sockets, and refuses what that
//! would refuse, in the same words and with the same exit code; it changes nothing, connects to
//! nothing, and prints no secret.

use serde::Serialize;

use super::args::{CheckArguments, ServeArguments};
use super::configuration::{load, warnings};
use super::output::{Failure, Output};
use crate::app::{IN_USE, Prepared};
use crate::config::{Config, ConfigError, Loaded, Problem, masked};

/// What is said to programs (`--json`).
#[derive(Serialize)]
struct Report<'p> {
    /// `good` or `refused`.
    verdict: &'static str,
    findings: Vec<Finding<'p>>,
}

#[derive(Serialize)]
struct Finding<'p> {
    /// `error`, `warning` or `note`.
    severity: &'static str,
    #[serde(flatten)]
    problem: &'p Problem,
}

/// What it says of something that keeps nothing from starting.
fn severity(problem: &Problem) -> &'static str {
    // Where a gateway runs, its own addresses are in use.
    match problem.rule == IN_USE {
        true => "note",
        false => "warning",
    }
}

fn rehearse(arguments: &ServeArguments) -> Result<(Config, Vec<Problem>), ConfigError> {
    let Loaded { config, origin } = load(arguments)?;
    let prepared = Prepared::rehearse(&config).map_err(|error| ConfigError {
        problems: origin.locate(error.problems),
    })?;
    let warnings = warnings(arguments, &config, &origin, prepared.warnings());
    Ok((config, warnings))
}

fn report(output: Output, is_good: bool, findings: Vec<Finding<'_>>) -> Result<(), Failure> {
    let verdict = if is_good { "good" } else { "refused" };
    let report = Report { verdict, findings };
    let text = serde_json::to_string_pretty(&report).map_err(Failure::failed)?;
    output.print(&format!("{text}\n"));
    Ok(())
}

pub(super) fn run(arguments: &CheckArguments, output: Output) -> Result<(), Failure> {
    let (config, warnings) = match rehearse(&arguments.serve) {
        Ok(passed) => passed,
        Err(error) => {
            if arguments.json {
                let findings = error.problems.iter().map(|problem| Finding {
                    severity: "error",
                    problem,
                });
                report(output, false, findings.collect())?;
            }
            return Err(Failure::bad_config(error));
        }
    };
    let risks = warnings.iter().filter(|one| severity(one) == "warning");
    let risks = risks.count();
    let is_good = !arguments.strict || risks == 0;
    if arguments.json {
        let findings = warnings.iter().map(|problem| Finding {
            severity: severity(problem),
            problem,
        });
        report(output, is_good, findings.collect())?;
    } else {
        if !arguments.quiet {
            output.print(&toml::to_string(&masked(&config)).map_err(Failure::failed)?);
        }
        for one in &warnings {
            let severity = severity(one);
            if severity == "warning" || !arguments.quiet {
                output.note(&format!("{severity}: {one}\n"));
            }
        }
    }
    if !is_good {
        return Err(Failure::failed(
            "the configuration is valid and has risks (--strict)",
        ));
    }
    if !arguments.quiet && !arguments.json {
        let file = arguments.serve.config.config.as_ref();
        let name = file.map_or("the environment".into(), |file| file.to_string_lossy());
        let count = match risks {
            0 => String::new(),
            1 => ", with 1 warning".to_owned(),
            count => format!(", with {count} warnings"),
        };
        output.note(&format!("{name} is good{count}\n"));
    }
    Ok(())
}

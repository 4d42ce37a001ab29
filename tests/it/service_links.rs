//! The gateway in a Kubernetes namespace whose Services have names like its own settings.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use crate::support;

/// `wakegate` as a sidecar would be configured, with the links of these Services around it.
fn wakegate(command: &str, services: &[&str]) -> Command {
    let mut program = support::wakegate();
    program
        .arg(command)
        .env("WAKEGATE_UPSTREAM_INSTANCE", "app")
        .env("WAKEGATE_LISTENER_ADDRESS", "127.0.0.1:0")
        .env("WAKEGATE_ADMIN_ADDRESS", "127.0.0.1:0");
    for service in services {
        for (end, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("PORT", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP_PROTO", "tcp"),
            ("PORT_80_TCP_PORT", "80"),
            ("PORT_80_TCP_ADDR", "10.0.0.1"),
        ] {
            program.env(format!("{service}_{end}"), value);
        }
    }
    program
}

fn check(services: &[&str]) -> Output {
    wakegate("check", services).output().unwrap()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

const SERVICES: [&str; 4] = [
    "WAKEGATE",
    "WAKEGATE_PROD",
    "WAKEGATE_ADMIN",
    "WAKEGATE_METRICS",
];

#[test]
fn a_gateway_starts_among_services_that_are_called_like_it() {
    let mut gateway = wakegate("serve", &SERVICES)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let mut said: Vec<String> = said
        .map(Result::unwrap)
        .scan(false, |is_over, line| {
            let was_over = *is_over;
            *is_over = line.contains("serving");
            (!was_over).then_some(line)
        })
        .collect();
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    let last = said.pop().unwrap_or_default();
    assert!(last.contains("serving"), "{said:?} {last}");
}

#[test]
fn services_called_like_the_gateway_change_nothing() {
    let (alone, among) = (check(&[]), check(&SERVICES));
    assert!(among.status.success(), "{}", text(among.stderr));
    assert_eq!(text(among.stdout), text(alone.stdout));
    assert_eq!(text(among.stderr), text(alone.stderr));
}

#[test]
fn a_service_with_the_name_of_a_setting_is_warned_of() {
    let output = check(&["WAKEGATE_UPSTREAM"]);
    let told = text(output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("`WAKEGATE_UPSTREAM_PORT`"), "{told}");
    assert!(told.contains("enableServiceLinks: false"), "{told}");
}

#[test]
fn other_stray_variables_are_still_refused_with_their_nearest_name() {
    let mut command = wakegate("check", &["WAKEGATE"]);
    let output = command.env("WAKEGATE_WAKE_TIMEOT", "7s").output().unwrap();
    let told = text(output.stderr);
    assert!(!output.status.success(), "{told}");
    assert!(told.contains("1 problem"), "{told}");
    assert!(
        told.contains("did you mean `WAKEGATE_WAKE_TIMEOUT`?"),
        "{told}"
    );
}

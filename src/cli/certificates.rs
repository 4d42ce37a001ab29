//! `wakegate certificates`: what a running gateway has by ACME.
//!
//! Guarantees: each name has one line, in the order of names; why there is no certificate is told in
//! the CA's words.

use reqwest::Method;
use serde_json::Value;

use super::args::GatewayArguments;
use super::gateway::{Gateway, at, text};
use super::output::{Failure, Output};
use super::table::table;

const TITLES: [&str; 4] = ["NAME", "EXPIRES", "NEXT ORDER", "LAST ERROR"];

pub(super) async fn run(arguments: GatewayArguments, output: Output) -> Result<(), Failure> {
    let gateway = Gateway::of(&arguments)?;
    let answer = gateway.call(Method::GET, "/api/certificates", &[]).await?;
    if arguments.json {
        output.print(&format!("{answer:#}\n"));
        return Ok(());
    }
    let rows: Vec<_> = answer.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        output.note("the gateway orders no certificates: no listener has `tls = \"acme\"`, or no route one name\n");
        return Ok(());
    }
    output.print(&table(TITLES, &rows));
    Ok(())
}

fn row(certificate: &Value) -> [String; 4] {
    let own = |key: &str| text(at(certificate, key)).to_owned();
    let expires = match own("not_after") {
        none if none.is_empty() => "none yet".to_owned(),
        time => time,
    };
    // What is overdue is being ordered, or is within a minute.
    let next = own("next_attempt");
    let is_due = next.parse::<jiff::Timestamp>();
    let is_due = is_due.is_ok_and(|next| next <= jiff::Timestamp::now());
    let next = if is_due { "now".to_owned() } else { next };
    [own("name"), expires, next, own("error")]
}

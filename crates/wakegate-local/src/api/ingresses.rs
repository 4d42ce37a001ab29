//! Ingress resources: kept and shown. Serving them is a gateway's work, not this server's.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::StatusCode;
use serde::Deserialize;

use super::error::ApiError;
use super::extract::{Query, required};
use crate::error::Error;
use crate::fleet::Fleet;
use crate::id::resolve;
use crate::scalars::{are_tags, have_tags, is_name};
use crate::store::{IngressRecord, Kind, Rule};

#[derive(Deserialize)]
struct CreateRequest {
    name: String,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    rules: Vec<Rule>,
}

fn bad(message: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request("bad_request", format!("invalid request: {message}"))
}

/// The captures of a hostname, when it is one that the contract allows.
fn captures(hostname: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let labels: Vec<&str> = hostname.split('.').collect();
    for label in &labels {
        if let Some(name) = label
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            let mut bytes = name.bytes();
            let fine = bytes
                .next()
                .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !fine || names.contains(&name) {
                return None;
            }
            names.push(name);
        } else if !is_name(&label.to_ascii_lowercase()) {
            return None;
        }
    }
    (names.is_empty() || labels.len() >= 2).then_some(names)
}

fn reserved(header: &str) -> bool {
    let header = header.to_ascii_lowercase();
    let names = [
        "host",
        "authorization",
        "cookie",
        "content-length",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    names.contains(&header.as_str())
        || header.starts_with("proxy-")
        || header.starts_with("sec-websocket-")
        || http::HeaderName::from_bytes(header.as_bytes()).is_err()
}

async fn check(fleet: &Fleet, rules: &[Rule]) -> Result<(), ApiError> {
    if rules.is_empty() {
        return Err(bad("at least one rule is required"));
    }
    let ports = 1..=65_535;
    for (index, rule) in rules.iter().enumerate() {
        let names = captures(&rule.matches.hostname);
        let names = names.ok_or_else(|| bad(format_args!("bad hostname in rule {index}")))?;
        if !ports.contains(&rule.matches.port) || !ports.contains(&rule.target.port) {
            return Err(bad(format_args!("port out of range in rule {index}")));
        }
        if rule.redirect_http && !rule.tls {
            let text = "redirect_http requires tls to be enabled in rule";
            return Err(bad(format_args!("{text} {index}")));
        }
        if rule.tls {
            let text = "no domain is allowed: the local control plane has no ACME";
            return Err(ApiError::bad_request("domain_not_allowed", text));
        }
        if let Some(auth) = &rule.request_header_auth {
            let fine = (32..=256).contains(&auth.value.len())
                && auth
                    .value
                    .bytes()
                    .all(|b| b.is_ascii_graphic() && !b"*{}".contains(&b));
            if !fine || reserved(&auth.header) {
                return Err(bad(format_args!("bad request_header_auth in rule {index}")));
            }
        }
        let target = rule.target.instance.as_str();
        if target.is_empty() {
            return Err(bad(format_args!("target instance missing in rule {index}")));
        }
        match target
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(name) if names.contains(&name) => {}
            Some(_) => return Err(bad(format_args!("unknown capture in rule {index}"))),
            None => {
                let missing =
                    || ApiError::bad_request("instance_not_found", "target instance not found");
                fleet.resolve(target).await.map_err(|_| missing())?;
            }
        }
    }
    Ok(())
}

pub(super) async fn create(
    Shared(fleet): Shared<Arc<Fleet>>,
    body: Bytes,
) -> Result<(StatusCode, Json<IngressRecord>), ApiError> {
    let CreateRequest {
        name,
        tags,
        mut rules,
    } = required(&body)?;
    if !is_name(&name) || !are_tags(&tags) {
        return Err(bad("bad name or tags"));
    }
    for rule in &mut rules {
        rule.matches.hostname = rule.matches.hostname.to_ascii_lowercase();
    }
    check(&fleet, &rules).await?;
    let id = crate::id::new_id().map_err(Error::from)?;
    let record = IngressRecord {
        id,
        name,
        created_at: fleet.clock.now(),
        tags,
        rules,
    };
    let mut all = fleet
        .ingresses
        .write()
        .unwrap_or_else(PoisonError::into_inner);
    if all.values().any(|other| other.name == record.name) {
        return Err(ApiError::conflict(
            "already_exists",
            "ingress name already in use",
        ));
    }
    let key = |rule: &Rule| (rule.matches.hostname.clone(), rule.matches.port);
    let mut hostnames: Vec<_> = all
        .values()
        .flat_map(|other| other.rules.iter().map(key))
        .collect();
    for rule in &record.rules {
        if hostnames.contains(&key(rule)) {
            return Err(ApiError::conflict(
                "hostname_in_use",
                "hostname already in use",
            ));
        }
        hostnames.push(key(rule));
    }
    let saved = fleet.store.create(Kind::Ingress, &record.id, &record);
    saved.map_err(|error| Error::disk("failed to save ingress", &error))?;
    all.insert(record.id.clone(), record.clone());
    Ok((StatusCode::CREATED, Json(record)))
}

pub(super) async fn list(
    Shared(fleet): Shared<Arc<Fleet>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Vec<IngressRecord>>, ApiError> {
    let tags = Query::parse(query.as_deref()).tags()?;
    let all = fleet
        .ingresses
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let matching = all.values().filter(|i| have_tags(&i.tags, &tags));
    Ok(Json(matching.cloned().collect()))
}

fn find(fleet: &Fleet, text: &str) -> Result<IngressRecord, Error> {
    let all = fleet
        .ingresses
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let all: Vec<&IngressRecord> = all.values().collect();
    resolve(&all, text, |i| i.id.clone(), |i| Some(i.name.clone())).map(|found| (*found).clone())
}

pub(super) async fn get(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<Json<IngressRecord>, ApiError> {
    Ok(Json(find(&fleet, &id)?))
}

pub(super) async fn delete(
    Shared(fleet): Shared<Arc<Fleet>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let ingress = find(&fleet, &id)?;
    let removed = fleet.store.remove(Kind::Ingress, &ingress.id);
    removed.map_err(|_| ApiError::internal("failed to delete ingress"))?;
    fleet
        .ingresses
        .write()
        .unwrap_or_else(PoisonError::into_inner)
        .remove(&ingress.id);
    Ok(StatusCode::NO_CONTENT)
}

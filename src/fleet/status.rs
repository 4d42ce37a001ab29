//! How a fleet stands, as operators see it.
//!
//! Guarantees: there is no secret in it, and it is made of one moment of the copy.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::copy::State;
use super::placement::Member;
use super::records::unknown_member;

/// The directory as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct FleetStatus {
    /// The revision that is in force.
    pub revision: i64,
    /// Since when the engine has not been heard; none, if it never was.
    pub age_seconds: Option<f64>,
    /// The members.
    pub members: Vec<MemberLine>,
    /// How many names are claimed.
    pub claims: usize,
    /// Routes that are gone from the directory and stay in force until that is accepted.
    pub shrink: Option<Shrink>,
    /// What this node has published and its own host's list lacks, which stays until that is confirmed or
    /// accepted.
    pub unlisted: usize,
    /// Names that several hosts claim.
    pub claimed_twice: Vec<ClaimedTwice>,
    /// How many routes there are.
    pub routes: usize,
    /// Keys that are not in force as they are, and why not.
    pub problems: BTreeMap<String, String>,
    /// How often the directory has gone back to an earlier revision.
    pub went_back: u64,
}

/// What is counted of a copy; it costs no walk over routes or names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// The revision that is in force.
    pub revision: i64,
    /// Members whose records live.
    pub alive: usize,
    /// Routes that are gone and stay in force.
    pub held: usize,
    /// What this node has published and its own host's list lacks, which stays.
    pub unlisted: usize,
    /// Names that several hosts claim.
    pub claimed_twice: usize,
    /// Keys that are not in force as they are.
    pub problems: usize,
}

/// A member, for operators.
#[derive(Debug, Clone, Serialize)]
pub struct MemberLine {
    /// Its name.
    pub name: String,
    /// `front`, `node` or `both`.
    pub role: &'static str,
    /// Where it stands.
    pub zone: Option<String>,
    /// Whether it keeps its record alive.
    pub alive: bool,
    /// Whether it takes no new work.
    pub draining: bool,
    /// Where others reach it.
    pub endpoints: Vec<String>,
}

/// Routes that stay in force.
#[derive(Debug, Clone, Serialize)]
pub struct Shrink {
    /// How many are gone.
    pub routes: usize,
    /// Of how many.
    pub of: usize,
}

/// A name that several hosts claim.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimedTwice {
    /// The name.
    pub name: String,
    /// The hosts; the first has it.
    pub hosts: Vec<String>,
}

// === impl FleetStatus ===

impl FleetStatus {
    /// Of a copy whose engine was heard so long ago.
    pub(super) fn of(state: &State, age: Option<Duration>, unlisted: usize) -> Self {
        let line = |member: &Member| MemberLine {
            name: member.name.clone(),
            role: member.role.word(),
            zone: member.zone.clone(),
            alive: member.alive,
            draining: member.alive && member.draining,
            endpoints: member.endpoints.clone(),
        };
        let mut members: Vec<MemberLine> = state.members().map(|one| line(one)).collect();
        let hosts = state.claims.values().flatten().map(|claim| &*claim.host);
        let mut unknown: Vec<&str> = hosts
            .filter(|host| !state.nodes.contains_key(*host))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        members.extend(unknown.into_iter().map(|host| line(&unknown_member(host))));
        members.sort_by(|one, other| (&one.name, one.role).cmp(&(&other.name, other.role)));
        let twice = state.claims.iter().filter(|(_, all)| all.len() > 1);
        let mut claimed_twice: Vec<ClaimedTwice> = twice
            .map(|(name, all)| ClaimedTwice {
                name: name.to_string(),
                hosts: all.iter().map(|claim| claim.host.to_string()).collect(),
            })
            .collect();
        claimed_twice.sort_by(|one, other| one.name.cmp(&other.name));
        let held = state.routes.held();
        let of_routes = state.routes.problems();
        let problems = of_routes.iter().chain(&state.problems);
        Self {
            revision: state.revision,
            age_seconds: age.map(|age| age.as_secs_f64()),
            members,
            claims: state.claims.len(),
            shrink: (held > 0).then(|| Shrink {
                routes: held,
                of: state.routes.len(),
            }),
            unlisted,
            claimed_twice,
            routes: state.routes.len(),
            problems: problems
                .map(|(key, text)| (key.clone(), text.clone()))
                .collect(),
            went_back: state.went_back,
        }
    }
}

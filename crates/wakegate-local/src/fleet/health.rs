//! Health checks of running instances.
//!
//! Guarantees: one check at a time for an instance; a result that comes after its instance has
//! slept, or for a check that was changed meanwhile, changes nothing.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::registry::Fleet;
use crate::policy::health_check::{HealthCheck, HttpCheck, Probe};
use crate::policy::restart::RestartPolicy;
use crate::state::State;
use crate::store::{Instance, Record};

/// A client that keeps no connection open, follows nothing and believes every certificate: it looks
/// at what runs on this machine.
pub(crate) fn health_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .user_agent(concat!("wakegate-local/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Takes a check's result in; says whether it has just made the instance unhealthy.
fn is_newly_unhealthy(
    instance: &Instance,
    check: &HealthCheck,
    since: Timestamp,
    result: Result<(), String>,
    now: Timestamp,
) -> bool {
    let mut record = instance.record();
    // It has slept, or another check came, meanwhile: the result is about something else.
    if record.phase_since != since || record.spec.health_check.as_ref() != Some(check) {
        record.health.checking = false;
        return false;
    }
    record.health.observe(check, result, now)
}

impl Fleet {
    /// Begins a health check that is due.
    pub(super) fn check_health(self: &Arc<Self>, instance: &Arc<Instance>, now: Timestamp) {
        let mut record = instance.record();
        let running = record.state == State::Running;
        let Some(check) = record.spec.health_check.clone().filter(|_| running) else {
            return;
        };
        if !record.health.is_due(&check, now) {
            return;
        }
        record.health.checking = true;
        let (ip, since) = (record.ip, record.phase_since);
        drop(record);
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        self.tasks.spawn(async move {
            let result = fleet.probe(&instance, ip, &check).await;
            if is_newly_unhealthy(&instance, &check, since, result, fleet.clock.now()) {
                fleet.note(&instance, "unhealthy");
                fleet.restart_unhealthy(&instance, since).await;
            }
        });
    }

    /// Runs one check to its result, or for as long as it may take.
    async fn probe(
        &self,
        instance: &Instance,
        ip: Option<std::net::Ipv4Addr>,
        check: &HealthCheck,
    ) -> Result<(), String> {
        let patience = check.timeout.to_std().unwrap_or_default();
        let address = || ip.ok_or_else(|| "it has no address".to_owned());
        let attempt = async {
            match &check.probe {
                Probe::Tcp(tcp) => {
                    let connected = tokio::net::TcpStream::connect((address()?, tcp.port)).await;
                    connected.map(drop).map_err(|error| error.to_string())
                }
                Probe::Http(http) => self.probe_http(address()?, http).await,
                Probe::Exec(exec) => {
                    let folder = exec.working_dir.as_deref();
                    let end = self
                        .driver
                        .run(&instance.id, &exec.command, folder, patience);
                    match end.await {
                        Err(error) => Err(error.to_string()),
                        Ok(end) => match end.code {
                            Some(0) => Ok(()),
                            Some(code) => Err(format!("exit code {code}: {}", end.output.trim())),
                            None => Err(format!("no end within {}", check.timeout)),
                        },
                    }
                }
            }
        };
        let late = || Err(format!("no answer within {}", check.timeout));
        // A command has its own patience, and its end is worth a moment more.
        let result = tokio::time::timeout(patience + Duration::from_millis(250), attempt).await;
        result.unwrap_or_else(|_| late())
    }

    async fn probe_http(&self, ip: std::net::Ipv4Addr, check: &HttpCheck) -> Result<(), String> {
        let HttpCheck {
            port,
            path,
            scheme,
            expected_status,
        } = check;
        let url = format!("{scheme}://{ip}:{port}{path}");
        let answer = self.http.get(url).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        match answer.status().as_u16() {
            status if status == *expected_status => Ok(()),
            status => Err(format!("status {status}, not {expected_status}")),
        }
    }

    /// Stops an instance whose checks fail, to be started again; if its policy says so.
    async fn restart_unhealthy(&self, instance: &Instance, since: Timestamp) {
        let Ok(_guard) = instance.lock_living().await else {
            return;
        };
        let plan = |record: &mut Record, policy: &RestartPolicy| {
            record.exit_message = Some("its health checks failed".to_owned());
            record.restarts.unhealthy(policy, self.clock.now());
        };
        let policy = {
            let mut record = instance.record();
            let Some(policy) = record.spec.restart_policy.clone() else {
                return;
            };
            if record.state != State::Running || record.phase_since != since {
                return;
            }
            // On disk with the first step of the end: after a kill it is still to be started again.
            plan(&mut record, &policy);
            policy
        };
        self.end_program(instance, "unhealthy").await;
        // Its backoff begins with its end.
        plan(&mut instance.record(), &policy);
        self.save(instance);
    }
}

//! Looking after instances: idle ones fall asleep, ill or ended ones are started again, old ones
//! are deleted, and snapshots are made, each when it is due.
//!
//! Guarantees: one look at a time; nothing in it waits for an instance, so that one that hangs holds
//! no other up; what is due is looked at again, under the instance's own lock, before it is done.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::auto_standby::is_eligible;
use super::connections::{Connection, ConnectionTable};
use super::fleet::{Fleet, FleetEvent};
use super::health::{HealthCheck, HttpCheck, Probe};
use super::instance::{Instance, State};
use super::policy::Policy;
use super::rotation;
use super::store::Kind;
use hypeman::GoDuration;

const LOGS: [&str; 3] = ["app.log", "vmm.log", "hypeman.log"];
const LOOK_AT_LOGS: Duration = Duration::from_secs(5);

/// A client that keeps no connection open, follows nothing and believes every certificate: it looks
/// at what runs on this machine.
pub(super) fn health_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .user_agent(concat!("wakegate-local/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Takes a check's result in; whether it has just made the instance unhealthy.
fn fell_ill(
    instance: &Instance,
    check: &HealthCheck,
    since: Timestamp,
    result: Result<(), String>,
) -> bool {
    let mut record = instance.record();
    // It has slept, or another check came, meanwhile: the result is about something else.
    if record.phase_since != since || record.spec.health_check.as_ref() != Some(check) {
        record.health.checking = false;
        return false;
    }
    record.health.observe(check, result, Timestamp::now())
}

impl Fleet {
    /// Looks at every instance, for ever.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        loop {
            let shortest = self.look();
            let pause = shortest.map_or(Duration::from_millis(500), |idle| idle / 20);
            tokio::time::sleep(pause.clamp(Duration::from_millis(20), Duration::from_millis(250)))
                .await;
        }
    }

    /// One look. Returns the shortest idle timeout among the instances that count down.
    fn look(self: &Arc<Self>) -> Option<Duration> {
        let now = Timestamp::now();
        let mut table = None;
        let mut shortest: Option<Duration> = None;
        for instance in self.all() {
            self.keep_times(&instance, now);
            self.see_to_health(&instance, now);
            let Some(policy) = Self::eligible_policy(&instance) else {
                continue;
            };
            if table.is_none() {
                table = self.driver.connections().ok();
            }
            // A table that cannot be read counts as busy.
            let Some(table) = &table else { continue };
            let due = self.observe(&instance, table, now);
            let idle = policy.idle_timeout.and_then(GoDuration::to_std);
            shortest = shortest.into_iter().chain(idle).min();
            if due {
                instance.record().countdown.requested = true;
                let (fleet, standbys) = (Arc::clone(self), Arc::clone(&self.standbys));
                self.tasks.spawn(async move {
                    let _permit = standbys.acquire_owned().await;
                    fleet.standby_if_still_idle(&instance).await;
                });
            }
        }
        shortest
    }

    fn eligible_policy(instance: &Instance) -> Option<Policy> {
        let record = instance.record();
        let policy = record.spec.policy.as_ref();
        is_eligible(policy, record.circumstances())
            .then(|| policy.cloned())
            .flatten()
    }

    /// Counts the instance's connections; whether a standby is due and not yet requested.
    fn observe(&self, instance: &Instance, table: &ConnectionTable, now: Timestamp) -> bool {
        let last_event = self
            .driver
            .traffic(&instance.id)
            .and_then(|traffic| traffic.last_event());
        let mut record = instance.record();
        let (Some(ip), Some(policy)) = (record.ip, record.spec.policy.clone()) else {
            return false;
        };
        let counts = |c: &Connection| policy.counts(c.remote.0, c.local.1);
        let active = table.inbound(ip).filter(|c| counts(c)).count() as u64;
        let ended = table.last_ended(ip, counts);
        let ended = ended.and_then(|ago| now.checked_sub(ago).ok());
        let last_event = last_event.max(ended);
        let before = record.countdown.idle_since;
        record.countdown.observe(now, active, last_event);
        if record.countdown.idle_since.is_some() && record.countdown.idle_since != before {
            let (name, state) = (record.spec.name.clone(), record.state);
            // Without a listener there is nobody to tell.
            let _unheard = self.events.send(FleetEvent {
                name,
                state,
                reason: "idle",
            });
        }
        let due = record
            .countdown
            .deadline(&policy)
            .is_some_and(|deadline| deadline <= now);
        due && !record.countdown.requested
    }

    /// Deletes what has expired, starts again what has ended, makes the snapshots that are due.
    fn keep_times(self: &Arc<Self>, instance: &Arc<Instance>, now: Timestamp) {
        let mut record = instance.record();
        let expired = record.spec.expires_at.is_some_and(|at| at <= now);
        let restart = record.state == State::Stopped && record.restarts.is_due(now);
        let schedule = record.spec.schedule.as_mut();
        let schedule = schedule.filter(|schedule| schedule.next_run_at <= now);
        let scheduled = schedule.is_some();
        if let Some(schedule) = schedule {
            schedule.last_run_at = Some(now);
            let step = jiff::SignedDuration::from_nanos(schedule.interval.nanos());
            schedule.next_run_at = now.checked_add(step).unwrap_or(now);
        }
        if restart {
            record.restarts.attempt(now);
        }
        let (since, state) = (record.phase_since, record.state);
        if let (State::Running, Some(policy)) = (state, record.spec.restart_policy.clone()) {
            record.restarts.settle(&policy, since, now);
        }
        drop(record);
        if !(expired || restart || scheduled) {
            return;
        }
        let (fleet, instance) = (Arc::clone(self), Arc::clone(instance));
        self.tasks.spawn(async move {
            if expired {
                // Nobody waits for it.
                let _told_in_its_log = fleet.delete_instance(&instance, true).await;
            } else {
                if restart {
                    fleet.start_again(&instance).await;
                }
                if scheduled {
                    fleet.run_schedule(&instance).await;
                }
            }
        });
    }

    async fn start_again(&self, instance: &Instance) {
        let _guard = instance.lock.write().await;
        if instance.is_deleted() || instance.state() != State::Stopped {
            return;
        }
        self.note(instance, "starting again, as its restart policy says");
        if self.boot(instance).await.is_err() {
            let mut record = instance.record();
            let policy = record.spec.restart_policy.clone();
            record
                .restarts
                .ended(policy.as_ref(), None, Timestamp::now());
        }
    }

    /// Begins a health check that is due.
    fn see_to_health(self: &Arc<Self>, instance: &Arc<Instance>, now: Timestamp) {
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
            if fell_ill(&instance, &check, since, result) {
                fleet.note(&instance, "unhealthy");
                fleet.restart_unhealthy(&instance, since).await;
            }
        });
    }

    async fn probe(
        &self,
        instance: &Instance,
        ip: Option<std::net::Ipv4Addr>,
        check: &HealthCheck,
    ) -> Result<(), String> {
        let patience = check.timeout.to_std().unwrap_or_default();
        let address = || ip.ok_or_else(|| "it has no address".to_owned());
        let asked = async {
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
        let answered = tokio::time::timeout(patience + Duration::from_millis(250), asked).await;
        answered.unwrap_or_else(|_| late())
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
        let _guard = instance.lock.write().await;
        {
            let record = instance.record();
            let treated = record.spec.restart_policy.is_some();
            if !treated || record.state != State::Running || record.phase_since != since {
                return;
            }
        }
        if instance.is_deleted() {
            return;
        }
        self.end_program(instance, "unhealthy").await;
        {
            let mut record = instance.record();
            record.exit_message = Some("its health checks failed".to_owned());
            if let Some(policy) = record.spec.restart_policy.clone() {
                record.restarts.unhealthy(&policy, Timestamp::now());
            }
        }
        self.save_or_warn(instance);
    }

    /// Keeps logs from filling the disk, for ever.
    pub(super) async fn keep_logs_short(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK_AT_LOGS).await;
            let folders = self.all().into_iter();
            let folders = folders.filter_map(|i| self.store.folder(Kind::Instance, &i.id).ok());
            let folders: Vec<_> = folders.collect();
            let cut = self.tasks.spawn_blocking(move || {
                for path in folders.iter().flat_map(|f| LOGS.map(|log| f.join(log))) {
                    if let Err(error) = rotation::rotate(&path) {
                        tracing::warn!(log = %path.display(), %error, "cannot rotate a log");
                    }
                }
            });
            // A panic in it is in the log already; the next round comes.
            let _cut = cut.await;
        }
    }
}

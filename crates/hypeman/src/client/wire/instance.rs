//! What a server says about an instance.
//!
//! Guarantees: an instance has an id, a name and a state; every other member may be absent, or a
//! value of any kind.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;

use super::members::Members;
use super::object::{Writer, member, object, request};
use super::open_enum::{Health, Hypervisor, InstanceState};
use super::policy::{AutoStandbyPolicy, HealthCheck, Idle, Ignores, RestartPolicy, SnapshotPolicy};
use super::redacted::RedactedMap;

/// An instance: a virtual machine that runs one image.
///
/// Only `id`, `name` and `state` are needed to read one. See [`wire`](super) for what becomes of
/// other members that cannot be read; [`Self::address`], [`Self::idle`] and [`Self::ignores`] tell
/// those from members that are absent.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// The full id, which never changes.
    pub id: String,
    /// The name, unique on the server.
    pub name: String,
    /// The image that the instance runs.
    pub image: String,
    /// The state, which the server derives on each read.
    pub state: InstanceState,
    /// The time of its creation.
    pub created_at: Option<Timestamp>,
    /// The time at which the server deletes the instance; it does not when this is absent.
    pub expires_at: Option<Timestamp>,
    /// The image's platform as `os/arch`.
    pub platform: Option<String>,
    /// The hypervisor that runs the virtual machine.
    pub hypervisor: Option<Hypervisor>,
    /// The reason of [`InstanceState::Unknown`].
    pub state_error: Option<String>,
    /// The base memory, formatted for people: it cannot be sent as a request's `size`.
    pub size: Option<String>,
    /// The additional memory, formatted for people.
    pub hotplug_size: Option<String>,
    /// The size of the writable disk, formatted for people.
    pub overlay_size: Option<String>,
    /// The limit of disk traffic, formatted for people.
    pub disk_io_bps: Option<String>,
    /// The number of virtual processors.
    pub vcpus: Option<u32>,
    /// The environment of the program. The wire carries it in clear; `Debug` masks the values.
    pub env: RedactedMap,
    /// The labels.
    pub tags: BTreeMap<String, String>,
    /// The network, with the instance's address; see [`Self::address`].
    pub network: Option<InstanceNetwork>,
    /// The volumes that are mounted.
    pub volumes: Vec<VolumeMount>,
    /// The virtual GPU.
    pub gpu: Option<Gpu>,
    /// The time of the last start. A restore does not change it.
    pub started_at: Option<Timestamp>,
    /// The time of the last stop.
    pub stopped_at: Option<Timestamp>,
    /// The exit code of the program.
    pub exit_code: Option<i32>,
    /// The end of the program, described for people.
    pub exit_message: Option<String>,
    /// Whether there is a standby snapshot, where the server says so.
    pub has_snapshot: Option<bool>,
    /// The policy for standby snapshots.
    pub snapshot_policy: Option<SnapshotPolicy>,
    /// The policy that puts the idle instance to sleep; see [`Self::idle`].
    pub auto_standby: Option<AutoStandbyPolicy>,
    /// The health check.
    pub health_check: Option<HealthCheck>,
    /// The health, on servers that have health checks.
    pub health_status: Option<HealthStatus>,
    /// The policy for a program that has ended.
    pub restart_policy: Option<RestartPolicy>,
    /// What the restart policy has done so far.
    pub restart_status: Option<RestartStatus>,
    /// The milliseconds spent in each state so far, by the state's name in lower case.
    pub phase_durations_ms: BTreeMap<String, i64>,
    /// The current key of `phase_durations_ms`.
    pub current_phase: Option<String>,
    /// The time at which the current phase began.
    pub current_phase_since: Option<Timestamp>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Instance {
    required id, name, state;
    optional has_snapshot, image, created_at, expires_at, platform, hypervisor, state_error, size, hotplug_size,
        overlay_size, disk_io_bps, vcpus, gpu, started_at, stopped_at, exit_code,
        exit_message, snapshot_policy, auto_standby, health_check, health_status, restart_policy,
        restart_status, current_phase, current_phase_since;
    nullable network = InstanceNetwork::off;
    each env, tags, volumes, phase_durations_ms;
});

/// Where an instance is, as far as a server says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// The instance has no network: it never has an address.
    Off,
    /// The instance may have a network and has no address yet: `network` or its `ip` is absent, or
    /// `ip` is empty.
    Missing,
    /// There is something that is no IP address.
    Unreadable,
    /// The instance has this address, or had it: a stopped one gets another with its next start.
    At(IpAddr),
}

/// The network of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceNetwork {
    /// Whether the instance has a network. One that does not say so has; `network: null` is read as
    /// `false`.
    pub enabled: Option<bool>,
    /// The name of the network, `default`.
    pub name: Option<String>,
    /// The IPv4 address. It is empty before the first allocation and out of date while the
    /// instance is stopped; a restore keeps it, a start and a fork change it.
    pub ip: Option<String>,
    /// The MAC address.
    pub mac: Option<String>,
    /// The download limit, formatted for people.
    pub bandwidth_download: Option<String>,
    /// The upload limit, formatted for people.
    pub bandwidth_upload: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(InstanceNetwork {
    optional enabled, name, ip, mac, bandwidth_download, bandwidth_upload;
});

/// A volume mounted in an instance, in requests and answers alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeMount {
    /// The volume's id.
    pub volume_id: String,
    /// The absolute path in the guest.
    pub mount_path: String,
    /// Whether the guest cannot write to it.
    pub readonly: bool,
    /// Whether writes go to an overlay; this needs `readonly` and `overlay_size`.
    pub overlay: bool,
    /// The size of the overlay.
    pub overlay_size: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(VolumeMount {
    required volume_id, mount_path;
    always readonly, overlay;
    optional overlay_size;
});

/// A virtual GPU, in requests and answers alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gpu {
    /// The GPU's profile.
    pub profile: Option<String>,
    /// The mediated device, chosen by the server.
    pub mdev_uuid: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(Gpu {
    optional profile, mdev_uuid;
});

/// The result of health checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthStatus {
    /// The verdict.
    pub status: Health,
    /// The number of successful checks in a row.
    pub consecutive_successes: u64,
    /// The number of failed checks in a row.
    pub consecutive_failures: u64,
    /// The time of the last check.
    pub last_checked_at: Option<Timestamp>,
    /// The time of the last successful check.
    pub last_success_at: Option<Timestamp>,
    /// The time of the last failed check.
    pub last_failure_at: Option<Timestamp>,
    /// The reason of the last failure.
    pub last_error: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(HealthStatus {
    required status;
    always consecutive_successes, consecutive_failures;
    optional last_checked_at, last_success_at, last_failure_at, last_error;
});

/// What the restart policy has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestartStatus {
    /// The number of restarts so far.
    pub attempts: u64,
    /// The time of the last restart.
    pub last_attempt_at: Option<Timestamp>,
    /// The time of the next restart.
    pub next_attempt_at: Option<Timestamp>,
    /// The reason why there will be no restart, such as `manual_stop`.
    pub blocked_reason: Option<String>,
    /// The reason of the last restart, such as `health_check_failed`.
    pub last_reason: Option<String>,
    /// The members that this version does not know.
    pub other: Members,
}

object!(RestartStatus {
    always attempts;
    optional last_attempt_at, next_attempt_at, blocked_reason, last_reason;
});

// === impl Instance ===

impl Instance {
    /// Where the instance is.
    pub fn address(&self) -> Address {
        match &self.network {
            Some(network) => network.address(),
            None if self.other.has_unreadable("network") => Address::Unreadable,
            None => Address::Missing,
        }
    }

    /// How long the instance may be idle before the server puts it to sleep, as its policy says.
    pub fn idle(&self) -> Idle {
        match &self.auto_standby {
            Some(policy) => policy.idle(),
            None if self.other.has_unreadable("auto_standby") => Idle::Unreadable,
            None => Idle::Never,
        }
    }

    /// Whether the instance's policy has connections that do not count as activity.
    pub fn ignores(&self) -> Ignores {
        match &self.auto_standby {
            Some(policy) => policy.ignores(),
            None if self.other.has_unreadable("auto_standby") => Ignores::Something,
            None => Ignores::Nothing,
        }
    }
}

// === impl InstanceNetwork ===

impl InstanceNetwork {
    /// A network that is off.
    fn off() -> Self {
        Self {
            enabled: Some(false),
            ..Self::default()
        }
    }

    /// Where the instance is.
    pub fn address(&self) -> Address {
        let place = Self::place(self.enabled, self.ip.as_deref());
        let is_odd = self.ip.is_none() && self.other.has_unreadable("ip");
        match place == Address::Missing && is_odd {
            true => Address::Unreadable,
            false => place,
        }
    }

    /// Where the instance is of whose network these two members can be read.
    pub(in crate::client) fn place(enabled: Option<bool>, ip: Option<&str>) -> Address {
        match ip {
            _ if enabled == Some(false) => Address::Off,
            None | Some("") => Address::Missing,
            Some(ip) => ip.parse().map_or(Address::Unreadable, Address::At),
        }
    }
}

//! JSON shapes of the contract, as the client sends and reads them.
//!
//! Guarantees: a field that some server version lacks is optional; `null` and absence are the same;
//! an enum value or field that we do not know is kept, not refused (contract D.1). `Debug` shows no
//! environment values and no ingress secrets.

mod ingress;
mod instance;
mod policy;
mod redacted;
mod requests;
mod snapshot;

pub use ingress::{
    CreateIngress, Ingress, IngressMatch, IngressRule, IngressTarget, RequestHeaderAuth,
};
pub use instance::{
    AutoStandbyStatus, Gpu, HealthStatus, Instance, InstanceNetwork, InstanceStats, PathInfo,
    RestartStatus, VolumeMount, WaitOutcome,
};
pub use policy::{
    AutoStandbyPolicy, Compression, ExecCheck, HealthCheck, HttpCheck, RestartPolicy,
    SnapshotPolicy, TcpCheck,
};
pub use redacted::{RedactedMap, RedactedText};
pub use requests::{
    AttachVolume, CreateInstance, Credential, CredentialInject, CredentialSource, Egress,
    EgressEnforcement, ForkInstance, InjectAs, ListInstances, NetworkRequest, StandbyRequest,
    StartRequest, UpdateInstance,
};
pub use snapshot::{
    CreateSnapshot, RestoreSnapshot, Retention, SetSnapshotSchedule, Snapshot, SnapshotSchedule,
};

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines an enum of known texts that keeps an unknown one as `Other`.
macro_rules! open_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A value that this version does not know.
            Other(String),
        }

        impl $name {
            /// The wire text.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)+
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Ok(Self::from(text.as_ref()))
            }
        }
    };
}

open_enum! {
    /// The states of an instance (seed: `InstanceState`).
    InstanceState {
        /// The VMM was made and the guest has not begun.
        Created = "Created",
        /// The VM runs, the guest is coming up.
        Initializing = "Initializing",
        /// The program was started and the guest agent is ready; its port may still be closed.
        Running = "Running",
        /// On the way into or out of Standby.
        Paused = "Paused",
        /// On the way to Stopped.
        Shutdown = "Shutdown",
        /// No VMM, no snapshot.
        Stopped = "Stopped",
        /// No VMM, a snapshot exists.
        Standby = "Standby",
        /// Not determinable; see `state_error`.
        Unknown = "Unknown",
    }
}

open_enum! {
    /// What runs the VM.
    Hypervisor {
        /// Cloud Hypervisor.
        CloudHypervisor = "cloud-hypervisor",
        /// Firecracker.
        Firecracker = "firecracker",
        /// QEMU.
        Qemu = "qemu",
        /// QEMU's microvm machine.
        QemuMicrovm = "qemu-microvm",
        /// Apple's Virtualization framework.
        Vz = "vz",
    }
}

open_enum! {
    /// What auto-standby is doing (contract B.5).
    AutoStandbyState {
        /// Not on this platform.
        Unsupported = "unsupported",
        /// No policy, or it is off.
        Disabled = "disabled",
        /// The policy does not apply now.
        Ineligible = "ineligible",
        /// A standby is queued or executing.
        StandbyRequested = "standby_requested",
        /// The connection table cannot be read.
        Error = "error",
        /// Connections are open.
        Active = "active",
        /// No connection; counting down.
        IdleCountdown = "idle_countdown",
        /// The countdown has ended.
        ReadyForStandby = "ready_for_standby",
    }
}

open_enum! {
    /// Health, apart from state (contract B.6).
    Health {
        /// No check.
        Disabled = "disabled",
        /// In its start period.
        Starting = "starting",
        /// The last checks succeeded.
        Healthy = "healthy",
        /// The last checks failed.
        Unhealthy = "unhealthy",
        /// Not running.
        Unknown = "unknown",
    }
}

open_enum! {
    /// What a snapshot holds.
    SnapshotKind {
        /// Memory and disk.
        Standby = "Standby",
        /// Disk.
        Stopped = "Stopped",
    }
}

/// Reads `null` as the default.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

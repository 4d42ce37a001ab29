//! Enums whose list of values may grow on the server's side.
//!
//! Guarantees: a value that this version does not know is kept as its text and sent back as such.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Defines an enum of texts that keeps an unknown one as `Other`.
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
            /// The text on the wire.
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
    /// The state of an instance (seed: `InstanceState`).
    InstanceState {
        /// The virtual machine was made and the guest has not begun.
        Created = "Created",
        /// The virtual machine runs and the guest is coming up.
        Initializing = "Initializing",
        /// The program was started and the guest agent is ready. The program's port may still be
        /// closed.
        Running = "Running",
        /// The instance is on its way into or out of standby.
        Paused = "Paused",
        /// The instance is on its way to being stopped.
        Shutdown = "Shutdown",
        /// There is no virtual machine and no snapshot.
        Stopped = "Stopped",
        /// There is no virtual machine, and a snapshot to restore it from.
        Standby = "Standby",
        /// The server cannot tell; see `state_error`.
        Unknown = "Unknown",
    }
}

open_enum! {
    /// The program that runs a virtual machine.
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
    /// What auto-standby is doing with an instance.
    AutoStandbyState {
        /// The platform cannot count connections.
        Unsupported = "unsupported",
        /// There is no policy, or it is off.
        Disabled = "disabled",
        /// The policy does not apply now.
        Ineligible = "ineligible",
        /// A standby is queued or going on.
        StandbyRequested = "standby_requested",
        /// The connection table cannot be read.
        Error = "error",
        /// Connections are open.
        Active = "active",
        /// There is no connection, and the countdown goes on.
        IdleCountdown = "idle_countdown",
        /// The countdown has ended.
        ReadyForStandby = "ready_for_standby",
    }
}

open_enum! {
    /// The health of an instance, which is apart from its state.
    Health {
        /// There is no check.
        Disabled = "disabled",
        /// The start period has not ended.
        Starting = "starting",
        /// The last checks succeeded.
        Healthy = "healthy",
        /// The last checks failed.
        Unhealthy = "unhealthy",
        /// The instance does not run.
        Unknown = "unknown",
    }
}

open_enum! {
    /// The kind of a health check.
    HealthCheckKind {
        /// No check.
        None = "none",
        /// An HTTP request.
        Http = "http",
        /// A TCP connection.
        Tcp = "tcp",
        /// A command in the guest.
        Exec = "exec",
    }
}

open_enum! {
    /// When a program that has ended is started again.
    RestartMode {
        /// It is not.
        Never = "never",
        /// After every end.
        Always = "always",
        /// After an end with an error.
        OnFailure = "on_failure",
    }
}

open_enum! {
    /// What a snapshot holds.
    SnapshotKind {
        /// Memory and disk.
        Standby = "Standby",
        /// The disk.
        Stopped = "Stopped",
    }
}

open_enum! {
    /// How a snapshot's memory is compressed.
    CompressionAlgorithm {
        /// Zstandard: smaller, and slower to wake.
        Zstd = "zstd",
        /// LZ4: larger, and faster to wake.
        Lz4 = "lz4",
    }
}

open_enum! {
    /// How far the compression of a snapshot has come.
    CompressionState {
        /// The snapshot is not compressed.
        None = "none",
        /// The compression goes on.
        Compressing = "compressing",
        /// The snapshot is compressed.
        Compressed = "compressed",
        /// The compression has failed; see `compression_error`.
        Error = "error",
    }
}

open_enum! {
    /// The traffic that may only leave through the egress proxy.
    EgressMode {
        /// All of it.
        All = "all",
        /// HTTP and HTTPS.
        HttpHttpsOnly = "http_https_only",
    }
}

//! The JSON objects of the API, as the client sends and reads them.
//!
//! Guarantees:
//!
//! - A member that some server version lacks is optional. On reading, `null` and absence are the
//!   same; on writing, what is not set is absent, and no `null` is written for it.
//! - A member whose value cannot be read (a duration of `"1d"`, a number where a text is expected)
//!   fails nothing: its field has the type's default, and the value is kept in the object's
//!   `other`. So are elements of a list or a map that cannot be read, while the others are in the
//!   field. Only what an object is nothing without must be there, such as the id of an instance,
//!   and what must not be misunderstood, such as the secret that an ingress asks for: else the
//!   object that has it cannot be read.
//! - A member that this version does not know is kept in `other` as well, at every depth.
//! - What is in `other` is written back as it was read, unless the field of that name was set
//!   since. Read a policy, change one field, send it: nothing is lost.
//! - A value of an enum that this version does not know is kept as `Other`.
//! - `Debug` shows no value of an environment, no secret of an ingress and no value of an unknown
//!   member.

mod ingress;
mod instance;
mod members;
mod object;
mod observed;
mod open_enum;
mod policy;
mod redacted;
mod requests;
mod server;
mod snapshot;

pub use ingress::{
    CreateIngress, Ingress, IngressMatch, IngressRule, IngressTarget, RequestHeaderAuth,
};
pub use instance::{
    Address, Gpu, HealthStatus, Instance, InstanceNetwork, RestartStatus, VolumeMount,
};
pub use members::Members;
pub use observed::{AutoStandbyStatus, InstanceStats, PathInfo, WaitOutcome};
pub use open_enum::{
    AutoStandbyState, CompressionAlgorithm, CompressionState, EgressMode, Health, HealthCheckKind,
    Hypervisor, InstanceState, RestartMode, SnapshotKind,
};
pub use policy::{
    AutoStandbyPolicy, Compression, ExecCheck, HealthCheck, HttpCheck, Idle, Ignores,
    RestartPolicy, SnapshotPolicy, TcpCheck,
};
pub use redacted::{RedactedMap, RedactedText};
pub use requests::{
    AttachVolume, CreateInstance, Credential, CredentialInject, CredentialSource, DeleteInstance,
    Egress, EgressEnforcement, ForkInstance, InjectAs, ListInstances, NetworkRequest,
    StandbyRequest, StartRequest, UpdateInstance,
};
pub use server::{Capabilities, HostInfo, ImageInfo, NetworkInfo, RuntimeInfo, ServerInfo};
pub use snapshot::{
    CreateSnapshot, ForkSnapshot, ListSnapshots, RestoreSnapshot, Retention, SetSnapshotSchedule,
    Snapshot, SnapshotSchedule,
};

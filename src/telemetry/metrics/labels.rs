//! Labels with a fixed set of values.
//!
//! Guarantees: a series that depends on one of these enums exists from the start, so that its rate
//! is right from its first increase on.

// === impl WakeKind ===

impl WakeKind {
    /// The kind of this name.
    pub fn named(text: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|kind| kind.as_str() == text)
    }
}

/// A label's values.
pub(super) trait Values: Copy + PartialEq + 'static {
    const LABEL: &'static str;
    const ALL: &'static [Self];

    fn value(self) -> &'static str;
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident: $label:literal {
        $($(#[$value_doc:meta])* $value:ident = $text:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$value_doc])* $value,)*
        }

        impl $name {
            /// The label's value.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$value => $text,)*
                }
            }
        }

        impl Values for $name {
            const LABEL: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$value,)*];

            fn value(self) -> &'static str {
                self.as_str()
            }
        }
    )*};
}

labels! {
    /// Whether and how a request met a wake; the values of `x-wakegate-wake`.
    WakeKind: "wake" {
        /// No route or refused before the instance mattered.
        None = "none",
        /// The instance was awake.
        Warm = "warm",
        /// This request began the wake.
        Cold = "cold",
        /// Another request had begun it.
        Joined = "joined",
        /// The instance was booted for it: it has nothing of before in its memory.
        Boot = "boot",
    }

    /// How a request to another member of the fleet ended.
    PeerOutcome: "outcome" {
        /// It was answered.
        Answered = "answered",
        /// The instance is not that host's: nothing was done with it.
        Misplaced = "misplaced",
        /// The host cannot be reached.
        Unreachable = "unreachable",
        /// One side does not believe the other.
        Refused = "refused",
        /// It was not taken, as often as it was sent.
        Untaken = "untaken",
        /// The connection broke before its response.
        Broken = "broken",
        /// Its client did not send it as it should.
        Client = "client",
    }

    /// How a wake ended.
    WakeOutcome: "outcome" {
        /// The instance had to be restored or started, and answers.
        Woken = "woken",
        /// The same, and it was booted: it has nothing of before in its memory.
        Booted = "booted",
        /// It turned out to be awake: the lease was renewed.
        Renewed = "renewed",
        /// It could not be woken.
        Failed = "failed",
        /// It was not ready before the deadline.
        TimedOut = "timed_out",
    }

    /// A part of a wake, in their order. Metrics, traces, the ledger, the API and the log have the
    /// same words.
    WakePhase: "phase" {
        /// The control plane is asked what the instance's state is.
        Asking = "asking",
        /// Other instances of its control plane are woken first.
        Queued = "queued",
        /// The restore call.
        Restoring = "restoring",
        /// The start call of an instance that was Stopped.
        Starting = "starting",
        /// The VM runs, its program is coming up.
        Initializing = "initializing",
        /// The port does not answer yet.
        NotListening = "not_listening",
        /// The health check does not pass yet.
        Unhealthy = "unhealthy",
        /// The host has no room.
        NoCapacity = "no_capacity",
        /// A held request waits for its turn at the instance that is ready.
        Release = "release",
    }

    /// How a tunnel or raw connection is at the moment.
    TunnelState: "state" {
        /// It is open on both sides.
        Open = "open",
        /// The gateway has shaken hands with its client, and waits for the first frame.
        Waiting = "waiting",
        /// It has had no payload for a while and outlives its instance's sleep.
        Parked = "parked",
    }

    /// What became of a tunnel that was to be parked, or of an instance that was to sleep with its
    /// tunnels parked.
    ParkOutcome: "outcome" {
        /// The tunnel is parked.
        Parked = "parked",
        /// The route has as many parked tunnels as it may.
        Full = "full",
        /// The instance was put to sleep.
        Asleep = "asleep",
        /// The instance was not put to sleep: somebody else has connections, a hold, or a say.
        Refused = "refused",
        /// The control plane could not be asked, or did not put it to sleep.
        Failed = "failed",
    }

    /// What has ended a tunnel's being parked.
    UnparkCause: "cause" {
        /// Payload of its client's.
        Client = "client",
        /// Payload of its instance's.
        Instance = "instance",
        /// Its client has closed it, or is gone.
        Closed = "closed",
        /// Its instance does not know it any more.
        Restarted = "restarted",
        /// Its instance did not know it any more, and has taken it anew.
        Reconnected = "reconnected",
        /// Its instance could not be woken.
        Failed = "failed",
        /// Its instance is gone.
        Gone = "gone",
        /// It had been parked, or had lived, for as long as it may.
        Time = "time",
        /// The gateway ends.
        Gateway = "gateway",
    }

    /// Who ended a tunnel or a raw connection; the values of `ended_by` in access lines.
    TunnelEnd: "by" {
        /// The gateway: it was draining, or could not pass it on.
        Gateway = "gateway",
        /// The client closed its side first, or vanished.
        Client = "client",
        /// The instance closed its side first, or broke the connection off.
        Instance = "instance",
        /// The instance's epoch: it went to sleep, or was replaced.
        Sleep = "sleep",
        /// It had no payload for `tunnel.idle`.
        Idle = "idle",
        /// It had lived for `tunnel.max_life`.
        MaxLife = "max_life",
        /// It had been parked for `tunnel.park.max_time`.
        ParkTime = "park_time",
    }

    /// Why a request was refused instead of held.
    ShedReason: "reason" {
        /// The instance's queue is full.
        InstanceQueue = "instance_queue",
        /// The route's queue is full.
        RouteQueue = "route_queue",
        /// The gateway's queue is full.
        TotalQueue = "total_queue",
        /// The held heads' bytes are at their limit.
        Bytes = "bytes",
        /// The client has its share of a queue.
        ClientShare = "client_share",
        /// The breaker is open.
        Breaker = "breaker",
    }

    /// How a held request's wait ended.
    ReleaseReason: "outcome" {
        /// Its instance became ready.
        Ready = "ready",
        /// The wake failed, or the deadline passed.
        Refused = "refused",
        /// The client left.
        Left = "left",
    }

    /// What a request found of its instance's lease.
    LeaseCheck: "result" {
        /// It was in force.
        Hit = "hit",
        /// It was not.
        Miss = "miss",
    }

    /// What took a request to its instance.
    UpstreamUse: "connection" {
        /// A connection of the pool.
        Pooled = "pooled",
        /// A new one.
        New = "new",
        /// The one that the probe had opened.
        Probe = "probe",
    }

    /// How dialling an instance ended.
    ConnectOutcome: "outcome" {
        /// With a connection.
        Ok = "ok",
        /// The instance's kernel said no.
        Refused = "refused",
        /// Nobody said anything.
        Timeout = "timeout",
        /// Anything else.
        Error = "error",
    }

    /// How a TLS handshake ended.
    HandshakeOutcome: "outcome" {
        /// Anew.
        Full = "full",
        /// With a session of before.
        Resumed = "resumed",
        /// Not at all: bad bytes, no common version, a bad certificate, a peer that left.
        Failed = "failed",
    }

    /// How an order of a certificate ended.
    OrderOutcome: "outcome" {
        /// With a certificate.
        Ok = "ok",
        /// Without one.
        Failed = "failed",
    }

    /// How a request at the workloads' door ended.
    DoorOutcome: "outcome" {
        /// It was done.
        Ok = "ok",
        /// It came from an address that is no instance's.
        Stranger = "stranger",
        /// It said nothing that could be done.
        Invalid = "invalid",
        /// It was about a hold that does not exist.
        Unknown = "unknown",
        /// Holds stand in its way, or there are too many.
        Conflict = "conflict",
        /// A control plane or the directory of the holds could not be reached.
        Unavailable = "unavailable",
    }

    /// How an attempt to load the configuration again ended.
    ReloadOutcome: "outcome" {
        /// It is in force.
        Ok = "ok",
        /// The old one stays.
        Failed = "failed",
    }

    /// What is known of an instance.
    InstanceCondition: "state" {
        /// Its lease is in force, or the control plane said so.
        Awake = "awake",
        /// A wake is going on.
        Waking = "waking",
        /// The control plane said so, or its lease has ended.
        Asleep = "asleep",
        /// Stopped, or in a state that nothing is known to lead out of.
        Stopped = "stopped",
        /// Its last wake failed and the breaker is open.
        Failing = "failing",
    }
}

//! How a tunnel that may be parked ends.
//!
//! Guarantees: a client's own close is what its instance is told, and answered with its own code, if that is one that
//! may be in a close.

use bytes::Bytes;
use tokio::time::Instant;

use crate::telemetry::TunnelEnd as EndedBy;
use crate::upstream::relay::Relay;
use crate::upstream::websocket::{Close, FrameHeader, Opcode, masked};

/// The code of a close without a reason (RFC 6455 §7.4.1).
const NORMAL: u16 = 1000;
/// That of what no close may say (§7.4.1, §7.4.2).
const PROTOCOL_ERROR: u16 = 1002;

/// How a tunnel ends.
pub(super) struct End {
    pub(super) by: EndedBy,
    /// What the client is told, who speaks WebSocket.
    pub(super) close: Close,
    /// The client's own close, for the instance.
    pub(super) from_client: Option<Bytes>,
    /// Whether the instance knows the connection still, as far as is known.
    pub(super) is_known: bool,
    /// Whether it is awake.
    pub(super) is_awake: bool,
    /// Until when it may be told, where it sleeps.
    pub(super) until: Instant,
}

// === impl End ===

impl End {
    fn new(by: EndedBy, close: Close) -> Self {
        Self {
            by,
            close,
            from_client: None,
            is_known: true,
            is_awake: true,
            until: Instant::now(),
        }
    }

    /// The gateway ends it, and its instance is to hear of that.
    pub(super) fn kept(by: EndedBy, close: Close) -> Self {
        Self::new(by, close)
    }

    /// The instance does not know it any more, or is gone.
    pub(super) fn restarted(reason: &'static str) -> Self {
        Self {
            is_known: false,
            is_awake: false,
            ..Self::new(EndedBy::Sleep, Close::restart(reason))
        }
    }

    /// The client has closed it, or has gone.
    pub(super) fn by_client<C, I>(relay: &Relay<'_, C, I>) -> Self {
        let rest = &relay.to_instance.rest;
        let header = FrameHeader::parse(rest).ok().flatten();
        let header = header.filter(|header| header.opcode == Opcode::Close);
        let frame = header.and_then(|header| Some((header, rest.get(..header.control_length()?)?)));
        let payload = frame.and_then(|(header, frame)| {
            let payload = masked(frame.get(header.header_length..)?, header.mask?);
            Some(payload.take(2).collect::<Vec<_>>())
        });
        let close = Close {
            code: answer_to(payload.as_deref().unwrap_or_default()),
            reason: "",
        };
        Self {
            from_client: frame.map(|(_, frame)| Bytes::copy_from_slice(frame)),
            ..Self::new(EndedBy::Client, close)
        }
    }

    /// What is known of the instance besides.
    pub(super) fn with_instance(self, is_awake: bool, until: Instant) -> Self {
        Self {
            is_awake: self.is_known && is_awake,
            until,
            ..self
        }
    }
}

/// The code that answers a close whose payload begins so.
fn answer_to(payload: &[u8]) -> u16 {
    let code = match payload {
        [] => return NORMAL,
        [first, second, ..] => u16::from_be_bytes([*first, *second]),
        [_] => return PROTOCOL_ERROR,
    };
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => code,
        _ => PROTOCOL_ERROR,
    }
}

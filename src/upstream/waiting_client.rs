//! A client of WebSocket whose instance is not there yet.
//!
//! Guarantees: pings and closes are answered in the instance's place (RFC 6455 §5.5); nothing of a data
//! frame is taken, and no more than [`ROOM`] bytes are read ahead, which are in the client's budget until they
//! go to the instance: where that has no room, the client waits; no frame is begun in the middle of an answer.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::carried::Carried;
use super::farewell::Farewell;
use super::relay::KEPT_FREE;
use super::websocket::{
    Close, FrameHeader, LONGEST_CONTROL, NotWebSocket, Opcode, control, masked,
};
use crate::client::UpgradedClient;
use crate::flow::{ClientBuffers, PeekStream, Place, SendTimeout};

/// What is read ahead at most.
const ROOM: usize = 16 * 1024;
/// Opcodes (RFC 6455 §5.2).
const CLOSE: u8 = 8;
const PONG: u8 = 10;

/// The client's side of a tunnel, of which some bytes have been read.
pub type ClientStream = PeekStream<SendTimeout<UpgradedClient>>;

/// A client that the gateway has shaken hands with.
pub struct WaitingClient {
    stream: ClientStream,
    /// The client's part of the gateway's budget, where that is known.
    buffers: Option<ClientBuffers>,
    /// Whether an answer is being written.
    is_answering: bool,
}

/// There will be no data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoFrame {
    /// The client has closed its side, or is gone.
    #[error("the client has left")]
    Left,
    /// It has sent what no client may send.
    #[error("the client does not speak WebSocket")]
    Protocol,
}

/// Whether a frame may begin so where no extension is agreed on: without reserved bits, and with no
/// reserved opcode of a data frame (RFC 6455 §5.2).
fn is_agreed(first: u8) -> bool {
    first & 0x70 == 0 && !matches!(first & 0x0f, 3..=7)
}

/// Whether a close may have this code (RFC 6455 §7.4).
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=4999) && !matches!(code, 1004..=1006 | 1015)
}

// === impl WaitingClient ===

impl WaitingClient {
    /// A client that may take nothing for `send_timeout` at most.
    pub fn new(
        client: UpgradedClient,
        send_timeout: Duration,
        buffers: Option<ClientBuffers>,
    ) -> Self {
        let stream = PeekStream::new(SendTimeout::new(client, send_timeout));
        Self {
            stream: match &buffers {
                Some(buffers) => stream.counted(buffers),
                None => stream,
            },
            buffers,
            is_answering: false,
        }
    }

    /// Waits until a data frame begins, and answers what comes before it.
    pub async fn first_frame(&mut self) -> Result<(), NoFrame> {
        loop {
            let header = FrameHeader::parse(self.stream.peeked());
            let header = header.map_err(|NotWebSocket| NoFrame::Protocol)?;
            let first = self.stream.peeked().first();
            if first.is_some_and(|first| !is_agreed(*first)) {
                return Err(NoFrame::Protocol);
            }
            if let Some(header) = header {
                // RFC 6455 §5.1.
                let mask = header.mask.ok_or(NoFrame::Protocol)?;
                let Some(length) = header.control_length() else {
                    return match header.opcode == Opcode::Continuation {
                        true => Err(NoFrame::Protocol),
                        false => Ok(()),
                    };
                };
                if let Some(frame) = self.stream.peeked().get(..length) {
                    let payload = frame.get(header.header_length..).unwrap_or_default();
                    let payload: Vec<u8> = masked(payload, mask).collect();
                    self.stream.consume(length);
                    self.answer(header.opcode, &payload).await?;
                    continue;
                }
            }
            let more = self.stream.peek_more(LONGEST_CONTROL).await;
            more.map_err(|_| NoFrame::Left)?;
        }
    }

    async fn answer(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), NoFrame> {
        let answer = match opcode {
            Opcode::Ping => control(PONG, payload, None),
            // With the code, if there is one that may be sent.
            Opcode::Close => match payload.first_chunk::<2>() {
                None => control(CLOSE, &[], None),
                Some(code) if may_be_sent(u16::from_be_bytes(*code)) => control(CLOSE, code, None),
                Some(_) => Close::protocol_error().to_client(),
            },
            Opcode::Pong => return Ok(()),
            Opcode::Continuation | Opcode::Data | Opcode::Reserved => {
                return Err(NoFrame::Protocol);
            }
        };
        self.is_answering = true;
        let written = self.stream.write_all(&answer).await;
        written.map_err(|_| NoFrame::Left)?;
        self.stream.flush().await.map_err(|_| NoFrame::Left)?;
        self.is_answering = false;
        if opcode != Opcode::Close {
            return Ok(());
        }
        let _ended = self.stream.shutdown().await;
        Err(NoFrame::Left)
    }

    /// Reads more ahead, if anything comes and its budget has room for it; whether there may be still more.
    pub async fn read_more(&mut self) -> Result<bool, NoFrame> {
        let buffers = self.buffers.as_ref();
        let buffers = buffers.filter(|_| self.stream.peeked().len() > KEPT_FREE);
        if let Some(buffers) = buffers {
            let mut place = Place::default();
            poll_fn(|cx| buffers.poll_room(&mut place, cx)).await;
        }
        match self.stream.peek_more(ROOM).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
            Err(_) => Err(NoFrame::Left),
        }
    }

    /// The stream, from the first byte on that nobody has taken.
    pub fn into_stream(self) -> ClientStream {
        self.stream
    }

    /// The leave of the client, which is told why if that is not in the middle of an answer.
    pub fn farewell(
        self,
        carried: &Carried,
        close: Close,
    ) -> Farewell<'_, ClientStream, tokio::io::Empty> {
        match self.is_answering {
            true => Farewell::nothing(),
            false => Farewell::of_client(self.stream, carried, close),
        }
    }
}

impl fmt::Debug for WaitingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WaitingClient(is_answering: {})", self.is_answering)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;
    use crate::flow::BufferBudget;

    const LIMIT: Duration = Duration::from_secs(60);

    fn client() -> (DuplexStream, WaitingClient) {
        let (near, far) = duplex(64 * 1024);
        (near, WaitingClient::new(Box::pin(far), LIMIT, None))
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = control(first & 0x0f, payload, Some([7, 1, 200, 3])).to_vec();
        bytes[0] = first;
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn pings_and_closes_are_answered_and_nothing_of_a_data_frame_is_taken() {
        let (mut near, mut client) = client();
        let data = frame(0x81, b"wake up");
        for bytes in [
            frame(0x89, b"are you there"),
            frame(0x8a, b"x"),
            frame(0x89, b""),
        ] {
            near.write_all(&bytes).await.unwrap();
        }
        near.write_all(&data[..1]).await.unwrap();
        let waited = tokio::time::timeout(LIMIT, client.first_frame()).await;
        assert!(waited.is_err(), "a byte is no frame yet");
        near.write_all(&data[1..]).await.unwrap();
        assert!(client.first_frame().await.is_ok());
        assert_eq!(client.stream.peeked(), data);
        let mut answers = [0; 17];
        near.read_exact(&mut answers).await.unwrap();
        assert_eq!(&answers, b"\x8a\x0dare you there\x8a\0");
        assert!(!client.is_answering);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_read_ahead_is_in_its_clients_budget_and_waits_for_room_there() {
        let budget = BufferBudget::new(1 << 20);
        let buffers = budget.of([192, 0, 2, 1].into());
        let (mut near, far) = duplex(64 * 1024);
        let mut client = WaitingClient::new(Box::pin(far), LIMIT, Some(buffers.clone()));
        near.write_all(&frame(0x82, &[7; 120])).await.unwrap();
        near.write_all(&vec![7; 2 * ROOM]).await.unwrap();
        client.first_frame().await.unwrap();
        let all = buffers.hold(1 << 20);
        // A little of it is free.
        while client.stream.peeked().len() <= KEPT_FREE {
            assert_eq!(client.read_more().await, Ok(true));
        }
        let kept = client.stream.peeked().len();
        assert_eq!(budget.used(), all.bytes() + kept);
        let waited = tokio::time::timeout(LIMIT, client.read_more()).await;
        assert!(waited.is_err(), "there is no room");
        drop(all);
        while client.read_more().await.unwrap() {}
        assert_eq!((client.stream.peeked().len(), budget.used()), (ROOM, ROOM));
        let mut stream = client.into_stream();
        stream.read_exact(&mut [0; ROOM]).await.unwrap();
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_is_answered_with_its_code_and_is_the_clients() {
        for (close, expected) in [
            (&b"\x03\xe8bye"[..], &b"\x88\x02\x03\xe8"[..]),
            (b"", b"\x88\0"),
            // Codes that no frame may have: 1005 and 999.
            (b"\x03\xed", b"\x88\x10\x03\xeaprotocol error"),
            (b"\x03\xe7", b"\x88\x10\x03\xeaprotocol error"),
        ] {
            let (mut near, mut client) = client();
            near.write_all(&frame(0x88, close)).await.unwrap();
            let ended = client.first_frame().await.unwrap_err();
            assert_eq!(ended, NoFrame::Left);
            drop(client);
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_client_may_not_send_wakes_nobody() {
        let mut unmasked = frame(0x81, b"x");
        unmasked[1] &= 0x7f;
        for wrong in [
            unmasked,
            frame(0x80, b"x"),
            frame(0x8b, b"x"),
            frame(0x09, b"x"),
            frame(0xc1, b"x"),
            frame(0xa9, b"x"),
            frame(0x83, b"x"),
        ] {
            let (mut near, mut client) = client();
            near.write_all(&wrong).await.unwrap();
            let ended = client.first_frame().await.unwrap_err();
            assert_eq!(ended, NoFrame::Protocol, "{wrong:?}");
        }
        let (near, mut client) = client();
        drop(near);
        let ended = client.first_frame().await.unwrap_err();
        assert_eq!(ended, NoFrame::Left);
    }
}

//! The line to the agent in a VM.
//!
//! Guarantees: orders are sent in their order; every status is heard, and the last one can be read
//! after the VM has ended.

use std::path::Path;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::{mpsc, watch};

use super::socket::connect;
use crate::local::guest::{Order, Status};

/// A line to an agent.
#[derive(Debug)]
pub(super) struct Line {
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<Status>,
}

// === impl Line ===

impl Line {
    /// Connects to the socket in `folder`. The line lives as long as its VM.
    pub(super) async fn connect(
        folder: &Path,
        alive: impl Fn() -> bool,
    ) -> std::io::Result<Self> {
        let (reader, mut writer) = connect(folder, "agent.sock", alive).await?.into_split();
        let (orders, mut waiting) = mpsc::unbounded_channel::<Order>();
        let (told, status) = watch::channel(Status::default());
        tokio::spawn(async move {
            while let Some(order) = waiting.recv().await {
                let Ok(mut text) = serde_json::to_vec(&order) else {
                    continue;
                };
                text.push(b'\n');
                if writer.write_all(&text).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(text)) = lines.next_line().await {
                // Half a line of an earlier connection may come first.
                if let Ok(status) = serde_json::from_str::<Status>(&text) {
                    told.send_replace(status);
                }
            }
        });
        Ok(Self { orders, status })
    }

    /// Sends an order; a VM that has ended does not need it any more.
    pub(super) fn order(&self, order: Order) {
        let _ended = self.orders.send(order);
    }

    /// What the agent says; its sender goes when the VM has ended and everything was heard.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

//! The gateway around the tunnel of a history.
//!
//! Guarantees: it wakes the instance for what the tunnel says alone, and now and then it cannot.

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::world::{Side, World};
use crate::flow::ClientBuffers;
use crate::upstream::park::{ParkHost, Reopen, Reopened, Unready, Woken};
use crate::upstream::websocket::Close;
use crate::wake::Endpoint;

pub(super) struct Host(pub(super) World);

impl Host {
    /// Waits for the instance, which may not come.
    pub(super) async fn wait(&self) -> Result<(Endpoint, bool), Unready> {
        self.0.pause(2000).await;
        let fails = self.0.with(|inner| inner.troubles.fails);
        if self.0.chance(fails) {
            self.0.tell("cannot be woken");
            return Err(unready(1013));
        }
        Ok(self.0.wake_up())
    }
}

pub(super) fn unready(code: u16) -> Unready {
    let reason = "unready";
    Unready {
        close: Close { code, reason },
        is_gone: false,
    }
}

impl ParkHost for Host {
    fn buffers(&self) -> Option<&ClientBuffers> {
        None
    }

    fn endpoint(&self) -> Option<Endpoint> {
        self.0.endpoint()
    }

    fn epochs(&self) -> watch::Receiver<u64> {
        self.0.epochs.subscribe()
    }

    fn doubt(&self) {}

    fn gone(&self) -> CancellationToken {
        CancellationToken::new()
    }

    fn take_place(&mut self) -> bool {
        true
    }

    fn leave_place(&mut self) {}

    fn rest(&mut self) {}

    fn enter(&mut self) {}

    fn wake(&mut self, what: &'static str) -> BoxFuture<'_, Result<Woken, Unready>> {
        self.0.tell(&format!("to be woken by {what}"));
        Box::pin(async {
            let (endpoint, is_booted) = self.wait().await?;
            Ok(Woken {
                endpoint,
                is_booted,
            })
        })
    }
}

impl Reopen<Side> for Host {
    fn can_reopen(&self) -> bool {
        true
    }

    fn reopen(
        &mut self,
        what: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<Side>>, Unready>> {
        Box::pin(async move {
            let endpoint = match what {
                Some(_) => Some(self.wait().await?.0),
                None => self.0.endpoint(),
            };
            let Some(endpoint) = endpoint else {
                return Ok(None);
            };
            self.0.pause(200).await;
            if endpoint.cut().is_cancelled() {
                return match what {
                    Some(_) => Err(unready(1013)),
                    None => Ok(None),
                };
            }
            let refuses = self.0.with(|inner| inner.troubles.refuses);
            if self.0.chance(refuses) {
                self.0.tell("the handshake is refused");
                return Err(unready(1012));
            }
            let instance = self.0.connect(&endpoint);
            self.0.with(|inner| inner.reopened += 1);
            Ok(Some(Reopened { instance, endpoint }))
        })
    }
}

//! What each control plane says when the gateway starts.
//!
//! Guarantees: each is told of once: that it answers and how many instances it has, or why not and
//! what to do; nothing waits for it.

use futures_util::future::join_all;

use super::handle::{AppHandle, Running};
use super::plane::ObservedPlane;
use crate::names::PlaneIndex;
use hypeman::wire::ListInstances;

/// Asks all control planes once, for a gateway that does not list instances otherwise.
pub(super) async fn ask_once(handle: AppHandle) {
    let running = &*handle.0;
    let planes = (0..).map(PlaneIndex).zip(&running.planes);
    let asked = planes.map(|(index, plane)| async move {
        let all = ListInstances::default();
        let answer = plane.client.list_instance_summaries(&all).await;
        let count = answer.as_ref().map(|listed| listed.items.len());
        tell(running, (index, plane), count);
    });
    join_all(asked).await;
}

/// Tells of a control plane's first answer.
pub(super) fn tell(
    running: &Running,
    (index, plane): (PlaneIndex, &ObservedPlane),
    answer: Result<usize, &hypeman::Error>,
) {
    let (hypeman, url) = (&plane.name, &plane.url);
    let error = match answer {
        Ok(instances) => {
            tracing::info!(%hypeman, %url, instances, "the control plane answers");
            return;
        }
        Err(error) => error,
    };
    let help = match error.status() {
        Some(401) if !running.has_key(index) => {
            "it wants an API key, and there is none: set `api_key_file` or HYPEMAN_API_KEY"
        }
        Some(401 | 403) => "is the API key right, and is it this control plane's?",
        Some(404 | 405) => "is `url` that of a Hypeman server, without a path too many?",
        Some(_) => "its own log may say more; requests are served as soon as it answers",
        None => "does it run, and is `url` right? requests are served as soon as it answers",
    };
    tracing::warn!(%hypeman, %url, %error, help, "the control plane does not answer as it should");
}

//! Phase 3, answer locally: what the gateway answers itself.
//!
//! Guarantees: such an answer never wakes the instance and takes no place in the hold queue; it is
//! either about the wake itself, or one that the application gave to the same CORS preflight and
//! still stands by.

use std::sync::Arc;

use http::{Request, Response};
use http_body_util::Full;

use super::connection_cache::CachedTarget;
use super::context::readiness_of;
use super::gateway::Gateway;
use super::response_body::Content;
use super::route::Target;
use super::waiting::{self, StatusStream};
use crate::upstream::RequestBody;

// === impl Gateway ===

impl<P> Gateway<P> {
    /// The gateway's own answer, if it has one.
    pub(super) fn answer_locally(
        &self,
        target: &Target,
        resolved: &CachedTarget,
        request: &Request<RequestBody>,
    ) -> Option<Response<Content>> {
        let (route, instance) = (&target.destination.route, &resolved.instance);
        let has_page = route.config().waiting_page.enabled;
        if has_page && request.uri().path() == waiting::STATUS_PATH {
            let stream = StatusStream::new(Arc::clone(instance), readiness_of(route));
            return Some(waiting::status_head(Content::Status(stream)));
        }
        let preflight = target.preflight.as_ref()?;
        if instance.warm(readiness_of(route)).is_some() {
            return None;
        }
        let answer = self.preflights.recall(preflight)?;
        Some(answer.map(|()| Content::Own(Full::default())))
    }
}

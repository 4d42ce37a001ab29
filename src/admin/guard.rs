//! The middleware before the operator's API, and before what needs no token.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::state::Admin;

/// Lets through whom the gatekeeper lets in.
pub(super) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match admin.gatekeeper.judge(request.headers(), authority) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let needs_token = problem.status == 401;
            let mut response = problem.into_response();
            if needs_token {
                let scheme = header::HeaderValue::from_static("Bearer realm=\"wakegate\"");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

/// Lets through to what needs no token.
pub(super) async fn open(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    match admin.gatekeeper.judge_open(request.headers(), authority) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

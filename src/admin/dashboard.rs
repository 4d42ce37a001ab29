//! The dashboard: one page, with its script and style, from this program and from nowhere else.
//!
//! Guarantees: nothing of it is loaded from another place, nothing may be injected into it (see
//! [`POLICY`]), and it may not be framed. It has no data in it: the page asks the API, with the
//! token where one is needed.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::get;

use super::state::Admin;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const FILES: [(&str, &str, &str); 12] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("dashboard/index.html"),
    ),
    (
        "/dashboard.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/dashboard.js"),
    ),
    (
        "/api.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/api.js"),
    ),
    (
        "/details.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/details.js"),
    ),
    (
        "/fleet.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/fleet.js"),
    ),
    (
        "/grid.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/grid.js"),
    ),
    (
        "/histogram.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/histogram.js"),
    ),
    (
        "/overview.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/overview.js"),
    ),
    (
        "/stream.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/stream.js"),
    ),
    (
        "/words.js",
        "text/javascript; charset=utf-8",
        include_str!("dashboard/words.js"),
    ),
    (
        "/dashboard.css",
        "text/css; charset=utf-8",
        include_str!("dashboard/dashboard.css"),
    ),
    (
        "/favicon.svg",
        "image/svg+xml",
        include_str!("dashboard/favicon.svg"),
    ),
];

pub(super) fn routes() -> Router<Admin> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            router.route(path, get(async move || file(kind, text)))
        })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let fields = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // A new version's page must not run an old one's script.
        (CACHE_CONTROL, "no-cache"),
    ];
    (fields, text)
}

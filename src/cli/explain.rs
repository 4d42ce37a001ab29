//! `wakegate explain CODE`: what an error code means and what to do about it.
//!
//! Guarantees: every code that the gateway or its admin API can answer with is here (a test reads
//! the sources), and nothing else is.

use super::output::{Failure, Output};

/// One code.
struct Code {
    word: &'static str,
    /// With which status it comes.
    status: u16,
    /// What has happened.
    meaning: &'static str,
    /// What an operator can do.
    help: &'static str,
}

const fn code(word: &'static str, status: u16, meaning: &'static str, help: &'static str) -> Code {
    Code {
        word,
        status,
        meaning,
        help,
    }
}

const CODES: &[Code] = &[
    code(
        "redirect_to_https",
        301,
        "The route has redirect_http, and the request came without TLS. Other methods than GET and HEAD get \
         308, which keeps them.",
        "Nothing: the client is told where to go. Behind a proxy that terminates TLS, name it in \
         server.trusted_proxies, so that its X-Forwarded-Proto is believed. If clients are sent to a port \
         that they cannot reach, set server.https_port.",
    ),
    code(
        "bad_request",
        400,
        "What the client sent is no request of HTTP/1.0 or HTTP/1.1, or could be read in two ways. The access line \
         has the method and path as far as they could be read, and else `-`.",
        "Look at the client, or at a proxy in front: it may speak TLS, HTTP/2 or something else to a listener \
         in clear, or be attacking. The connection is closed after the answer.",
    ),
    code(
        "bad_host",
        400,
        "The request has no Host, two of them, or one that is no host name.",
        "Look at the client. A health checker that sends no Host can be given /healthz of the admin \
         listener instead.",
    ),
    code(
        "bad_target",
        400,
        "The request's target does not fit its method, such as `*` with GET.",
        "Look at the client, or at a proxy in front that rewrites targets.",
    ),
    code(
        "ambiguous_path",
        400,
        "Servers read the path in different ways (because of encodings, dot or empty segments, \
         backslashes, parameters after `;`, blanks or letter case), and these would meet different \
         routes, or different rules of the route such as `admission.deny_paths` or `prewarm`.",
        "Let the client send the path as the configuration spells it; or let the routes and rules in \
         question say the same.",
    ),
    code(
        "body_broke",
        400,
        "The client broke its request off before its body's end.",
        "Nothing, if it happens now and then. If often: look at the network, or at timeouts of a proxy \
         in front.",
    ),
    code(
        "forbidden",
        403,
        "The route has [route.auth], and the request lacks the field or has a wrong value, or its connection \
         has shown no certificate that the listener has verified.",
        "Compare the client's field with auth.value_file; the file is read when the configuration is. For \
         auth.any with client_certificate, the connection must come to a listener with client_ca, and show a \
         certificate of that CA; Client-Cert fields of proxies in front do not count.",
    ),
    code(
        "no_route",
        404,
        "No route answers for this host and path.",
        "`wakegate routes` shows what is served. With [ingress] watch, look for \"not served\" in the \
         diagnostics.",
    ),
    code(
        "instance_not_found",
        404,
        "The route leads to an instance that its control plane does not have.",
        "Compare the route's `instance` and `hypeman` with `wakegate instances ls`. An instance that was \
         just made is found after wake.unknown_ttl.",
    ),
    code(
        "not_here",
        404,
        "The path is one that scanners try, and the route has the preset \"browser-abuse\"; the sleeping \
         instance was not woken for it.",
        "Nothing. If the application does have the path, leave the preset out and use deny_paths.",
    ),
    code(
        "method_not_allowed",
        405,
        "CONNECT asks for another kind of proxy.",
        "Use a TLS pass-through or TCP listener for protocols that are not HTTP.",
    ),
    code(
        "body_timeout",
        408,
        "The request's body came more slowly than server.min_body_rate, or was not there in time to be \
         kept for a second try.",
        "Lower server.min_body_rate, or limits.min_body_rate of the route, if clients really are that slow.",
    ),
    code(
        "misdirected",
        421,
        "An HTTP/2 client used a connection for a host that the connection's certificate does not cover.",
        "Nothing: browsers open another connection. If clients do not, give each host its own certificate.",
    ),
    code(
        "target_too_long",
        414,
        "The request's target has more than 65,534 bytes.",
        "Look at the client; what is this long belongs into a body.",
    ),
    code(
        "head_too_large",
        431,
        "The request's head is larger than server.max_header_bytes, or has more fields than \
         server.max_headers.",
        "If the client is in the right, raise the limit; cookies that pile up are the usual reason.",
    ),
    code(
        "memory_share",
        503,
        "The client's requests and responses take as much of server.max_buffered_bytes together as one client \
         network may have.",
        "Look at what is stuck: responses that the client does not read, or uploads for instances that sleep. \
         If many people come from that network, raise the limit.",
    ),
    code(
        "wake_rate",
        429,
        "The instance is asleep, and the client or the route has woken it as often as admission.rate_per_client \
         or admission.rate allow.",
        "`wakegate wakes` says who. Raise the rate, or refuse what should not wake with [route.admission].",
    ),
    code(
        "too_many_unknown_names",
        429,
        "The client has asked for more names that no instance has than wake.unknown_per_client allows.",
        "Most likely somebody tries names. If not, raise wake.unknown_per_client.",
    ),
    code(
        "transfer_coding",
        501,
        "The request has another transfer coding than one `chunked`.",
        "Look at the client; nothing else is safe to pass on.",
    ),
    code(
        "unknown_protocol",
        501,
        "An HTTP/2 client asked to switch to another protocol than WebSocket.",
        "Look at the client.",
    ),
    code(
        "connect_failed",
        502,
        "The instance is awake and does not accept connections at the route's port.",
        "Look at the application (`wakegate instances logs NAME`) and at the route's `port`.",
    ),
    code(
        "upstream_broke",
        502,
        "The instance broke the connection off before its response, and the request could not be sent again, \
         since it might have run.",
        "Look at the application's log at this time. Idempotent requests are sent again by themselves, those \
         with a body with retry.buffer.",
    ),
    code(
        "upstream_invalid",
        502,
        "The instance's response is not HTTP.",
        "Does the port speak HTTP/2 (protocol = \"h2c\"), TLS, or something else?",
    ),
    code(
        "bad_upgrade",
        502,
        "The instance switched protocols without being asked, or to another than was asked for.",
        "Look at the application.",
    ),
    code(
        "wake_failed",
        502,
        "The control plane could not wake the instance and gave no reason that would pass.",
        "`wakegate wakes NAME` has the control plane's own words. Look at its log, too, and at \
         `wakegate instances logs NAME --source hypeman`.",
    ),
    code(
        "control_plane_unreadable",
        502,
        "The control plane's answer about the instance is not what the API says.",
        "Is hypeman.url that of a Hypeman server, and of a version that this gateway knows?",
    ),
    code(
        "address_refused",
        502,
        "The control plane gives the instance an address that requests are never sent to: unspecified, link-local, \
         multicast, or one where this gateway itself listens.",
        "`wakegate instances show NAME` has its address.",
    ),
    code(
        "control_plane_refused",
        502,
        "The control plane refuses the gateway's API key (401 or 403).",
        "Give a token with instance:read and instance:write in api_key_file, which is read again after each 401, \
         or in HYPEMAN_API_KEY; of several control planes each has its own, HYPEMAN_API_KEY_<NAME>.",
    ),
    code(
        "asleep",
        503,
        "The instance is asleep, and this kind of request does not wake it by the route's [route.admission]. \
         With asleep.health_paths or robots it comes as 200.",
        "The metric wakegate_wake_refusals_total says which rules refuse how much.",
    ),
    code(
        "waiting_page",
        503,
        "A person's browser sees the page with the wake's progress; it loads again by itself.",
        "Nothing. A longer waiting_page.after shows it more seldom.",
    ),
    code(
        "hold_queue_full",
        503,
        "As many requests wait as may: for the instance, for the route, in all, or by bytes.",
        "The metric wakegate_shed_total says which bound. Raise it in [wake], or find out why wakes take so long.",
    ),
    code(
        "hold_queue_share",
        503,
        "As many requests of this client's network wait as may: half of a queue is taken, and the network has half \
         of what was left. Others get in.",
        "Raise limits.max_held_per_client if many users come from one address, or name the proxy before them in \
         server.trusted_proxies.",
    ),
    code(
        "instance_share",
        503,
        "The instance has places, but this client's network had its share of them until the request's time was over.",
        "Raise limits.max_inflight_per_client if many users come from one address, or name the proxy before them in \
         server.trusted_proxies.",
    ),
    code(
        "instance_busy",
        503,
        "The instance is ready and has had limits.max_inflight requests for so long that this one's turn did \
         not come.",
        "Raise limits.max_inflight, if the instance can stand it; else it needs help.",
    ),
    code(
        "route_closed",
        503,
        "The route's limits.max_inflight is 0, which sheds everything.",
        "Raise it to open the route.",
    ),
    code(
        "wake_queue_full",
        503,
        "So many other instances were being woken that it was not this one's turn in time.",
        "The metric wakegate_restores_queued shows the line. Raise wake.max_concurrent, if the host can stand it.",
    ),
    code(
        "wake_too_slow",
        503,
        "Recent wakes took longer than the client said it would wait; the wake has begun, for the next request.",
        "Let the client wait longer (grpc-timeout, Prefer: wait), or keep the instance warm.",
    ),
    code(
        "instance_transitioning",
        503,
        "The instance was on its way from one state to another for as long as the request could wait.",
        "If it stays so, look at the instance on its host; `wakegate wakes NAME` has what the control plane said.",
    ),
    code(
        "wake_failing",
        503,
        "Several wakes in a row failed, so the breaker is open: requests are refused at once until Retry-After, \
         then one may try.",
        "`wakegate status` names the instance and why its last wake failed, `wakegate wakes NAME` has all of \
         them. After mending it, `wakegate reset-breaker NAME` lets the next request try at once.",
    ),
    code(
        "no_capacity",
        503,
        "The host has no room for the instance (insufficient_resources).",
        "Stop something there, or give it more memory.",
    ),
    code(
        "instance_stopped",
        503,
        "The instance is Stopped, and requests do not start it.",
        "Start it, or set wake.start_stopped on its route.",
    ),
    code(
        "instance_unusable",
        503,
        "The instance has no network, or runs without an address, so that no request can reach it.",
        "`wakegate instances show NAME` has its network. Create it with networking on.",
    ),
    code(
        "instance_state_unknown",
        503,
        "The control plane could not tell the instance's state for as long as the request could wait.",
        "`wakegate instances show NAME` has its state_error. A busy host is like this for a moment.",
    ),
    code(
        "control_plane_unavailable",
        503,
        "The control plane cannot be reached or does not answer.",
        "Is it running, and is hypeman.url right? `wakegate wakes` says how the calls failed. Instances that are awake go on being served.",
    ),
    code(
        "draining",
        503,
        "The gateway is shutting down.",
        "Nothing: whoever balances load should look at /readyz, which fails first.",
    ),
    code(
        "wake_timeout",
        504,
        "The restore did not end in wake.timeout.",
        "`wakegate wakes NAME` says where the time went, the metric wakegate_wake_phase_duration_seconds where it \
         goes usually. Raise wake.timeout, or look at the host's disks.",
    ),
    code(
        "instance_initializing",
        504,
        "The VM runs, and its program was not started in wake.timeout.",
        "Raise wake.timeout for instances that boot cold, or look at what boots so slowly.",
    ),
    code(
        "app_not_listening",
        504,
        "The instance runs, and nothing listens at the route's port after wake.timeout.",
        "Is the route's `port` right? Does the application listen at 0.0.0.0, not at 127.0.0.1 alone?",
    ),
    code(
        "app_unhealthy",
        504,
        "The instance runs, and its health check did not pass in wake.timeout.",
        "Look at the route's health_path, or at the instance's own check.",
    ),
    code(
        "upstream_timeout",
        504,
        "The instance had the request for upstream.response_timeout without beginning a response.",
        "Raise upstream.response_timeout for slow work, or look at the application.",
    ),
    code(
        "forward_loop",
        508,
        "The request has passed this gateway before, on its way to the same instance: its Via says so. The \
         instance is not woken for it.",
        "Look where the instance sends requests on to: most likely a proxy in it has the gateway's own address \
         or the instance's public name as its backend. server.via = \"off\" switches Via off, and the check with it.",
    ),
    code(
        "admin_token",
        401,
        "The admin API has a token, and the call showed none or another.",
        "Send `Authorization: Bearer` with the text of admin.token_file; `wakegate status --token-file FILE`.",
    ),
    code(
        "admin_host",
        403,
        "The admin API without a token answers to localhost and IP addresses alone, so that no page on the web \
         can reach it under a name of its own.",
        "Use http://127.0.0.1:PORT, or set admin.token_file.",
    ),
    code(
        "admin_closed",
        403,
        "The admin listener's address is not this machine's own, and there is no token.",
        "Set admin.token_file, or bind admin.address to 127.0.0.1. /healthz, /readyz and /metrics answer all the same.",
    ),
    code(
        "cross_origin",
        403,
        "A page of another origin tried to change something through the admin API.",
        "Nothing. Programs do not send Origin; a proxy in front must leave Host as it is.",
    ),
    code(
        "not_reloaded",
        409,
        "The configuration was not loaded again: it has problems, or changes what needs a restart.",
        "The detail says which; `wakegate check -c FILE` shows all problems.",
    ),
    code(
        "control_plane",
        502,
        "The control plane refused what an operator asked for; the detail is its own. 404 and 409 come as such, \
         503 when it cannot be reached.",
        "Read the detail.",
    ),
    code(
        "too_many_watchers",
        503,
        "As many dashboards are open as may be.",
        "Close some.",
    ),
];

/// Says what a code means, or lists them all.
pub(super) fn run(word: Option<&str>, output: Output) -> Result<(), Failure> {
    let Some(word) = word else {
        for one in CODES {
            output.print(&format!("{:<27} {}\n", one.word, one.status));
        }
        return Ok(());
    };
    // Whoever copies it from a log or a constant may have other letters.
    let small = word.trim().to_ascii_lowercase().replace('-', "_");
    let Some(one) = CODES.iter().find(|one| one.word == small) else {
        let near = CODES
            .iter()
            .map(|one| (strsim::damerau_levenshtein(&small, one.word), one.word))
            .min()
            .filter(|(distance, _)| *distance <= 4);
        let hint = near.map_or_else(String::new, |(_, code)| format!("; did you mean `{code}`?"));
        return Err(Failure::failed(format_args!(
            "there is no code `{word}`{hint}\n`wakegate explain` lists them all"
        )));
    };
    output.print(&format!(
        "{} ({})\n\n{}\n\nWhat to do: {}\n",
        one.word, one.status, one.meaning, one.help
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Words in quotes that look like codes, in what comes before the tests.
    fn words(source: &str) -> BTreeSet<String> {
        let source = source.split("#[cfg(test)]").next().unwrap();
        let quoted = source.split('"').skip(1).step_by(2);
        let is_code = |word: &&str| {
            word.contains('_')
                || matches!(*word, "asleep" | "forbidden" | "draining" | "misdirected")
        };
        let plain = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        quoted
            .filter(is_code)
            .filter(plain)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_code_that_can_be_answered_is_explained_and_no_other() {
        let mut answered = words(include_str!("../proxy/error_response/descriptions.rs"));
        let errors = include_str!("../wake/error.rs").split("fn code(").nth(1);
        let code_of_error = errors.unwrap().split("\n    }\n").next();
        answered.extend(words(code_of_error.unwrap()));
        for source in [
            include_str!("../admin/access.rs"),
            include_str!("../admin/events.rs"),
            include_str!("../admin/api.rs"),
            include_str!("../app/operator.rs"),
        ] {
            // What `Problem::new` is given.
            for call in source.split("Problem::new(").skip(1) {
                let end = call.find("))").unwrap_or(call.len()).min(400);
                let found = words(call.get(..end).unwrap());
                answered.extend(found.into_iter().next());
            }
        }
        answered.insert("waiting_page".to_owned());
        let explained: BTreeSet<String> = CODES.iter().map(|one| one.word.to_owned()).collect();
        assert_eq!(explained.len(), CODES.len(), "one is there twice");
        let missing: Vec<_> = answered.difference(&explained).collect();
        let invented: Vec<_> = explained.difference(&answered).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "not explained: {missing:?}; never answered: {invented:?}"
        );
    }
}

//! The error codes: what each means, and what to do about it.
//!
//! Guarantees: each has one status, one meaning and one advice.

/// One code.
pub(super) struct Code {
    pub(super) word: &'static str,
    /// With which status it comes.
    pub(super) status: u16,
    /// What has happened.
    pub(super) meaning: &'static str,
    /// What an operator can do.
    pub(super) help: &'static str,
}

pub(super) const fn code(
    word: &'static str,
    status: u16,
    meaning: &'static str,
    help: &'static str,
) -> Code {
    Code {
        word,
        status,
        meaning,
        help,
    }
}

/// All of them.
pub(super) const CODES: &[Code] = &[
    code(
        "redirect_to_https",
        301,
        "The route has redirect_http, and the request came without TLS. GET and HEAD get 301; \
         other methods get 308, which keeps method and body.",
        "Nothing: the client is told where to go. Behind a proxy that terminates TLS, add the \
         proxy to server.trusted_proxies, so that its X-Forwarded-Proto is believed. If clients \
         are sent to a port that they cannot reach, set server.https_port.",
    ),
    code(
        "auth_redirect",
        302,
        "The route has [route.auth] with `forward`, and the server that judges requests sends the \
         client somewhere else, usually to sign in. The status is that server's.",
        "Nothing: the client is told where to go. If it goes in a circle, look at the cookies of the \
         sign-in: they must be for the route's host.",
    ),
    code(
        "bad_request",
        400,
        "What the client sent is not a request of HTTP/1.0 or HTTP/1.1, or it could be read in \
         two ways. The access line has the method and path if they could be read, and `-` \
         otherwise.",
        "Look at the client, or at a proxy in front of the gateway. It may speak TLS, HTTP/2 or \
         something else to a listener without TLS, or it may be an attack. The connection is \
         closed after the answer.",
    ),
    code(
        "wrong_scheme",
        400,
        "A request came in clear, over HTTP/1 or HTTP/2, to a listener with TLS.",
        "Use https:// where the client has http://, or another port. A health checker or a balancer in front \
         has to speak TLS to this listener, or to get one without. Nothing is woken, and the connection is \
         closed after the answer.",
    ),
    code(
        "bad_handshake",
        400,
        "A request asks for a WebSocket at a route with tunnel.wake = \"first-frame\", and has no key of 16 \
         bytes in Sec-WebSocket-Key, or another version than 13 (RFC 6455 §4.2.1).",
        "Clients that are no browsers and build their handshakes themselves are usually the reason.",
    ),
    code(
        "bad_host",
        400,
        "The request has no Host, has two of them, or has one that is not a host name.",
        "Look at the client. If it is a health checker that sends no Host, let it ask /healthz on \
         the admin listener instead.",
    ),
    code(
        "bad_target",
        400,
        "The request's target does not fit its method, such as `*` with GET.",
        "Look at the client, or at a proxy in front of the gateway that rewrites targets.",
    ),
    code(
        "ambiguous_path",
        400,
        "Servers read this path in different ways, because of encodings, dot or empty segments, \
         backslashes, parameters after `;`, blanks or letter case. Two of these readings would \
         meet different routes, or different rules of the route, such as `admission.deny_paths` \
         or `prewarm`.",
        "Let the client send the path as the configuration spells it, or give the routes in \
         question the same rules.",
    ),
    code(
        "body_broke",
        400,
        "The client broke off in the middle of its request's body.",
        "Nothing, if it happens now and then. If it happens often, look at the network, or at the \
         timeouts of a proxy in front of the gateway.",
    ),
    code(
        "unauthenticated",
        401,
        "The route has [route.auth], and the request does not show who sends it: it has no token, \
         or one that is expired, not valid yet, signed with an unknown key, from another issuer or \
         for another audience.",
        "Look at the token's claims, and compare them with the keys `issuer` and `audience` of \
         [[route.auth.any]] jwt. A token that stands twice in one place counts as none. The clocks \
         of the issuer and of the gateway may be 30 seconds apart.",
    ),
    code(
        "forbidden",
        403,
        "The route has [route.auth], and the request does not show what it asks for: the field is \
         missing or has a wrong value, the connection has shown no certificate that the listener \
         has verified, or the token or certificate is for something else, such as another \
         instance.",
        "Compare the client's field with auth.value_file, which is read together with the \
         configuration. For client_certificate, the connection must come to a listener with \
         client_ca, and show a certificate of that CA, for the name `san`. Client-Cert fields of \
         proxies in front of the gateway do not count. For a token, compare its claims with \
         jwt.claims.",
    ),
    code(
        "no_route",
        404,
        "No route answers for this host and path.",
        "`wakegate routes` shows what is served. With [ingress] watch, look for \"not served\" in \
         the diagnostics.",
    ),
    code(
        "port_not_allowed",
        404,
        "The request chooses a port, by its host, a field or a subprotocol, that the route's `ports` \
         do not have, or that is none.",
        "Add the port to the route's `ports`, if it is to be reached from outside.",
    ),
    code(
        "instance_not_found",
        404,
        "The route leads to an instance that its control plane does not have.",
        "Compare the route's `instance` and `hypeman` with `wakegate instances ls`. An instance \
         that has just been created is found after wake.unknown_ttl.",
    ),
    code(
        "no_fleet",
        404,
        "The gateway was asked for its fleet's directory, and is in no fleet.",
        "Add `[fleet]` to its configuration, or ask a gateway that has it.",
    ),
    code(
        "not_here",
        404,
        "This is a path that scanners try, and the route has the preset \"browser-abuse\". The \
         sleeping instance was not woken for it.",
        "Nothing. If your application does have this path, leave the preset out and use \
         deny_paths.",
    ),
    code(
        "standby_refused",
        409,
        "The instance was to be put to sleep, and its workload, by its hook before_standby, wants to go \
         on.",
        "Try again later, or put it to sleep all the same: `wakegate standby --force`.",
    ),
    code(
        "method_not_allowed",
        405,
        "CONNECT asks for a proxy of another kind. At the admin listener, the path has other \
         methods.",
        "Use a listener with TLS pass-through or TCP for protocols that are not HTTP.",
    ),
    code(
        "body_timeout",
        408,
        "The request's body came more slowly than server.min_body_rate, or did not arrive in time \
         to be kept for a second try.",
        "If your clients really are that slow, lower server.min_body_rate, or \
         limits.min_body_rate of the route.",
    ),
    code(
        "misdirected",
        421,
        "An HTTP/2 client used a connection for a host that the connection's certificate does not \
         cover.",
        "Nothing: browsers open another connection. If a client does not, give each host its own \
         certificate.",
    ),
    code(
        "target_too_long",
        414,
        "The request's target has more than 65,534 bytes.",
        "Look at the client. Anything this long belongs in a body.",
    ),
    code(
        "head_too_large",
        431,
        "The request's head is larger than server.max_header_bytes, or has more fields than \
         server.max_headers.",
        "Cookies that pile up are the usual reason. If the client is right to send so much, raise \
         the limit.",
    ),
    code(
        "memory_share",
        503,
        "Together, the requests and responses of this client's network take up as much of \
         server.max_buffered_bytes as one network may have.",
        "Look for what is stuck: responses that the client does not read, or uploads to instances \
         that sleep. If many people come from this network, raise the limit.",
    ),
    code(
        "tunnel_limit",
        429,
        "The client has as many upgraded or raw connections open as the route's tunnel.max_per_client \
         allows: by its IPv4 address, or its IPv6 /64.",
        "Raise tunnel.max_per_client if many people come from one address; otherwise look for a client \
         that opens connections and does not close them. If all clients have one address, name the proxy \
         in front in server.trusted_proxies.",
    ),
    code(
        "wake_rate",
        429,
        "The instance is asleep, and the client or the route has woken it as often as \
         admission.rate_per_client or admission.rate allows.",
        "`wakegate wakes` says who woke it. Raise the rate, or use [route.admission] to refuse \
         what should not wake it.",
    ),
    code(
        "too_many_refused",
        429,
        "The route has [route.auth], and the client's network has sent more requests without what it \
         asks for than admission.rate_per_client allows.",
        "Nothing, if somebody guesses. Requests with a valid credential are served meanwhile, also \
         those of the same network.",
    ),
    code(
        "too_many_unknown_names",
        429,
        "The client has asked for more names that no instance has than wake.unknown_per_client \
         allows.",
        "Somebody is probably guessing names. If not, raise wake.unknown_per_client.",
    ),
    code(
        "transfer_coding",
        501,
        "The request has a transfer coding other than a single `chunked`.",
        "Look at the client. Nothing else can be passed on safely.",
    ),
    code(
        "unknown_protocol",
        501,
        "An HTTP/2 client asked to switch to a protocol other than WebSocket.",
        "Look at the client.",
    ),
    code(
        "connect_failed",
        502,
        "The instance is awake, but does not accept connections on the route's port.",
        "Look at the application (`wakegate instances logs NAME`) and at the route's `port`.",
    ),
    code(
        "upstream_broke",
        502,
        "The instance broke off the connection before it responded, and the request could not be \
         sent again, because it might already have run.",
        "Look at the application's log of that moment. Idempotent requests are sent again \
         automatically; those with a body need retry.buffer.",
    ),
    code(
        "upstream_tls",
        502,
        "TLS with the instance failed for good: the gateway does not accept the instance's \
         certificate, or the instance not the gateway's, or it speaks no TLS at this port. Nothing \
         of the request was sent.",
        "`wakegate wakes` and the log say why. Mend the certificate, or the route's upstream_tls: \
         `ca`, `server_name`, `client_cert`.",
    ),
    code(
        "upstream_invalid",
        502,
        "The instance's response is not valid HTTP, or is larger than upstream.max_header_bytes \
         and upstream.max_headers allow.",
        "Does the port speak HTTP/2 (protocol = \"h2c\"), TLS, or something else? The log says \
         what was wrong.",
    ),
    code(
        "bad_upgrade",
        502,
        "The instance switched protocols without being asked to, or to a protocol that the client \
         did not ask for.",
        "Look at the application.",
    ),
    code(
        "wake_failed",
        502,
        "The control plane could not wake the instance, for a reason that is not going to pass.",
        "`wakegate wakes NAME` has the control plane's own words. Also look at its log, and at \
         `wakegate instances logs NAME --source hypeman`.",
    ),
    code(
        "control_plane_unreadable",
        502,
        "The control plane's answer about the instance does not follow the API.",
        "Does hypeman.url lead to a Hypeman server, and to a version that this gateway knows?",
    ),
    code(
        "address_refused",
        502,
        "The control plane gives the instance an address that requests are never sent to: an \
         unspecified, link-local or multicast one, or one where this gateway itself listens.",
        "`wakegate instances show NAME` shows its address.",
    ),
    code(
        "control_plane_refused",
        502,
        "The control plane refuses the gateway's API key (401 or 403).",
        "Put a token with instance:read and instance:write into api_key_file, which is read again \
         after each 401, or into HYPEMAN_API_KEY. With several control planes, each has its own: \
         HYPEMAN_API_KEY_<NAME>.",
    ),
    code(
        "asleep",
        503,
        "The instance is asleep, and the route's [route.admission] does not let this kind of \
         request wake it. Health checks and robots.txt get this as 200.",
        "The metric wakegate_wake_refusals_total says which rule refuses how many requests.",
    ),
    code(
        "auth_unavailable",
        503,
        "The route has [route.auth], and nobody can tell at the moment who sends the request: no key \
         of tokens is known, or the server that judges requests (`forward`) fails or does not answer \
         in time. Nobody is let in by that way.",
        "Look at jwt.jwks_url or forward.url: the diagnostics say why it does not answer. The keys \
         are asked for again every second until there are some.",
    ),
    code(
        "cold_boot_refused",
        503,
        "The route has wake.require_memory, and the instance could only be booted: it is Stopped, or \
         in Standby without a snapshot. Nothing was started.",
        "Start the instance yourself, or leave require_memory out of the route.",
    ),
    code(
        "waiting_page",
        503,
        "A person's browser sees the waiting page, which shows the progress of the wake and loads \
         again by itself.",
        "Nothing. With a longer waiting_page.after, it is shown less often.",
    ),
    code(
        "hold_queue_full",
        503,
        "As many requests are waiting as are allowed to: for the instance, for the route, in \
         total, or in bytes.",
        "The metric wakegate_shed_total says which bound was reached. Raise it in [wake], or find \
         out why wakes take so long.",
    ),
    code(
        "hold_queue_share",
        503,
        "Half of the queue is taken, and this client's network has its share of the rest. Others \
         still get in.",
        "If many users come from one address, raise limits.max_held_per_client. If they come \
         through a proxy, add it to server.trusted_proxies.",
    ),
    code(
        "instance_share",
        503,
        "The instance has room for more requests, but this client's network had its share of it \
         until the request's time was over.",
        "If many users come from one address, raise limits.max_inflight_per_client. If they come \
         through a proxy, add it to server.trusted_proxies.",
    ),
    code(
        "instance_busy",
        503,
        "The instance is ready, but has had limits.max_inflight requests for so long that this \
         one's turn did not come.",
        "Raise limits.max_inflight if the instance can handle more. Otherwise, it needs help.",
    ),
    code(
        "route_closed",
        503,
        "The route's limits.max_inflight is 0, so every request is refused.",
        "Raise it to open the route.",
    ),
    code(
        "wake_queue_full",
        503,
        "So many other instances were being woken that this one's turn did not come in time.",
        "The metric wakegate_restores_queued shows how many are waiting. Raise \
         wake.max_concurrent if the host can handle more.",
    ),
    code(
        "wake_too_slow",
        503,
        "Recent wakes all took longer than the client said it would wait. The wake has begun, for \
         the next request.",
        "Let the client wait longer (grpc-timeout, Prefer: wait), or keep the instance warm.",
    ),
    code(
        "instance_transitioning",
        503,
        "The instance was between two states for as long as the request could wait.",
        "If it stays that way, look at the instance on its host. `wakegate wakes NAME` has what \
         the control plane said.",
    ),
    code(
        "wake_failing",
        503,
        "Several wakes in a row have failed, so the breaker is open: requests are refused at once \
         until Retry-After, and then one may try.",
        "`wakegate status` names the instance and says why its last wake failed; `wakegate wakes \
         NAME` has all of them. Once you have fixed the cause, `wakegate reset-breaker NAME` lets \
         the next request try at once.",
    ),
    code(
        "no_capacity",
        503,
        "The host has no room for the instance (insufficient_resources).",
        "Stop something on the host, or give it more memory.",
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
        "The instance has no network, or runs without an address, so no request can reach it.",
        "`wakegate instances show NAME` shows its network. Create it with networking on.",
    ),
    code(
        "instance_state_unknown",
        503,
        "The control plane could not tell the instance's state for as long as the request could \
         wait.",
        "`wakegate instances show NAME` has its state_error. On a busy host this passes after a \
         moment.",
    ),
    code(
        "control_plane_unavailable",
        503,
        "The control plane cannot be reached, or does not answer.",
        "Is it running, and is hypeman.url right? `wakegate wakes` says how the calls failed. \
         Instances that are awake are still served.",
    ),
    code(
        "draining",
        503,
        "The gateway is shutting down.",
        "Nothing. A load balancer should watch /readyz, which fails before this.",
    ),
    code(
        "wake_timeout",
        504,
        "The restore did not finish within wake.timeout.",
        "`wakegate wakes NAME` says where the time went; the metric \
         wakegate_wake_phase_duration_seconds says where it usually goes. Raise wake.timeout, or \
         look at the host's disks.",
    ),
    code(
        "instance_initializing",
        504,
        "The VM runs, but its program did not start within wake.timeout.",
        "Raise wake.timeout for instances that boot cold, or find out what makes the boot so \
         slow.",
    ),
    code(
        "app_not_listening",
        504,
        "The instance runs, but nothing was listening on the route's port by the end of \
         wake.timeout.",
        "Is the route's `port` right? Does the application listen on 0.0.0.0, and not only on \
         127.0.0.1?",
    ),
    code(
        "app_unhealthy",
        504,
        "The instance runs, but its health check did not pass within wake.timeout.",
        "Look at the route's health_path, or at the instance's own check.",
    ),
    code(
        "upstream_timeout",
        504,
        "The instance has had the request for upstream.response_timeout, and has not begun to \
         respond. In a fleet: or its host's node has not, for that long and the route's wake.timeout.",
        "Raise upstream.response_timeout if the work is slow, or look at the application.",
    ),
    code(
        "misplaced",
        503,
        "In a fleet: the directory says that the instance is at a host whose Hypeman does not have it, \
         or has another of its name, and said so again when it was read anew. The request was sent to no \
         instance. (The host's node tells the front so with 421, which clients never see.)",
        "Ask `wakegate fleet check` who claims the name. If the instance has just been made or moved, \
         try again in a moment. Stays it so, its host's node cannot write to the directory: look at that \
         node's log.",
    ),
    code(
        "peer_refused",
        502,
        "In a fleet: the host of the instance and this gateway do not believe each other's \
         certificates. Nothing was sent.",
        "The reason is in the log of whoever refuses. Both certificates need the fleet's CA \
         (fleet.identity.ca) and one name wakegate://CELL/ROLE/NAME: this cell, the name in the \
         directory, the role `node` or `both` for a host. A certificate that was renewed with another \
         key is believed once its member has written its record anew.",
    ),
    code(
        "policy_not_known",
        502,
        "In a fleet: the instance is at another host, whose node has no route for the request's host and \
         path. The front's route says what only that node could follow and no request takes along, such as \
         upstream_tls, proxy_protocol, limits or rules for waking. The request was sent to no instance.",
        "`wakegate check` at the front names the keys. Put the route into the directory, with its policy, or \
         into the node's file as well: the files that upstream_tls names must be at the instance's host.",
    ),
    code(
        "host_unreachable",
        503,
        "In a fleet: the node of the instance's host does not answer, or takes no requests. It is looked \
         for once a second.",
        "Is the host up, and its gateway? Can this machine reach the address in its record (`wakegate \
         fleet status`)? Only instances of that host are concerned.",
    ),
    code(
        "forward_loop",
        508,
        "The request has already passed this gateway on its way to the same instance: its Via \
         says so; or, in a fleet, it has been passed on twice. The instance is not woken for it.",
        "Find out where the instance sends requests on to. A proxy in it probably has the \
         gateway's own address, or the instance's public name, as its backend. server.via = \
         \"off\" switches Via off, and this check with it.",
    ),
    code(
        "admin_token",
        401,
        "The admin API has a token, and the call showed none, or a wrong one.",
        "Send `Authorization: Bearer` with the text of admin.token_file. On the command line: \
         `wakegate status --token-file FILE`.",
    ),
    code(
        "admin_host",
        403,
        "At a loopback address, the admin listener answers only to localhost and IP addresses, so \
         that no page on the web can reach it under a name of its own.",
        "Use http://127.0.0.1:PORT, or set admin.token_file and send the token.",
    ),
    code(
        "admin_closed",
        403,
        "The admin listener's address can be reached from other machines, and there is no token.",
        "Set admin.token_file, or bind admin.address to 127.0.0.1. /healthz, /readyz and /metrics \
         answer in any case.",
    ),
    code(
        "cross_origin",
        403,
        "A page of another origin tried to change something through the admin API.",
        "Nothing. Programs do not send Origin. A proxy in front of the admin listener must leave \
         Host as it is.",
    ),
    code(
        "no_such_path",
        404,
        "The admin listener has nothing at this path.",
        "GET /api/openapi.json lists what there is.",
    ),
    code(
        "not_reloaded",
        409,
        "The configuration was not loaded again: it has mistakes, or it changes something that \
         needs a restart.",
        "The detail says which. `wakegate check -c FILE` shows all mistakes.",
    ),
    code(
        "control_plane",
        502,
        "The control plane refused what an operator asked for; the detail is in its own words. \
         404 and 409 are passed on as such, and 503 means that it cannot be reached.",
        "Read the detail.",
    ),
    code(
        "too_many_watchers",
        503,
        "As many dashboards are open as are allowed.",
        "Close some.",
    ),
];

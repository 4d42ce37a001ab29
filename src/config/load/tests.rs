use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::service_link::is_service_link;
use crate::config::{Secret, TlsSource};

pub(super) const ROUTE: &str = "[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n";

pub(super) fn none() -> Variables {
    Variables::default()
}

pub(super) fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[track_caller]
pub(super) fn problems(text: &str) -> Vec<String> {
    let error = load("w.toml", text, &none()).expect_err("should be refused");
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_the_gateway_knows_may_not_be_outdated_before_it_is_there() {
    let with = |text| format!("{ROUTE}\n[wake]\nverify_interval = \"{text}\"\n");
    for (text, problem) in [
        ("0s", "`0s` must be longer than zero"),
        ("49ms", "must be at least 50ms"),
    ] {
        let expected = format!("w.toml:6:19: `wake.verify_interval`: {problem}");
        assert_eq!(problems(&with(text)), [expected]);
    }
    assert!(load("w.toml", &with("50ms"), &none()).is_ok());
}

#[test]
fn a_wrong_key_is_named_with_its_line_and_the_nearest_valid_key() {
    let got = problems(&format!("{ROUTE}\n[wake]\ntimout = \"3s\"\n"));
    assert_eq!(
        got,
        ["w.toml:6:1: `wake.timout`: there is no such key\n    did you mean `timeout`?"]
    );
}

#[test]
fn all_problems_come_together_in_the_order_of_the_file() {
    let text = "[server]\nmax_connections = 0\n[wake]\ntimeout = \"3 parsecs\"\nmax_held = -1\n\
                [[route]]\nhost = \"api-{x}.b\"\nport = 70000\nhypeman = \"nowhere\"\n";
    let got = problems(text);
    let keys: Vec<&str> = got.iter().filter_map(|p| p.split('`').nth(1)).collect();
    assert_eq!(
        keys,
        [
            "server.max_connections",
            "wake.timeout",
            "wake.max_held",
            "route[0].host",
            "route[0].port",
            "route[0].hypeman"
        ]
    );
}

#[test]
fn a_configuration_without_routes_is_refused() {
    assert!(problems("")[0].contains("no route"));
}

#[test]
fn a_missing_instance_and_a_repeated_route_are_refused() {
    assert!(problems("[[route]]\nhost = \"a.b\"\n")[0].contains("`route[0].instance`: is missing"));
    assert!(problems(&format!("{ROUTE}{ROUTE}"))[0].contains("already an earlier route's"));
}

#[test]
fn a_listeners_certificates_are_a_pair_or_a_directory() {
    let tls = |text: &str| {
        let text = format!("{ROUTE}[[listener]]\ntls = {text}\n");
        let loaded = load("w.toml", &text, &none());
        loaded.map(|config| config.listener[0].tls.clone().map(|tls| tls.source))
    };
    assert!(matches!(
        tls("{ cert = \"x\", key = \"y\" }"),
        Ok(Some(TlsSource::Files { .. }))
    ));
    assert!(matches!(
        tls("{ dir = \"x\" }"),
        Ok(Some(TlsSource::Directory { .. }))
    ));
    for internal in ["\"internal\"", "{ internal = \"x\" }"] {
        assert!(matches!(
            tls(internal),
            Ok(Some(TlsSource::Internal { .. }))
        ));
    }
    assert!(tls("\"external\"").is_err());
    assert!(tls("{ cert = \"x\" }").is_err());
    assert!(tls("{ cert = \"x\", key = \"y\", dir = \"z\" }").is_err());
}

#[test]
fn a_listeners_keys_fit_its_mode() {
    for (keys, problem) in [
        ("mode = \"udp\"", "is not \"http\""),
        ("mode = \"tcp\"", "which `[[route]]`'s host"),
        (
            "mode = \"tcp\"\nhost = \"nobody.org\"",
            "no [[route]] answers for `nobody.org`",
        ),
        ("host = \"a.b\"", "is for `mode = \"tcp\"`"),
        (
            "mode = \"tls-passthrough\"\ntls = \"internal\"",
            "cannot have certificates",
        ),
        (
            "proxy_protocol = true",
            "`server.trusted_proxies` names none",
        ),
        (
            "tls = { dir = \"x\", client_auth = \"optional\" }",
            "needs `client_ca`",
        ),
    ] {
        let got = problems(&format!("{ROUTE}[[listener]]\n{keys}\n"));
        assert!(
            got.len() == 1 && got[0].contains(problem),
            "{keys}: {got:?}"
        );
    }
    let fine = format!("{ROUTE}[[listener]]\nmode = \"tcp\"\nhost = \"a.example.com\"\n");
    assert!(load("w.toml", &fine, &none()).is_ok());
}

#[test]
fn a_rule_that_would_break_framing_or_show_a_secret_is_refused() {
    for (keys, problem) in [
        (
            "[route.request_headers]\nset = [\"content-length: 1\"]",
            "frames messages",
        ),
        (
            "[route.response_headers]\nremove = [\"Transfer-Encoding\"]",
            "frames messages",
        ),
        ("[route.request_headers]\nrename = [\"x\"]", "two names"),
        ("[route.request_headers]\nadd = [\"x-a\"]", "has no value"),
        (
            "[route.auth]\nheader = \"cookie\"\nvalue = \"0123456789abcdef0123456789abcdef\"",
            "a meaning of its own",
        ),
        (
            "[route.auth]\nheader = \"x-key\"\nvalue = \"hunter2\"",
            "32 to 256",
        ),
        ("[route.auth]\nheader = \"x-key\"", "`value_file`"),
    ] {
        let got = problems(&format!("{ROUTE}{keys}\n"));
        assert!(got[0].contains(problem), "{keys}: {got:?}");
        assert!(!got.concat().contains("hunter2"), "{got:?}");
    }
}

#[test]
fn a_password_in_a_url_is_refused_without_being_repeated() {
    let got = problems(&format!(
        "[[hypeman]]\nurl = \"http://u:hunter2@h\"\n{ROUTE}"
    ));
    assert!(
        got[0].contains("api_key_file") && !got[0].contains("hunter2"),
        "{got:?}"
    );
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    let got = problems("[wake]\ntimeout = \n");
    assert!(got[0].starts_with("w.toml:2:"), "{got:?}");
}

#[test]
fn the_environment_wins_over_the_file_and_can_stand_alone() {
    let vars = variables(&[
        ("WAKEGATE_WAKE_TIMEOUT", "7s"),
        ("WAKEGATE_ROUTE_0_WAKE_TIMEOUT", "9s"),
    ]);
    let config = load(
        "w.toml",
        &format!("{ROUTE}[wake]\ntimeout = \"3s\"\n"),
        &vars,
    )
    .unwrap();
    assert_eq!(config.wake.timeout, Duration::from_secs(7));
    assert_eq!(config.route[0].wake.timeout, Duration::from_secs(9));

    let vars = variables(&[
        ("WAKEGATE_ROUTE_HOST", "{i}.example.com"),
        ("WAKEGATE_ROUTE_INSTANCE", "{i}"),
        ("WAKEGATE_ROUTE_PORT", "3000"),
        ("WAKEGATE_LISTENER_ADDRESS", "0.0.0.0:80"),
        ("HYPEMAN_BASE_URL", "http://h:1/"),
        ("HYPEMAN_API_KEY", "k"),
    ]);
    let config = load("environment", "", &vars).unwrap();
    assert_eq!(config.route[0].port, 3000);
    assert_eq!(config.listener[0].address.port(), 80);
    assert_eq!(config.hypeman[0].url, "http://h:1");
    assert_eq!(
        config.hypeman[0].api_key.as_ref().map(Secret::reveal),
        Some("k")
    );
}

#[test]
fn a_stray_variable_is_a_problem_with_its_nearest_name() {
    let error = load(
        "w.toml",
        ROUTE,
        &variables(&[("WAKEGATE_WAKE_TIMEOT", "7s")]),
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("did you mean `WAKEGATE_WAKE_TIMEOUT`?"),
        "{error}"
    );
}

/// What Kubernetes gives to a pod for a Service with one port.
fn service_links(service: &str) -> Vec<(String, String)> {
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "80"),
        ("SERVICE_PORT_HTTP", "80"),
        ("PORT", "tcp://10.0.0.1:80"),
        ("PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("PORT_80_TCP_PROTO", "tcp"),
        ("PORT_80_TCP_PORT", "80"),
        ("PORT_80_TCP_ADDR", "10.0.0.1"),
    ]
    .map(|(end, value)| (format!("{service}_{end}"), value.to_owned()))
    .into()
}

#[test]
fn services_with_the_name_of_a_section_change_nothing() {
    let plain = load("w.toml", ROUTE, &none()).unwrap();
    for service in [
        "WAKEGATE",
        "WAKEGATE_PROD",
        "WAKEGATE_ADMIN",
        "WAKEGATE_HYPEMAN",
        "WAKEGATE_LISTENER",
    ] {
        let links = service_links(service).into_iter().collect();
        assert_eq!(load("w.toml", ROUTE, &links).unwrap(), plain, "{service}");
    }
    for (service, ignored) in [
        ("WAKEGATE_UPSTREAM", "WAKEGATE_UPSTREAM_PORT"),
        ("WAKEGATE_ROUTE", "WAKEGATE_ROUTE_PORT"),
        ("WAKEGATE_ROUTE_0", "WAKEGATE_ROUTE_0_PORT"),
    ] {
        let links = service_links(service).into_iter().collect();
        let mut config = load("w.toml", ROUTE, &links).unwrap();
        let mut advice = crate::config::advice(&config, None);
        advice.retain(|one| one.rule == "service_link");
        assert_eq!(advice.len(), 1, "{advice:?}");
        assert_eq!(advice[0].key, ignored);
        assert_eq!(config.ignored_variables, [ignored]);
        config.ignored_variables.clear();
        assert_eq!(config, plain, "{service}");
    }
}

#[test]
fn a_port_that_a_person_wrote_is_read_beside_links() {
    let mut pairs = service_links("WAKEGATE");
    pairs.push(("WAKEGATE_ROUTE_0_PORT".to_owned(), "3000".to_owned()));
    let config = load("w.toml", ROUTE, &pairs.iter().cloned().collect()).unwrap();
    assert_eq!(config.route[0].port, 3000);
    pairs.push(("WAKEGATE_UPSTREM_PORT".to_owned(), "3000".to_owned()));
    let error = load("w.toml", ROUTE, &pairs.into_iter().collect()).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    assert!(
        error
            .to_string()
            .contains("did you mean `WAKEGATE_UPSTREAM_PORT`?"),
        "{error}"
    );
}

#[test]
fn no_setting_can_be_taken_for_a_link_but_by_a_port_that_is_an_address() {
    for name in known_variables(WHOLE_ROUTE) {
        assert!(!is_service_link(&name, "1"), "{name}");
    }
}

#[test]
fn a_variable_with_an_absurd_number_is_a_stray_one() {
    let name = "WAKEGATE_ROUTE_18446744073709551615_HOST";
    let error = load("w.toml", ROUTE, &variables(&[(name, "a.b")])).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn a_route_takes_its_wake_rules_from_the_general_ones() {
    let config = load(
        "w.toml",
        &format!("{ROUTE}[wake]\ntimeout = \"3s\"\nstart_stopped = true"),
        &none(),
    )
    .unwrap();
    assert_eq!(
        config.route[0].wake,
        crate::config::RouteWakeConfig {
            timeout: Duration::from_secs(3),
            start_stopped: true,
            ..crate::config::RouteWakeConfig::default()
        }
    );
}

#[test]
fn the_effective_configuration_loads_back_to_itself() {
    let text = format!(
        "[[hypeman]]\nname = \"b\"\nurl = \"https://h\"\napi_key_file = \"/k\"\n\
         [server]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\nvia = \"both\"\nhttps_port = 8443\nworkers = 1024\n{ROUTE}path = \"/v1/\"\nhypeman = \"b\"\n"
    );
    let config = load("w.toml", &text, &none()).unwrap();
    let printed = toml::to_string(&config).unwrap();
    assert_eq!(load("printed", &printed, &none()).unwrap(), config);
    assert_eq!(config.route[0].path(), "/v1");
}

#[test]
fn a_network_of_mapped_addresses_is_one_of_ipv4() {
    let text = format!(
        "[server]\ntrusted_proxies = [\"::ffff:10.0.0.0/104\", \"::ffff:192.0.2.1\", \"::ffff:0:0/96\", \
         \"::/0\", \"2001:db8::/32\"]\n{ROUTE}"
    );
    let config = load("w.toml", &text, &none()).unwrap();
    let networks = config.server.trusted_proxies.iter();
    let networks: Vec<String> = networks.map(ToString::to_string).collect();
    let expected = [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "0.0.0.0/0",
        "::/0",
        "2001:db8::/32",
    ];
    assert_eq!(networks, expected);
}

#[test]
fn what_via_the_redirects_port_and_the_workers_cannot_be_is_a_problem() {
    for (key, problem) in [
        (
            "via = \"on\"",
            "`on` is not one of `requests`, `both`, `off`",
        ),
        ("https_port = 0", "a port is 1 to 65535"),
        ("https_port = 80800", "too large: at most 65535"),
        ("workers = 0", "must be 1 to 1024"),
        ("workers = 1025", "must be 1 to 1024"),
        ("workers = \"2\"", "write 2, without quotes"),
        ("workers = 0x401", "must be 1 to 1024"),
    ] {
        let found = problems(&format!("[server]\n{key}\n{ROUTE}"));
        assert!(found.len() == 1 && found[0].contains(problem), "{found:?}");
    }
}

/// Every key that a route has.
const WHOLE_ROUTE: &str = r#"
[[route]]
host = "a.example.com"
instance = "a"
waiting_page = { after = "1s", template = "Cargo.toml" }
[route.wake]
ready = "health"
health_path = "/up?deep=1"
warmup = "/warm"
on_tls_hello = true
max_held = 7
also = ["db", "cache"]
[route.limits]
max_inflight = 20
soft_inflight = 10
soft_wait = "50ms"
max_inflight_per_client = 15
max_held_per_client = "half"
[route.admission]
methods = ["GET", "POST"]
paths = ["/api"]
deny_paths = ["/api/internal"]
header = "x-wake: yes"
clients = ["10.0.0.0/8"]
deny_user_agents = ["Bot"]
rate_per_client = "10/m"
rate = "100/h"
preset = "browser-abuse"
[route.asleep]
status = 204
headers = ["x-state: asleep"]
body_file = "Cargo.toml"
robots = "Cargo.toml"
health_paths = ["/healthz"]
health_forward = true
[route.retry]
buffer = "64KiB"
on_wake = [502, 503]
on_wake_for = "5s"
[[route.keep_warm]]
cron = "0 8 * * 1-5"
zone = "Europe/Berlin"
for = "10h"
[[route.prewarm]]
paths = ["/login"]
instances = ["app"]
"#;

#[test]
fn every_key_of_a_route_is_read_and_printed_so_that_it_loads_back() {
    let config = load("w.toml", WHOLE_ROUTE, &none()).unwrap();
    let route = &config.route[0];
    assert!(route.waiting_page.enabled);
    assert_eq!(route.waiting_page.after, Duration::from_secs(1));
    assert_eq!(
        (route.limits.max_inflight, route.retry.buffer.0),
        (20, 65_536)
    );
    assert_eq!(route.admission.deny_user_agents, ["bot"]);
    let printed = toml::to_string(&config).unwrap();
    assert_eq!(
        load("printed", &printed, &none()).unwrap(),
        config,
        "{printed}"
    );
}

#[test]
fn a_waiting_page_is_a_flag_or_a_table_which_turns_it_on() {
    for (text, enabled) in [
        ("waiting_page = true", true),
        ("waiting_page = false", false),
        ("waiting_page = { after = \"1s\" }", true),
        ("waiting_page = { enabled = false }", false),
        ("", false),
    ] {
        let config = load("w.toml", &format!("{ROUTE}{text}"), &none()).unwrap();
        assert_eq!(config.route[0].waiting_page.enabled, enabled, "{text}");
    }
    let vars = variables(&[("WAKEGATE_ROUTE_WAITING_PAGE", "true")]);
    assert!(
        load("w.toml", ROUTE, &vars).unwrap().route[0]
            .waiting_page
            .enabled
    );
}

#[test]
fn a_route_that_contradicts_itself_is_refused() {
    for (text, message) in [
        (
            "limits = { max_inflight = 1, soft_inflight = 2 }",
            "must not be more",
        ),
        (
            "limits = { max_inflight_per_client = 0 }",
            "neither \"half\" nor a whole number",
        ),
        (
            "limits = { max_held_per_client = 0.5 }",
            "not a word or a number",
        ),
        ("keep_warm = [{ cron = \"0 8 * *\", for = \"1h\" }]", "cron"),
        ("keep_warm = [{ cron = \"0 8 * * *\" }]", "how long"),
        (
            "prewarm = [{ paths = [\"/x\"] }]",
            "needs `paths` and `instances`",
        ),
        (
            "wake = { ready = \"soon\" }",
            "`soon` is not one of `running`, `port`, `health`",
        ),
        ("admission = { preset = \"x\" }", "browser-abuse"),
        ("admission = { rate = \"often\" }", "is not a rate"),
        ("asleep = { body_file = \"/nowhere\" }", "cannot read"),
        (
            "asleep = { headers = [\"content-length: 1\"] }",
            "gateway's own",
        ),
        ("retry = { on_wake = [200] }", "400 to 599"),
    ] {
        let got = problems(&format!("{ROUTE}{text}"));
        assert!(got[0].contains(message), "{text}: {got:?}");
    }
    let got = problems(
        "[[route]]\nhost = \"{a}.b\"\ninstance = \"{a}\"\n\
         keep_warm = [{ cron = \"0 8 * * *\", for = \"1h\" }]",
    );
    assert!(got[0].contains("its own route"), "{got:?}");
}

#[test]
fn the_shipped_examples_load() {
    for file in ["config/wakegate.toml", "config/sidecar.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        load_file(Some(&path), &none()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused_without_a_panic(text in "(\\[|\\]|[a-z_]{1,8}|=|\"|\n|[0-9]|\\{|\\}|,|\\.| ){0,60}") {
        let _ = load("w.toml", &text, &none());
    }
}

#[test]
fn a_file_that_is_read_in_parts_says_the_same_as_in_one_piece() {
    let many = |keys: &str| {
        let one = |number| {
            format!(
                "[[route]]\nhost = \"h{number}.x\"\npath = \"/p\"\ninstance = \"i{number}\"\n{keys}\n"
            )
        };
        (0..600).map(one).collect::<String>()
    };
    let some = "[[hypeman]]\nname = \"b\"\n";
    let texts = [
        many(""),
        many("port = 80\nwake = { timeout = \"9s\" }"),
        many(
            "[route.wake]\ntimeout = \"9s\"\n[[route.keep_warm]]\ncron = \"0 8 * * *\"\nfor = \"1h\"",
        ),
        format!("[wake]\ntimeout = \"7s\"\n{}{some}{}", many(""), ROUTE),
        format!(
            "{}[server]\nmax_headers = 50\n",
            many("hypeman = \"b\"").replace("\n\n", "\n") + some
        ),
        format!(
            "{ROUTE}wake = {{ timeout = \"9s\" }}\n{}",
            ROUTE.replace("a.example", "b.example")
        ),
        // And what is wrong is told in the same words, and at the same place.
        many("prot = 1"),
        many("wake = { timeout = 9 }"),
        many("[route.wake]\ntimout = \"9s\""),
        format!("{ROUTE}{ROUTE}"),
        format!("{ROUTE}[route]\nhost = \"b\"\n"),
        format!("[route.wake]\ntimeout = \"9s\"\n{ROUTE}"),
        format!("route = []\n{ROUTE}"),
        format!(
            "{ROUTE}[server]\n{}",
            ROUTE.replace("a.example", "b.example")
        ),
        format!("{ROUTE}[server]\n[route.wake]\ntimeout = \"9s\"\n"),
        format!("{ROUTE}host = \"b\"\n"),
        format!("x = [\n{ROUTE}]\n"),
        String::new(),
    ];
    let variable = ("WAKEGATE_ROUTE_1_WAKE_TIMEOUT", "3s");
    for text in texts {
        for variables in [none(), variables(&[variable])] {
            // A text of several lines may be anywhere in a file with such quotes.
            let whole = format!("{text}\n# \"\"\"\n");
            assert!(Parts::of(&whole).is_none());
            let read = |text: &str| load("w.toml", text, &variables);
            assert_eq!(read(&text), read(&whole), "{text}");
        }
    }
}

#[test]
fn routes_that_say_the_same_share_it() {
    let route =
        |host: &str, keys: &str| format!("[[route]]\nhost = \"{host}\"\ninstance = \"x\"\n{keys}");
    let text = route("a.b", "wake = { timeout = \"9s\", ready = \"running\" }\n")
        + &route(
            "c.d",
            "port = 80\n[route.wake]\nready = \"running\"\ntimeout = \"9s\"\n",
        )
        + &route("e.f", "");
    let config = load("w.toml", &text, &none()).unwrap();
    let [one, same, other] = [0, 1, 2].map(|at| &config.route[at].policy);
    assert!(Arc::ptr_eq(one, same) && !Arc::ptr_eq(one, other));
    assert_eq!(one.wake.timeout, Duration::from_secs(9));
}

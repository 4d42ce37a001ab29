use super::tests::{ROUTE, none, problems, variables};
use super::*;

#[test]
fn what_cannot_be_meant_is_refused_with_what_may_be_meant() {
    for (text, written, mend) in [
        ("admission = { methods = ['get'] }", "'get'", "write `GET`"),
        (
            "admission = { methods = ['Propfind'] }",
            "'Prop",
            "write `PROPFIND`",
        ),
        ("port = 80800", "80800", "too large: at most 65535"),
        ("port = 0", "0", "a port is 1 to 65535"),
        ("port = '3000'", "'3000'", "write 3000, without quotes"),
        ("path = 7", "7", "write \"7\", in quotes"),
        ("wake = { timeout = 30 }", "30", "in quotes: \"30s\""),
        ("wake = { timeout = '30' }", "'30'", "like \"30s\""),
        ("strip_path = 'yes'", "'yes'", "is not true or false"),
        ("admission = { paths = '/a' }", "'/a'", "in square brackets"),
        (
            "admission = { paths = [true] }",
            "true",
            "each item in quotes",
        ),
        (
            "keep_warm = [{ cron = '0 8 * * *', for = '1h', zone = 'Mars' }]",
            "'Mars'",
            "`Mars` is not a time zone",
        ),
        (
            "keep_warm = [{ cron = '0 8 * *', for = '1h' }]",
            "'0 8",
            "five cron fields",
        ),
        (
            "keep_warm = [{ for = '1h' }]",
            "{ for",
            "when does the window begin?",
        ),
        (
            "prewarm = [{ paths = ['/x'] }]",
            "{ paths",
            "needs `paths` and `instances`",
        ),
        (
            "[[hypeman]]\nurl = 'http://h:0'",
            "'http",
            "the port 0, at which nothing listens",
        ),
        (
            "[[listener]]\naddress = ':8080'",
            "':8080'",
            "write \"0.0.0.0:8080\"",
        ),
        (
            "[[listener]]\naddress = '*:80'",
            "'*:80'",
            "write \"0.0.0.0:80\"",
        ),
        (
            "[[listener]]\naddress = 'localhost:8080'",
            "'localhost:8080'",
            "write \"127.0.0.1:8080\"",
        ),
        (
            "[[listener]]\naddress = '10.0.0.1'",
            "'10.0.0.1'",
            "like \"127.0.0.1:8080\"",
        ),
        (
            "[[route]]\nhost = '*.example.com'\ninstance = '{name}'",
            "'{name}'",
            "write it there, like \"{name}.example.com\"",
        ),
        ("[log]\nlevel = 'loud'", "'loud'", "`loud` is not a level"),
        (
            "[[hypeman]]\nurl = '127.0.0.1:1'",
            "'127",
            "write `http://127.0.0.1:1`",
        ),
        (
            "[[hypeman]]\nurl = 'localhost:1'",
            "'local",
            "write `http://localhost:1`",
        ),
        (
            "[[hypeman]]\nurl = 'ftp://h'",
            "'ftp",
            "write http:// or https://",
        ),
        (
            "[[route]]\nhost = 'https://b.example.com:8443/x'\ninstance = 'b'",
            "'https",
            "write \"b.example.com\"",
        ),
        (
            "[[route]]\nhost = '*.example.com:80'\ninstance = 'b'",
            "'*.exa",
            "write \"*.example.com\"",
        ),
        ("[[route]]\ninstance = 'b'", "[[route]]", "which host name"),
        (
            "[[route]]\nhost = 'b.example.com'",
            "[[route]]",
            "which instance",
        ),
        (
            "[[route]]\nhost = 5\ninstance = 'b'",
            "5",
            "write \"5\", in quotes",
        ),
    ] {
        let whole = format!("{ROUTE}{text}\n");
        let got = problems(&whole);
        assert_eq!(got.len(), 1, "{text}: {got:?}");
        let before = whole.rsplit_once(written).unwrap().0;
        let column = before.rsplit('\n').next().unwrap().len() + 1;
        let place = format!("w.toml:{}:{column}: ", before.matches('\n').count() + 1);
        assert!(got[0].starts_with(&place), "{text}: {place} {got:?}");
        assert!(got[0].contains(mend), "{text}: {got:?}");
    }
}

#[test]
fn a_value_that_may_be_a_secret_is_in_no_problem() {
    for (text, said) in [
        (
            "admission = { header = \"x wake: hunter2\" }",
            "is not a header field",
        ),
        (
            "asleep = { headers = [\"bearer hunter2\"] }",
            "is not a header field",
        ),
        (
            "[route.request_headers]\nset = [\"Bearer hunter2\"]",
            "is not a header field",
        ),
        (
            "[route.request_headers]\nset = [\"x-a: hunter2\\u0007\"]",
            "a value that no field can have",
        ),
        (
            "[[hypeman]]\nurl = \"http://u:hunter2@h:99999999\"",
            "api_key_file",
        ),
        ("[[hypeman]]\nurl = \"u:hunter2@h:80\"", "api_key_file"),
        (
            "[[hypeman]]\nurl = \"http://u:hunter2@h/?x\"",
            "api_key_file",
        ),
        (
            "[[hypeman]]\nurl = \"http://h/?key=hunter2\"",
            "a query or a fragment",
        ),
        ("[admin]\ntoken = \"hunter2\"", "at least 16"),
    ] {
        let got = problems(&format!("{ROUTE}{text}\n")).concat();
        assert!(
            got.contains(said) && !got.contains("hunter2"),
            "{text}: {got}"
        );
    }
}

#[test]
fn what_cannot_be_read_makes_no_other_key_unknown() {
    for (text, count) in [
        (
            "[admin]\ntoken_file = \"/nowhere\"\ndashboard = false\nobserve = false\n",
            1,
        ),
        (
            "[admin]\ntoken_file = \"/nowhere\"\ntoken = \"0123456789abcdef\"\nobserve = false\n",
            1,
        ),
        (
            "[route.auth]\nheader = \"x-key\"\nvalue_file = \"/nowhere\"\n",
            1,
        ),
        (
            "[[route]]\nhost = 5\ninstance = \"b\"\nlimits = { max_inflight = 1 }\n",
            1,
        ),
        (
            "[[listener]]\ntls = { cert = \"x\", min_version = \"1.3\", client_ca = \"y\" }\n",
            1,
        ),
        (
            "keep_warm = [{ cron = \"x\", zone = \"y\", for = \"1h\" }]\n",
            1,
        ),
    ] {
        let got = problems(&format!("{ROUTE}{text}"));
        assert_eq!(got.len(), count, "{text}: {got:?}");
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let vars = variables(&[("WAKEGATE_WAKE_TIMEOUT", ""), ("WAKEGATE_NO_SUCH", "")]);
    let plain = load("w.toml", ROUTE, &none()).unwrap();
    assert_eq!(load("w.toml", ROUTE, &vars).unwrap(), plain);
}

#[test]
fn two_variables_of_one_setting_must_agree() {
    let both = |short: &str, long: &str| {
        let vars = variables(&[
            ("WAKEGATE_ROUTE_PORT", short),
            ("WAKEGATE_ROUTE_0_PORT", long),
        ]);
        load("w.toml", ROUTE, &vars)
    };
    assert_eq!(both("0xBB8", "0xBB8").unwrap().route[0].port, 3000);
    let error = both("1", "2").unwrap_err().to_string();
    assert!(
        error.contains("1 problem") && error.contains("another value"),
        "{error}"
    );
}

#[test]
fn a_variable_beyond_a_gap_makes_no_tables_that_nobody_wrote() {
    for (name, value) in [
        ("WAKEGATE_LISTENER_2_ADDRESS", "127.0.0.1:1"),
        ("WAKEGATE_HYPEMAN_3_URL", "http://h:1"),
        ("WAKEGATE_ROUTE_2_HOST", "b.example.com"),
    ] {
        let text = format!("[[listener]]\naddress = '127.0.0.1:8080'\n{ROUTE}");
        let error = load("w.toml", &text, &variables(&[(name, value)]));
        let error = error.expect_err("should be refused");
        let said: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1, "{name}: {said:?}");
        assert!(
            said[0].contains(&format!("{name}: no setting has this environment variable")),
            "{name}: {said:?}"
        );
    }
    let next = variables(&[("WAKEGATE_LISTENER_1_ADDRESS", "127.0.0.1:1")]);
    let text = format!("[[listener]]\naddress = '127.0.0.1:8080'\n{ROUTE}");
    let config = load("w.toml", &text, &next).unwrap();
    assert_eq!(config.listener.len(), 2, "the next one is a new one");
}

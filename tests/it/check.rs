//! `wakegate check` beside `wakegate serve`: what one refuses, the other refuses, in the same words.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::reserved::Reserved;
use crate::support::{BINARY, Lines, Plane, Program, Wanted, wakegate, without_settings};

/// Seconds, more than a program takes to read its configuration on a machine that is busy with much
/// else.
const PATIENCE: &str = "60";

const ROUTE: &str = "[[route]]\nhost = \"a.example.com\"\ninstance = \"a\"\n";

/// What takes no address that anybody else has.
const NOWHERE: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";
const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n";

/// A folder with certificates, keys and what is none.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for name in ["one", "two"] {
            let made = rcgen::generate_simple_self_signed([format!("{name}.test")]).unwrap();
            folder.write(&format!("{name}.crt"), &made.cert.pem());
            folder.write(&format!("{name}.key"), &made.signing_key.serialize_pem());
        }
        folder.write("junk", "nothing of use\n");
        folder.write("empty", "");
        folder.write("short", "hunter2\n");
        std::fs::create_dir(folder.path("none")).unwrap();
        std::fs::create_dir(folder.path("pair")).unwrap();
        folder.write("pair/a.crt", "nothing of use\n");
        folder.write("pair/a.key", "nothing of use\n");
        std::fs::create_dir(folder.path("ca")).unwrap();
        folder.write("ca/ca.key", "nothing of use\n");
        std::fs::write(folder.path("binary"), b"\xff\xfe").unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

/// The program, which is ended with the exit code 124 when it serves instead of leaving.
fn leaving() -> Command {
    let mut command = without_settings(Command::new("timeout"));
    command.args([PATIENCE, BINARY]);
    command
}

/// The exit code and the last words of a program, which are its reason.
fn verdict(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    let reason = said.rfind("wakegate: ").and_then(|at| said.get(at..));
    (output.status.code(), reason.unwrap_or_default().to_owned())
}

fn run(word: &str, arguments: &[&str], file: &Path, variables: &[(&str, &str)]) -> Output {
    let mut command = leaving();
    command.arg(word).arg("-c").arg(file).args(arguments);
    command.envs(variables.iter().copied()).output().unwrap()
}

/// A wrong configuration, and words that must be in the reason.
struct Wrong {
    text: String,
    arguments: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    said: &'static str,
}

fn wrong(text: impl Into<String>, said: &'static str) -> Wrong {
    Wrong {
        text: format!("{NOWHERE}{LISTENER}{ROUTE}{}", text.into()),
        arguments: &[],
        variables: &[],
        said,
    }
}

/// One whose listeners and `[admin]` are its own.
fn whole(text: impl Into<String>, said: &'static str) -> Wrong {
    let text = text.into();
    Wrong {
        text,
        ..wrong("", said)
    }
}

/// A listener with this TLS.
fn tls(table: &str, said: &'static str) -> Wrong {
    wrong(
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {table}\n"),
        said,
    )
}

/// What the text alone shows.
fn of_the_text() -> Vec<Wrong> {
    vec![
        wrong("[wake\n", "wakegate.toml:8:"),
        wrong("[wake]\ntimeout = \n", "wakegate.toml:9:"),
        wrong("[wake]\ntimout = \"1s\"\n", "did you mean `timeout`?"),
        wrong("[wakes]\n", "did you mean `wake`?"),
        wrong("[wake]\ntimeout = 30\n", "\"30s\""),
        wrong("[wake]\ntimeout = \"0s\"\n", "longer than zero"),
        wrong("[wake]\ntimeout = \"1 fortnight\"\n", "is not a unit"),
        wrong("[wake]\nverify_interval = \"1ms\"\n", "at least 50ms"),
        wrong("[wake]\nbreaker_failures = 0\n", "at least 1"),
        wrong("[wake]\nready = \"soon\"\n", "`soon` is not"),
        wrong("[wake]\nunknown_per_client = \"often\"\n", "is not a rate"),
        wrong("[server]\nworkers = 0\n", "must be 1 to 1024"),
        wrong("[server]\nmax_connections = -1\n", "is below 0"),
        wrong("[server]\nmax_header_bytes = 1\n", "at least 8192"),
        wrong("[server]\nmax_buffered_bytes = \"1B\"\n", "at least 1MiB"),
        wrong("[server]\nhalf_close = \"x\"\n", "`x` is not"),
        wrong("[server]\nvia = \"on\"\n", "`on` is not"),
        wrong("[server]\nhttps_port = 80800\n", "at most 65535"),
        wrong(
            "[server]\ntrusted_proxies = [\"10.0.0.0/99\"]\n",
            "is not a network",
        ),
        wrong(
            "[server]\ntrusted_proxies = \"10.0.0.1\"\n",
            "in square brackets",
        ),
        wrong("[upstream]\nport = 80\n", "needs `upstream.instance`"),
        wrong("[log]\nlevel = \"loud\"\n", "`loud` is not a level"),
        wrong("[log]\nformat = \"xml\"\n", "`xml` is not"),
        wrong("[log]\naccess_sample = 1.5\n", "from 0 to 1"),
        wrong(
            "[log]\naccess_fields = [\"colour\"]\n",
            "`colour` is not one of `time`",
        ),
        wrong(
            "[tracing]\nendpoint = \"collector:4318\"\n",
            "write `http://collector:4318`",
        ),
        wrong("[ingress]\naddress = \"here\"\n", "is not an IP address"),
        wrong("port = 0\n", "a port is 1 to 65535"),
        wrong("hypeman = \"nowhere\"\n", "no [[hypeman]] has this name"),
        wrong("path = \"a//b\"\n", "is not a path prefix"),
        wrong("admission = { methods = [\"get\"] }\n", "write `GET`"),
        wrong(
            "admission = { preset = \"x\" }\n",
            "`x` is not `browser-abuse`",
        ),
        wrong(
            "limits = { max_inflight = 1, soft_inflight = 2 }\n",
            "must not be more",
        ),
        wrong("retry = { on_wake = [200] }\n", "400 to 599"),
        wrong("retry = { buffer = \"1GiB\" }\n", "is not a size"),
        wrong(
            "keep_warm = [{ cron = \"0 8 * *\", for = \"1h\" }]\n",
            "five cron fields",
        ),
        wrong(
            "keep_warm = [{ cron = \"0 8 * * *\", for = \"1h\", zone = \"Mars\" }]\n",
            "is not a time zone",
        ),
        wrong(
            "prewarm = [{ paths = [\"/x\"] }]\n",
            "needs `paths` and `instances`",
        ),
        wrong("[route.auth]\n", "what must a request show?"),
        wrong(
            "[route.auth]\nheader = \"cookie\"\nvalue = \"x\"\n",
            "a meaning of its own",
        ),
        wrong(
            "[[route.auth.any]]\nclient_certificate = true\n",
            "no listener asks clients",
        ),
        wrong(
            "[route.request_headers]\nset = [\"te: x\"]\n",
            "frames messages",
        ),
        wrong(ROUTE, "already an earlier route's"),
        wrong(
            "[[route]]\nhost = \"b.example.com\"\n",
            "which instance does the route wake?",
        ),
        wrong("[[route]]\ninstance = \"b\"\n", "which host name"),
        wrong(
            "[[route]]\nhost = \"https://b.example.com/\"\ninstance = \"b\"\n",
            "write \"b.example.com\"",
        ),
        wrong(
            "[[route]]\nhost = \"b\"\ninstance = \"{x}\"\n",
            "is not a capture",
        ),
        wrong(
            "[[hypeman]]\nurl = \"127.0.0.1:4973\"\n",
            "write `http://127.0.0.1:4973`",
        ),
        wrong(
            "[[hypeman]]\nurl = \"http://u:hunter2@h\"\n",
            "a user name or password",
        ),
        wrong(
            "[[hypeman]]\n[[hypeman]]\n",
            "the name of an earlier [[hypeman]]",
        ),
        wrong(
            "[[listener]]\naddress = \":80\"\n",
            "is not an IP address and port",
        ),
        wrong("[[listener]]\nmode = \"udp\"\n", "`udp` is not"),
        wrong(
            "[[listener]]\nmode = \"tcp\"\nhost = \"nobody.org\"\n",
            "no [[route]] answers",
        ),
        wrong("[[listener]]\nproxy_protocol = true\n", "names none"),
        whole(format!("{NOWHERE}{LISTENER}"), "there is no route"),
        whole("", "there is no route"),
    ]
}

/// What only shows when one listener is beside another, or variables beside the file.
fn of_the_whole() -> Vec<Wrong> {
    let with = |admin: &str, listeners: &[&str], more: &str| {
        let listeners = listeners.iter();
        let listeners: Vec<String> = listeners
            .map(|address| format!("[[listener]]\naddress = \"{address}\"\n"))
            .collect();
        let listeners = listeners.concat();
        format!("{more}[admin]\naddress = \"{admin}\"\n{listeners}{ROUTE}")
    };
    let one = "127.0.0.1:1";
    let nowhere = "127.0.0.1:0";
    let reuse = "[server]\nreuse_port = true\n";
    vec![
        whole(
            with(nowhere, &[one, one], ""),
            "is the address of `listener[0].address`, too",
        ),
        whole(with(nowhere, &[one, one], reuse), "wakegate.toml:8:11"),
        whole(with(one, &[one], ""), "`admin.address`"),
        whole(with(one, &[one], reuse), "`admin.address`"),
        whole(
            with(nowhere, &["0.0.0.0:1", one], ""),
            "is among the addresses",
        ),
        whole(with("[::]:1", &[one], ""), "is among the addresses"),
        Wrong {
            arguments: &["--listen", "127.0.0.1:1", "--admin-listen", "127.0.0.1:1"],
            ..wrong("", "--admin-listen: `admin.address`")
        },
        Wrong {
            variables: &[("WAKEGATE_WAKE_TIMEOT", "1s")],
            ..wrong("", "did you mean `WAKEGATE_WAKE_TIMEOUT`?")
        },
        Wrong {
            variables: &[("WAKEGATE_WAKE_TIMEOUT", "1")],
            ..wrong("", "WAKEGATE_WAKE_TIMEOUT: `wake.timeout`")
        },
        Wrong {
            variables: &[("WAKEGATE_ROUTE_PORT", "1"), ("WAKEGATE_ROUTE_0_PORT", "2")],
            ..wrong("", "with another value")
        },
        Wrong {
            variables: &[("HYPEMAN_BASE_URL", "host:8080")],
            ..wrong("", "write `http://host:8080`")
        },
        Wrong {
            variables: &[("HYPEMAN_BASE_URL", "ftp://host")],
            ..wrong("", "write http:// or https://")
        },
        Wrong {
            variables: &[("HYPEMAN_API_KEY", "k")],
            ..wrong(
                "[[hypeman]]\nname = \"a\"\n[[hypeman]]\nname = \"b\"\n",
                "which of the 2 control planes",
            )
        },
        Wrong {
            variables: &[("HYPEMAN_API_KEY", "hunter2\u{7}")],
            ..wrong("", "no HTTP header can carry")
        },
    ]
}

/// What only the files show that it names.
fn of_its_files(folder: &Folder) -> Vec<Wrong> {
    let quoted = |name: &str| format!("\"{}\"", folder.path(name).display());
    let pair =
        |cert: &str, key: &str| format!("{{ cert = {}, key = {} }}", quoted(cert), quoted(key));
    let own = |key: &str, name: &str| format!("{{ {key} = {} }}", quoted(name));
    let good = pair("one.crt", "one.key");
    let clients = |name: &str| {
        let more = format!(", client_ca = {} }}", quoted(name));
        good.replace(" }", &more)
    };
    vec![
        tls(&pair("nothing", "one.key"), "tls.cert`: cannot read"),
        tls(&pair("one.crt", "nothing"), "tls.key`: cannot read"),
        tls(&pair("junk", "one.key"), "has no certificate in it"),
        tls(&pair("one.crt", "junk"), "is not a PEM private key"),
        tls(&pair("one.crt", "two.key"), "does not fit"),
        tls(&own("dir", "nothing"), "tls.dir`: cannot read"),
        tls(&own("dir", "none"), "has no certificate"),
        tls(&own("dir", "pair"), "tls.dir`"),
        tls(&own("internal", "ca"), "the internal CA in"),
        tls(&own("internal", "junk"), "the internal CA in"),
        tls(&own("internal", "junk/ca"), "the internal CA in"),
        tls(&clients("nothing"), "tls.client_ca`: cannot read"),
        tls(&clients("junk"), "tls.client_ca`"),
        wrong(
            format!("[ingress]\nwatch = true\ntls = {}\n", own("dir", "none")),
            "`ingress.tls.dir`",
        ),
        wrong(
            format!("[[hypeman]]\napi_key_file = {}\n", quoted("nothing")),
            "cannot read the API key",
        ),
        wrong(
            format!("[[hypeman]]\napi_key_file = {}\n", quoted("empty")),
            "the API key is empty",
        ),
        wrong(
            format!("[[hypeman]]\napi_key_file = {}\n", quoted("none")),
            "cannot read the API key",
        ),
        whole(
            format!(
                "{NOWHERE}token_file = {}\n{LISTENER}{ROUTE}",
                quoted("nothing")
            ),
            "`admin.token_file`: cannot read",
        ),
        whole(
            format!(
                "{NOWHERE}token_file = {}\n{LISTENER}{ROUTE}",
                quoted("short")
            ),
            "at least 16",
        ),
        whole(
            format!(
                "{NOWHERE}token_file = {}\n{LISTENER}{ROUTE}",
                quoted("binary")
            ),
            "`admin.token_file`: cannot read",
        ),
        wrong(
            format!(
                "[route.auth]\nheader = \"x-key\"\nvalue_file = {}\n",
                quoted("nothing")
            ),
            "`route[0].auth.value_file`: cannot read",
        ),
        wrong(
            format!(
                "[route.auth]\nheader = \"x-key\"\nvalue_file = {}\n",
                quoted("short")
            ),
            "32 to 256",
        ),
        wrong(
            format!("asleep = {}\n", own("body_file", "nothing")),
            "`route[0].asleep.body_file`: cannot read",
        ),
        wrong(
            format!("asleep = {}\n", own("robots", "binary")),
            "`route[0].asleep.robots`: cannot read",
        ),
        wrong(
            format!("waiting_page = {}\n", own("template", "nothing")),
            "`route[0].waiting_page.template`: cannot read",
        ),
        wrong(
            format!(
                "[tracing]\nendpoint = \"http://127.0.0.1:1\"\nheaders_file = {}\n",
                quoted("junk")
            ),
            "line 1 is not a header field",
        ),
    ]
}

#[test]
fn what_serve_refuses_check_refuses_in_the_same_words_with_the_same_code() {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let all = [of_the_text(), of_the_whole(), of_its_files(&folder)];
    let all: Vec<Wrong> = all.into_iter().flatten().collect();
    assert!(all.len() >= 60, "{}", all.len());
    let mut failed = Vec::new();
    for one in &all {
        std::fs::write(&file, &one.text).unwrap();
        let run = |word| verdict(&run(word, one.arguments, &file, one.variables));
        let (check, serve) = (run("check"), run("serve"));
        let is_told = check.1.contains(one.said) && !check.1.contains("hunter2");
        if check != serve || check.0 != Some(78) || !is_told {
            failed.push(format!(
                "{}\n{}\ncheck: {check:?}\nserve: {serve:?}",
                one.text, one.said
            ));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n---\n"));
    assert!(!folder.path("junk/ca").exists());
}

#[test]
fn what_is_wrong_in_several_places_is_told_at_once_in_the_order_of_the_file() {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let text = format!(
        "{NOWHERE}{ROUTE}[[hypeman]]\napi_key_file = \"/nowhere\"\n\
         [[listener]]\naddress = \"127.0.0.1:1\"\ntls = {{ cert = \"/no\", key = \"/no\" }}\n\
         [[listener]]\naddress = \"127.0.0.1:1\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let (code, said) = verdict(&run("check", &[], &file, &[]));
    assert_eq!(code, Some(78));
    let places: Vec<&str> = said
        .lines()
        .filter_map(|line| line.split(": `").next()?.rsplit_once(".toml"))
        .map(|(_, place)| place)
        .collect();
    assert_eq!(places, [":7:16", ":10:16", ":12:11"], "{said}");
}

#[test]
fn programs_are_told_rule_file_line_column_key_message_and_mend() {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let report = |text: &str, variables: &[(&str, &str)]| {
        std::fs::write(&file, text).unwrap();
        let output = run("check", &["--json"], &file, variables);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap(), report)
    };
    let (code, bad) = report(
        &format!("{NOWHERE}{ROUTE}[wake]\ntimout = \"1s\"\n"),
        &[("WAKEGATE_SERVER_WORKERS", "0")],
    );
    assert_eq!((code, &bad["verdict"]), (78, &"refused".into()));
    assert_eq!(
        bad["findings"],
        serde_json::json!([
            {
                "severity": "error", "rule": "unknown_key", "file": file, "line": 7, "column": 1,
                "variable": null, "key": "wake.timout", "message": "there is no such key",
                "mend": "did you mean `timeout`?",
            },
            {
                "severity": "error", "rule": "bad_value", "file": null, "line": null,
                "column": null, "variable": "WAKEGATE_SERVER_WORKERS", "key": "server.workers",
                "message": "must be 1 to 1024", "mend": null,
            },
        ])
    );
    let (code, good) = report(&format!("{NOWHERE}{LISTENER}{ROUTE}"), &[]);
    assert_eq!((code, &good["verdict"]), (0, &"good".into()));
    let [warning] = good["findings"].as_array().unwrap().as_slice() else {
        panic!("{good}");
    };
    assert_eq!(
        (&warning["severity"], &warning["rule"], &warning["key"]),
        (
            &"warning".into(),
            &"no_api_key".into(),
            &"hypeman[0].api_key_file".into()
        )
    );
}

#[test]
fn a_good_configuration_is_called_good_and_quiet_says_nothing_of_it() {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let key = [("HYPEMAN_API_KEY", "k")];
    let text = format!(
        "{NOWHERE}{LISTENER}{ROUTE}admission = {{ header = \"x-wake: hunter2\" }}\n\
         [route.request_headers]\nset = [\"authorization: Bearer hunter2\", \"x-a: blue\"]\n"
    );
    std::fs::write(&file, &text).unwrap();
    let text_of = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let output = run("check", &[], &file, &key);
    let (out, err) = (text_of(output.stdout), text_of(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert_eq!(err, format!("{} is good\n", file.display()));
    assert!(
        out.contains("x-a: blue") && !out.contains("hunter2"),
        "{out}"
    );
    let output = run("check", &["--quiet"], &file, &key);
    assert_eq!(
        (output.status.code(), output.stdout, output.stderr),
        (Some(0), vec![], vec![])
    );
    // Without a key there is a warning, which `--quiet` says and `--strict` refuses.
    let output = run("check", &["-q"], &file, &[]);
    let err = text_of(output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert!(
        err.starts_with("warning: ") && err.contains("HYPEMAN_API_KEY"),
        "{err}"
    );
    let output = run("check", &["-q", "--strict"], &file, &[]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_check_founds_nothing_and_holds_nothing() {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let ca = folder.path("new/ca");
    let text = format!(
        "{NOWHERE}[[listener]]\naddress = \"{address}\"\ntls = {{ internal = {ca:?} }}\n{ROUTE}"
    );
    std::fs::write(&file, text).unwrap();
    let key = [("HYPEMAN_API_KEY", "k")];
    let output = run("check", &["--strict"], &file, &key);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(
        err.contains("note: ") && err.contains("cannot be opened now"),
        "{err}"
    );
    assert!(!folder.path("new").exists());
    assert!(std::net::TcpStream::connect(address).is_ok());
    // `serve` cannot have the address either, and whoever looks after it may try again.
    let (code, reason) = verdict(&run("serve", &[], &file, &key));
    assert_eq!(code, Some(1), "{reason}");
    assert!(reason.contains("cannot listen at"), "{reason}");
    assert!(ca.join("ca.key").exists());
}

#[test]
fn a_file_that_lies_unread_is_named() {
    let folder = Folder::new();
    folder.write("wakegate.toml", &format!("{NOWHERE}{ROUTE}"));
    let run = |word: &str, variables: &[(&str, &str)]| {
        let mut command = leaving();
        command.arg(word).current_dir(folder.path(""));
        command.envs(variables.iter().copied()).output().unwrap()
    };
    for word in ["check", "serve"] {
        let (code, reason) = verdict(&run(word, &[]));
        assert_eq!(code, Some(78), "{reason}");
        assert!(
            reason.contains("wakegate.toml: is in this folder, and is not read"),
            "{reason}"
        );
        assert!(reason.contains("give `-c wakegate.toml`"), "{reason}");
    }
    let sidecar = [
        ("WAKEGATE_UPSTREAM_INSTANCE", "app"),
        ("WAKEGATE_ADMIN_ADDRESS", "127.0.0.1:0"),
        ("WAKEGATE_LISTENER_ADDRESS", "127.0.0.1:0"),
    ];
    let output = run("check", &sidecar);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("warning: wakegate.toml: is in this folder"),
        "{said}"
    );
    assert!(
        said.ends_with("the environment is good, with 2 warnings\n"),
        "{said}"
    );
}

/// Starts a gateway in front of this control plane, with this key, until it has said so much.
async fn start_says(url: &str, key: Option<&str>, more: &str, expected: &[&str]) {
    let folder = Folder::new();
    let file = folder.path("wakegate.toml");
    let text =
        format!("{NOWHERE}{more}{LISTENER}{ROUTE}[[hypeman]]\nname = \"eu\"\nurl = \"{url}\"\n");
    std::fs::write(&file, text).unwrap();
    let mut command = wakegate();
    command.args(["serve", "-c"]).arg(&file);
    command.envs(key.map(|key| ("HYPEMAN_API_KEY", key)));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = Program(command.spawn().unwrap());
    let mut lines = Lines::of(program.0.stderr.take().unwrap());
    for part in expected {
        lines.say(part, 1).await;
    }
    let words = [
        "the control plane answers",
        "the control plane does not answer",
    ];
    let told = |line: &&String| words.iter().any(|words| line.contains(words));
    assert_eq!(
        lines.story.iter().filter(told).count(),
        1,
        "{:?}",
        lines.story
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_which_control_planes_answer_or_why_not() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("one")).await;
    let url = format!("http://{}", plane.address);
    for more in ["", "observe = false\n"] {
        let answers = ["the control plane answers", "hypeman=eu", "instances=1"];
        start_says(&url, Some(&plane.token), more, &answers).await;
        let none = [
            "does not answer as it should",
            "there is none: set `api_key_file`",
        ];
        start_says(&url, None, more, &none).await;
        let wrong = ["does not answer as it should", "is the API key right"];
        start_says(&url, Some("wrong"), more, &wrong).await;
    }
    let nobody = Reserved::new();
    let url = format!("http://{}", nobody.address);
    start_says(&url, Some("k"), "", &["does it run, and is `url` right?"]).await;
    plane.stop().await;
}

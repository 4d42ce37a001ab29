//! What is shipped beside the program: that each thing is what its own tool takes it for, and says
//! what the program says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::reserved::Reserved;
use crate::support::tools::{python, run, scratch};
use crate::support::{Plane, Program, Wanted, eventually, wakegate};
use serde_json::Value;
use wakegate::config::{Variables, load};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(path)
}

/// Names in a text that are metrics', without the suffixes that Prometheus gives to a histogram's
/// series.
fn metrics(text: &str) -> Vec<String> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let mut names: Vec<String> = text
        .split(word)
        .filter(|word| word.starts_with("wakegate_") || word.starts_with("process_"))
        .map(|name| {
            let cut = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            cut.unwrap_or(name).to_owned()
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

fn check_metrics(text: &str, of: &str) {
    let documented = include_str!("../../docs/reference/metrics.md");
    for name in metrics(text) {
        assert!(
            documented.contains(&format!("`{name}`")),
            "{of}: there is no metric {name}"
        );
    }
}

#[test]
fn the_alert_rules_pass_their_own_tests_and_know_every_metric_they_name() {
    let folder = deploy("prometheus");
    run(Command::new("promtool")
        .args(["check", "rules", "alerts.yaml"])
        .current_dir(&folder));
    let tests = ["test", "rules", "alerts.test.yaml"];
    run(Command::new("promtool").args(tests).current_dir(&folder));
    let (rules, tests) = (folder.join("alerts.yaml"), folder.join("alerts.test.yaml"));
    let rules = std::fs::read_to_string(rules).unwrap();
    check_metrics(&rules, "alerts.yaml");
    let tests = std::fs::read_to_string(tests).unwrap();
    for line in rules.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            assert!(tests.contains(name), "{name} has no test");
        }
    }
}

#[test]
fn the_grafana_dashboard_asks_only_for_metrics_that_exist_in_words_that_prometheus_understands() {
    let text = std::fs::read_to_string(deploy("grafana/wakegate.json")).unwrap();
    check_metrics(&text, "wakegate.json");
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let expressions: Vec<&str> = targets
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(expressions.len() > 40);
    let mut rules = "groups:\n- name: panels\n  rules:\n".to_owned();
    for (index, expression) in expressions.iter().enumerate() {
        let plain = expression
            .replace("$__rate_interval", "5m")
            .replace("$job", ".*")
            .replace("$instance", ".*");
        let quoted = serde_json::to_string(&plain).unwrap();
        writeln!(rules, "  - record: panel:{index}\n    expr: {quoted}").unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("panels.yaml");
    std::fs::write(&file, rules).unwrap();
    run(Command::new("promtool").args(["check", "rules"]).arg(file));
    // Every metric is somewhere to be seen.
    let mut shown = metrics(&text);
    shown.extend(
        [
            "process_max_fds",
            "process_threads",
            "process_start_time_seconds",
        ]
        .map(Into::into),
    );
    shown.push("process_virtual_memory_bytes".to_owned());
    for name in metrics(include_str!("../../docs/reference/metrics.md")) {
        assert!(shown.contains(&name), "{name} is in no panel");
    }
}

#[test]
fn the_service_is_confined() {
    let unit = deploy("systemd/wakegate.service");
    let mut analyze = Command::new("systemd-analyze");
    let said = run(analyze
        .args(["security", "--offline=true", "--no-pager"])
        .arg(&unit));
    let exposure = said.split("wakegate.service: ").nth(1).unwrap();
    let exposure = exposure.split(' ').next().unwrap();
    assert!(exposure.parse::<f64>().unwrap() < 1.5, "{said}");
}

/// The lines of the unit that begin with this key, without it.
fn unit_lines(key: &str) -> Vec<String> {
    let unit = std::fs::read_to_string(deploy("systemd/wakegate.service")).unwrap();
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key));
    lines.map(ToOwned::to_owned).collect()
}

#[test]
fn a_reload_of_the_service_fails_with_a_bad_file_and_says_what_is_bad() {
    let steps = unit_lines("ExecReload=");
    let [check, signal] = steps.as_slice() else {
        panic!("a check, then the signal: {steps:?}");
    };
    assert!(signal.contains("kill -HUP $MAINPID"), "{signal}");
    // Outside of the sandbox, where systemd shows the credentials to a reload.
    let check = check.strip_prefix('+').unwrap();
    let words: Vec<&str> = check.split(' ').collect();
    let (file, words) = words.split_last().unwrap();
    let [start]: [String; 1] = unit_lines("ExecStart=").try_into().unwrap();
    assert!(start.ends_with(*file), "{start} and {check}");
    assert_eq!(words.first(), Some(&"/usr/bin/wakegate"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("wakegate.toml");
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = wakegate();
        let command = command.args(&words[1..]).arg(&file);
        command.output().unwrap()
    };
    let starter = include_str!("../../config/starter.toml");
    let good = reload(starter);
    assert!(good.status.success(), "{good:?}");
    let bad = reload(&format!("{starter}\nnonsense = true\n"));
    assert_eq!(bad.status.code(), Some(78), "{bad:?}");
    let said = String::from_utf8(bad.stderr).unwrap();
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn the_development_ca_has_a_place_that_the_service_may_write_to() {
    // The CA is in `wakegate/ca` below the state directory; systemd makes `%S/wakegate`.
    assert_eq!(unit_lines("StateDirectory="), ["wakegate"]);
    assert!(unit_lines("Environment=").contains(&"XDG_STATE_HOME=%S".to_owned()));
    let postrm = std::fs::read_to_string(deploy("debian/postrm")).unwrap();
    assert!(postrm.contains("/var/lib/private/wakegate"), "{postrm}");
    let state = tempfile::tempdir().unwrap();
    let file = state.path().join("wakegate.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = \"internal\"\n\
                [[route]]\nhost = \"app.localhost\"\ninstance = \"app\"\n";
    std::fs::write(&file, text).unwrap();
    let mut check = wakegate();
    let check = check.args(["check", "-c"]).arg(&file);
    let said = run(check.env("XDG_STATE_HOME", state.path()));
    let place = state.path().join("wakegate/ca");
    assert!(said.contains(place.to_str().unwrap()), "{said}");
}

#[test]
fn the_manifests_and_the_chart_are_valid_and_so_are_their_configurations() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = [
        "helm-python-sdk==0.2.2",
        "kubernetes-validate==1.37.0",
        "PyYAML==6.0.3",
    ];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/deploy/kubernetes.py");
    let mut check = Command::new(python(&wanted).join("python"));
    let check = check.arg(script).arg(deploy("")).arg(dir.path());
    let said = run(check.arg(env!("CARGO_PKG_VERSION")));
    assert!(said.contains("every manifest is valid"), "{said}");
    let secrets = dir.path().join("secrets");
    std::fs::create_dir(&secrets).unwrap();
    for name in ["hypeman", "admin-token", "fleet-keys"] {
        let path = secrets.join(name);
        std::fs::write(&path, "0123456789abcdef").unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    let mut configurations = vec![deploy("compose/wakegate.toml")];
    for name in ["default", "everything", "one", "host", "watched-host"] {
        configurations.push(dir.path().join(format!("{name}.toml")));
    }
    for name in ["fleet-front", "fleet-node"] {
        configurations.push(dir.path().join(format!("{name}.toml")));
    }
    for name in ["manifest-gateway", "manifest-host"] {
        configurations.push(dir.path().join(format!("{name}.toml")));
    }
    for path in configurations {
        let text = std::fs::read_to_string(&path).unwrap();
        let here = secrets.to_str().unwrap();
        let text = text
            .replace("/run/secrets/wakegate", here)
            .replace("/run/secrets", here);
        // What only the pod's environment says.
        let host = ("WAKEGATE_FLEET_ADVERTISE", "192.0.2.1:7443");
        let is_node = text.contains("role = \"node\"");
        let host = is_node.then(|| (host.0.to_owned(), host.1.to_owned()));
        let variables = Variables::from_iter(host);
        let config = load(path.to_str().unwrap(), &text, &variables).unwrap();
        assert!(config.admin.token.is_some(), "{}", path.display());
        std::fs::write(dir.path().join(path.file_name().unwrap()), text).unwrap();
    }
    the_services_of_releases_are_no_settings(dir.path());
}

/// Pods of others in the namespace may have the variables of a release's Service; so may a release
/// whose pod template is somebody else's.
fn the_services_of_releases_are_no_settings(rendered: &Path) {
    let check = |links: &[(String, Value)]| {
        let mut check = wakegate();
        check
            .args(["check", "-c"])
            .arg(rendered.join("default.toml"));
        for (name, value) in links {
            check.env(name, value.as_str().unwrap());
        }
        let output = check.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{links:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let alone = check(&[]);
    assert!(alone.contains("0.0.0.0:8080"), "{alone}");
    let links = std::fs::read_to_string(rendered.join("links.json")).unwrap();
    let links: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(&links).unwrap();
    let releases = links.values();
    let like_settings = releases.filter(|one| one.keys().any(|key| key.starts_with("WAKEGATE_")));
    assert!(like_settings.count() >= 3, "{links:?}");
    for links in links.into_values() {
        let links: Vec<(String, Value)> = links.into_iter().collect();
        assert_eq!(check(&links), alone, "{links:?}");
    }
}

/// What is deployed is this version, everywhere that one is named.
#[test]
fn every_file_that_names_the_image_names_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![deploy("compose/compose.yaml")];
    for folder in ["deploy/kubernetes", "docs/how-to"] {
        let folder = std::fs::read_dir(root.join(folder)).unwrap();
        files.extend(folder.map(|entry| entry.unwrap().path()));
    }
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().filter(|line| line.contains("image: ")) {
            let Some((_, tag)) = line.split_once("wakegate:") else {
                continue;
            };
            count += 1;
            assert_eq!(tag.trim(), version, "{}: {line}", file.display());
        }
    }
    assert!(count >= 5, "the images were found: {count}");
}

#[test]
fn the_bills_of_materials_list_what_is_linked_and_the_notices_know_it() {
    let notices = include_str!("../../THIRD-PARTY-NOTICES");
    let bill = |program: &str| {
        let mut sbom = Command::new(deploy("sbom"));
        let output = sbom.arg(program).env("SOURCE_DATE_EPOCH", "0").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let bill: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        bill
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (program, least) in [("wakegate", 100), ("wakegate-local", 50)] {
        let bill = bill(program);
        assert_eq!(bill["metadata"]["component"]["name"], program);
        let components = bill["components"].as_array().unwrap();
        assert!(components.len() > least, "{program}: {}", components.len());
        let references: BTreeSet<String> = components
            .iter()
            .chain([&bill["metadata"]["component"]])
            .map(|one| text(&one["bom-ref"]))
            .collect();
        for component in components {
            let (name, version) = (text(&component["name"]), text(&component["version"]));
            // Whoever holds a part responsible can tell it from another of its name.
            assert_eq!(
                component["purl"],
                format!("pkg:cargo/{name}@{version}").as_str()
            );
            let is_ours = component.get("hashes").is_none();
            let row = format!("\n{name} {version} ");
            assert!(is_ours || notices.contains(&row), "{program}: {name}");
            assert!(
                program != "wakegate" || name != "wakegate-local",
                "the gateway has a control plane in it"
            );
        }
        for dependency in bill["dependencies"].as_array().unwrap() {
            assert!(references.contains(&text(&dependency["ref"])));
            for on in dependency["dependsOn"].as_array().unwrap() {
                assert!(references.contains(&text(on)), "{on}");
            }
        }
    }
}

#[test]
fn what_compose_and_the_packages_name_is_there() {
    let compose = std::fs::read_to_string(deploy("compose/compose.yaml")).unwrap();
    let named = compose
        .split(['"', ' ', '[', ','])
        .filter_map(|word| word.split_once(":/"));
    let sources: Vec<&str> = named
        .map(|(source, _)| source)
        .filter(|s| s.starts_with('.'))
        .collect();
    assert!(sources.len() >= 5, "{sources:?}");
    for source in sources {
        assert!(deploy("compose").join(source).exists(), "{source}");
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [root.to_owned(), root.join("crates/wakegate-local")] {
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let manifest: toml::Value = toml::from_str(&manifest).unwrap();
        let package = &manifest["package"]["metadata"]["deb"];
        for asset in package["assets"].as_array().unwrap() {
            let source = asset[0].as_str().unwrap();
            let built = source.contains("target/package/");
            // What a pattern names is in a folder.
            let place = source.split('*').next().unwrap();
            assert!(built || folder.join(place).exists(), "{source}");
        }
    }
}

/// A sidecar is configured by its environment alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_needs_no_file_and_takes_every_host() {
    let plane = Plane::start().await;
    plane.asleep(Wanted::hello("app")).await;
    let reserved = [(); 2].map(|()| Reserved::new());
    let [listen, admin] = reserved.each_ref().map(|one| one.address);
    let mut command = wakegate();
    command
        .arg("serve")
        .env("WAKEGATE_UPSTREAM_INSTANCE", "app")
        .env("WAKEGATE_UPSTREAM_PORT", "8080")
        .env("WAKEGATE_LISTENER_ADDRESS", listen.to_string())
        .env("WAKEGATE_ADMIN_ADDRESS", admin.to_string())
        .env("WAKEGATE_LOG_ACCESS", "off")
        .env("HYPEMAN_BASE_URL", format!("http://{}", plane.address))
        .env("HYPEMAN_API_KEY", &plane.token);
    let _sidecar = Program::spawn(&mut command);
    eventually("it serves", async || {
        reqwest::get(format!("http://{admin}/readyz")).await.is_ok()
    })
    .await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for host in ["anything.example.com", "localhost", "10.1.2.3:8080"] {
        let asked = client.get(format!("http://{listen}/")).header("host", host);
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{host}");
        assert!(answer.text().await.unwrap().contains("hello from app"));
    }
    plane.stop().await;
}

#[test]
fn the_manual_of_the_configuration_has_every_line_of_the_example() {
    let page = run(&mut Command::new(deploy("manual")));
    let example = include_str!("../../config/wakegate.toml");
    let (_, shown) = page.split_once(".EX\n").unwrap();
    let (shown, _) = shown.split_once(".EE\n").unwrap();
    let shown = shown
        .replace("\\-", "-")
        .replace("\\&", "")
        .replace("\\e", "\\");
    assert_eq!(shown, example);
}

#[test]
fn completions_and_manual_pages_tell_of_every_command() {
    let dir = scratch("man");
    std::fs::create_dir_all(&dir).unwrap();
    run(wakegate().arg("man").arg(&dir));
    let page = std::fs::read_to_string(dir.join("wakegate.1")).unwrap();
    let help = run(wakegate().arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|word| !word.is_empty() && *word != "help")
        .collect();
    assert!(commands.len() > 15, "{commands:?}");
    for shell in ["bash", "zsh", "fish"] {
        let script = run(wakegate().args(["completions", shell]));
        for command in &commands {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    for command in commands {
        let escaped = command.replace('-', "\\-");
        assert!(page.contains(&escaped), "{command} is not in wakegate.1");
        let own = std::fs::read_to_string(dir.join(format!("wakegate-{command}.1")));
        assert!(own.unwrap().contains("NAME"), "{command}");
    }
    for hidden in ["guest", "hello", "session"] {
        assert!(
            !dir.join(format!("wakegate-{hidden}.1")).exists(),
            "{hidden}"
        );
    }
}

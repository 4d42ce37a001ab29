//! `wakegate demo`: everything on one machine, to be watched.
//!
//! Guarantees: what it starts ends with it, also when it is killed; every port can be changed; its
//! instances are asleep before the first word is printed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::args::DemoArguments;
use super::demo_files::Scratch;
use super::output::Failure;
use super::signals::end_signal;
use crate::app::App;
use crate::config::{AccessLog, Config, LogConfig, Secret, Variables, load};
use crate::telemetry::{AccessSink, WakeOutcome, init_diagnostics};
use crate::wake::WakeReport;
use hypeman::wire::{AutoStandbyPolicy, CreateInstance, InstanceState, RedactedMap};
use hypeman::{GoDuration, InstanceRef};
use wakegate_local::cli::{DriverName, LocalFile, choose_driver};
use wakegate_local::{FleetEvent, FleetEvents, LocalConfig, LocalServer, OnExit, State};

const NAMES: [&str; 2] = ["hello", "counter"];
/// Virtual machines boot a kernel each.
const COMING_UP: Duration = Duration::from_secs(60);

/// Colours, on a terminal, and the time since the beginning.
#[derive(Clone, Copy)]
struct Paint(bool, Instant);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

pub(super) async fn run(arguments: DemoArguments, out: fn(&str)) -> Result<(), Failure> {
    let log = LogConfig {
        level: "warn".to_owned(),
        access: AccessLog::Off,
        ..LogConfig::default()
    };
    let _diagnostics = init_diagnostics(&log).map_err(Failure::failed)?;
    let scratch = Scratch::new().map_err(Failure::failed)?;
    let server = LocalServer::bind(LocalConfig {
        address: arguments.api_listen,
        state_dir: scratch.path().to_owned(),
        auth: true,
        hello: std::env::current_exe().map_err(Failure::failed)?,
        on_exit: OnExit::Stop,
        allow_faults: false,
        driver: choose_driver(arguments.driver.clone(), LocalFile::default())?,
    })
    .await
    .map_err(Failure::failed)?;
    let token = server.token().unwrap_or_default().to_owned();
    let config = gateway_config(&arguments, &server, &token)?;
    let plane = config.hypeman.first().cloned().unwrap_or_default();
    let app = App::bind(config, AccessSink::off())
        .await
        .map_err(Failure::failed)?;
    let client = hypeman::Client::new(&plane.to_client_config()).map_err(Failure::failed)?;
    let (api, events, end) = (server.address(), server.events(), CancellationToken::new());
    let plane_ended = server.run(end.clone().cancelled_owned());
    let demo = async {
        let _ends_the_plane = end.clone().drop_guard();
        if arguments.driver.driver == Some(DriverName::Qemu) {
            out("two virtual machines boot, which takes some seconds\n");
        }
        let ids = put_to_sleep(&client, arguments.idle_timeout).await?;
        let paint = Paint(std::io::stdout().is_terminal(), Instant::now());
        let port = app
            .addresses()
            .first()
            .map_or(8080, std::net::SocketAddr::port);
        let end = end_signal();
        introduce(
            port,
            app.admin_address().port(),
            &api.to_string(),
            &token,
            &arguments,
            paint,
            out,
        );
        let reports = app.wake_reports();
        tokio::select! {
            _clean = app.run(end) => {}
            () = narrate(events, reports, ids, paint, out) => {}
        }
        out("\nstopping what was started\n");
        Ok::<(), Failure>(())
    };
    let (plane_ended, result) = tokio::join!(plane_ended, demo);
    result?;
    plane_ended.map_err(Failure::failed)
}

fn gateway_config(
    arguments: &DemoArguments,
    server: &LocalServer,
    token: &str,
) -> Result<Config, Failure> {
    let text = format!(
        "[server]\ndrain_timeout = \"2s\"\n[log]\naccess = \"off\"\n\
         [admin]\naddress = \"{}\"\n[[hypeman]]\nurl = \"http://{}\"\n\
         [[listener]]\naddress = \"{}\"\n\
         [[route]]\nhost = \"{{instance}}.localhost\"\ninstance = \"{{instance}}\"\nport = 8080\n",
        arguments.admin_listen,
        server.address(),
        arguments.listen
    );
    let mut config = load("demo", &text, &Variables::default()).map_err(Failure::bad_config)?;
    for plane in &mut config.hypeman {
        plane.api_key = Some(Secret::new(token));
    }
    Ok(config)
}

/// Creates the instances, lets them come up, and puts them to sleep. Returns their names by id.
async fn put_to_sleep(
    client: &hypeman::Client,
    idle_timeout: GoDuration,
) -> Result<HashMap<String, String>, Failure> {
    let mut ids = HashMap::new();
    for name in NAMES {
        let env = [("HELLO_EXIT_WITH_PARENT".to_owned(), "1".to_owned())];
        let request = CreateInstance {
            name: name.to_owned(),
            image: "wakegate/hello".to_owned(),
            env: RedactedMap(BTreeMap::from(env)),
            size: Some("256MB".to_owned()),
            vcpus: Some(1),
            auto_standby: Some(AutoStandbyPolicy {
                enabled: true,
                idle_timeout: Some(idle_timeout),
                ..AutoStandbyPolicy::default()
            }),
            ..CreateInstance::default()
        };
        let created = client
            .create_instance(&request)
            .await
            .map_err(Failure::failed)?;
        ids.insert(created.id, name.to_owned());
    }
    for (id, name) in &ids {
        let id = InstanceRef::parse(id).map_err(Failure::failed)?;
        let up = client
            .wait_instance(&id, &InstanceState::Running, COMING_UP)
            .await
            .map_err(Failure::failed)?;
        if up.state != InstanceState::Running {
            let text = format_args!("the instance `{name}` did not come up: it is {}", up.state);
            return Err(Failure::failed(text));
        }
        let instance = client.get_instance(&id).await.map_err(Failure::failed)?;
        let address = instance.network.and_then(|network| network.ip);
        listens(&address.unwrap_or_default()).await;
        client
            .standby_instance(&id, None)
            .await
            .map_err(Failure::failed)?;
    }
    Ok(ids)
}

/// Waits until its server listens, so that its first wake is one of a server and not of a start.
async fn listens(address: &str) {
    let end = Instant::now() + COMING_UP;
    while tokio::net::TcpStream::connect((address, 8080))
        .await
        .is_err()
        && Instant::now() < end
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn introduce(
    port: u16,
    admin: u16,
    api: &str,
    token: &str,
    arguments: &DemoArguments,
    paint: Paint,
    out: fn(&str),
) {
    let idle_timeout = arguments.idle_timeout;
    let what = match arguments.driver.driver {
        Some(DriverName::Qemu) => "virtual machines that are files now, and no process",
        Some(DriverName::Process) | None => "frozen processes without a network address",
    };
    let command = |text: String| paint.with("1;36", &text);
    let url =
        |name: &str, path: &str| command(format!("curl http://{name}.localhost:{port}{path}"));
    out(&format!(
        "\n{title}\n\n\
         Two instances are asleep: {what}.\n\
         Ask one for something and watch it wake, answer, and fall asleep again after {idle_timeout}:\n\n  \
           {hello}\n  \
           {counter}     {counts}\n  \
           {sse}\n  \
           {headers}\n\n\
         If your resolver does not know *.localhost: {resolve}\n\
         Dashboard: http://127.0.0.1:{admin}/   Metrics: http://127.0.0.1:{admin}/metrics\n\
         Control plane: http://{api} with HYPEMAN_API_KEY={token}\n\
         Ctrl-C stops everything.\n\n",
        title = paint.with("1", "wakegate demo"),
        hello = url("hello", "/"),
        counter = url("counter", "/"),
        counts = paint.with("2", "# counts in memory: the count survives sleep"),
        sse = url("hello", "/sse"),
        headers = url("counter", "/headers"),
        resolve = command(format!(
            "curl -H 'Host: hello.localhost' http://127.0.0.1:{port}/"
        )),
    ));
}

/// One line an event, until the control plane ends.
async fn narrate(
    mut events: FleetEvents,
    mut reports: tokio::sync::broadcast::Receiver<WakeReport>,
    ids: HashMap<String, String>,
    paint: Paint,
    out: fn(&str),
) {
    for name in NAMES {
        say(name, &paint.with("34", "asleep"), paint, out);
    }
    // Their first sleep has just been said, and its event may still be on its way.
    let mut asleep = HashSet::from(NAMES.map(str::to_owned));
    events = events.resubscribe();
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) if event.state == State::Standby => {
                    if asleep.insert(event.name.clone()) {
                        say_event(&event, paint, out);
                    }
                }
                Ok(event) => {
                    if event.reason == "restoring" {
                        asleep.remove(&event.name);
                    }
                    say_event(&event, paint, out);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            report = reports.recv() => if let Ok(report) = report {
                let name = ids.get(report.instance.as_str()).map_or("?", String::as_str);
                let ms = report.took.as_secs_f64() * 1e3;
                match report.outcome {
                    WakeOutcome::Woken | WakeOutcome::Booted => {
                        say(name, &paint.with("1;32", &format!("ready in {ms:.1} ms")), paint, out);
                    }
                    WakeOutcome::Failed | WakeOutcome::TimedOut => {
                        let code = report.failure.map_or("", |failure| failure.code);
                        let text = format!("not woken after {ms:.0} ms: {code}");
                        say(name, &paint.with("1;31", &text), paint, out);
                    }
                    WakeOutcome::Renewed => {}
                }
            },
        }
    }
}

fn say_event(event: &FleetEvent, paint: Paint, out: fn(&str)) {
    let text = match (event.state, event.reason) {
        (State::Paused, "restoring") => paint.with("33", "waking"),
        (State::Running, "idle") => paint.with("2", "idle"),
        (State::Standby, _) => paint.with("34", "asleep"),
        (State::Stopped, reason) => paint.with("31", &format!("stopped: {reason}")),
        // The steps between are no news.
        _ => return,
    };
    say(&event.name, &text, paint, out);
}

fn say(name: &str, text: &str, paint: Paint, out: fn(&str)) {
    let at = paint.1.elapsed().as_secs_f64();
    out(&format!("{at:>9.3} s  {name:<8} {text}\n"));
}

//! What changes under load: configurations, certificates, sockets, whole processes. No request
//! fails.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::reserved::Reserved;
use crate::support::{
    BINARY, Gateway, Lines, PATIENCE, Plane, Program, Wanted, config, eventually, without_settings,
};
use tokio::task::{JoinSet, spawn_blocking};

/// Clients that ask as fast as they are answered, half of them with a new connection each time.
struct Load {
    tasks: JoinSet<Vec<String>>,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start(address: SocketAddr, host: &'static str, connections: usize) -> Self {
        let (done, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            let kept = number % 2;
            let client = reqwest::Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(kept)
                .timeout(PATIENCE)
                .build()
                .unwrap();
            tasks.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let asked = client
                        .get(format!("http://{address}/"))
                        .header("host", host);
                    match asked.send().await {
                        Ok(answer) if answer.status() == 200 => {
                            if let Err(error) = answer.bytes().await {
                                failed.push(format!("{error:?}"));
                            }
                        }
                        Ok(answer) => failed.push(answer.status().to_string()),
                        Err(error) => failed.push(format!("{error:?}")),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failed
            });
        }
        Self { tasks, done, stop }
    }

    /// Waits for so many more answers.
    async fn more(&self, count: usize) {
        let until = self.done.load(Ordering::Relaxed) + count;
        eventually("the load goes on", async || {
            self.done.load(Ordering::Relaxed) >= until
        })
        .await;
    }

    /// Ends it; how many were answered, and what failed.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.tasks.join_all().await.concat();
        (self.done.load(Ordering::Relaxed), failed)
    }
}

/// A client of a busy machine may be slow to ask; the other process serves meanwhile.
const LONG_FAREWELL: &str = "[server]\nreuse_port = true\ndrain_idle_timeout = \"10s\"\n";

/// The same where nobody else serves.
const PATIENT_FAREWELL: &str = "[server]\ndrain_idle_timeout = \"5s\"\n";

/// A file for a gateway of its own process.
fn write_config(dir: &Path, plane: &Plane, listen: SocketAddr, extra: &str) -> PathBuf {
    let (file, key) = (dir.join("wakegate.toml"), dir.join("key"));
    std::fs::write(&key, &plane.token).unwrap();
    let text = format!(
        "[log]\naccess = \"off\"\n[[hypeman]]\nurl = \"http://{}\"\napi_key_file = \"{}\"\n\
         [[listener]]\naddress = \"{listen}\"\n\
         [[route]]\nhost = \"{{i}}.test\"\ninstance = \"{{i}}\"\n{extra}",
        plane.address,
        key.display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Waits until a process serves; what it says further.
async fn is_up(program: &mut Program) -> Lines {
    let mut lines = Lines::of(program.0.stderr.take().unwrap());
    lines.say("serving", 1).await;
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_fail_no_request() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("busy")).await;
    let gateway = Gateway::start(&plane, "").await;
    let load = Load::start(gateway.address, "busy.test", 200);
    load.more(200).await;
    for round in 0..20_u16 {
        let reserved = Reserved::new();
        let extra = format!(
            "[[route]]\nhost = \"new-{round}.test\"\ninstance = \"busy\"\n\
             [[listener]]\naddress = \"127.0.0.1:{}\"\n\
             [server]\nmax_headers = {}\nmax_connections = {}\n[wake]\nmax_held = {}\n",
            reserved.port(),
            90 + round,
            2000 + round,
            1000 + round,
        );
        let fresh = config(plane.address, &plane.token, &extra);
        gateway.handle.reload(&fresh).unwrap();
        load.more(50).await;
    }
    let (done, failed) = load.end().await;
    assert!(
        failed.is_empty(),
        "{} of {done}: {:?}",
        failed.len(),
        failed.first()
    );
    gateway.stop().await;
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_takes_over_the_address_and_no_request_fails() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("handed")).await;
    let (dir, reserved) = (tempfile::tempdir().unwrap(), Reserved::shared());
    let listen = reserved.address;
    let file = write_config(dir.path(), &plane, listen, LONG_FAREWELL);
    let (mut old, _) = serving(&file).await;
    let load = Load::start(listen, "handed.test", 200);
    load.more(400).await;
    for _ in 0..3 {
        let (new, _) = serving(&file).await;
        load.more(200).await;
        old.signal("TERM");
        load.more(400).await;
        let status = spawn_blocking(move || old.0.wait().unwrap());
        assert!(status.await.unwrap().success());
        old = new;
    }
    let (done, failed) = load.end().await;
    assert!(
        failed.is_empty(),
        "{} of {done}: {:?}",
        failed.len(),
        failed.first()
    );
    drop(old);
    plane.stop().await;
}

/// A process that serves what the file says.
async fn serving(file: &Path) -> (Program, Lines) {
    let file = file.to_str().unwrap();
    let mut program = Program::start(&["serve", "-c", file, "--admin-listen", "127.0.0.1:0"]);
    let lines = is_up(&mut program).await;
    (program, lines)
}

/// As systemd starts a service with a socket (`sd_listen_fds(3)`).
async fn activated(socket: &TcpListener, file: &str) -> Program {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    let child = without_settings(Command::new("sh"))
        .args([
            "-c",
            script,
            BINARY,
            "serve",
            "-c",
            file,
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut program = Program(child.unwrap());
    is_up(&mut program).await;
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_an_inherited_socket_fails_no_request() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("heir")).await;
    let dir = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = socket.local_addr().unwrap();
    let file = write_config(dir.path(), &plane, listen, PATIENT_FAREWELL);
    let file = file.to_str().unwrap();
    let mut old = activated(&socket, file).await;
    let load = Load::start(listen, "heir.test", 100);
    load.more(200).await;
    for _ in 0..2 {
        old.signal("TERM");
        let status = spawn_blocking(move || old.0.wait().unwrap());
        assert!(status.await.unwrap().success());
        // Nobody serves now; whoever connects waits in the kernel.
        old = activated(&socket, file).await;
        load.more(200).await;
    }
    let (done, failed) = load.end().await;
    assert!(
        failed.is_empty(),
        "{} of {done}: {:?}",
        failed.len(),
        failed.first()
    );
    drop(old);
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_loaded_and_a_bad_one_is_not() {
    let plane = Plane::start().await;
    plane.listening(Wanted::hello("edited")).await;
    let (dir, reserved) = (tempfile::tempdir().unwrap(), Reserved::new());
    let listen = reserved.address;
    let file = write_config(dir.path(), &plane, listen, "");
    let (program, mut lines) = serving(&file).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let status = async |host: &'static str| {
        let asked = client.get(format!("http://{listen}/")).header("host", host);
        asked.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("new.example").await, 404);
    let extra = "[[route]]\nhost = \"new.example\"\ninstance = \"edited\"\n";
    write_config(dir.path(), &plane, listen, extra);
    eventually("the new route is served", async || {
        status("new.example").await == 200
    })
    .await;
    write_config(dir.path(), &plane, listen, "[wake]\ntimout = \"1s\"\n");
    lines
        .say("not reloaded; the old configuration stays", 1)
        .await;
    assert_eq!(
        status("new.example").await,
        200,
        "the old configuration stays"
    );
    write_config(dir.path(), &plane, listen, "");
    eventually("the route is gone", async || {
        status("new.example").await == 404
    })
    .await;
    drop(program);
    plane.stop().await;
}

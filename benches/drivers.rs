//! How long an instance takes to boot, to fall asleep and to wake, with each driver: medians of 20.
//! Prints a Markdown table. Virtual machines are left out where they cannot be run.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark"
)]

use std::path::PathBuf;
use std::time::Duration;

use hypeman::ApiKey;
use hypeman::InstanceRef;
use hypeman::wire::{CreateInstance, InstanceState};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use wakegate_local::{DriverChoice, LocalConfig, LocalServer, OnExit, QemuOptions};

const ROUNDS: usize = 20;
/// Long enough for a sleep to be kept beside, so that no wake waits for that.
const ASLEEP: Duration = Duration::from_millis(500);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n";

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    println!(
        "| driver | boot to first byte | standby | restore | wake to first byte (least, most) |"
    );
    println!("|---|---|---|---|---|");
    let vms = |prestart| {
        DriverChoice::Qemu(QemuOptions {
            prestart,
            ..QemuOptions::default()
        })
    };
    runtime.block_on(async {
        measure("process", DriverChoice::Process).await;
        measure("qemu", vms(0)).await;
        measure("qemu, `--prestart 1`", vms(1)).await;
    });
}

async fn first_byte(address: &str) {
    loop {
        if let Ok(mut stream) = TcpStream::connect((address, 8080)).await
            && stream.write_all(REQUEST).await.is_ok()
            && matches!(stream.read(&mut [0; 1]).await, Ok(1))
        {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

async fn measure(name: &str, driver: DriverChoice) {
    let dir = tempfile::tempdir().unwrap();
    let server = LocalServer::bind(LocalConfig {
        address: ([127, 0, 0, 1], 0).into(),
        state_dir: dir.path().to_owned(),
        auth: true,
        hello: PathBuf::from(env!("CARGO_BIN_EXE_wakegate")),
        on_exit: OnExit::Stop,
        allow_faults: false,
        driver,
    });
    let server = match server.await {
        Ok(server) => server,
        Err(error) => {
            println!("| {name} | not here: {error} | | | |");
            return;
        }
    };
    let config = hypeman::Config {
        url: format!("http://{}", server.address()),
        api_key: server.token().map(ApiKey::new),
        ..hypeman::Config::default()
    };
    let client = hypeman::Client::new(&config).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.run(async { drop(stopped.await) });
    let rounds = async {
        let [mut boot, mut standby, mut restore, mut byte] = [(); 4].map(|()| Vec::new());
        let request = CreateInstance {
            name: "bench".to_owned(),
            image: "wakegate/hello".to_owned(),
            size: Some("128MB".to_owned()),
            vcpus: Some(1),
            ..CreateInstance::default()
        };
        for round in 0..ROUNDS {
            let began = Instant::now();
            let instance = client.create_instance(&request).await.unwrap();
            let id = InstanceRef::parse(&instance.id).unwrap();
            let running = InstanceState::Running;
            let up = client.wait_instance(&id, &running, Duration::from_secs(50));
            up.await.unwrap();
            let address = client
                .get_instance(&id)
                .await
                .unwrap()
                .network
                .unwrap()
                .ip
                .unwrap();
            first_byte(&address).await;
            boot.push(began.elapsed());
            if round + 1 < ROUNDS {
                client.delete_instance(&id).await.unwrap();
                continue;
            }
            // The last one sleeps and wakes.
            for _ in 0..ROUNDS {
                let began = Instant::now();
                client.standby_instance(&id, None).await.unwrap();
                standby.push(began.elapsed());
                sleep(ASLEEP).await;
                let began = Instant::now();
                client.restore_instance(&id).await.unwrap();
                restore.push(began.elapsed());
                first_byte(&address).await;
                byte.push(began.elapsed());
                sleep(ASLEEP).await;
            }
        }
        for times in [&mut boot, &mut standby, &mut restore, &mut byte] {
            times.sort();
        }
        let ms = |time: &Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        let median = |times: &[Duration]| ms(&times[times.len() / 2]);
        println!(
            "| {name} | {} | {} | {} | {} ({}, {}) |",
            median(&boot),
            median(&standby),
            median(&restore),
            median(&byte),
            ms(&byte[0]),
            ms(&byte[ROUNDS - 1]),
        );
        drop(stop);
    };
    let (served, ()) = tokio::join!(serving, rounds);
    served.unwrap();
}

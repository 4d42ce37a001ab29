//! A parked WebSocket of a real VM on a bridge: its counter in the guest's memory goes on after each sleep, in which
//! there is no process of the VM at all, and over kills of the control plane.
//!
//! `PARKED_ROUNDS` sleeps of `PARKED_SECONDS` each; `make parked` plays 20 of three minutes.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::SinkExt as _;
use hypeman::GoDuration;
use hypeman::wire::{AutoStandbyPolicy, InstanceState, UpdateInstance};
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::gateway_process::GatewayProcess;
use crate::support::{eventually_within, number, processes};
use crate::tunnels::{Socket, closed, next};
use crate::vm::is_in_a_bridges_network;
use crate::vm_breaks::OneVm;

/// How long it may take to fall asleep.
const LONG: Duration = Duration::from_secs(60);

async fn start(plane: SocketAddr) -> GatewayProcess {
    let config = format!(
        "[server]\ndrain_timeout = \"1s\"\n\
         [[hypeman]]\nurl = \"http://{plane}\"\n\
         [[route]]\nhost = \"one.test\"\ninstance = \"one\"\nport = 8080\n\
         [route.tunnel]\npark = {{ after = \"200ms\" }}\n"
    );
    GatewayProcess::start("", &config).await
}

async fn connect(gateway: &GatewayProcess) -> Socket {
    let url = format!("ws://{}/ws?count", gateway.listen);
    let mut request = url.into_client_request().unwrap();
    let host = "one.test".parse().unwrap();
    request.headers_mut().insert("host", host);
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

/// What the guest counts for one more frame.
async fn count(socket: &mut Socket) -> u64 {
    socket.send(Message::text("and now?")).await.unwrap();
    let answer = next(socket).await.expect("an answer");
    answer.to_text().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websockets_counter_in_a_vms_memory_goes_on_after_sleeps_without_a_process() {
    let name =
        "parked_vm::a_websockets_counter_in_a_vms_memory_goes_on_after_sleeps_without_a_process";
    if !is_in_a_bridges_network(name).await {
        return;
    }
    let rounds = number("PARKED_ROUNDS").unwrap_or(4);
    let asleep = Duration::from_secs(number("PARKED_SECONDS").unwrap_or(3));
    let (mut one, _) = OneVm::start_with(&["--bridged"]).await;
    let often = UpdateInstance {
        auto_standby: Some(AutoStandbyPolicy {
            enabled: true,
            idle_timeout: Some(GoDuration::from(Duration::from_secs(2))),
            ..AutoStandbyPolicy::default()
        }),
        ..UpdateInstance::default()
    };
    one.client.update_instance(&one.id, &often).await.unwrap();
    let mut gateway = start(one.address()).await;
    let mut socket = connect(&gateway).await;
    let mut counted = 1;
    assert_eq!(count(&mut socket).await, counted);
    let mut took = Vec::new();
    for round in 1..=rounds {
        eventually_within(LONG, "it sleeps", async || {
            one.state().await == InstanceState::Standby && processes(&one.folder()).is_empty()
        })
        .await;
        if round % 3 == 1 {
            one.again().await;
        }
        let until = Instant::now() + asleep;
        while Instant::now() < until {
            assert_eq!(processes(&one.folder()), [0; 0], "round {round}");
            sleep(Duration::from_millis(500).min(until - Instant::now())).await;
        }
        if round == rounds / 2 {
            // The only thing that a parked connection does not outlive.
            gateway.signal("TERM");
            assert_eq!(closed(&mut socket).await, (1012, "drain".to_owned()));
            assert_eq!(processes(&one.folder()), [0; 0], "that has woken nobody");
            gateway = start(one.address()).await;
            socket = connect(&gateway).await;
        }
        let began = Instant::now();
        counted += 1;
        assert_eq!(count(&mut socket).await, counted, "round {round}");
        took.push(began.elapsed());
        assert_eq!(processes(&one.folder()).len(), 1);
    }
    let woken = gateway.metric("wakegate_tunnel_unparks_total").await;
    println!(
        "{rounds} rounds of {asleep:?}: from frame to answer {took:?}; unparked {woken} times since the restart"
    );
    one.client.delete_instance(&one.id).await.unwrap();
}

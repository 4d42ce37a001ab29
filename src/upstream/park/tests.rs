//! Parked tunnels with sides of their own, on paused time.

use std::future::pending;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::*;
use crate::flow::{BufferBudget, ClientBuffers};
use crate::telemetry::Metrics;
use crate::upstream::leased_stream::LeasedStream;
use crate::upstream::websocket::{FrameReader, control};

const AFTER: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
/// A text frame of a client's.
const HELLO: &[u8] = b"\x81\x82\0\0\0\0hi";

/// A gateway whose instance is what a test says.
struct Host {
    endpoint: Mutex<Option<Endpoint>>,
    epochs: watch::Sender<u64>,
    gone: CancellationToken,
    budget: BufferBudget,
    buffers: ClientBuffers,
    /// Whether a lost tunnel may be taken anew, which never comes to anything.
    reopens: Option<Reopens>,
    tries: AtomicU32,
}

/// What becomes of another handshake.
#[derive(Clone, Copy)]
enum Reopens {
    NotYet,
    Never,
}

impl Host {
    fn of(endpoint: &Endpoint) -> Self {
        let budget = BufferBudget::new(1 << 20);
        Self {
            buffers: budget.of(IpAddr::from([192, 0, 2, 1])),
            budget,
            endpoint: Mutex::new(Some(endpoint.clone())),
            epochs: watch::Sender::new(endpoint.epoch()),
            gone: CancellationToken::new(),
            reopens: None,
            tries: AtomicU32::new(0),
        }
    }

    fn sleeps(&self) {
        let endpoint = self.endpoint.lock().unwrap().take();
        endpoint.unwrap().cut().cancel();
    }

    fn wakes(&self, endpoint: &Endpoint) {
        *self.endpoint.lock().unwrap() = Some(endpoint.clone());
        self.epochs.send_replace(endpoint.epoch());
    }
}

impl ParkHost for &Host {
    fn buffers(&self) -> Option<&ClientBuffers> {
        Some(&self.buffers)
    }

    fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.lock().unwrap().clone()
    }

    fn epochs(&self) -> watch::Receiver<u64> {
        self.epochs.subscribe()
    }

    fn doubt(&self) {}

    fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    fn take_place(&mut self) -> bool {
        true
    }

    fn leave_place(&mut self) {}

    fn rest(&mut self) {}

    fn enter(&mut self) {}

    fn wake(&mut self, _: &'static str) -> BoxFuture<'_, Result<Woken, Unready>> {
        let endpoint = self.endpoint().unwrap_or_else(|| epoch(2));
        self.wakes(&endpoint);
        let woken = Woken {
            endpoint,
            is_booted: false,
        };
        async {
            sleep(AFTER).await;
            Ok(woken)
        }
        .boxed()
    }
}

impl<I: Send> Reopen<I> for &Host {
    fn can_reopen(&self) -> bool {
        self.reopens.is_some()
    }

    fn reopen(
        &mut self,
        _: Option<&'static str>,
    ) -> BoxFuture<'_, Result<Option<Reopened<I>>, Unready>> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        let is_for_ever = matches!(self.reopens, Some(Reopens::Never));
        async move {
            if is_for_ever {
                pending::<()>().await;
            }
            Ok(None)
        }
        .boxed()
    }
}

fn epoch(number: u64) -> Endpoint {
    Endpoint::alone_at(number, IpAddr::from([127, 0, 0, 1]))
}

/// All that a tunnel is made of, but its client.
struct Around {
    host: Host,
    endpoint: Endpoint,
    carried: Carried,
    stop: CancellationToken,
    instance: TcpStream,
    /// The gateway's socket, to be asked how it is set.
    socket: Option<socket2::Socket>,
    ours: Option<LeasedStream>,
}

impl Around {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let ours = ours.unwrap();
        let socket = socket2::SockRef::from(&ours).try_clone().unwrap();
        let (endpoint, metrics) = (epoch(1), Arc::new(Metrics::new()));
        let open = endpoint.open_connection();
        Self {
            host: Host::of(&endpoint),
            carried: Carried::new(Arc::clone(&metrics)),
            stop: CancellationToken::new(),
            instance: theirs.unwrap().0,
            socket: Some(socket),
            ours: Some(LeasedStream::new(ours.into(), open, metrics)),
            endpoint,
        }
    }

    /// The tunnel of this client, and the instance's end of it.
    fn tunnel(
        &mut self,
        client: DuplexStream,
        is_websocket: bool,
    ) -> (
        impl Future<Output = Parted<'_, DuplexStream, LeasedStream>>,
        &Host,
        &mut TcpStream,
    ) {
        self.tunnel_of(client, is_websocket, false)
    }

    /// The same; with `is_one_way` only the instance speaks.
    fn tunnel_of(
        &mut self,
        client: DuplexStream,
        is_websocket: bool,
        is_one_way: bool,
    ) -> (
        impl Future<Output = Parted<'_, DuplexStream, LeasedStream>>,
        &Host,
        &mut TcpStream,
    ) {
        let rules = TunnelRules {
            is_websocket,
            ..TunnelRules::default()
        };
        let park = ParkRules {
            after: AFTER,
            buffer: 1024,
            max_time: DAY,
            probe: PROBE,
            reconnects: self.host.reopens.is_some(),
            is_one_way,
        };
        let (host, ours) = (&self.host, self.ours.take().unwrap());
        let (carried, endpoint, stop) = (&self.carried, &self.endpoint, &self.stop);
        let tunnel = async move {
            let place = (&mut &*host, endpoint);
            carry_parkable(client, ours, (rules, park), carried, place, stop).await
        };
        (tunnel, host, &mut self.instance)
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_half_closed_and_vanished_keeps_no_instance_awake() {
    let mut around = Around::new().await;
    let (mut client, far) = duplex(1024);
    let (tunnel, ..) = around.tunnel(far, false);
    client.write_all(b"a question").await.unwrap();
    client.shutdown().await.unwrap();
    // The instance has no answer, and the client will never say another word.
    let ended = timeout(DAY, tunnel).await;
    assert!(ended.is_ok(), "it goes on for ever");
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_not_told_that_a_client_which_vanished_has_said_goodbye() {
    for says_goodbye in [false, true] {
        let mut around = Around::new().await;
        let (mut client, far) = duplex(1024);
        let (tunnel, host, instance) = around.tunnel(far, true);
        let close = control(8, &1000_u16.to_be_bytes(), MASK);
        let story = async {
            sleep(AFTER * 2).await;
            host.sleeps();
            sleep(AFTER).await;
            if says_goodbye {
                client.write_all(&close).await.unwrap();
            }
            drop(client);
        };
        let (parted, ()) = tokio::join!(tunnel, story);
        let left = parted.say().await.unwrap();
        let next = epoch(2);
        host.wakes(&next);
        let (mut heard, stop) = (Vec::new(), CancellationToken::new());
        let reading = async {
            instance.read_to_end(&mut heard).await.unwrap();
            instance.shutdown().await.unwrap();
        };
        tokio::join!(left.end(&host, &stop), reading);
        let said: &[u8] = if says_goodbye { &close } else { b"" };
        assert_eq!(heard, said);
        assert_eq!(next.open_connections(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_where_an_instance_was_that_is_elsewhere_now() {
    let mut around = Around::new().await;
    // Whoever has it keeps the connection open.
    drop(around.socket.take());
    let (mut client, far) = duplex(1024);
    let (tunnel, host, instance) = around.tunnel(far, true);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        let close = control(8, &1000_u16.to_be_bytes(), MASK);
        client.write_all(&close).await.unwrap();
        drop(client);
    };
    let (parted, ()) = tokio::join!(tunnel, story);
    let left = parted.say().await.unwrap();
    let elsewhere = Endpoint::alone_at(2, IpAddr::from([127, 0, 0, 2]));
    host.wakes(&elsewhere);
    let mut heard = Vec::new();
    let stop = CancellationToken::new();
    tokio::join!(left.end(&host, &stop), async {
        let _broken = instance.read_to_end(&mut heard).await;
    });
    assert_eq!(heard, b"");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_as_its_instance_falls_asleep_is_left_behind_for_its_next_wake() {
    // Which of both is seen first is chance.
    for _ in 0..20 {
        let mut around = Around::new().await;
        let (mut client, far) = duplex(1024);
        let (tunnel, host, _instance) = around.tunnel(far, true);
        let story = async {
            sleep(AFTER * 2).await;
            let close = control(8, &1000_u16.to_be_bytes(), MASK);
            client.write_all(&close).await.unwrap();
            host.sleeps();
        };
        let (parted, ()) = tokio::join!(tunnel, story);
        drop(client);
        assert!(parted.say().await.is_some(), "its instance is never told");
    }
}

#[tokio::test(start_paused = true)]
async fn no_frame_begins_in_the_middle_of_an_answer_to_a_ping() {
    let mut around = Around::new().await;
    // It has no room for the whole answer.
    let (mut client, far) = duplex(64);
    let (tunnel, host, _instance) = around.tunnel(far, true);
    let ping = control(9, &[7; 100], MASK);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        client.write_all(&ping).await.unwrap();
        sleep(AFTER).await;
        host.gone.cancel();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let (left, heard) = tokio::join!(async { tunnel.await.say().await }, story);
    assert!(left.is_none());
    let mut frames = FrameReader::new();
    frames.read(&heard);
    assert!(frames.has_closed() && frames.is_between(), "{heard:?}");
    assert_eq!(heard[..102], control(10, &[7; 100], None));
    assert_eq!(heard[102] & 0x0f, 8, "then it is closed");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_woken_may_take_its_time_again_for_bytes_that_nobody_answers() {
    let mut around = Around::new().await;
    let socket = around.socket.take().unwrap();
    let (mut client, far) = duplex(1024);
    let (tunnel, host, instance) = around.tunnel(far, false);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        client.write_all(b"more").await.unwrap();
        let mut more = [0; 4];
        instance.read_exact(&mut more).await.unwrap();
        assert_eq!(&more, b"more");
        sleep(PROBE / 2 + AFTER).await;
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PROBE));
        client.write_all(HELLO).await.unwrap();
        // As long as the kernel may take of its own accord, which has begun with what was sent last.
        sleep(PROBE).await;
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(PROBE));
        sleep(PROBE / 2).await;
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    };
    tokio::select! {
        _ = tunnel => panic!("it is open"),
        () = story => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_while_an_instance_wakes_is_in_its_clients_budget_until_the_instance_has_it() {
    let mut around = Around::new().await;
    let (mut client, far) = duplex(1024);
    let (tunnel, host, instance) = around.tunnel(far, true);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        assert_eq!(host.budget.used(), 0);
        let words = HELLO.repeat(50);
        client.write_all(&words).await.unwrap();
        sleep(AFTER / 2).await;
        assert_eq!(host.budget.used(), words.len(), "it waits");
        let mut heard = vec![0; words.len()];
        instance.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, words);
        assert_eq!(host.budget.used(), 0);
    };
    tokio::select! {
        _ = tunnel => panic!("it is open"),
        () = story => {}
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_has_woken_is_asked_for_a_moment_whether_it_knows_a_connection_on_which_nobody_speaks()
 {
    let mut around = Around::new().await;
    let socket = around.socket.take().unwrap();
    let (client, far) = duplex(1024);
    let (tunnel, host, _instance) = around.tunnel_of(far, false, true);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        assert!(!socket.keepalive().unwrap());
        host.wakes(&epoch(2));
        sleep(AFTER).await;
        assert!(socket.keepalive().unwrap());
        sleep(AFTER * 3).await;
        assert!(!socket.keepalive().unwrap(), "it may sleep again");
        drop(client);
    };
    let (parted, ()) = tokio::join!(tunnel, story);
    assert!(parted.say().await.is_none(), "nobody is there any more");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_at_rest_keeps_little() {
    let mut around = Around::new().await;
    let (rules, ours) = (TunnelRules::default(), around.ours.take().unwrap());
    let park = ParkRules {
        after: AFTER,
        buffer: 1024,
        max_time: DAY,
        probe: PROBE,
        reconnects: false,
        is_one_way: false,
    };
    let mut host = &around.host;
    let mut tunnel = Parkable {
        relay: Relay::new(duplex(1).0, ours, &around.carried, true),
        rules,
        park,
        carried: &around.carried,
        endpoint: around.endpoint.clone(),
        epochs: host.epochs(),
        host: &mut host,
        stop: &around.stop,
        payload_at: Instant::now(),
        unheard_since: None,
        delivery: Delivery::Known,
    };
    let (all, rest) = (size_of_val(&tunnel), size_of_val(&tunnel.rest(true)));
    assert!(all <= 800, "{all} bytes of the tunnel");
    assert!(rest <= 800, "{rest} bytes of its rest");
}

/// The tunnel has rested for a day and been lost, since its instance is elsewhere now: the close that its client
/// gets, and how often the instance was asked to take it anew.
async fn lost_for_a_day(reopens: Reopens) -> (Vec<u8>, u32) {
    let mut around = Around::new().await;
    around.host.reopens = Some(reopens);
    let (mut client, far) = duplex(1024);
    let (tunnel, host, _instance) = around.tunnel(far, true);
    let story = async {
        sleep(AFTER * 2).await;
        host.sleeps();
        sleep(AFTER).await;
        host.wakes(&Endpoint::alone_at(2, IpAddr::from([127, 0, 0, 2])));
        let mut heard = Vec::new();
        let reading = timeout(DAY * 2, client.read_to_end(&mut heard)).await;
        reading.expect("it ends in time").unwrap();
        heard
    };
    let (_, heard) = tokio::join!(async { tunnel.await.say().await }, story);
    (heard, around.host.tries.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_nobody_answers_keeps_a_lost_tunnel_no_longer_than_it_may_rest() {
    let (heard, tries) = lost_for_a_day(Reopens::Never).await;
    assert_eq!(heard[2..4], 1001_u16.to_be_bytes());
    assert_eq!(&heard[4..], b"park_time");
    assert_eq!(tries, 1);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_takes_no_lost_tunnel_is_asked_less_and_less_often() {
    let (heard, tries) = lost_for_a_day(Reopens::NotYet).await;
    assert_eq!(&heard[4..], b"park_time");
    assert!((24 * 60..24 * 60 * 2).contains(&tries), "{tries}");
}

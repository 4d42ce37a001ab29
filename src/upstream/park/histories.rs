//! Random histories of one parked WebSocket on paused time: an instance that sleeps, is booted, moves, loses
//! connections with a reset or without a word, cannot be woken or refuses; a client that sends in pieces and
//! leaves.
//!
//! Guarantees: no message is lost, comes twice or out of order without its client being told.

mod host;
mod parser;
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::host::Host;
use self::parser::Parser;
use self::world::{FOREVER, Inner, PIPE, Troubles, World};
use super::{ParkRules, carry_parkable};
use crate::upstream::carried::Carried;
use crate::upstream::carry::TunnelRules;
use crate::upstream::websocket::{Opcode, control};

/// How many there are.
const HISTORIES: u64 = 400;

/// The client: how many messages it has sent, and whether it was told of an end, or has left.
async fn client(world: World, io: DuplexStream, messages: u32) -> (u32, bool) {
    let (mut reader, mut writer) = tokio::io::split(io);
    let told = CancellationToken::new();
    let (hears, telling) = (world.clone(), told.clone());
    let reading = world.tasks.spawn(async move {
        let (mut parser, mut room) = (Parser::default(), [0; 512]);
        while let Ok(count @ 1..) = reader.read(&mut room).await {
            for (opcode, payload) in parser.take(&room[..count]) {
                match opcode {
                    Opcode::Data => {
                        let text = String::from_utf8(payload).unwrap();
                        hears.tell(&format!("the client has got {text}"));
                        let (of, number) = text.split_once('.').unwrap();
                        let got = (of.parse().unwrap(), number.parse().unwrap());
                        hears.with(|inner| inner.answered.push(got));
                    }
                    Opcode::Close => {
                        let code = u16::from_be_bytes([payload[0], payload[1]]);
                        hears.tell(&format!("the client is told {code}"));
                        telling.cancel();
                    }
                    Opcode::Ping | Opcode::Pong | Opcode::Continuation | Opcode::Reserved => {}
                }
            }
        }
        hears.tell("the client's connection has ended");
        telling.cancel();
    });
    let mask = Some([1, 2, 3, 4]);
    let mut sent = 0;
    let sending = async {
        for number in 1..=messages {
            // Mostly one after the other, and sometimes after a long while.
            match world.below(3) {
                0 => world.pause(500).await,
                _ => world.pause(40_000).await,
            }
            if world.chance(20) {
                writer.write_all(&control(9, b"there?", mask)).await?;
            }
            if world.chance(2) {
                world.tell("the client leaves");
                if world.chance(50) {
                    writer.write_all(&control(8, &[3, 232], mask)).await?;
                }
                return Ok(());
            }
            let text = number.to_string();
            let mut bytes = control(1, text.as_bytes(), mask).to_vec();
            if world.chance(20) {
                // In two frames.
                bytes[0] &= 0x7f;
                bytes.extend(control(0, b"", mask));
            }
            let cut = usize::try_from(world.below(bytes.len() as u64 + 1)).unwrap();
            sent = number;
            world.tell(&format!("the client sends {number}"));
            writer.write_all(&bytes[..cut]).await?;
            if world.chance(30) {
                world.pause(8000).await;
            }
            writer.write_all(&bytes[cut..]).await?;
        }
        sleep(FOREVER / 4).await;
        std::io::Result::Ok(())
    };
    let has_left = tokio::select! {
        biased;
        () = told.cancelled() => false,
        result = sending => match result {
            Ok(()) => sent < messages,
            Err(_) => {
                told.cancelled().await;
                false
            }
        },
    };
    let is_over = told.is_cancelled() || has_left;
    drop(writer);
    if has_left {
        reading.abort();
    }
    (sent, is_over)
}

/// What others do to the instance, for ever.
async fn others(world: &World) {
    loop {
        world.pause(15_000).await;
        let (breaks, endpoint) = (world.with(|inner| inner.troubles.breaks), world.endpoint());
        match (world.below(4), endpoint) {
            // The gateway's own standby, or somebody else's.
            (0 | 1, Some(endpoint))
                if endpoint.quiet_tunnels() > 0
                    && endpoint.begin_rest(endpoint.look_at_quiet()) =>
            {
                // It may be refused.
                match world.chance(80) {
                    true => world.fall_asleep(),
                    false => world.tell("the standby is refused"),
                }
            }
            (2, Some(_)) if world.chance(40) => world.fall_asleep(),
            (2, None) => drop(world.wake_up()),
            (3, _) if world.chance(breaks) => {
                // One that is awake says that it does not know something.
                let is_silent = world.endpoint().is_none() && world.chance(50);
                world.tell(&format!("it loses its connections, silently: {is_silent}"));
                world.lose(is_silent);
            }
            _ => {}
        }
    }
}

/// Plays a history: what went wrong, its story, and how often the instance has taken the tunnel anew.
fn play(seed: u64) -> (Vec<String>, Vec<String>, u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    fastrand::seed(seed);
    runtime.block_on(async {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut level = |most: u8| if random.bool() { 0 } else { random.u8(0..most) };
        let troubles = Troubles {
            boots: level(60),
            moves: level(30),
            refuses: level(30),
            fails: level(20),
            breaks: level(60),
            reconnects: random.u8(0..4) > 0,
            is_lossy: random.u8(0..3) == 0,
        };
        let messages = random.u32(2..25);
        let inner = Inner {
            random,
            troubles,
            live: None,
            epoch: 0,
            ip: 1,
            connections: Vec::new(),
            count: 0,
            received: Vec::new(),
            answered: Vec::new(),
            sent: Vec::new(),
            reopened: 0,
            story: vec![format!("{troubles:?}")],
            born: Instant::now(),
        };
        let world = World {
            inner: Arc::new(Mutex::new(inner)),
            epochs: Arc::new(watch::Sender::new(0)),
            awake: Arc::new(watch::Sender::new(false)),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (endpoint, _) = world.wake_up();
        let (near, far) = duplex(PIPE);
        let side = world.connect(&endpoint);
        let carrier = world.clone();
        let carrying = world.tasks.spawn(async move {
            let carried = Carried::new(Arc::default());
            let rules = TunnelRules {
                is_websocket: true,
                ..TunnelRules::default()
            };
            let park = ParkRules {
                after: Duration::from_secs(1),
                buffer: 1024,
                max_time: FOREVER,
                probe: Duration::from_secs(5),
                reconnects: troubles.reconnects,
                is_one_way: false,
            };
            let (mut host, stop) = (Host(carrier.clone()), carrier.end.clone());
            let place = (&mut host, &endpoint);
            let parted = carry_parkable(far, side, (rules, park), &carried, place, &stop).await;
            carrier.tell("the tunnel is over");
            let left = parted.say().await;
            if let Some(left) = left {
                left.end(&host, &stop).await;
            }
        });
        let playing = async {
            tokio::select! {
                biased;
                ended = client(world.clone(), near, messages) => ended,
                () = others(&world) => unreachable!("it goes on for ever"),
            }
        };
        let played = timeout(FOREVER * 24, playing).await;
        world.end.cancel();
        let mut wrongs = Vec::new();
        if timeout(FOREVER, carrying).await.is_err() {
            wrongs.push("the tunnel does not end".to_owned());
        }
        match played {
            Ok((sent, is_over)) => wrongs.extend(world.with(|inner| inner.judge(sent, is_over))),
            Err(_) => wrongs.push("it does not end".to_owned()),
        }
        let (story, reopened) = world.with(|inner| (inner.story.clone(), inner.reopened));
        (wrongs, story, reopened)
    })
}

impl Inner {
    fn judge(&self, sent: u32, is_over: bool) -> Vec<String> {
        let mut wrongs = Vec::new();
        let expected: Vec<u32> = (1..).take(self.received.len()).collect();
        if self.received != expected {
            wrongs.push(format!("the application has got {:?}", self.received));
        }
        if !is_over && self.received.len() != usize::try_from(sent).unwrap() {
            wrongs.push(format!("{sent} were sent, and nobody was told of an end"));
        }
        let mut last = (0, 0);
        for got in &self.answered {
            let is_next = got.0 == last.0 && got.1 == last.1 + 1;
            let is_anew = got.0 > last.0 && got.1 == 1;
            if !(is_next || is_anew) {
                wrongs.push(format!("the client has got {got:?} after {last:?}"));
            }
            last = *got;
        }
        wrongs
    }
}

#[test]
fn no_message_is_lost_doubled_or_reordered_in_silence() {
    let mut reopened = 0;
    for seed in 0..HISTORIES {
        let (wrongs, story, anew) = play(seed);
        reopened += u64::from(anew);
        assert!(
            wrongs.is_empty(),
            "seed {seed}: {wrongs:#?}\n{}",
            story.join("\n")
        );
    }
    assert!(
        reopened > HISTORIES / 4,
        "hardly any was taken anew: {reopened}"
    );
}

#[test]
fn a_history_of_a_parked_tunnel_is_the_same_each_time() {
    for seed in [3, 11] {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

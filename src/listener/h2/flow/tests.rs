//! Whether a response moves, and how much of it waits.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::net::Ipv4Addr;
use std::pin::Pin;

use futures_util::FutureExt as _;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body as _, Frame};
use tokio::time::sleep;

use super::*;
use crate::flow::BufferBudget;
use crate::listener::h2::paced_body::PacedBody;
use crate::listener::service::Backlog;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

struct Stage {
    budget: BufferBudget,
    connection: Arc<ConnectionFlow>,
}

type Paced = PacedBody<BoxBody<Bytes, Infallible>, ()>;

impl<E> Backlog for BoxBody<Bytes, E> {}

impl Stage {
    fn new() -> Self {
        let budget = BufferBudget::new(MIB);
        let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
        Self {
            budget,
            connection: Arc::new(ConnectionFlow::new(LIMIT, buffers, 1 << 20)),
        }
    }

    fn stream(&self) -> Arc<StreamFlow> {
        Arc::new(StreamFlow::new(&self.connection))
    }

    fn body(&self, length: usize) -> (Arc<StreamFlow>, Paced) {
        let stream = self.stream();
        let body = Full::from(vec![0; length]).boxed();
        (Arc::clone(&stream), PacedBody::new(body, stream, ()))
    }
}

async fn piece(body: &mut Paced) -> Piece {
    let frame = body.frame().await.unwrap().unwrap();
    frame.into_data().unwrap()
}

fn all_of(body: &mut Paced) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
        pieces.push(frame.into_data().unwrap());
    }
    pieces
}

#[tokio::test(start_paused = true)]
async fn a_response_of_which_nothing_goes_is_given_up_at_the_limit() {
    let stage = Stage::new();
    let (stream, mut body) = stage.body(100);
    let (began, _waits) = (Instant::now(), piece(&mut body).await);
    assert_eq!(stream.watch(pending::<()>()).await, None);
    assert_eq!(began.elapsed(), LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_its_instance_has_not_begun_or_continued_has_all_the_time() {
    let stage = Stage::new();
    let (stream, mut body) = stage.body(100);
    let watched = stream.watch(async {
        sleep(LIMIT * 3).await;
        let mut all = piece(&mut body).await;
        all.advance(100);
        sleep(LIMIT * 3).await;
        "answered"
    });
    assert_eq!(watched.await, Some("answered"));
}

#[tokio::test(start_paused = true)]
async fn each_byte_that_goes_begins_the_limit_anew() {
    let stage = Stage::new();
    let (stream, mut body) = stage.body(100);
    let (began, mut waits) = (Instant::now(), piece(&mut body).await);
    let taking = async {
        for _ in 0..5 {
            sleep(LIMIT * 9 / 10).await;
            waits.advance(1);
        }
        waits
    };
    let (_waits, watched) = tokio::join!(taking, stream.watch(pending::<()>()));
    assert_eq!(watched, None);
    assert_eq!(began.elapsed(), LIMIT * 9 / 2 + LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_its_turn_on_a_slow_socket_is_not_given_up() {
    let stage = Stage::new();
    let (stream, mut slow) = stage.body(100);
    let (_, mut others) = stage.body(MIB);
    let _waits = piece(&mut slow).await;
    let socket = async {
        // The others have hardly had a turn.
        for _ in 0..10 {
            sleep(LIMIT / 2).await;
            stage.connection.note_blocked();
            let mut one = piece(&mut others).await;
            one.advance(1000);
        }
    };
    let watching = stream.watch(pending::<()>());
    tokio::pin!(watching);
    tokio::select! {
        _given_up = &mut watching => panic!("its turn had not come"),
        () = socket => {}
    }
    // They have had many, and it none: its own window is used up.
    for _ in 0..10 {
        let mut one = piece(&mut others).await;
        one.advance(PIECE);
    }
    let began = Instant::now();
    stage.connection.note_blocked();
    assert_eq!(watching.await, None);
    assert!(began.elapsed() <= LIMIT);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_was_slow_once_excuses_a_stream_once() {
    let stage = Stage::new();
    let (stream, mut body) = stage.body(100);
    let (began, _waits) = (Instant::now(), piece(&mut body).await);
    sleep(Duration::from_secs(1)).await;
    stage.connection.note_blocked();
    assert_eq!(stream.watch(pending::<()>()).await, None);
    assert_eq!(began.elapsed(), LIMIT * 2);
}

#[tokio::test]
async fn a_response_goes_in_pieces_and_ends_when_little_of_it_waits() {
    let stage = Stage::new();
    let (_, mut body) = stage.body(PIECE * 3 + 1);
    let mut pieces = all_of(&mut body);
    let lengths: Vec<usize> = pieces.iter().map(Buf::remaining).collect();
    assert_eq!(lengths, [PIECE, PIECE, PIECE, 1]);
    assert!(!body.is_end_stream(), "much of it waits");
    assert_eq!(stage.budget.used(), PIECE * 3 + 1);
    let end = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
    assert!(end.is_pending());
    pieces.truncate(1);
    assert!(body.frame().await.is_none() && body.is_end_stream());
    drop(pieces);
    assert_eq!(stage.budget.used(), 0);
    assert_eq!(stage.connection.waiting.load(Ordering::Relaxed), 0);
    assert_eq!(stage.connection.busy.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_short_response_ends_with_its_only_piece() {
    let stage = Stage::new();
    let (_, mut body) = stage.body(100);
    assert_eq!(body.size_hint().exact(), Some(100));
    let _piece = piece(&mut body).await;
    assert!(body.is_end_stream());
}

#[tokio::test]
async fn no_more_is_read_than_the_budget_allows_and_each_connection_moves() {
    let stage = Stage::new();
    let endless = || {
        let frame = || Ok(Frame::data(Bytes::from(vec![0; PIECE])));
        let frames = futures_util::stream::repeat_with(frame);
        BoxBody::new(StreamBody::new(frames))
    };
    let mut greedy = PacedBody::new(endless(), stage.stream(), ());
    let mut taken = all_of(&mut greedy);
    assert!(stage.budget.used() <= MIB, "{:?}", stage.budget);
    // Another connection of the same client still gets something through.
    let other = Arc::new(ConnectionFlow::new(
        LIMIT,
        stage.connection.buffers.clone(),
        1 << 20,
    ));
    let mut modest = PacedBody::new(endless(), Arc::new(StreamFlow::new(&other)), ());
    for _ in 0..10 {
        let mut one = piece(&mut modest).await;
        one.advance(PIECE);
    }
    let reading = greedy.frame();
    tokio::pin!(reading);
    assert!((&mut reading).now_or_never().is_none());
    taken.truncate(1);
    assert!(reading.await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_tiny_parts_goes_in_few_pieces_where_many_clients_share_the_connection() {
    const PARTS: usize = 20_000;
    let budget = BufferBudget::new(MIB);
    let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
    let connection = ConnectionFlow::new(LIMIT, buffers, 1 << 20).of_many();
    let connection = Arc::new(connection);
    let stream = StreamFlow::new(&connection).for_client(1, [192, 0, 2, 1].into());
    let frames = (0..PARTS).map(|_| Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"x"))));
    let body = BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)));
    let mut body = PacedBody::new(body, Arc::new(stream), ());
    let (mut bytes, mut pieces) = (0, 0);
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().remaining();
        pieces += 1;
    }
    assert_eq!(bytes, PARTS);
    assert!(pieces < 700, "{pieces}");
    drop(body);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn what_one_of_many_clients_has_is_counted_to_it_alone() {
    let budget = BufferBudget::new(MIB);
    let buffers = budget.of(Ipv4Addr::LOCALHOST.into());
    let connection = Arc::new(ConnectionFlow::new(LIMIT, buffers, 1 << 20).of_many());
    let stream = |number, last| {
        let client = [192, 0, last, 1].into();
        let stream = StreamFlow::new(&connection).for_client(number, client);
        Arc::new(stream)
    };
    let greedy: Vec<_> = (0..20).map(|number| stream(2 * number + 1, 1)).collect();
    let taken = greedy.iter().take_while(|one| one.expect(None)).count();
    assert!((6..12).contains(&taken), "{taken}");
    let modest = stream(99, 2);
    assert!(modest.try_keep(1000) && modest.expect(Some(10_000)));
    let clients = connection.clients.as_ref().unwrap();
    clients.come(99, 30_000);
    modest.is_read();
    modest.went(30_000);
    drop((greedy, modest));
    clients.come(99, 30_000);
    assert_eq!(budget.used(), 0, "nobody has that stream any more");
}

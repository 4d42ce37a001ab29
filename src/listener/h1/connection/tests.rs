//! What a connection keeps between requests.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::time::sleep;

use super::*;
use crate::client::ClientRequest;
use crate::flow::{BufferBudget, ClientBuffers};
use crate::listener::service::{RawConnection, Remembered};

/// The requests of a connection since it has let go of what they found out.
#[derive(Default)]
struct Count(AtomicUsize);

impl Remembered for Count {
    fn let_go(&mut self) {
        *self = Self::default();
    }
}

/// Answers with that number, and sends a 103 before.
#[derive(Clone)]
struct Counting;

impl Service for Counting {
    type ConnectionCache = Count;
    type Body = Full<Bytes>;

    fn on_client_hello(&self, _sni: &str, _client: IpAddr, _port: u16) {}

    async fn call(
        &self,
        _request: ClientRequest,
        (_, count): &(Downstream, Count),
        interim: &InterimSink,
    ) -> Response<Full<Bytes>> {
        interim(StatusCode::EARLY_HINTS, &http::HeaderMap::new());
        let count = count.0.fetch_add(1, Ordering::Relaxed) + 1;
        Response::new(Full::from(count.to_string()))
    }

    fn refuse(&self, _refusal: Refusal, _from: &Downstream) -> Response<Full<Bytes>> {
        Response::new(Full::default())
    }

    async fn proxy_tcp(&self, _connection: RawConnection, _buffers: ClientBuffers) {}
}

/// The body of the answer to one more request.
async fn ask(client: &mut DuplexStream) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: a.b\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut received = String::new();
    loop {
        let mut heads = received.split("\r\n\r\n");
        if heads
            .next()
            .is_some_and(|head| head.starts_with("HTTP/1.1 103"))
            && heads
                .next()
                .is_some_and(|head| head.starts_with("HTTP/1.1 200"))
            && let Some(body) = heads.next().filter(|body| !body.is_empty())
        {
            return body.to_owned();
        }
        received.push(char::from(client.read_u8().await.unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_requests_found_out_is_kept_for_a_moment_and_the_idle_timeout_is_what_it_was() {
    let (mut client, far) = tokio::io::duplex(1000);
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let buffers = BufferBudget::new(1 << 20).of([127, 0, 0, 1].into());
    let own = ConnectionLimits::of_client(config.idle_timeout, buffers);
    let address = |port| ([127, 0, 0, 1], port).into();
    let from = Downstream::in_clear(address(1), address(2));
    let serving = serve(far, from, Counting, &config, own, &drain);
    let asking = async {
        assert_eq!(ask(&mut client).await, "1");
        sleep(REMEMBERED * 9 / 10).await;
        assert_eq!(ask(&mut client).await, "2");
        sleep(REMEMBERED + Duration::from_millis(10)).await;
        assert_eq!(ask(&mut client).await, "1", "it has let go");
        assert_eq!(ask(&mut client).await, "2");
        let asked = Instant::now();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        Instant::now() - asked
    };
    let (served, idle) = tokio::join!(serving, asking);
    assert!(served.is_ok_and(|handed_over| handed_over.is_none()));
    let slack = Duration::from_millis(10);
    assert!(
        (config.idle_timeout..config.idle_timeout + slack).contains(&idle),
        "{idle:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_timeout_that_is_shorter_than_a_moment_is_the_end() {
    let (mut client, far) = tokio::io::duplex(1000);
    let (config, drain) = (ServerConfig::default(), Drain::default());
    let buffers = BufferBudget::new(1 << 20).of([127, 0, 0, 1].into());
    let own = ConnectionLimits::of_client(REMEMBERED / 2, buffers);
    let address = |port| ([127, 0, 0, 1], port).into();
    let from = Downstream::in_clear(address(1), address(2));
    let began = Instant::now();
    let (served, ()) = tokio::join!(serve(far, from, Counting, &config, own, &drain), async {
        assert_eq!(ask(&mut client).await, "1");
    });
    assert!(served.is_ok());
    let (limit, slack) = (REMEMBERED / 2, Duration::from_millis(10));
    assert!((limit..limit + slack).contains(&began.elapsed()));
}

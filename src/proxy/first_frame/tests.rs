//! What the gateway says in a sleeping instance's place.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

fn client() -> (DuplexStream, Client) {
    let (near, far) = duplex(64 * 1024);
    let far: UpgradedClient = Box::pin(far);
    (near, PeekStream::new(SendTimeout::new(far, LIMIT)))
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = control(first & 0x0f, payload, Some([7, 1, 200, 3])).to_vec();
    bytes[0] = first;
    bytes
}

#[tokio::test(start_paused = true)]
async fn pings_and_closes_are_answered_and_nothing_of_a_data_frame_is_taken() {
    let (mut near, mut client) = client();
    let data = frame(0x81, b"wake up");
    for bytes in [
        frame(0x89, b"are you there"),
        frame(0x8a, b"x"),
        frame(0x89, b""),
    ] {
        near.write_all(&bytes).await.unwrap();
    }
    near.write_all(&data[..1]).await.unwrap();
    let mut is_answering = false;
    let waiting = first_frame(&mut client, &mut is_answering);
    let waited = tokio::time::timeout(LIMIT, waiting).await;
    assert!(waited.is_err(), "a byte is no frame yet");
    near.write_all(&data[1..]).await.unwrap();
    assert!(first_frame(&mut client, &mut is_answering).await.is_ok());
    assert_eq!(client.peeked(), data);
    let mut answers = [0; 17];
    near.read_exact(&mut answers).await.unwrap();
    assert_eq!(&answers, b"\x8a\x0dare you there\x8a\0");
    assert!(!is_answering);
}

#[tokio::test(start_paused = true)]
async fn a_close_is_answered_with_its_code_and_is_the_clients() {
    let (mut near, mut client) = client();
    near.write_all(&frame(0x88, b"\x03\xe8bye")).await.unwrap();
    let ended = first_frame(&mut client, &mut false).await.unwrap_err();
    assert!(ended.by == TunnelEnd::Client && ended.close.is_none());
    drop(client);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"\x88\x02\x03\xe8");
}

#[tokio::test(start_paused = true)]
async fn what_a_client_may_not_send_wakes_nobody() {
    let mut unmasked = frame(0x81, b"x");
    unmasked[1] &= 0x7f;
    for wrong in [
        unmasked,
        frame(0x80, b"x"),
        frame(0x8b, b"x"),
        frame(0x09, b"x"),
    ] {
        let (mut near, mut client) = client();
        near.write_all(&wrong).await.unwrap();
        let ended = first_frame(&mut client, &mut false).await.unwrap_err();
        assert_eq!(ended.close.map(|close| close.code), Some(1002), "{wrong:?}");
    }
    let (near, mut client) = client();
    drop(near);
    let ended = first_frame(&mut client, &mut false).await.unwrap_err();
    assert!(ended.by == TunnelEnd::Client && ended.close.is_none());
}

#[test]
fn the_first_offer_that_is_known_is_picked() {
    let mut headers = HeaderMap::new();
    headers.append(SEC_WEBSOCKET_PROTOCOL, "v3,  v2".parse().unwrap());
    headers.append(SEC_WEBSOCKET_PROTOCOL, "v1".parse().unwrap());
    let picked = |known: &[&str]| {
        let known: Vec<String> = known.iter().map(|&known| known.to_owned()).collect();
        picked(&known, &headers).map(|picked| picked.to_str().unwrap().to_owned())
    };
    assert_eq!(picked(&["v1", "v2"]).as_deref(), Some("v2"));
    assert_eq!(picked(&["v1"]).as_deref(), Some("v1"));
    assert_eq!(picked(&["v"]), None);
}

use std::collections::VecDeque;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::time::{advance, sleep};

use super::super::key_source::Fetch;
use super::*;

struct Signer(Ed25519KeyPair, &'static str);

impl Signer {
    fn new(id: &'static str) -> Self {
        Self(Ed25519KeyPair::generate().unwrap(), id)
    }

    fn token(&self) -> String {
        let head = BASE64URL.encode(json!({ "alg": "EdDSA", "kid": self.1 }).to_string());
        let signed = format!("{head}.{}", BASE64URL.encode("{}"));
        let signature = BASE64URL.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn set(signers: &[&Signer]) -> KeySet {
    let keys = signers.iter().map(|signer| {
        let x = BASE64URL.encode(signer.0.public_key());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": signer.1, "x": x })
    });
    KeySet::parse(&json!({ "keys": keys.collect::<Vec<_>>() }).to_string()).unwrap()
}

/// What a source answers, the last for good, and how often it was asked.
#[derive(Default)]
struct Script {
    answers: Mutex<VecDeque<Result<KeySet, String>>>,
    asked: Mutex<usize>,
}

impl Fetch for Script {
    fn fetch(&self, _: &KeySource) -> BoxFuture<'static, Result<KeySet, String>> {
        *self.asked.lock().unwrap() += 1;
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.len() {
            0 | 1 => answers.front().cloned(),
            _ => answers.pop_front(),
        };
        Box::pin(async {
            sleep(Duration::from_millis(50)).await;
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }
}

/// A cache without keys, and its source.
struct World {
    script: Arc<Script>,
    fetcher: KeyFetcher,
    cache: Arc<KeyCache>,
}

impl World {
    fn new(answers: &[Result<KeySet, &str>]) -> Self {
        let script = Arc::new(Script::default());
        let fetch: Arc<dyn Fetch> = Arc::<Script>::clone(&script);
        let world = Self {
            script,
            fetcher: KeyFetcher::with(fetch),
            cache: Arc::new(KeyCache::new(KeySource::File("keys".into()), None)),
        };
        world.answer(answers);
        world
    }

    fn answer(&self, answers: &[Result<KeySet, &str>]) {
        let answers = answers.iter().cloned();
        let answers = answers.map(|answer| answer.map_err(str::to_owned));
        *self.script.answers.lock().unwrap() = answers.collect();
    }

    async fn verify(&self, signer: &Signer) -> Result<(), Refusal> {
        let text = signer.token();
        let token = Token::parse(&text).unwrap();
        self.cache.verify(&token, &self.fetcher).await.map(drop)
    }

    fn asked(&self) -> usize {
        *self.script.asked.lock().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_key_nobody_gets_in_and_the_source_is_asked_once_a_second() {
    let signer = Signer::new("a");
    let world = World::new(&[Err("is down")]);
    for _ in 0..5 {
        assert_eq!(world.verify(&signer).await, Err(Refusal::Unavailable));
    }
    assert_eq!(world.asked(), 1);
    world.answer(&[Ok(set(&[&signer]))]);
    advance(SHORT_PAUSE).await;
    assert_eq!(world.verify(&signer).await, Ok(()));
    assert_eq!(world.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_keeps_a_request_for_a_while_only() {
    let world = World::new(&[]);
    let began = Instant::now();
    let refused = world.verify(&Signer::new("a")).await;
    assert_eq!(refused, Err(Refusal::Unavailable));
    assert!(
        began.elapsed() <= Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_unknown_id_is_asked_for_at_once_and_then_every_ten_seconds_at_most() {
    let (old, new, forger) = (
        Signer::new("old"),
        Signer::new("new"),
        Signer::new("forger"),
    );
    let world = World::new(&[Ok(set(&[&old])), Ok(set(&[&old, &new]))]);
    assert_eq!(world.verify(&old).await, Ok(()));
    assert_eq!(world.asked(), 1);
    assert_eq!(
        world.verify(&new).await,
        Ok(()),
        "the rotated key counts at once"
    );
    assert_eq!(world.asked(), 2);
    for _ in 0..100 {
        assert_eq!(world.verify(&forger).await, Err(Refusal::Invalid));
    }
    assert_eq!(world.asked(), 2);
    advance(PAUSE).await;
    let forgeries = (0..100).map(|_| world.verify(&forger));
    let refused = futures_util::future::join_all(forgeries).await;
    assert!(refused.iter().all(|one| *one == Err(Refusal::Invalid)));
    assert_eq!(world.asked(), 3, "one fetch is for all who wait");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_counts_for_a_quarter_of_an_hour_at_most() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let world = World::new(&[Ok(set(&[&old])), Ok(set(&[&new]))]);
    assert_eq!(world.verify(&old).await, Ok(()));
    advance(STALE).await;
    assert_eq!(world.verify(&old).await, Err(Refusal::Invalid));
    assert_eq!(world.verify(&new).await, Ok(()));
    // While it is in use it is noticed sooner.
    world.answer(&[Ok(set(&[&old]))]);
    advance(FRESH).await;
    assert_eq!(
        world.verify(&new).await,
        Ok(()),
        "nobody waits for a refresh"
    );
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.verify(&new).await, Err(Refusal::Invalid));
    // Every key withdrawn.
    world.answer(&[Ok(KeySet::default())]);
    advance(STALE).await;
    assert_eq!(world.verify(&old).await, Err(Refusal::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_loses_no_key() {
    let signer = Signer::new("a");
    let world = World::new(&[Ok(set(&[&signer])), Err("is down")]);
    assert_eq!(world.verify(&signer).await, Ok(()));
    for _ in 0..10 {
        advance(STALE).await;
        assert_eq!(world.verify(&signer).await, Ok(()));
    }
    assert_eq!(world.asked(), 11);
}

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use hypeman::InstanceId;
use tokio::time::sleep;

use super::*;
use crate::workload::{Business, Facts, Kept, Rested, Sleep};

/// Control planes whose instances a test moves.
#[derive(Default)]
struct Plane {
    planes: usize,
    at: Mutex<Vec<(Owner, IpAddr)>>,
    last_seen: Mutex<Option<Owner>>,
    is_down: std::sync::atomic::AtomicBool,
    /// One of them that is down.
    down: Mutex<Option<Arc<str>>>,
    list_takes: Mutex<Duration>,
    gets: AtomicUsize,
    lists: AtomicUsize,
}

fn owner(id: &str) -> Owner {
    Owner {
        hypeman: "default".into(),
        id: InstanceId::parse(id).unwrap(),
    }
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

impl Plane {
    fn of(planes: usize, at: &[&str]) -> Arc<Self> {
        let plane = Self {
            planes,
            ..Self::default()
        };
        plane.moved(at);
        Arc::new(plane)
    }

    fn moved(&self, at: &[&str]) {
        let at = at.iter().map(|id| (owner(id), HERE)).collect();
        *self.at.lock().unwrap() = at;
    }

    fn counts(&self) -> (usize, usize) {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        (count(&self.gets), count(&self.lists))
    }

    fn is_down(&self, owner: &Owner) -> bool {
        self.down.lock().unwrap().as_ref() == Some(&owner.hypeman)
    }

    fn check(&self) -> Result<(), AskError> {
        match self.is_down.load(Ordering::SeqCst) {
            true => Err(AskError("it is down".to_owned())),
            false => Ok(()),
        }
    }
}

impl Host for Plane {
    fn planes(&self) -> usize {
        self.planes
    }

    fn last_seen_at(&self, _: IpAddr) -> Option<Owner> {
        self.last_seen.lock().unwrap().clone()
    }

    fn confirm<'a>(
        &'a self,
        owner: &'a Owner,
        address: IpAddr,
    ) -> BoxFuture<'a, Result<Option<Resident>, AskError>> {
        async move {
            self.gets.fetch_add(1, Ordering::SeqCst);
            self.check()?;
            if self.is_down(owner) {
                return Err(AskError("it is down".to_owned()));
            }
            let is_there = self.at.lock().unwrap().contains(&(owner.clone(), address));
            Ok(is_there.then(|| Resident {
                owner: owner.clone(),
                name: owner.id.as_str().into(),
                state: "Running".to_owned(),
                idle_timeout: None,
                since: Some(Timestamp::from_second(100).unwrap()),
            }))
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Listing> {
        async move {
            self.lists.fetch_add(1, Ordering::SeqCst);
            let takes = *self.list_takes.lock().unwrap();
            sleep(takes).await;
            let mut listing = Listing {
                missing: self.check().err(),
                ..Listing::default()
            };
            for (owner, address) in &*self.at.lock().unwrap() {
                let is_down = self.is_down(owner);
                let down = is_down.then(|| AskError("it is down".to_owned()));
                listing.missing = listing.missing.or(down);
                listing.at.entry(*address).or_default().push(owner.clone());
            }
            listing
        }
        .boxed()
    }

    fn hold<'a>(&'a self, _: &'a Owner, _: Option<Instant>) -> BoxFuture<'a, Kept> {
        async { Kept::Yes }.boxed()
    }

    fn facts(&self, _: &Owner) -> Facts {
        Facts::default()
    }

    fn business(&self, _: &Owner) -> Business {
        Business {
            is_busy: false,
            epoch: None,
        }
    }

    fn rest<'a>(&'a self, _: &'a Owner, _: Sleep) -> BoxFuture<'a, Rested> {
        async { Rested::Asleep }.boxed()
    }

    fn note_held(&self, _: &Resident, _: IpAddr, _: &str) {}
}

/// A question of this very moment is anybody's who asks in it.
async fn later() {
    tokio::time::advance(Duration::from_millis(1)).await;
}

async fn who(identifier: &Identifier, evidence: &Evidence) -> String {
    match identifier.identify(HERE, evidence).await {
        Ok(resident) => resident.name.to_string(),
        Err(refusal) => format!("{refusal:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_cost_a_list_in_two_seconds_however_many_they_are() {
    let plane = Plane::of(1, &[]);
    let identifier = Identifier::new(plane.clone());
    let began = Instant::now();
    for _ in 0..3 {
        let evidence: Vec<Evidence> = (0..20).map(|_| Evidence::default()).collect();
        let asking = evidence.iter().enumerate().map(|(number, evidence)| {
            let address = IpAddr::from([10, 0, 1, u8::try_from(number).unwrap()]);
            identifier.identify(address, evidence)
        });
        for answer in join_all(asking).await {
            assert!(matches!(answer, Err(Refusal::Stranger)));
        }
    }
    let lists = plane.counts().1;
    assert!(
        lists <= 1 + 2 * usize::try_from(began.elapsed().as_secs()).unwrap(),
        "{lists}"
    );
    assert!(lists <= 7, "{lists}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_has_gone_over_to_another_is_the_others_on_a_new_connection_at_once() {
    let plane = Plane::of(1, &["a"]);
    let identifier = Identifier::new(plane.clone());
    let (old, new) = (Evidence::default(), Evidence::default());
    assert_eq!(who(&identifier, &old).await, "a");
    assert_eq!(plane.counts(), (1, 1));
    // A connection cannot go over to another: what it was told is good for a second.
    assert_eq!(who(&identifier, &old).await, "a");
    assert_eq!(plane.counts(), (1, 1));
    plane.moved(&["b"]);
    later().await;
    assert_eq!(who(&identifier, &new).await, "b");
    // What the old connection has sent is not the other's, also when the first one comes back.
    tokio::time::advance(FRESH).await;
    assert_eq!(who(&identifier, &old).await, "Moved");
    plane.moved(&["a"]);
    tokio::time::advance(FRESH).await;
    assert_eq!(who(&identifier, &old).await, "Moved");
    plane.moved(&[]);
    tokio::time::advance(FRESH).await;
    assert_eq!(who(&identifier, &new).await, "Stranger");
    plane.moved(&["b"]);
    tokio::time::advance(FRESH).await;
    assert_eq!(who(&identifier, &new).await, "Moved");
}

#[tokio::test(start_paused = true)]
async fn those_who_ask_at_once_share_a_question_and_an_address_asks_ten_times_a_second() {
    let plane = Plane::of(1, &["a"]);
    *plane.last_seen.lock().unwrap() = Some(owner("a"));
    let identifier = Identifier::new(plane.clone());
    let evidence: Vec<Evidence> = (0..16).map(|_| Evidence::default()).collect();
    let asking = evidence.iter().map(|evidence| who(&identifier, evidence));
    assert!(join_all(asking).await.iter().all(|name| name == "a"));
    assert_eq!(plane.counts(), (1, 0), "nothing is listed for who is known");
    let began = Instant::now();
    for _ in 0..20 {
        later().await;
        assert_eq!(who(&identifier, &Evidence::default()).await, "a");
    }
    assert!(began.elapsed() >= PACE * 19, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_address_of_two_control_planes_is_nobodys_and_a_control_plane_that_is_down_lets_nobody_in()
 {
    let plane = Plane::of(2, &["a", "b"]);
    *plane.last_seen.lock().unwrap() = Some(owner("a"));
    let identifier = Identifier::new(plane.clone());
    assert_eq!(who(&identifier, &Evidence::default()).await, "Ambiguous");
    plane.moved(&["b"]);
    later().await;
    assert_eq!(who(&identifier, &Evidence::default()).await, "b");
    plane.is_down.store(true, Ordering::SeqCst);
    later().await;
    let evidence = Evidence::default();
    let refusal = identifier.identify(HERE, &evidence).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Ask(_)), "{refusal:?}");
    let one = Plane::of(1, &["a"]);
    *one.last_seen.lock().unwrap() = Some(owner("a"));
    one.is_down.store(true, Ordering::SeqCst);
    let identifier = Identifier::new(one.clone());
    let refusal = identifier.identify(HERE, &evidence).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Ask(_)), "{refusal:?}");
}

#[tokio::test(start_paused = true)]
async fn an_address_that_each_link_may_have_is_nobodys() {
    let plane = Plane::of(1, &[]);
    let address: IpAddr = "fe80::1".parse().unwrap();
    *plane.at.lock().unwrap() = vec![(owner("a"), address)];
    let identifier = Identifier::new(plane.clone());
    let refused = identifier.identify(address, &Evidence::default()).await;
    assert!(matches!(refused, Err(Refusal::OfALink)), "{refused:?}");
    assert_eq!(plane.counts(), (0, 0));
}

fn address(number: usize) -> IpAddr {
    let [.., high, low] = number.to_be_bytes();
    IpAddr::from([10, 0, high, low])
}

#[tokio::test(start_paused = true)]
async fn of_two_control_planes_the_one_that_is_down_turns_away_its_own_instances_alone() {
    let plane = Plane::of(2, &[]);
    let other = Owner {
        hypeman: "other".into(),
        id: InstanceId::parse("o").unwrap(),
    };
    let (ours, theirs, nobodys) = (address(1), address(2), address(3));
    *plane.at.lock().unwrap() = vec![(owner("a"), ours), (other, theirs)];
    *plane.down.lock().unwrap() = Some("other".into());
    let identifier = Identifier::new(plane.clone());
    for _ in 0..3 {
        later().await;
        let told = identifier.identify(ours, &Evidence::default()).await;
        assert_eq!(told.unwrap().name.as_ref(), "a");
    }
    for address in [theirs, nobodys] {
        let refused = identifier.identify(address, &Evidence::default()).await;
        assert!(matches!(refused, Err(Refusal::Ask(_))), "{refused:?}");
    }
    *plane.down.lock().unwrap() = None;
    later().await;
    let told = identifier.identify(theirs, &Evidence::default()).await;
    assert_eq!(told.unwrap().name.as_ref(), "o");
    let refused = identifier.identify(nobodys, &Evidence::default()).await;
    assert!(matches!(refused, Err(Refusal::Stranger)), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_instances_of_two_control_planes_are_known_within_seconds_and_cost_few_lists() {
    let plane = Plane::of(2, &[]);
    let all: Vec<IpAddr> = (0..1000).map(address).collect();
    let at = all.iter().enumerate();
    *plane.at.lock().unwrap() = at.map(|(n, ip)| (owner(&format!("i{n}")), *ip)).collect();
    *plane.list_takes.lock().unwrap() = Duration::from_secs(1);
    let identifier = Identifier::new(plane.clone());
    let evidence: Vec<Evidence> = all.iter().map(|_| Evidence::default()).collect();
    let began = Instant::now();
    for round in 1..=10 {
        let asking = all.iter().zip(&evidence);
        let asking = asking.map(|(address, evidence)| identifier.identify(*address, evidence));
        for answer in join_all(asking).await {
            answer.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(6 * round), "{round}");
        tokio::time::advance(Duration::from_secs(4)).await;
    }
    assert!(plane.counts().1 <= 6, "{} lists", plane.counts().1);
}

#[tokio::test(start_paused = true)]
async fn strangers_do_not_keep_who_is_known_waiting() {
    for planes in [1, 2] {
        let plane = Plane::of(planes, &["a"]);
        *plane.list_takes.lock().unwrap() = Duration::from_secs(3);
        let identifier = Identifier::new(plane.clone());
        assert_eq!(who(&identifier, &Evidence::default()).await, "a");
        let evidence: Vec<Evidence> = (0..200).map(|_| Evidence::default()).collect();
        let strangers = evidence.iter().enumerate();
        let strangers =
            strangers.map(|(n, evidence)| identifier.identify(address(1000 + n), evidence));
        let known = async {
            for _ in 0..20 {
                let began = Instant::now();
                later().await;
                assert_eq!(who(&identifier, &Evidence::default()).await, "a");
                let took = began.elapsed();
                assert!(took <= Duration::from_millis(200), "{planes}: {took:?}");
            }
        };
        tokio::join!(known, join_all(strangers));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_older_than_its_instance_is_somebody_elses() {
    let plane = Plane::of(1, &["b"]);
    let identifier = Identifier::new(plane.clone());
    for (made_at, who_it_is) in [(99, "Moved"), (100, "b"), (101, "b")] {
        later().await;
        let evidence = Evidence::since(Timestamp::from_second(made_at).unwrap());
        assert_eq!(who(&identifier, &evidence).await, who_it_is, "{made_at}");
    }
}

use super::*;

pub(super) const IDLE: Duration = Duration::from_secs(10);

pub(super) fn endpoint(counts: bool, idle_timeout: Option<Duration>) -> Endpoint {
    endpoint_at(1, IpAddr::from([127, 0, 0, 1]), (counts, idle_timeout))
}

fn endpoint_at(
    number: u64,
    ip: IpAddr,
    (counts, idle_timeout): (bool, Option<Duration>),
) -> Endpoint {
    let terms = LeaseTerms {
        idle_timeout,
        counts,
    };
    let id = InstanceId::parse("a").unwrap();
    let init = EpochInit {
        instance: id,
        number,
        ip,
        terms,
        losses: Arc::default(),
        opened: Arc::default(),
        parking: Arc::default(),
        fresh: false,
        asked_at: Instant::now(),
    };
    let endpoint = Endpoint::new(init, Duration::from_secs(30), Instant::now());
    endpoint.verify(Instant::now(), terms);
    endpoint
}

impl Endpoint {
    /// An epoch by itself, for the tests of those who hold connections of one.
    pub(crate) fn alone() -> Self {
        endpoint(true, None)
    }

    /// Another epoch of the same instance.
    pub(crate) fn alone_at(number: u64, ip: IpAddr) -> Self {
        endpoint_at(number, ip, (true, None))
    }
}

pub(super) async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_lasts_from_the_last_close_to_the_idle_timeout_less_its_margin() {
    let endpoint = endpoint(true, Some(IDLE));
    assert!(
        !endpoint.is_leased(Instant::now()),
        "nothing has begun a term"
    );
    let connection = endpoint.open_connection();
    pass(20).await;
    assert!(endpoint.is_leased(Instant::now()), "a connection is open");
    drop(connection);
    pass(8).await;
    assert!(endpoint.is_leased(Instant::now()));
    pass(1).await;
    assert!(
        !endpoint.is_leased(Instant::now()),
        "9 s = 10 s - 1 s have passed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_is_a_lease_only_while_something_is_heard() {
    let endpoint = endpoint(true, Some(IDLE));
    let mut connection = endpoint.open_connection();
    connection.established();
    pass(1).await;
    endpoint.verify(Instant::now(), endpoint.0.terms.get());
    let mut newer = endpoint.open_connection();
    pass(1).await;
    newer.established();
    pass(27).await;
    connection.heard(Instant::now());
    pass(20).await;
    newer.heard(Instant::now());
    pass(9).await;
    assert!(endpoint.is_leased(Instant::now()));
    connection.sent(Instant::now());
    pass(1).await;
    assert!(
        !endpoint.is_leased(Instant::now()),
        "its address may be another's"
    );
    endpoint.verify(Instant::now(), endpoint.0.terms.get());
    assert!(endpoint.is_leased(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn connections_that_the_policy_ignores_make_no_lease_and_a_hold_does() {
    let endpoint = endpoint(false, Some(IDLE));
    let _connection = endpoint.open_connection();
    assert!(!endpoint.is_leased(Instant::now()));
    endpoint.set_hold(Some(Instant::now()));
    assert!(endpoint.is_leased(Instant::now()));
    endpoint.set_hold(None);
    assert!(!endpoint.is_leased(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_worth_nothing_after_the_line_to_the_control_plane_was_lost() {
    let endpoint = endpoint(true, Some(IDLE));
    endpoint.set_hold(Some(Instant::now()));
    assert!(endpoint.is_leased(Instant::now()));
    endpoint.0.losses.fetch_add(1, Ordering::AcqRel);
    assert!(!endpoint.is_leased(Instant::now()));
    endpoint.set_hold(Some(Instant::now()));
    assert!(endpoint.is_leased(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_noticed_until_the_instance_was_confirmed() {
    let (endpoint, limit) = (endpoint(true, Some(IDLE)), Duration::from_secs(10));
    let connection = endpoint.open_connection();
    pass(11).await;
    assert!(endpoint.is_stalled(Instant::now(), limit));
    connection.sent(Instant::now());
    assert!(!endpoint.is_stalled(Instant::now(), limit));
    pass(11).await;
    endpoint.verify(Instant::now(), endpoint.0.terms.get());
    assert!(!endpoint.is_stalled(Instant::now(), limit));
    pass(11).await;
    assert!(endpoint.is_stalled(Instant::now(), limit));
    drop(connection);
    assert!(!endpoint.is_stalled(Instant::now(), limit));
}

#[tokio::test(start_paused = true)]
async fn while_nobody_answers_a_confirmation_is_asked_for_once_a_second() {
    let endpoint = endpoint(true, None);
    pass(30).await;
    assert!(endpoint.wants_verification(Instant::now()));
    endpoint.no_verdict(0);
    assert!(!endpoint.wants_verification(Instant::now()));
    pass(1).await;
    assert!(endpoint.wants_verification(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn without_a_connection_a_lease_ends_with_its_verification() {
    let endpoint = endpoint(true, None);
    pass(29).await;
    assert!(endpoint.is_leased(Instant::now()));
    pass(1).await;
    assert!(!endpoint.is_leased(Instant::now()));
    assert!(endpoint.wants_verification(Instant::now()));
    assert!(
        !endpoint.wants_verification(Instant::now()),
        "one caller is enough"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_among_the_belongings_of_an_epoch_does_not_keep_it() {
    let endpoint = endpoint(true, Some(IDLE));
    let connection = endpoint.open_connection();
    let kept = Arc::downgrade(&endpoint.belongings().get_or_insert(80, || connection));
    let other = endpoint.clone();
    drop(endpoint);
    assert_eq!((kept.strong_count(), other.open_connections()), (1, 1));
    drop(other);
    assert_eq!(kept.strong_count(), 0, "it went with the last handle");
}

#[test]
fn the_margin_is_a_second_or_a_tenth_and_half_of_a_short_timeout() {
    for (idle, margin) in [(500, 250), (1_000, 500), (5_000, 1_000), (60_000, 6_000)] {
        let margin_of = LeaseTerms::margin(Duration::from_millis(idle));
        assert_eq!(margin_of, Duration::from_millis(margin));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_heard_from_lately_is_not_certainly_awake() {
    let endpoint = endpoint(true, None);
    let (now, two) = (Instant::now, Duration::from_secs(2));
    assert!(endpoint.is_heard_within(now(), two), "confirmed");
    pass(2).await;
    assert!(!endpoint.is_heard_within(now(), two) && endpoint.is_leased(now()));
    let mut connection = endpoint.open_connection();
    endpoint.verify(now(), endpoint.0.terms.get());
    pass(1).await;
    connection.established();
    pass(2).await;
    connection.heard(now());
    pass(1).await;
    assert!(
        !endpoint.is_heard_within(now(), two),
        "it may be a newcomer's word"
    );
    endpoint.verify(now(), endpoint.0.terms.get());
    pass(3).await;
    connection.heard(now());
    pass(1).await;
    assert!(endpoint.is_heard_within(now(), two));
    endpoint.cut().cancel();
    assert!(!endpoint.is_heard_within(now(), two));
}

#[tokio::test(start_paused = true)]
async fn the_last_word_is_good_for_as_long_as_it_cannot_fall_asleep_by_itself() {
    let never = endpoint(true, None);
    let soon = endpoint(true, Some(IDLE));
    soon.begin_term(Instant::now());
    pass(8).await;
    assert!(soon.is_awake_by_last_word(Instant::now()));
    pass(1).await;
    assert!(!soon.is_awake_by_last_word(Instant::now()));
    pass(3600).await;
    assert!(!never.is_leased(Instant::now()), "not confirmed lately");
    assert!(never.is_awake_by_last_word(Instant::now()));
    never.cut().cancel();
    assert!(!never.is_awake_by_last_word(Instant::now()));
}

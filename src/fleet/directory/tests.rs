use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::fleet::engine::{Operation, read_all};
use crate::fleet::memory::{Faults, MemoryEngine};
use crate::fleet::operator;
use crate::fleet::records::PREFIX;

mod more_tests;
mod port_tests;

fn directory(name: &str, is_node: bool, engine: &MemoryEngine) -> Arc<Directory> {
    let name = name.to_owned();
    let own = Own {
        name,
        is_node,
        ..Own::default()
    };
    let config = FleetConfig::default();
    let engine: Arc<dyn Engine> = Arc::new(engine.clone());
    Directory::new(own, &config, &WakeConfig::default(), "default", engine).unwrap()
}

async fn put(engine: &MemoryEngine, key: &str, value: &serde_json::Value) {
    let put = Operation::Put {
        key: format!("{PREFIX}{key}"),
        value: value.to_string().into_bytes(),
        lease: 0,
    };
    engine.commit(Vec::new(), vec![put]).await.unwrap();
}

async fn delete(engine: &MemoryEngine, keys: Vec<String>) {
    let deletes = keys
        .into_iter()
        .map(|key| Operation::Delete(format!("{PREFIX}{key}")));
    engine.commit(Vec::new(), deletes.collect()).await.unwrap();
}

/// What came since a revision, as a watch brings it.
async fn since(engine: &MemoryEngine, revision: i64) -> Vec<Change> {
    let mut news = engine.watch(PREFIX.to_owned(), revision).await.unwrap();
    match futures_util::StreamExt::next(&mut news)
        .await
        .unwrap()
        .unwrap()
    {
        crate::fleet::engine::News::Changes(changes) => changes,
        crate::fleet::engine::News::Alive(_) => Vec::new(),
    }
}

async fn reread(directory: &Directory, engine: &MemoryEngine) -> Applied {
    let (entries, revision) = read_all(engine, PREFIX).await.unwrap();
    directory.replace(&entries, revision)
}

/// The instances of the routes in force, by their names.
fn served(directory: &Directory) -> BTreeMap<String, String> {
    let routes = directory.routes();
    let pairs = routes
        .iter()
        .map(|route| (route.label().to_string(), route.instance.to_string()));
    pairs.collect()
}

async fn many(engine: &MemoryEngine, count: usize) {
    for index in 0..count {
        put(
            engine,
            &format!("r/op/a{index}.x"),
            &json!({"instance": format!("i{index}")}),
        )
        .await;
    }
}

fn keys(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|index| format!("r/op/a{index}.x")).collect()
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_leaves_its_last_good_form_and_spoils_nothing_else() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    reread(&copy, &engine).await;
    put(&engine, "r/op/a.x", &json!({"instance": 7})).await;
    put(&engine, "r/op/b.x", &json!({"port": 80})).await;
    put(&engine, "r/op/c..x", &json!({"instance": "c"})).await;
    put(&engine, "r/op/d.x", &json!({"instance": "d"})).await;
    reread(&copy, &engine).await;
    let good = BTreeMap::from([("a.x/".into(), "a".into()), ("d.x/".into(), "d".into())]);
    assert_eq!(served(&copy), good);
    let problems: Vec<String> = copy.status().problems.into_keys().collect();
    let expected = ["r/op/a.x", "r/op/b.x", "r/op/c..x"].map(|key| format!("{PREFIX}{key}"));
    assert_eq!(problems, expected);
    assert_eq!(copy.counts().problems, 3);
    put(&engine, "r/op/a.x", &json!({"instance": "a2"})).await;
    delete(&engine, vec!["r/op/b.x".to_owned(), "r/op/c..x".to_owned()]).await;
    reread(&copy, &engine).await;
    assert_eq!(served(&copy)["a.x/"], "a2");
    assert_eq!(copy.status().problems, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_route_waits_for_its_policy_and_a_broken_policy_changes_nothing() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    reread(&copy, &engine).await;
    put(
        &engine,
        "r/op/a.x",
        &json!({"instance": "a", "policy": "slow/\u{e9}"}),
    )
    .await;
    copy.apply(&since(&engine, 2).await);
    assert_eq!(served(&copy), BTreeMap::new());
    put(
        &engine,
        "p/slow/\u{e9}",
        &json!({"wake": {"timeout": "7s"}}),
    )
    .await;
    let applied = copy.apply(&since(&engine, 3).await);
    assert_eq!(applied.routes.added.len(), 1);
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(7));
    put(
        &engine,
        "p/slow/\u{e9}",
        &json!({"wake": {"timeout": "never"}}),
    )
    .await;
    copy.apply(&since(&engine, 4).await);
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(7));
    put(
        &engine,
        "p/slow/\u{e9}",
        &json!({"wake": {"timeout": "9s"}}),
    )
    .await;
    let applied = copy.apply(&since(&engine, 5).await);
    assert_eq!(
        (applied.routes.added.len(), applied.routes.removed.len()),
        (1, 1)
    );
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(9));
    delete(&engine, vec!["p/slow/\u{e9}".to_owned()]).await;
    copy.apply(&since(&engine, 6).await);
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn the_operators_route_goes_before_and_then_the_oldest_claims_and_routes_alike() {
    let engine = MemoryEngine::new();
    let copy = directory("h2", true, &engine);
    put(&engine, "r/h2/a.x", &json!({"instance": "of-h2"})).await;
    put(&engine, "r/h1/a.x", &json!({"instance": "of-h1"})).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    put(&engine, "i/h2/web", &json!({"id": "id-2"})).await;
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    reread(&copy, &engine).await;
    assert_eq!(served(&copy)["a.x/"], "of-h2");
    let Place::Peer { host, claim } = copy.place("web") else {
        panic!("{:?}", copy.place("web"));
    };
    assert_eq!(
        (&*host.name, &*claim.id, claim.generation),
        ("h1", "id-1", 4)
    );
    assert_eq!(copy.place("id-2"), Place::Here, "an id is its own host's");
    let twice = &copy.status().claimed_twice[0];
    assert_eq!(
        (&*twice.name, twice.hosts.join(" ")),
        ("web", "h1 h2".to_owned())
    );
    assert_eq!(copy.counts().claimed_twice, 1);
    put(&engine, "r/op/a.x", &json!({"instance": "of-op"})).await;
    delete(&engine, vec!["i/h1/web".to_owned()]).await;
    reread(&copy, &engine).await;
    assert_eq!(served(&copy)["a.x/"], "of-op");
    assert_eq!(copy.place("web"), Place::Here);
    assert_eq!(copy.counts().claimed_twice, 0);
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_absence() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    reread(&copy, &engine).await;
    assert_eq!(
        copy.place("web"),
        Place::Unreachable {
            host: "h1".to_owned()
        }
    );
    assert_eq!(copy.place("nobody"), Place::Unclaimed);
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"], "zone": "z"})).await;
    copy.apply(&since(&engine, 3).await);
    assert_eq!(copy.counts().alive, 1);
    delete(&engine, vec!["h/h1".to_owned()]).await;
    copy.apply(&since(&engine, 4).await);
    let Place::Peer { host, .. } = copy.place("web") else {
        panic!("{:?}", copy.place("web"));
    };
    assert!(!host.alive);
    let status = copy.status();
    assert_eq!((status.members.len(), status.members[0].alive), (1, false));
    assert_eq!(copy.counts().alive, 0);
}

#[tokio::test(start_paused = true)]
async fn many_routes_that_go_at_once_stay_until_that_is_accepted_however_it_is_heard() {
    let engine = MemoryEngine::new();
    let (watching, reading) = (
        directory("f", false, &engine),
        directory("g", false, &engine),
    );
    many(&engine, 60).await;
    reread(&watching, &engine).await;
    reread(&reading, &engine).await;
    let before = engine.backup();
    drop(before);
    delete(&engine, keys(0..25)).await;
    let applied = watching.apply(&since(&engine, 62).await);
    assert_eq!((applied.held, watching.routes().len()), (25, 60));
    let applied = reread(&reading, &engine).await;
    assert_eq!((applied.held, reading.routes().len()), (25, 60));
    for copy in [&watching, &reading] {
        let shrink = copy.status().shrink.unwrap();
        assert_eq!((shrink.routes, shrink.of), (25, 60));
        assert_eq!(copy.counts().held, 25);
    }
    // Other changes go on, and one that comes again is not gone.
    put(&engine, "r/op/a0.x", &json!({"instance": "again"})).await;
    watching.apply(&since(&engine, 63).await);
    reread(&reading, &engine).await;
    assert_eq!(watching.status().shrink.unwrap().routes, 24);
    assert_eq!(served(&watching), served(&reading));
    operator::accept(&engine).await.unwrap();
    watching.apply(&since(&engine, 64).await);
    reread(&reading, &engine).await;
    for copy in [&watching, &reading] {
        assert_eq!(copy.routes().len(), 36);
        assert!(copy.status().shrink.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn few_routes_go_and_so_do_many_that_an_operator_takes_away() {
    let engine = MemoryEngine::new();
    let (watching, reading) = (
        directory("f", false, &engine),
        directory("g", false, &engine),
    );
    many(&engine, 60).await;
    reread(&watching, &engine).await;
    reread(&reading, &engine).await;
    delete(&engine, keys(0..19)).await;
    assert_eq!(watching.apply(&since(&engine, 62).await).held, 0);
    assert_eq!(watching.routes().len(), 41);
    // One more within seconds is one too many.
    delete(&engine, keys(19..20)).await;
    assert_eq!(watching.apply(&since(&engine, 63).await).held, 1);
    tokio::time::advance(Duration::from_secs(11)).await;
    delete(&engine, keys(20..30)).await;
    assert_eq!(watching.apply(&since(&engine, 64).await).held, 0);
    let all: Vec<Key> = keys(30..60)
        .into_iter()
        .map(|key| Key::parse(&format!("{PREFIX}{key}")).unwrap())
        .collect();
    assert_eq!(operator::remove(&engine, &all).await.unwrap(), 30);
    assert_eq!(watching.apply(&since(&engine, 65).await).held, 0);
    assert_eq!(watching.routes().len(), 1, "the one that is held");
    // Of 60 that are gone 30 went on purpose.
    assert_eq!(reread(&reading, &engine).await.held, 60);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_went_back_is_told_of_and_followed() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    let backup = engine.backup();
    put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
    reread(&copy, &engine).await;
    engine.restore(&backup);
    let applied = reread(&copy, &engine).await;
    assert!(applied.went_back);
    assert_eq!(served(&copy).len(), 1);
    assert_eq!((copy.status().went_back, copy.known()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_the_copy_makes_the_same_copy() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "p/slow", &json!({"wake": {"timeout": "7s"}})).await;
    put(
        &engine,
        "r/op/a.x/v1",
        &json!({"instance": "a", "policy": "slow", "port": 1}),
    )
    .await;
    put(&engine, "r/h1/{app}.x", &json!({"instance": "{app}"})).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    reread(&copy, &engine).await;
    let (entries, revision) = copy.entries();
    let other = directory("f", false, &engine);
    other.replace(&entries, revision);
    assert_eq!(other.lines(), copy.lines());
    assert_eq!(other.routes(), copy.routes());
    assert_eq!(other.place("web"), copy.place("web"));
    assert_eq!((other.known(), other.is_known()), (6, true));
}

#[tokio::test(start_paused = true)]
async fn reading_again_finds_where_a_name_went_and_does_not_wait_for_an_engine_that_is_away() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    for host in ["h1", "h2"] {
        put(
            &engine,
            &format!("h/{host}"),
            &json!({"endpoints": [format!("{host}:1")]}),
        )
        .await;
    }
    put(&engine, "i/h1/web", &json!({"id": "id"})).await;
    reread(&copy, &engine).await;
    let before = copy.place("web");
    assert_eq!(copy.read_again("web").await, before);
    // That answer is good for a second.
    tokio::time::advance(Duration::from_secs(1)).await;
    let value = json!({"id": "id"}).to_string().into_bytes();
    operator::relocate(&engine, "web", &["h1"], ("h2", value))
        .await
        .unwrap();
    let (again, applied) = tokio::join!(copy.read_again("web"), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        copy.apply(&since(&engine, 5).await)
    });
    assert_eq!(applied.held, 0);
    let Place::Peer { host, .. } = again else {
        panic!("{again:?}");
    };
    assert_eq!(&*host.name, "h2");
    let away = Faults {
        away: true,
        ..Faults::default()
    };
    engine.set_faults(away);
    let began = Instant::now();
    let place = copy.read_again("web").await;
    assert_eq!(place, copy.place("web"));
    assert!(began.elapsed() <= Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn many_who_read_a_name_again_make_one_read_and_one_a_second() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "h/h1", &json!({"endpoints": ["h1:1"]})).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    reread(&copy, &engine).await;
    let (before, began, reads) = (copy.place("web"), Instant::now(), engine.reads());
    let slow = Faults {
        delay: Duration::from_millis(10),
        ..Faults::default()
    };
    engine.set_faults(slow);
    for _ in 0..3 {
        // Also where the name is the instance's id.
        let names = ["web", "id-1"].into_iter().cycle().take(1_000);
        let places = names.map(|name| copy.read_again(name));
        for place in futures_util::future::join_all(places).await {
            assert_eq!(place, before);
        }
    }
    assert_eq!(engine.reads() - reads, 1);
    assert!(began.elapsed() < Duration::from_millis(15), "nobody waits");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(copy.read_again("web").await, before);
    assert_eq!(engine.reads() - reads, 2);
    // Whoever asks for a name that nobody claims waits for nothing but the answer.
    assert_eq!(copy.read_again("nobody").await, Place::Unclaimed);
    assert_eq!(copy.read_again("nobody else").await, Place::Unclaimed);
    assert_eq!(engine.reads() - reads, 3);
    assert!(began.elapsed() < Duration::from_millis(1_100));
}

#[tokio::test(start_paused = true)]
async fn a_front_and_a_node_of_one_name_are_two_members() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    let node = json!({"endpoints": ["node:1"], "spki": "11".repeat(32), "role": "front"});
    put(&engine, "h/h1", &node).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    reread(&copy, &engine).await;
    let front = json!({"endpoints": ["front:1"], "spki": "22".repeat(32), "role": "node"});
    put(&engine, "g/h1", &front).await;
    copy.apply(&since(&engine, 4).await);
    let Place::Peer { host, .. } = copy.place("web") else {
        panic!("{:?}", copy.place("web"));
    };
    assert_eq!(
        (&*host.endpoints, host.role),
        (&["node:1".to_owned()][..], Role::Node)
    );
    assert_eq!(copy.counts().alive, 2);
    let key = |role| copy.member_as(role, "h1").and_then(|member| member.spki);
    assert_eq!(
        (key(Role::Node), key(Role::Front)),
        (Some([0x11; 32]), Some([0x22; 32]))
    );
    let roles: Vec<&str> = copy.status().members.iter().map(|one| one.role).collect();
    assert_eq!(roles, ["front", "node"]);
    // The end of the one is not the end of the other, and a front has no instances.
    delete(&engine, vec!["g/h1".to_owned()]).await;
    copy.apply(&since(&engine, 5).await);
    assert!(copy.is_alive(&Key::Node("h1".to_owned())));
    assert!(!copy.is_alive(&Key::Front("h1".to_owned())));
    put(&engine, "g/h2", &json!({"endpoints": ["front:1"]})).await;
    put(&engine, "i/h2/api", &json!({"id": "id-2"})).await;
    reread(&copy, &engine).await;
    let host = "h2".to_owned();
    assert_eq!(copy.place("api"), Place::Unreachable { host });
}

#[tokio::test(start_paused = true)]
async fn a_name_that_moves_leaves_the_claim_that_its_new_host_has_as_it_is() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    for host in ["h1", "h2", "h3"] {
        put(
            &engine,
            &format!("h/{host}"),
            &json!({"endpoints": [format!("{host}:1")]}),
        )
        .await;
        put(
            &engine,
            &format!("i/{host}/web"),
            &json!({"id": format!("of-{host}")}),
        )
        .await;
    }
    let value = json!({"id": "of-h1"}).to_string().into_bytes();
    let gone = operator::relocate(&engine, "web", &["h1", "h9"], ("h3", value.clone())).await;
    assert!(
        gone.unwrap_err()
            .to_string()
            .contains("`h9` does not claim `web`")
    );
    operator::relocate(&engine, "web", &["h1", "h2"], ("h3", value.clone()))
        .await
        .unwrap();
    reread(&copy, &engine).await;
    let Place::Peer { host, claim } = copy.place("web") else {
        panic!("{:?}", copy.place("web"));
    };
    assert_eq!((&*host.name, &*claim.id), ("h3", "of-h3"));
    assert_eq!(copy.status().claimed_twice.len(), 0);
    // Who claims nothing is given the claim that there was.
    operator::relocate(&engine, "web", &["h3"], ("h1", value))
        .await
        .unwrap();
    reread(&copy, &engine).await;
    let Place::Peer { host, claim } = copy.place("web") else {
        panic!("{:?}", copy.place("web"));
    };
    assert_eq!((&*host.name, &*claim.id), ("h1", "of-h1"));
}

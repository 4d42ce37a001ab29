use super::*;
use crate::names::Hostname;
use crate::router::{PathReadings, RouteTable};

/// The instances that requests of a host are for, by the ports that they came to.
fn at_ports<const N: usize>(copy: &Directory, host: &str, ports: [u16; N]) -> [String; N] {
    let table = RouteTable::new(&copy.routes());
    let host = Hostname::parse(host).unwrap();
    ports.map(|port| {
        let found = table.find(&host, &PathReadings::of("/"), port);
        found.map_or_else(|_| "-".to_owned(), |found| found.instance.to_string())
    })
}

#[tokio::test(start_paused = true)]
async fn routes_of_one_name_for_different_ports_are_in_force_together() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "r/h1/a.x", &json!({"instance": "web"})).await;
    reread(&copy, &engine).await;
    assert_eq!(at_ports(&copy, "a.x", [80, 8443]), ["web", "web"]);
    put(&engine, "r/h1/a.x:8443", &json!({"instance": "admin"})).await;
    let applied = copy.apply(&since(&engine, 3).await);
    let (added, removed) = (&applied.routes.added, &applied.routes.removed);
    assert_eq!(
        (added.len(), removed.len()),
        (2, 1),
        "the first is for all others now"
    );
    let both = ["web", "admin", "web"];
    assert_eq!(at_ports(&copy, "a.x", [80, 8443, 9]), both);
    assert_eq!(copy.status().routes, 2);
    let names: Vec<String> = copy.lines().iter().map(RouteLine::name).collect();
    assert_eq!(names, ["a.x/", "a.x:8443/"]);
    assert!(copy.serves(&RouteKey::from("a.x/").at(Some(8443))));
    assert!(!copy.serves(&RouteKey::from("a.x/").at(Some(80))));
    // A file of it makes the same again.
    let (entries, revision) = copy.entries();
    let other = directory("f", false, &engine);
    other.replace(&entries, revision);
    assert_eq!(other.routes(), copy.routes());
    // Nobody gets a port of a name that somebody else has had for longer.
    put(&engine, "r/h2/a.x:80", &json!({"instance": "theirs"})).await;
    copy.apply(&since(&engine, 4).await);
    assert_eq!(at_ports(&copy, "a.x", [80, 8443, 9]), both);
    put(&engine, "r/op/a.x", &json!({"instance": "ours"})).await;
    copy.apply(&since(&engine, 5).await);
    assert_eq!(at_ports(&copy, "a.x", [80, 8443, 9]), ["ours"; 3]);
    delete(&engine, vec!["r/op/a.x".to_owned(), "r/h1/a.x".to_owned()]).await;
    copy.apply(&since(&engine, 6).await);
    assert_eq!(at_ports(&copy, "a.x", [80, 8443, 9]), ["-", "admin", "-"]);
    delete(&engine, vec!["r/h1/a.x:8443".to_owned()]).await;
    reread(&copy, &engine).await;
    assert_eq!(at_ports(&copy, "a.x", [80, 8443, 9]), ["theirs", "-", "-"]);
    assert_eq!(copy.status().routes, 1);
}

/// Makes nothing of what it hears.
struct Deaf;

impl crate::fleet::Sink for Deaf {
    fn take(&self, step: crate::fleet::Step<'_>) {
        step();
    }

    fn is_quick(&self) -> bool {
        true
    }
}

/// Returns when the copy is as far as the engine is.
async fn comes_as_far(copy: &Directory, engine: &MemoryEngine) {
    let mut revisions = copy.revisions();
    let there = revisions.wait_for(|known| *known >= engine.revision());
    let there = tokio::time::timeout(Duration::from_secs(600), there).await;
    there.expect("in time").unwrap();
}

/// So many routes, all at once.
async fn very_many(engine: &MemoryEngine, count: usize) {
    let puts = (0..count).map(|index| Operation::Put {
        key: format!("{PREFIX}r/op/a{index}.x"),
        value: json!({"instance": format!("i{index}")})
            .to_string()
            .into_bytes(),
        lease: 0,
    });
    let puts: Vec<Operation> = puts.collect();
    for some in puts.chunks(crate::fleet::engine::MOST_OPERATIONS) {
        engine.commit(Vec::new(), some.to_vec()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_read_in_pages_that_grow_and_become_smaller_where_they_must() {
    let engine = MemoryEngine::new();
    very_many(&engine, 70_000).await;
    let reads = engine.reads();
    let (all, _) = read_all(&engine, PREFIX).await.unwrap();
    assert_eq!(all.len(), 70_000);
    // 1,000, 10,000, 50,000, and the rest.
    assert_eq!(engine.reads() - reads, 4);
    engine.set_most(7_000);
    let reads = engine.reads();
    let (again, _) = read_all(&engine, PREFIX).await.unwrap();
    assert_eq!(again, all);
    // 1,000, one that is refused, and parts of it.
    assert_eq!(engine.reads() - reads, 2 + 69_000_usize.div_ceil(1_250));
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn a_long_first_reading_misses_no_change_and_begins_again_where_it_was_compacted() {
    let engine = MemoryEngine::new();
    very_many(&engine, 70_000).await;
    let second = Duration::from_secs(1);
    let slow = Faults {
        delay: 5 * second,
        ..Faults::default()
    };
    engine.set_faults(slow.clone());
    let copy = directory("f", false, &engine);
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Deaf)));
    // How far it is, the first two pages.
    tokio::time::sleep(17 * second).await;
    assert!(!copy.is_known());
    engine.set_faults(Faults::default());
    put(&engine, "r/op/a1.x", &json!({"instance": "changed"})).await;
    delete(&engine, vec!["r/op/a69999.x".to_owned()]).await;
    engine.set_faults(slow.clone());
    comes_as_far(&copy, &engine).await;
    let instance = |host: &str| served(&copy).get(host).cloned();
    assert_eq!(instance("a1.x/").as_deref(), Some("changed"));
    assert_eq!(instance("a69999.x/"), None);
    following.abort();

    let copy = directory("f", false, &engine);
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Deaf)));
    tokio::time::sleep(17 * second).await;
    engine.set_faults(Faults::default());
    put(&engine, "r/op/a2.x", &json!({"instance": "changed"})).await;
    engine.compact();
    engine.set_faults(slow);
    assert!(!copy.is_known());
    comes_as_far(&copy, &engine).await;
    assert_eq!(
        served(&copy).get("a2.x/").map(String::as_str),
        Some("changed")
    );
    assert_eq!(copy.routes().len(), 69_999);
    following.abort();
}

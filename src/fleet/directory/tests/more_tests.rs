use super::*;
use crate::fleet::seal::SealKeys;

#[tokio::test(start_paused = true)]
async fn a_sealed_policy_opens_when_its_key_is_there_and_stays_sealed_in_a_file() {
    use base64::Engine as _;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys");
    let line = |byte: u8| base64::prelude::BASE64_STANDARD.encode([byte; 32]);
    let keys = |lines: &[u8]| {
        let lines: Vec<String> = lines.iter().map(|byte| line(*byte)).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        SealKeys::load(&path).unwrap()
    };
    let engine = MemoryEngine::new();
    let key = format!("{PREFIX}p/slow");
    let policy = json!({"wake": {"timeout": "7s"}}).to_string().into_bytes();
    let sealed = keys(&[1]).seal(&key, policy).unwrap();
    let sealed: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
    put(&engine, "p/slow", &sealed).await;
    put(
        &engine,
        "r/op/a.x",
        &json!({"instance": "a", "policy": "slow"}),
    )
    .await;
    // A member with another key, one that has none, and one with a config that names the file.
    keys(&[2]);
    let own = Own {
        name: "f".to_owned(),
        is_node: false,
        ..Own::default()
    };
    let config = FleetConfig {
        key_file: Some(path.clone()),
        ..FleetConfig::default()
    };
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let copy = Directory::new(own, &config, &WakeConfig::default(), "", shared).unwrap();
    reread(&copy, &engine).await;
    assert_eq!(copy.routes().len(), 0);
    let problem = copy.status().problems[&key].clone();
    assert!(
        problem.contains("which is not in `fleet.key_file`"),
        "{problem}"
    );
    let applied = copy.use_keys(keys(&[2, 1]));
    assert_eq!(applied.routes.added.len(), 1);
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(7));
    assert_eq!(copy.status().problems, BTreeMap::new());
    for known in [&copy, &directory("g", false, &engine)] {
        reread(known, &engine).await;
        let (entries, _) = known.entries();
        let entry = entries.iter().find(|entry| entry.key == key).unwrap();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&entry.value).unwrap(),
            sealed
        );
    }
    // A key that is gone takes nothing away that is in force.
    copy.use_keys(keys(&[3]));
    reread(&copy, &engine).await;
    assert_eq!(copy.routes()[0].wake.timeout, Duration::from_secs(7));
    delete(&engine, vec!["p/slow".to_owned()]).await;
    reread(&copy, &engine).await;
    assert_eq!(copy.status().problems, BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_meets_no_clients_remembers_its_own_claims_alone() {
    let engine = MemoryEngine::new();
    let own = Own {
        name: "h2".to_owned(),
        is_node: true,
        meets_nobody: true,
    };
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let config = FleetConfig::default();
    let copy = Directory::new(own, &config, &WakeConfig::default(), "", shared).unwrap();
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    put(&engine, "i/h2/api", &json!({"id": "id-2"})).await;
    put(&engine, "r/op/a.x", &json!({"instance": "web"})).await;
    reread(&copy, &engine).await;
    put(&engine, "i/h1/more", &json!({"id": "id-3"})).await;
    delete(&engine, vec!["i/h1/web".to_owned()]).await;
    copy.apply(&since(&engine, 5).await);
    assert_eq!((copy.status().claims, copy.routes().len()), (1, 1));
    assert_eq!(copy.known(), 6);
    let (entries, _) = copy.entries();
    let claims = entries.iter().filter(|entry| entry.key.contains("/i/"));
    assert_eq!(
        claims.map(|entry| &*entry.key).collect::<Vec<_>>(),
        [format!("{PREFIX}i/h2/api")]
    );
    assert_eq!(
        copy.place("web"),
        Place::Here,
        "its own Hypeman says whether it has that"
    );
}

struct Quiet;

impl crate::fleet::Sink for Quiet {
    fn take(&self, step: crate::fleet::Step<'_>) {
        step();
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn an_engine_that_went_back_and_has_come_as_far_again_is_read_anew() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    let backup = engine.backup();
    put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((served(&copy).len(), copy.known()), (2, 3));
    // Nobody hears how it goes back: when it answers again it has more revisions than before.
    engine.restore(&backup);
    put(&engine, "r/op/c.x", &json!({"instance": "c"})).await;
    put(&engine, "r/op/d.x", &json!({"instance": "d"})).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let names: Vec<String> = served(&copy).into_keys().collect();
    assert_eq!(names, ["a.x/", "c.x/", "d.x/"]);
    assert_eq!((copy.status().went_back, copy.known()), (1, 5));
    following.abort();
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn an_engine_that_went_back_and_has_forgotten_what_was_is_read_anew() {
    // What goes last before the engine goes back, and so is what is known of its past: routes that the backup
    // still has, and a route that it never had.
    for lost in ["r/op/a.x", "r/op/b.x"] {
        let engine = MemoryEngine::new();
        let copy = directory("f", false, &engine);
        let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
        put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
        let backup = engine.backup();
        put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        delete(&engine, vec![lost.to_owned()]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((served(&copy).len(), copy.known()), (1, 4), "{lost}");
        engine.restore(&backup);
        put(&engine, "r/op/c.x", &json!({"instance": "c"})).await;
        put(&engine, "r/op/d.x", &json!({"instance": "d"})).await;
        engine.compact();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let names: Vec<String> = served(&copy).into_keys().collect();
        assert_eq!(names, ["a.x/", "c.x/", "d.x/"], "{lost}");
        following.abort();
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn what_a_node_publishes_again_at_the_same_revision_hides_nothing_that_was_lost() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let backup = engine.backup();
    put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((served(&copy).len(), copy.known()), (2, 4));
    engine.restore(&backup);
    put(&engine, "r/op/c.x", &json!({"instance": "c"})).await;
    put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
    engine.compact();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let names: Vec<String> = served(&copy).into_keys().collect();
    assert_eq!(names, ["a.x/", "c.x/"]);
    following.abort();
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn an_engine_that_goes_back_while_it_is_read_is_read_anew() {
    // At any moment of a read whose answers take half a second each.
    for moment in 1..40 {
        let engine = MemoryEngine::new();
        put(&engine, "i/h1/web", &json!({"id": "id-1"})).await;
        put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
        let backup = engine.backup();
        delete(&engine, vec!["r/op/a.x".to_owned()]).await;
        for round in 0..4 {
            put(
                &engine,
                "r/op/lost.x",
                &json!({"instance": format!("lost-{round}")}),
            )
            .await;
        }
        let copy = directory("f", false, &engine);
        engine.set_faults(Faults {
            away: false,
            delay: Duration::from_millis(500),
        });
        let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
        tokio::time::sleep(Duration::from_millis(moment * 100)).await;
        engine.restore(&backup);
        engine.set_faults(Faults::default());
        put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
        put(&engine, "r/op/c.x", &json!({"instance": "c"})).await;
        tokio::time::sleep(Duration::from_secs(15)).await;
        put(&engine, "r/op/d.x", &json!({"instance": "d"})).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let names: Vec<String> = served(&copy).into_keys().collect();
        let wanted = ["a.x/", "b.x/", "c.x/", "d.x/"];
        assert_eq!(names, wanted, "after {moment} tenths");
        following.abort();
    }
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn an_engine_that_has_forgotten_what_was_is_read_once() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    put(&engine, "r/op/b.x", &json!({"instance": "b"})).await;
    delete(&engine, vec!["r/op/b.x".to_owned()]).await;
    engine.compact();
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reads = engine.reads();
    assert!(reads <= 5, "{reads}");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.reads(), reads);
    put(&engine, "r/op/c.x", &json!({"instance": "c"})).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(served(&copy).len(), 2);
    following.abort();
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_ids_and_members_that_were_replaced_again_and_again() {
    let engine = MemoryEngine::new();
    let copy = directory("f1", false, &engine);
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    put(&engine, "h/lost", &json!({"endpoints": ["a:2"]})).await;
    put(&engine, "i/lost/db", &json!({"id": "id-db"})).await;
    for round in 0..600 {
        // An instance that is made anew under its name; pods with names of their own.
        put(&engine, "i/h1/web", &json!({"id": format!("id-{round}")})).await;
        for kind in ["g", "h"] {
            put(
                &engine,
                &format!("{kind}/pod-{round}"),
                &json!({"endpoints": ["b:1"]}),
            )
            .await;
        }
    }
    reread(&copy, &engine).await;
    let before = copy.known();
    let gone = |kind: &'static str| (0..600).map(move |round| format!("{kind}/pod-{round}"));
    for keys in gone("g").chain(gone("h")).collect::<Vec<_>>().chunks(100) {
        delete(&engine, keys.to_vec()).await;
    }
    delete(&engine, vec!["h/lost".to_owned()]).await;
    for round in 0..600 {
        put(&engine, "i/h1/web", &json!({"id": format!("new-{round}")})).await;
    }
    let mut known = before;
    while known < read_all(&engine, PREFIX).await.unwrap().1 {
        copy.apply(&since(&engine, known + 1).await);
        known = copy.known();
    }
    let state = copy.state();
    assert_eq!(state.names.len(), 2, "those of what is there");
    assert_eq!(state.fronts.len(), crate::fleet::copy::MOST_SILENT);
    // What has something is remembered with where it was.
    assert!(state.nodes.len() <= crate::fleet::copy::MOST_SILENT + 1);
    assert_eq!(state.records.len(), state.fronts.len() + state.nodes.len());
    drop(state);
    assert!(matches!(copy.place("db"), Place::Peer { .. }));
    assert!(matches!(copy.place("new-599"), Place::Peer { .. }));
    assert!(matches!(copy.place("id-599"), Place::Unclaimed));
}

#[tokio::test(start_paused = true)]
async fn what_was_wrong_with_keys_that_went_while_nobody_looked_is_wrong_no_longer() {
    let engine = MemoryEngine::new();
    let copy = directory("f1", false, &engine);
    let keys = ["p/odd", "i/h1/odd", "h/odd"];
    for key in keys {
        put(&engine, key, &json!(["no record"])).await;
    }
    reread(&copy, &engine).await;
    assert_eq!(copy.counts().problems, keys.len());
    delete(&engine, keys.map(str::to_owned).to_vec()).await;
    reread(&copy, &engine).await;
    assert_eq!(copy.counts().problems, 0, "{:?}", copy.status().problems);
}

#[tokio::test(start_paused = true)]
async fn a_loss_behind_an_acceptance_is_not_accepted_by_it_though_both_are_heard_at_once() {
    let engine = MemoryEngine::new();
    let copy = directory("f1", false, &engine);
    many(&engine, 100).await;
    reread(&copy, &engine).await;
    let before = copy.known();
    let names = |from: usize, to: usize| (from..to).map(|n| format!("r/op/a{n}.x")).collect();
    delete(&engine, names(0, 40)).await;
    operator::accept(&engine).await.unwrap();
    delete(&engine, names(40, 90)).await;
    let changes = since(&engine, before + 1).await;
    assert_eq!(changes.len(), 91, "they come at once");
    let applied = copy.apply(&changes);
    assert_eq!(applied.held, 50);
    assert_eq!(served(&copy).len(), 60, "what was accepted has gone");
    operator::accept(&engine).await.unwrap();
    copy.apply(&since(&engine, copy.known() + 1).await);
    assert_eq!(served(&copy).len(), 10);
}

#[tokio::test(start_paused = true)]
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn a_change_that_was_lost_and_made_otherwise_at_the_same_revision_is_noticed() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
    put(&engine, "r/op/a.x", &json!({"instance": "a"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let backup = engine.backup();
    put(&engine, "r/op/a.x", &json!({"instance": "lost"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((served(&copy)["a.x/"].as_str(), copy.known()), ("lost", 3));
    engine.restore(&backup);
    put(&engine, "r/op/a.x", &json!({"instance": "other"})).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((served(&copy)["a.x/"].as_str(), copy.known()), ("other", 4));
    assert_eq!(copy.status().went_back, 1);
    // What a file had is compared by its revisions alone.
    let (entries, revision) = copy.entries();
    let again = directory("g", false, &engine);
    again.restore(&entries, revision);
    let following_too = tokio::spawn(crate::fleet::follow(Arc::clone(&again), Arc::new(Quiet)));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((served(&again).len(), again.status().went_back), (1, 0));
    following.abort();
    following_too.abort();
}

#[test]
fn another_cluster_is_known_by_its_number() {
    let copy = directory("f", false, &MemoryEngine::new());
    assert!(!copy.is_other(7), "none is known");
    copy.is_of(7);
    assert!(copy.is_other(8) && !copy.is_other(7) && !copy.is_other(0));
}

/// How much a member was given of a directory with so many of others' claims, and how many it knows.
#[allow(clippy::disallowed_methods, reason = "the test ends its task")]
async fn given(meets_nobody: bool, others: usize) -> (usize, usize) {
    let engine = MemoryEngine::new();
    let own = Own {
        name: "h2".to_owned(),
        is_node: true,
        meets_nobody,
    };
    let shared: Arc<dyn Engine> = Arc::new(engine.clone());
    let config = FleetConfig::default();
    let copy = Directory::new(own, &config, &WakeConfig::default(), "", shared).unwrap();
    let claim = |host: &str, name: usize| format!("i/{host}/n{name}");
    for name in 0..others {
        put(
            &engine,
            &claim("h1", name),
            &json!({"id": format!("a{name}")}),
        )
        .await;
    }
    put(&engine, &claim("h2", 1), &json!({"id": "own"})).await;
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    let following = tokio::spawn(crate::fleet::follow(Arc::clone(&copy), Arc::new(Quiet)));
    tokio::time::sleep(Duration::from_secs(5)).await;
    for name in 0..others {
        put(
            &engine,
            &claim("h20", name),
            &json!({"id": format!("b{name}")}),
        )
        .await;
    }
    put(&engine, &claim("h2", 2), &json!({"id": "more"})).await;
    put(&engine, "g/f1", &json!({"endpoints": ["b:1"]})).await;
    put(&engine, "p/slow", &json!({"wake": {"timeout": "7s"}})).await;
    let route = json!({"instance": "n2", "policy": "slow"});
    put(&engine, "r/op/a.x", &route).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(served(&copy).len(), 1);
    assert!(
        copy.member_as(Role::Node, "h1").is_some() && copy.is_alive(&Key::Front("f1".to_owned()))
    );
    // Watches that break lose nothing and give nothing twice.
    let before = engine.given();
    engine.break_watches();
    tokio::time::sleep(Duration::from_secs(5)).await;
    put(&engine, &claim("h2", 3), &json!({"id": "last"})).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(copy.status().went_back, 0);
    assert!(engine.given() - before < 20, "{}", engine.given() - before);
    following.abort();
    (engine.given(), copy.status().claims)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_meets_no_clients_is_not_even_told_of_others_claims() {
    let (all, claims) = given(false, 700).await;
    assert!(all > 1400 && claims >= 700, "{all} {claims}");
    let (own, claims) = given(true, 700).await;
    assert!(own < 40, "{own}");
    assert_eq!(claims, 3);
    let (few, _) = given(true, 7).await;
    assert_eq!(own, few, "however many there are");
}

#[tokio::test(start_paused = true)]
async fn a_claim_says_which_of_its_hosts_control_planes_has_the_instance() {
    let engine = MemoryEngine::new();
    let (node, front) = (
        directory("h1", true, &engine),
        directory("f", false, &engine),
    );
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    put(&engine, "i/h1/web", &json!({"id": "w1"})).await;
    put(&engine, "i/h1/api", &json!({"id": "a1", "hypeman": "two"})).await;
    put(
        &engine,
        "i/h2/api",
        &json!({"id": "a2", "hypeman": "three"}),
    )
    .await;
    let mut planes = Vec::new();
    for copy in [&node, &front] {
        reread(copy, &engine).await;
        let again = directory("f", false, &engine);
        let (entries, revision) = copy.entries();
        again.restore(&entries, revision);
        for name in ["web", "api", "a1"] {
            let Place::Peer { claim, .. } = again.place(name) else {
                panic!("{name}");
            };
            planes.push(claim.plane.map(|plane| plane.to_string()));
        }
    }
    let two = || Some("two".to_owned());
    assert_eq!(planes, [None, two(), two(), None, two(), two()]);
    for (name, plane) in [
        ("web", None),
        ("api", Some("two")),
        ("a1", Some("two")),
        ("a2", None),
    ] {
        assert_eq!(node.own_plane(name).as_deref(), plane, "{name}");
        assert_eq!(front.own_plane(name), None, "it has none");
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_known_for_as_long_as_a_claim_has_it_and_no_longer() {
    let engine = MemoryEngine::new();
    let copy = directory("f", false, &engine);
    put(&engine, "h/h1", &json!({"endpoints": ["a:1"]})).await;
    put(&engine, "h/h2", &json!({"endpoints": ["a:2"]})).await;
    put(&engine, "i/h1/web", &json!({"id": "same"})).await;
    put(&engine, "i/h2/web", &json!({"id": "same"})).await;
    reread(&copy, &engine).await;
    let is_known = |id: &str| matches!(copy.place(id), Place::Peer { .. });
    delete(&engine, vec!["i/h1/web".to_owned()]).await;
    copy.apply(&since(&engine, 6).await);
    assert!(is_known("same"), "the other host has it");
    for index in 0..50 {
        put(&engine, "i/h2/web", &json!({"id": format!("id-{index}")})).await;
        copy.apply(&since(&engine, 7 + index).await);
    }
    assert!(is_known("id-49") && is_known("web") && !is_known("same"));
    assert_eq!(copy.state().names.len(), 1, "those of before are forgotten");
}

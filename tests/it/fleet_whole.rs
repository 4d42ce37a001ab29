//! A whole fleet: three members of etcd, three fronts, four hosts with a node each, and clients that count
//! what they sent and what came of it. Each has a machine of its own on one network, where Linux' network
//! namespaces can be had; everything that can be killed or cut off is meanwhile.
//!
//! Guarantees: what an instance has counted is held against what clients know; nothing is asked twice by
//! the clients themselves.
//!
//! Minutes long, so it is not among the usual tests: `make fleet`.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::support::etcd::has_etcd;
use crate::support::{PATIENCE, eventually};

mod world;

use world::{FRONTS, Fleet, HOSTS, Had, INSTANCES};

/// How many wakes there are without etcd, and for how long it is away.
const WAKES: usize = 1_000;
const AWAY: Duration = Duration::from_secs(60);
/// Within this a host that is away is told, and a change is at a front.
const SOON: Duration = Duration::from_secs(2);
/// Within this a request that may have arrived is given up, where its host is away; and the same where only
/// a PING can find that out.
const GIVEN_UP: Duration = Duration::from_secs(6);
const GIVEN_UP_BY_PING: Duration = Duration::from_secs(35);

async fn one_wake_from_three_fronts_is_one_restore(fleet: &Fleet) {
    let (client, mut count) = (fleet.client(), 0);
    for had in &fleet.instances {
        let name = &had.name;
        fleet.sleep(had).await;
        let before = fleet.restores(had).await;
        let asked = (0..2 * FRONTS).map(|front| client.get(front, name));
        let statuses = join_all(asked).await;
        let are_fine = statuses.iter().all(|status| *status == 200);
        assert!(are_fine, "{name}: {statuses:?}");
        assert_eq!(fleet.restores(had).await, before + 1, "{name}");
        count += 1;
    }
    println!("one wake from three fronts: {count} wakes, {count} restores");
}

async fn a_name_that_two_hosts_claim_is_at_one_and_moves_under_load(fleet: &Fleet) {
    let (old, new) = (&fleet.hosts[0], &fleet.hosts[1]);
    let client = fleet.client();
    let first = old.listening("moving").await;
    for front in 0..FRONTS {
        eventually("it is known", async || {
            client.get(front, "moving").await == 200
        })
        .await;
    }
    let second = new.listening("moving").await;
    let hosts = serde_json::json!([{"name": "moving", "hosts": ["h-0", "h-1"]}]);
    for front in &fleet.fronts {
        let (mut said, end) = (front.api().await, Instant::now() + PATIENCE);
        while said["claimed_twice"] != hosts {
            assert!(Instant::now() < end, "{said}");
            said = front.api().await;
        }
    }
    let load = client.post(&["moving".to_owned()], 6, "moved");
    load.goes_on(150).await;
    let counted = new.counted(&second).await;
    assert_eq!(counted.len(), 0, "the older claim has it");
    fleet.fronts[0].fleet("move moving --to h-1").await.fine();
    eventually("it is at the other host", async || {
        !new.counted(&second).await.is_empty()
    })
    .await;
    load.goes_on(50).await;
    // What the old instance has counted is asked before it goes, and it gets nothing any more.
    let mut arrived = old.counted(&first).await;
    old.delete(&first.id).await;
    load.goes_on(150).await;
    let sent = load.end().await;
    for (id, count) in new.counted(&second).await {
        *arrived.entry(id).or_default() += count;
    }
    for (id, status) in &sent {
        assert_eq!((*status, arrived.get(id)), (200, Some(&1)), "{id}");
    }
    println!(
        "a move under load: {} POSTs, each answered and arrived once",
        sent.len()
    );
}

async fn a_front_that_does_not_reach_a_host_says_so_and_others_go_on(fleet: &Fleet) {
    let client = fleet.client();
    let (name, elsewhere) = (&fleet.one_of(0).name, &fleet.one_of(1).name);
    fleet.cut(1, 0, true);
    // Both go to a connection that there is. What may be sent again is told soon; of what may have arrived
    // that is not known.
    let timed = async |method, path| {
        let began = Instant::now();
        let status = client.send(1, method, name, path).await;
        (status, began.elapsed())
    };
    let (read, written) = tokio::join!(timed("GET", "/"), timed("POST", "/deliver?id=cut"));
    let (soon, later) = match &fleet.network {
        Some(_) => (SOON, GIVEN_UP),
        // The kernel before the relay accepts connections for the host.
        None => (GIVEN_UP_BY_PING, GIVEN_UP_BY_PING),
    };
    assert!(matches!(read.0, 502 | 503) && read.1 < soon, "{read:?}");
    assert!(
        matches!(written.0, 502 | 503) && written.1 < later,
        "{written:?}"
    );
    if fleet.network.is_some() {
        assert_eq!(read.0, 503);
    }
    eventually("it is told soon", async || {
        let (status, took) = timed("POST", "/deliver?id=unsent").await;
        status == 503 && took < SOON
    })
    .await;
    for front in [0, 2] {
        assert_eq!(client.get(front, name).await, 200);
    }
    assert_eq!(client.get(1, elsewhere).await, 200, "another host");
    fleet.cut(1, 0, false);
    eventually("it is whole again", async || {
        client.get(1, name).await == 200
    })
    .await;
    let counted = fleet.deliveries(name).await;
    let count = |id| counted.get(id).copied().unwrap_or(0);
    assert!(count("cut") <= 1 && count("unsent") == 0, "{counted:?}");
    println!(
        "a partition between a front and a host: a GET {} after {:.1?}, a POST that may have arrived {} after \
         {:.1?}, what comes then 503 within {SOON:?}",
        read.0, read.1, written.0, written.1
    );
}

async fn a_host_that_is_off_the_network_keeps_its_names_and_is_back_with_it(fleet: &Fleet) {
    let Some(network) = &fleet.network else {
        return;
    };
    let (client, host) = (fleet.client(), HOSTS - 1);
    let name = &fleet.one_of(host).name;
    let machine = &fleet.hosts[host].node.machine;
    network.unplug(machine, true);
    let told = async |front: usize| {
        let began = Instant::now();
        let said = fleet.fronts[front].code(&format!("{name}.test")).await;
        let is_told = said == (503, "host_unreachable".to_owned());
        assert!(is_told && began.elapsed() < SOON, "{said:?}");
    };
    join_all((0..FRONTS).map(told)).await;
    // Its record goes with its lease, and its names stay its own.
    let is_alive = async |front: usize| {
        let status = fleet.fronts[front].api().await;
        let members = status["members"].as_array().unwrap();
        let member = members
            .iter()
            .find(|member| member["name"] == format!("h-{host}"));
        member.unwrap()["alive"] == true
    };
    for front in 0..FRONTS {
        eventually("its record is gone", async || !is_alive(front).await).await;
    }
    join_all((0..FRONTS).map(told)).await;
    network.unplug(machine, false);
    let began = Instant::now();
    for front in 0..FRONTS {
        eventually("it is back", async || client.get(front, name).await == 200).await;
        eventually("its record is back", async || is_alive(front).await).await;
    }
    println!(
        "a host off the network: 503 host_unreachable within {SOON:?} at each front, before its record has \
         gone and after; {:.1?} after it is back, all fronts reach it",
        began.elapsed()
    );
}

async fn no_post_arrives_twice_while_everything_is_killed(fleet: &mut Fleet) {
    let load = fleet.client().post(&fleet.names(), 12, "killed");
    load.goes_on(200).await;
    for round in 0..2 {
        let front = &mut fleet.fronts[round + 1];
        front.kill();
        load.goes_on(60).await;
        front.serve().await;
        let node = &mut fleet.hosts[round].node;
        node.kill();
        load.goes_on(60).await;
        node.serve().await;
        load.goes_on(60).await;
        let leader = fleet.etcd.leader().await;
        fleet.etcd.kill(leader);
        load.goes_on(200).await;
        fleet.etcd.run(leader);
    }
    let sent = load.end().await;
    fleet.all_answer().await;
    fleet
        .judge("a front, a node and etcd's leader killed", &sent)
        .await;
}

/// A change is made and is at each front.
async fn a_change_comes_to_all(fleet: &Fleet, host: &str) {
    let put = format!("put --host {host}.test --instance app-0");
    eventually("etcd takes it", async || {
        fleet.fronts[0].fleet(&put).await.is_fine
    })
    .await;
    let client = fleet.client();
    for front in 0..FRONTS {
        eventually("it is at a front", async || {
            client.get(front, host).await == 200
        })
        .await;
    }
}

async fn changes_go_on_while_etcds_leader_is_off_the_network(fleet: &Fleet) {
    let Some(network) = &fleet.network else {
        return;
    };
    let load = fleet.client().post(&fleet.names(), 6, "led");
    load.goes_on(50).await;
    let leader = fleet.etcd.leader().await;
    network.unplug(&fleet.etcd.machines[leader], true);
    let began = Instant::now();
    a_change_comes_to_all(fleet, "led").await;
    let took = began.elapsed();
    load.goes_on(200).await;
    network.unplug(&fleet.etcd.machines[leader], false);
    let sent = load.end().await;
    let are_fine = sent.values().all(|status| *status == 200);
    assert!(are_fine, "{sent:?}");
    fleet.judge("etcd's leader off the network", &sent).await;
    println!("etcd's leader off the network: a change is at all fronts after {took:.1?}");
}

async fn without_etcd_a_thousand_wakes_go_well(fleet: &mut Fleet) {
    for member in 0..3 {
        fleet.etcd.kill(member);
    }
    let (end, client) = (Instant::now() + AWAY, fleet.client());
    let mut failed = Vec::new();
    let rounds = WAKES / INSTANCES;
    for round in 0..rounds {
        if round == rounds / 2 {
            // A front that starts without etcd serves by its last copy.
            fleet.fronts[0].kill();
            fleet.fronts[0].serve().await;
        }
        for some in fleet.instances.chunks(HOSTS) {
            let woken = some.iter().map(async |had| {
                fleet.sleep(had).await;
                let front = fastrand::usize(..FRONTS);
                (&had.name, front, client.get(front, &had.name).await)
            });
            let woken = join_all(woken).await;
            failed.extend(woken.into_iter().filter(|(_, _, status)| *status != 200));
        }
    }
    println!("without etcd: {WAKES} wakes, {} failures", failed.len());
    assert!(failed.is_empty(), "{failed:?}");
    sleep_until(end).await;
    for Had { name, .. } in &fleet.instances {
        for front in 0..FRONTS {
            assert_eq!(client.get(front, name).await, 200, "{name}");
        }
    }
    for member in 0..3 {
        fleet.etcd.run(member);
    }
    a_change_comes_to_all(fleet, "again").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: `make fleet`"]
async fn a_fleet_goes_on_while_its_parts_are_killed_and_cut_off() {
    if !has_etcd() {
        return;
    }
    let began = Instant::now();
    let mut fleet = Fleet::start().await;
    println!(
        "3 etcd, {FRONTS} fronts, {HOSTS} hosts, {INSTANCES} instances after {:?}, {}",
        began.elapsed(),
        match fleet.network {
            Some(_) => "each in a network namespace of its own",
            None => "all on loopback",
        }
    );
    one_wake_from_three_fronts_is_one_restore(&fleet).await;
    a_name_that_two_hosts_claim_is_at_one_and_moves_under_load(&fleet).await;
    a_front_that_does_not_reach_a_host_says_so_and_others_go_on(&fleet).await;
    a_host_that_is_off_the_network_keeps_its_names_and_is_back_with_it(&fleet).await;
    no_post_arrives_twice_while_everything_is_killed(&mut fleet).await;
    changes_go_on_while_etcds_leader_is_off_the_network(&fleet).await;
    without_etcd_a_thousand_wakes_go_well(&mut fleet).await;
    fleet.stop().await;
    println!("all of it: {:?}", began.elapsed());
}

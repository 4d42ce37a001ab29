use serde_json::{Value, json};

use super::*;

const ID: &str = "tz4a98xxat96iws9zmbrgj3a";

fn id() -> InstanceId {
    InstanceId::parse(ID).unwrap()
}

fn evidence(members: Value) -> Evidence {
    let mut described = json!({
        "id": ID, "name": "shop", "state": "Running",
        "network": { "enabled": true, "ip": "10.100.0.2" },
    });
    let Value::Object(members) = members else {
        panic!("an object")
    };
    described.as_object_mut().unwrap().extend(members);
    let described: wire::Instance = serde_json::from_value(described).unwrap();
    Evidence::of(&id(), &described, Instant::now())
}

#[tokio::test]
async fn each_state_is_one_kind_of_evidence() {
    use Evidence::{Asleep, Unsure};
    for (state, expected) in [
        ("Standby", Asleep(Rest::Standby)),
        ("Stopped", Asleep(Rest::Stopped)),
        ("Created", Asleep(Rest::Passing)),
        ("Paused", Asleep(Rest::Passing)),
        ("Shutdown", Asleep(Rest::Passing)),
        ("Unknown", Unsure(Doubt::UnknownState)),
        ("Melted", Unsure(Doubt::UnknownState)),
        ("", Unsure(Doubt::UnknownState)),
    ] {
        assert_eq!(evidence(json!({ "state": state })), expected, "{state}");
    }
    for (state, coming_up) in [("Running", false), ("Initializing", true)] {
        match evidence(json!({ "state": state })) {
            Evidence::Awake(seen) => assert_eq!(
                (seen.initializing, seen.ip.to_string().as_str()),
                (coming_up, "10.100.0.2")
            ),
            other @ (Asleep(_) | Evidence::Gone | Unsure(_)) => {
                panic!("{state}: {other:?}")
            }
        }
    }
}

#[tokio::test]
async fn an_instance_that_nothing_can_reach_is_told_from_one_that_has_no_address_yet() {
    let running = |running| Doubt::NoAddress { running };
    for (network, expected) in [
        (Value::Null, Doubt::NoNetwork),
        (json!({ "enabled": false }), Doubt::NoNetwork),
        (json!({ "enabled": true }), running(true)),
        (json!({ "enabled": true, "ip": null }), running(true)),
        (json!({ "enabled": true, "ip": "" }), running(true)),
        (json!({ "enabled": true, "ip": "10.1" }), running(true)),
        (
            json!({ "enabled": true, "ip": "0.0.0.0" }),
            Doubt::AddressRefused,
        ),
        (
            json!({ "enabled": true, "ip": "169.254.169.254" }),
            Doubt::AddressRefused,
        ),
    ] {
        let found = evidence(json!({ "network": network }));
        assert_eq!(found, Evidence::Unsure(expected), "{network}");
        // What is asleep is asleep, whatever its network.
        let found = evidence(json!({ "network": network, "state": "Standby" }));
        assert_eq!(found, Evidence::Asleep(Rest::Standby), "{network}");
    }
    let coming_up = json!({ "state": "Initializing", "network": { "enabled": true } });
    assert_eq!(evidence(coming_up), Evidence::Unsure(running(false)));
}

#[tokio::test]
async fn a_description_of_another_instance_says_nothing_about_this_one() {
    let unreadable = Evidence::Unsure(Doubt::Unreadable);
    assert_eq!(evidence(json!({ "id": "another" })), unreadable);
}

#[tokio::test]
async fn only_the_control_planes_own_words_are_a_no() {
    let api = |status, code: &str| ControlPlaneError::api("get", status, code, "words");
    let other = |status: u16| ControlPlaneError::Api {
        op: "get",
        status,
        code: "Not Found".to_owned(),
        message: "<html>".to_owned(),
        from_api: false,
        retry_after: None,
    };
    let unsure = Evidence::Unsure;
    for (error, expected) in [
        (api(404, "not_found"), Evidence::Gone),
        (
            api(409, "instance_in_standby"),
            Evidence::Asleep(Rest::Standby),
        ),
        (
            api(409, "insufficient_resources"),
            unsure(Doubt::NoCapacity),
        ),
        (api(409, "invalid_state"), unsure(Doubt::InvalidState)),
        (api(409, "ambiguous"), unsure(Doubt::InvalidState)),
        (api(404, "Not Found"), unsure(Doubt::Failed)),
        (api(400, "invalid_request"), unsure(Doubt::Failed)),
        (api(401, "unauthorized"), unsure(Doubt::Unauthorized)),
        (api(403, "forbidden"), unsure(Doubt::Unauthorized)),
        (api(429, "rate_limited"), unsure(Doubt::Failed)),
        (api(500, "internal_error"), unsure(Doubt::Failed)),
        (api(503, "unavailable"), unsure(Doubt::Failed)),
        (other(301), unsure(Doubt::Failed)),
        (other(401), unsure(Doubt::Failed)),
        (other(403), unsure(Doubt::Failed)),
        (other(404), unsure(Doubt::Failed)),
        (other(409), unsure(Doubt::Failed)),
        (other(502), unsure(Doubt::Failed)),
        (
            ControlPlaneError::Timeout {
                op: "get",
                after: Duration::from_secs(10),
            },
            unsure(Doubt::Unreachable),
        ),
        (
            ControlPlaneError::Transport {
                op: "get",
                source: "broke".into(),
            },
            unsure(Doubt::Unreachable),
        ),
        (
            ControlPlaneError::Decode {
                op: "get",
                reason: "<html>".to_owned(),
            },
            unsure(Doubt::Unreadable),
        ),
        (
            ControlPlaneError::TooLong {
                op: "get",
                limit: 1,
            },
            unsure(Doubt::Unreadable),
        ),
    ] {
        assert_eq!(Evidence::from(&error), expected, "{error:?}");
    }
}

#[tokio::test]
async fn an_idle_timeout_that_cannot_be_read_is_a_short_one_and_wakes_all_the_same() {
    let policy = json!({ "auto_standby": { "enabled": true, "idle_timeout": "1d" } });
    match evidence(policy) {
        Evidence::Awake(seen) => assert_eq!(seen.terms.idle_timeout, Some(UNREADABLE_IDLE)),
        other @ (Evidence::Asleep(_) | Evidence::Gone | Evidence::Unsure(_)) => {
            panic!("{other:?}")
        }
    }
}

#[tokio::test]
async fn a_description_of_no_use_is_kept_with_what_is_wrong_with_it() {
    let said = |members: Value| {
        let mut described = json!({ "id": ID, "name": "shop", "state": "Running" });
        let members = members.as_object().unwrap().clone();
        described.as_object_mut().unwrap().extend(members);
        let described: wire::Instance = serde_json::from_value(described).unwrap();
        let answer = Seen::described(&id(), &described, Instant::now()).answer;
        answer.map(|answer| answer.to_string())
    };
    for (members, expected) in [
        (
            json!({ "network": { "enabled": false } }),
            "its networking is off",
        ),
        (
            json!({ "network": { "enabled": true } }),
            "the instance is Running without an address",
        ),
        (
            json!({ "state": "Initializing", "network": { "ip": "" } }),
            "the instance is Initializing without an address",
        ),
        (
            json!({ "network": { "ip": "10.100.0.2/16" } }),
            "its `network.ip` is not an IP address",
        ),
        (
            json!({ "network": { "ip": "169.254.169.254" } }),
            "its address 169.254.169.254 is one that is never connected to",
        ),
        (
            json!({ "id": "iother", "name": "other" }),
            "it describes another instance, `other` with the id `iother`",
        ),
    ] {
        let expected = format!("get answered 200: {expected}");
        assert_eq!(said(members.clone()), Some(expected), "{members}");
    }
    let well = json!({ "network": { "enabled": true, "ip": "10.100.0.2" } });
    assert_eq!(said(well), None);
    assert_eq!(said(json!({ "state": "Standby" })), None);
}

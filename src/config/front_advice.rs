//! What to think about where a front's own routes say what it cannot do.
//!
//! Guarantees: each key that is followed at nodes alone is named, and none that a request takes along.

use super::Config;
use super::at_node::AtNode;
use super::say::Say;

/// What a front's own routes say and only the gateway beside an instance could follow.
pub(super) fn of_front_routes(config: &Config, say: &mut impl Say) {
    const MEND: &str = "put the route into the directory (`wakegate fleet import`), or into the file of each node, too";
    for (index, route) in config.route.iter().enumerate() {
        let at_node = AtNode::of(route, &config.wake);
        for key in at_node.needed {
            say(
                "only_at_a_node",
                &format!("route[{index}].{key}"),
                "is followed where the instance is, and no request takes it along: a node that has no \
                 route of its own for this host answers 502 `policy_not_known`"
                    .to_owned(),
                MEND,
            );
        }
        for key in at_node.helpful {
            say(
                "only_at_a_node",
                &format!("route[{index}].{key}"),
                "is done where the instance is, and no request takes it along: without a route of its own \
                 for this host a node does not do it"
                    .to_owned(),
                MEND,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Variables, advice, load};

    fn said(role: &str) -> Vec<String> {
        let text = format!(
            "[fleet]\nengine = \"memory\"\nrole = \"{role}\"\nname = \"a\"\nlisten = \"127.0.0.1:0\"\n\
             identity = {{ cert = \"c\", key = \"k\", ca = \"a\" }}\n\
             [[route]]\nhost = \"a.test\"\ninstance = \"a\"\nhsts = \"24h\"\nwaiting_page = true\n\
             [route.wake]\ntimeout = \"5s\"\nrequire_memory = true\n"
        );
        let config = load("w.toml", &text, &Variables::default()).unwrap();
        let advice = advice(&config, None).into_iter();
        let of_routes = advice.filter(|one| one.rule == "only_at_a_node");
        of_routes.map(|one| one.key).collect()
    }

    #[test]
    fn a_front_is_told_what_of_its_routes_only_a_node_follows() {
        let keys = ["route[0].wake.require_memory", "route[0].waiting_page"];
        assert_eq!(said("front"), keys);
        assert!(said("both").is_empty(), "it follows that itself");
    }
}

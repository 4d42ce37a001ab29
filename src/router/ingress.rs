//! Routes and ports that a control plane's ingress resources ask for (contract A.9).
//!
//! Guarantees: what can be served is, in order of the resources' ids, so that every look gives the
//! same; what cannot is a problem, without its secrets, and leaves the rest as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::config::{
    AuthConfig, HeaderAuth, HostPattern, InstanceTemplate, RouteConfig, RoutePolicy, WakeConfig,
};
use crate::names::PlaneIndex;
use hypeman::wire::{Ingress, IngressRule};

/// Where plain HTTP is redirected from.
const HTTP: u16 = 80;

/// What a control plane's resources ask for.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Declared {
    /// Routes, each for one port of ours.
    pub routes: Vec<Arc<RouteConfig>>,
    /// Ports of ours, and whether TLS is spoken there.
    pub ports: BTreeMap<u16, bool>,
    /// Rules that cannot be served, and why not.
    pub problems: Vec<String>,
    /// Hosts and ports of rules that ask for TLS where there is none: they are nobody else's.
    withheld: BTreeSet<(String, u16)>,
}

// === impl Declared ===

impl Declared {
    /// From the resources of a control plane; `has_tls` says at which ports of ours TLS can be
    /// spoken.
    pub fn of(
        ingresses: &[Ingress],
        plane: PlaneIndex,
        wake: &WakeConfig,
        has_tls: impl Fn(u16) -> bool,
    ) -> Self {
        let (mut declared, mut taken) = (Self::default(), BTreeSet::new());
        let policy = Arc::new(RoutePolicy::new(plane, wake));
        let mut sorted: Vec<&Ingress> = ingresses.iter().collect();
        sorted.sort_by(|one, other| one.id.cmp(&other.id));
        for ingress in sorted {
            if let count @ 1.. = ingress.unreadable_rules() {
                let name = &ingress.name;
                let problem = format!("ingress `{name}`: {count} of its rules cannot be read");
                declared.problems.push(problem);
            }
            for rule in &ingress.rules {
                let port = rule.matches.port.unwrap_or(HTTP);
                let added = match rule.tls && !has_tls(port) {
                    true => {
                        // Its requests must not be served in clear instead; those of other hosts may.
                        if let Ok(host) = HostPattern::parse(&rule.matches.hostname) {
                            taken.insert((host.to_string(), port));
                            declared.withheld.insert((host.to_string(), port));
                        }
                        Err("asks for TLS, and there is no [ingress.tls]".to_owned())
                    }
                    false => declared.add(rule, &policy, &mut taken),
                };
                if let Err(problem) = added {
                    let (name, host) = (&ingress.name, &rule.matches.hostname);
                    let problem = format!("ingress `{name}`, host `{host}`: {problem}");
                    declared.problems.push(problem);
                }
            }
        }
        declared
    }

    /// Those of another control plane, too; ports and hosts that are taken stay whose they are.
    pub fn and(mut self, other: Self) -> Self {
        let place = |route: &Arc<RouteConfig>| (route.name.clone(), route.listen_port);
        let taken: HashSet<_> = self.routes.iter().map(place).collect();
        let mut clashing = BTreeSet::new();
        for (port, tls) in other.ports {
            if *self.ports.entry(port).or_insert(tls) != tls {
                clashing.insert(port);
            }
        }
        for route in other.routes {
            let host = route.host();
            let clash = route.listen_port.filter(|port| clashing.contains(port));
            let is_withheld = |port| self.withheld.contains(&(host.to_owned(), port));
            if let Some(port) = clash {
                // What asks for TLS must not be served in clear.
                let problem = format!(
                    "host `{host}`: another control plane uses port {port} with or without TLS \
                     where this one does not"
                );
                self.problems.push(problem);
            } else if taken.contains(&place(&route)) || route.listen_port.is_some_and(is_withheld) {
                let problem = format!("host `{host}`: another control plane declares it, too");
                self.problems.push(problem);
            } else {
                self.routes.push(route);
            }
        }
        self.problems.extend(other.problems);
        self.withheld.extend(other.withheld);
        self
    }

    /// Says what each route's control plane is called.
    pub fn name_planes(&mut self, name: impl Fn(PlaneIndex) -> String) {
        // By the policies as they were, which many routes share.
        let mut named = HashMap::new();
        for route in &mut self.routes {
            let before = Arc::clone(&route.policy);
            let (_, policy) = named.entry(Arc::as_ptr(&before)).or_insert_with(|| {
                let hypeman = name(before.plane);
                let policy = RoutePolicy {
                    hypeman,
                    ..RoutePolicy::clone(&before)
                };
                // What it was is kept, so that nothing else is at its address meanwhile.
                (before, Arc::new(policy))
            });
            Arc::make_mut(route).policy = Arc::clone(policy);
        }
    }

    fn add(
        &mut self,
        rule: &IngressRule,
        policy: &Arc<RoutePolicy>,
        taken: &mut BTreeSet<(String, u16)>,
    ) -> Result<(), String> {
        let port = rule.matches.port.unwrap_or(HTTP);
        if port == 0 || rule.target.port == 0 {
            // Opened, it would be any port.
            return Err("0 is not a port: one is 1 to 65535".to_owned());
        }
        let host = HostPattern::parse(&rule.matches.hostname).map_err(|error| error.to_string())?;
        if host == HostPattern::Any {
            // A file may say so; whoever may write ingress resources would take every host.
            return Err("`*` is not a host name".to_owned());
        }
        let instance = InstanceTemplate::parse(&rule.target.instance, &host);
        let instance = instance.map_err(|error| error.to_string())?;
        if self.ports.get(&port).is_some_and(|tls| *tls != rule.tls) {
            return Err(format!("port {port} is used with and without TLS"));
        }
        if !taken.insert((host.to_string(), port)) {
            return Err(format!("another rule has this host at port {port}"));
        }
        let (target, policy) = (rule.target.port, Arc::clone(policy));
        let mut route = RouteConfig::new(&host, instance, target, policy);
        let auth = rule.request_header_auth.as_ref();
        let auth = auth.map(|auth| HeaderAuth::new(&auth.header, &auth.value.0));
        if let Some(auth) = auth.transpose()? {
            Arc::make_mut(&mut route.policy).forwarding.auth = Some(AuthConfig::from(auth));
        }
        route.listen_port = Some(port);
        self.ports.insert(port, rule.tls);
        if rule.redirect_http && rule.tls && port != HTTP {
            let mut redirect = route.clone();
            redirect.listen_port = Some(HTTP);
            let forwarding = &mut Arc::make_mut(&mut redirect.policy).forwarding;
            forwarding.redirect_http.enabled = true;
            forwarding.auth = None;
            let free = self.ports.get(&HTTP) != Some(&true);
            if free && taken.insert((redirect.host().to_owned(), HTTP)) {
                self.ports.insert(HTTP, false);
                self.routes.push(Arc::new(redirect));
            }
        }
        self.routes.push(Arc::new(route));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Hostname;
    use crate::router::{PathReadings, RouteTable};

    fn ingress(id: &str, rules: &serde_json::Value) -> Ingress {
        let json = serde_json::json!({
            "id": id, "name": id, "created_at": "2026-01-01T00:00:00Z", "rules": rules,
        });
        serde_json::from_value(json).unwrap()
    }

    fn declared(ingresses: &[Ingress]) -> Declared {
        Declared::of(ingresses, PlaneIndex(0), &WakeConfig::default(), |_| true)
    }

    #[test]
    fn a_rule_that_cannot_be_served_takes_no_port_from_others() {
        let rule = |host: &str, tls: bool| {
            serde_json::json!({
                "match": {"hostname": host, "port": 8443}, "tls": tls,
                "target": {"instance": "a", "port": 80},
            })
        };
        let ingresses = [
            ingress("one", &serde_json::json!([rule("a.example.com", true)])),
            ingress("two", &serde_json::json!([rule("b.example.com", false)])),
            // Nor does its host become somebody else's, in clear.
            ingress("two-b", &serde_json::json!([rule("a.example.com", false)])),
        ];
        let wake = WakeConfig::default();
        let mut declared = Declared::of(&ingresses, PlaneIndex(0), &wake, |_| false);
        let other = Declared::of(&ingresses[2..], PlaneIndex(1), &wake, |_| false);
        assert_eq!(other.routes.len(), 1);
        declared = declared.and(other);
        let host = "host `a.example.com`";
        assert_eq!(
            declared.problems,
            [
                format!("ingress `one`, {host}: asks for TLS, and there is no [ingress.tls]"),
                format!("ingress `two-b`, {host}: another rule has this host at port 8443"),
                format!("{host}: another control plane declares it, too"),
            ]
        );
        assert_eq!(declared.ports, BTreeMap::from([(8443, false)]));
        let hosts: Vec<&str> = declared.routes.iter().map(|route| route.host()).collect();
        assert_eq!(hosts, ["b.example.com"]);
    }

    #[test]
    fn no_rule_is_about_the_port_0() {
        for (port, target) in [(0, 80), (80, 0)] {
            let rules = serde_json::json!([{
                "match": {"hostname": "a.example.com", "port": port},
                "target": {"instance": "a", "port": target},
            }]);
            let declared = declared(&[ingress("one", &rules)]);
            assert!(declared.routes.is_empty() && declared.ports.is_empty());
            assert!(declared.problems[0].contains("0 is not a port"));
        }
    }

    #[test]
    fn rules_become_routes_of_their_ports_with_everything_that_they_say() {
        let secret = "0123456789abcdef0123456789abcdef";
        let one = ingress(
            "one",
            &serde_json::json!([
                {"match": {"hostname": "a.example.com"}, "target": {"instance": "a", "port": 80}},
                {"match": {"hostname": "{app}.example.com", "port": 8443}, "tls": true,
                 "redirect_http": true, "target": {"instance": "{app}", "port": 3000},
                 "request_header_auth": {"header": "x-key", "value": secret}},
            ]),
        );
        let declared = declared(&[one]);
        assert_eq!(declared.problems, [""; 0]);
        assert_eq!(declared.ports, BTreeMap::from([(80, false), (8443, true)]));
        let table = RouteTable::new(&declared.routes);
        let find = |host: &str, port| {
            let found = table
                .find(
                    &Hostname::parse(host).unwrap(),
                    &PathReadings::of("/"),
                    port,
                )
                .ok()?;
            let forwarding = &found.route.config().forwarding;
            let (redirects, guarded) =
                (forwarding.redirect_http.enabled, forwarding.auth.is_some());
            Some((found.instance.to_string(), redirects, guarded))
        };
        assert_eq!(
            find("a.example.com", 80),
            Some(("a".to_owned(), false, false))
        );
        assert_eq!(
            find("b.example.com", 80),
            Some(("b".to_owned(), true, false))
        );
        assert_eq!(
            find("b.example.com", 8443),
            Some(("b".to_owned(), false, true))
        );
        assert_eq!(find("a.example.com", 9), None);
        assert!(!format!("{declared:?}").contains(secret));
    }

    #[test]
    fn what_cannot_be_served_is_told_and_the_rest_is_served() {
        let rule = |host: &str, port: u16, tls: bool| {
            serde_json::json!({"match": {"hostname": host, "port": port}, "tls": tls,
                               "target": {"instance": "x", "port": 80}})
        };
        let rules = [
            rule("*.bad.*", 80, false),
            rule("a.test", 80, false),
            rule("a.test", 80, false),
            rule("b.test", 80, true),
            rule("c.test", 80, false),
        ];
        let declared = declared(&[ingress("one", &rules.as_slice().into())]);
        assert_eq!(declared.routes.len(), 2);
        assert_eq!(declared.problems.len(), 3, "{:?}", declared.problems);
        let again = declared.clone().and(declared.clone());
        assert_eq!(again.routes.len(), 2, "the first keeps its hosts");
    }

    #[test]
    fn what_asks_for_tls_is_not_served_in_clear_at_another_control_planes_port() {
        let one = |id: &str, tls: bool| {
            let host = format!("{id}.example.com");
            let rules = serde_json::json!([{"match": {"hostname": host, "port": 8443},
                "tls": tls, "target": {"instance": "x", "port": 80}}]);
            declared(&[ingress(id, &rules)])
        };
        let both = one("clear", false).and(one("secret", true));
        assert_eq!(both.ports, BTreeMap::from([(8443, false)]));
        let hosts: Vec<_> = both
            .routes
            .iter()
            .map(|route| route.host().to_owned())
            .collect();
        assert_eq!(hosts, ["clear.example.com"]);
        assert_eq!(both.problems.len(), 1, "{:?}", both.problems);
    }
}

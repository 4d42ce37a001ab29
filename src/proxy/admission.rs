//! The rules of a route about the requests that may wake its instance.
//!
//! Guarantees: a request is judged before the engine is asked, from its head alone; a request that
//! may not wake costs no restore, no look at the control plane and no place in the queue; it still
//! passes while the instance is awake. A rate counts wakes, not requests: who joins a wake that is
//! under way pays nothing.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::denied::{Denied, WakeDenied};
use super::preset;
use super::rates::{ClientRate, TotalRate};
use super::request_head::RequestHead;
use crate::config::{AdmissionConfig, RouteConfig, RoutePolicy};

/// A route's rules, with what they remember.
pub struct Admission {
    policy: Arc<RoutePolicy>,
    /// Every request may wake, its rate apart.
    is_open: bool,
    per_client: Option<ClientRate>,
    /// Requests that did not show what the route asks for.
    refused: Option<ClientRate>,
    route: Option<TotalRate>,
}

// === impl Admission ===

impl Admission {
    /// The rules of a route.
    pub fn new(route: &RouteConfig) -> Self {
        let (rules, asleep) = (&route.admission, &route.asleep);
        let unlimited = AdmissionConfig {
            rate: rules.rate,
            rate_per_client: rules.rate_per_client,
            ..AdmissionConfig::default()
        };
        let is_open =
            *rules == unlimited && asleep.robots.is_none() && asleep.health_paths.is_empty();
        Self {
            is_open,
            per_client: rules.rate_per_client.and_then(ClientRate::new),
            refused: rules.rate_per_client.and_then(ClientRate::new),
            route: rules.rate.and_then(TotalRate::new),
            policy: Arc::clone(&route.policy),
        }
    }

    /// Whether every request may wake, its rate apart: its head need not be looked at.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the request may wake the instance, its rate apart.
    pub fn check(&self, head: &RequestHead<'_>) -> Result<(), Denied> {
        if self.is_open {
            return Ok(());
        }
        let RequestHead {
            method,
            path,
            headers,
            client,
        } = *head;
        if head.is_read() && path.is_robots {
            return Err(Denied::Robots);
        }
        if head.is_read() && path.is_health {
            return Err(Denied::Health);
        }
        let rules = &self.policy.admission;
        if !rules.methods.is_empty() && !rules.methods.iter().any(|m| m == method.as_str()) {
            return Err(Denied::Method);
        }
        if path.is_denied {
            return Err(Denied::Path);
        }
        if let Some(rule) = &rules.header {
            let mut values = headers.get_all(&rule.name).iter();
            if !values.any(|value| rule.value.as_ref().is_none_or(|expected| expected == value)) {
                return Err(Denied::Header);
            }
        }
        if !self.knows_client(client) {
            return Err(Denied::Client);
        }
        if !rules.deny_user_agents.is_empty() {
            let agent = head.user_agent();
            if rules
                .deny_user_agents
                .iter()
                .any(|part| agent.contains(part))
            {
                return Err(Denied::UserAgent);
            }
        }
        match rules.preset {
            Some(preset) => preset::check(preset, head),
            None => Ok(()),
        }
    }

    /// The same as [`Self::check`] for a connection of which nothing but its client is known. Where
    /// a request would have to show something, it cannot; its requests may have any path.
    pub fn check_raw(&self, client: IpAddr) -> Result<(), Denied> {
        let rules = &self.policy.admission;
        match () {
            () if !rules.methods.is_empty() => Err(Denied::Method),
            () if !rules.paths.is_empty() || !rules.deny_paths.is_empty() => Err(Denied::Path),
            () if rules.header.is_some() => Err(Denied::Header),
            () if !self.knows_client(client) => Err(Denied::Client),
            () => Ok(()),
        }
    }

    /// Whether the client's network may wake.
    pub fn knows_client(&self, client: IpAddr) -> bool {
        let (client, networks) = (client.to_canonical(), &self.policy.admission.clients);
        networks.is_empty() || networks.iter().any(|network| network.contains(&client))
    }

    /// Takes one wake off the rates.
    pub fn charge(&self, client: IpAddr) -> Result<(), Denied> {
        if let Some(rate) = &self.per_client {
            rate.take(client.into()).map_err(Denied::ClientRate)?;
        }
        if let Some(rate) = &self.route {
            rate.take().map_err(Denied::RouteRate)?;
        }
        Ok(())
    }

    /// Counts a request that did not show what the route asks for, or says how long its client has
    /// to wait. As many as wakes are allowed, and in a count of their own: whoever has a credential
    /// does not pay for its neighbours' forgeries.
    pub fn charge_refused(&self, client: IpAddr) -> Result<(), Duration> {
        let rate = self.refused.as_ref();
        rate.map_or(Ok(()), |rate| rate.take(client.into()))
    }

    /// Forgets the clients that have been quiet for long.
    pub fn upkeep(&self) {
        let rates = self.per_client.iter().chain(&self.refused);
        rates.for_each(ClientRate::upkeep);
    }

    /// The refusal of a request, for this reason.
    pub(super) fn denial(&self, reason: Denied) -> WakeDenied {
        WakeDenied::new(reason, &self.policy)
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::super::path_rules::PathRules;
    use super::*;
    use crate::config::{Variables, load};
    use crate::router::PathReadings;

    fn admission(toml: &str) -> Admission {
        let text = format!("[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n{toml}");
        Admission::new(&load("test", &text, &Variables::default()).unwrap().route[0])
    }

    #[track_caller]
    fn check(
        admission: &Admission,
        request: (&str, &str),
        fields: &[(&'static str, &'static str)],
        expected: Result<(), Denied>,
    ) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let rules = PathRules::new(&admission.policy);
        let head = RequestHead {
            method: &request.0.parse().unwrap(),
            path: &rules.judge(&PathReadings::of(request.1)).unwrap(),
            headers: &headers,
            client: [10, 1, 2, 3].into(),
        };
        assert_eq!(admission.check(&head), expected, "{request:?} {fields:?}");
    }

    #[tokio::test]
    async fn each_rule_is_kept_and_named() {
        let none = admission("");
        check(&none, ("PATCH", "/x"), &[], Ok(()));
        let some = admission(
            "[route.admission]\nmethods = [\"GET\"]\npaths = [\"/api\"]\n\
             deny_paths = [\"/api/internal\"]\nheader = \"x-wake: yes\"\nclients = [\"10.0.0.0/8\"]\n\
             deny_user_agents = [\"CurlBot\"]",
        );
        let yes = ("x-wake", "yes");
        check(&some, ("GET", "/api/1"), &[yes], Ok(()));
        check(&some, ("POST", "/api/1"), &[yes], Err(Denied::Method));
        check(&some, ("GET", "/apis"), &[yes], Err(Denied::Path));
        check(&some, ("GET", "/api/internal/1"), &[yes], Err(Denied::Path));
        check(
            &some,
            ("GET", "/api"),
            &[("x-wake", "no")],
            Err(Denied::Header),
        );
        check(&some, ("GET", "/api"), &[("x-wake", "no"), yes], Ok(()));
        let bot = ("user-agent", "my CURLBOT/1.0");
        check(&some, ("GET", "/api"), &[yes, bot], Err(Denied::UserAgent));
        let elsewhere = admission("[route.admission]\nclients = [\"192.0.2.0/24\"]");
        check(&elsewhere, ("GET", "/"), &[], Err(Denied::Client));
    }

    #[tokio::test]
    async fn robots_and_health_checks_are_known_before_the_other_rules() {
        let admission = admission(
            "asleep = { robots = \"Cargo.toml\", health_paths = [\"/healthz\"] }\n\
             admission = { methods = [\"POST\"] }",
        );
        check(&admission, ("GET", "/robots.txt"), &[], Err(Denied::Robots));
        check(&admission, ("HEAD", "/healthz"), &[], Err(Denied::Health));
        check(&admission, ("POST", "/healthz"), &[], Ok(()));
        check(&admission, ("GET", "/healthz/x"), &[], Err(Denied::Method));
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_per_client_network_and_per_route_and_recover() {
        let admission = admission("admission = { rate_per_client = \"2/m\", rate = \"3/m\" }");
        let (one, neighbour, other): (IpAddr, IpAddr, IpAddr) = (
            [10, 0, 0, 1].into(),
            [10, 0, 0, 9].into(),
            [10, 0, 1, 1].into(),
        );
        assert!(admission.charge(one).is_ok() && admission.charge(neighbour).is_ok());
        let refused = admission.charge(one);
        let Err(Denied::ClientRate(wait)) = refused else {
            panic!("{refused:?}");
        };
        assert!(wait <= Duration::from_secs(30), "{wait:?}");
        assert!(admission.charge(other).is_ok());
        assert!(matches!(admission.charge(other), Err(Denied::RouteRate(_))));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(admission.charge(one).is_ok());
    }
}

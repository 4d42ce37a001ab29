//! What the rules of a route say about a path: whether it may wake, what it wakes besides, and
//! whether the gateway answers it itself.
//!
//! Guarantees: a path has a verdict only if each of its readings has that verdict (see
//! [`PathReadings`]), so no spelling of a path passes a rule that is about it; a route without such
//! rules looks at no path.

use super::path_verdict::PathVerdict;
use super::preset;
use super::waiting;
use crate::config::{Preset, RoutePolicy};
use crate::router::{AmbiguousPath, PathReadings, PathRule, Reading, SpecialPaths};

/// The rules of a route that are about paths, if it has any.
#[derive(Debug)]
pub struct PathRules(Option<Box<Rules>>);

#[derive(Debug)]
struct Rules {
    /// Only below these, if there are any.
    allowed: Vec<PathRule>,
    denied: Vec<PathRule>,
    robots: Option<PathRule>,
    health: Vec<PathRule>,
    /// The events of the waiting page.
    wake_status: Option<PathRule>,
    hooks: Vec<PathRule>,
    prewarm: Vec<Vec<PathRule>>,
    preset: Option<Preset>,
    special: SpecialPaths,
}

// === impl PathRules ===

impl PathRules {
    /// The rules of a route.
    pub fn new(policy: &RoutePolicy) -> Self {
        let (admission, asleep) = (&policy.admission, &policy.asleep);
        let mut special = SpecialPaths::default();
        let mut rules = |paths: &[String]| -> Vec<PathRule> {
            paths.iter().map(|path| special.rule(path)).collect()
        };
        let prewarm = policy.prewarm.iter().map(|rule| rules(&rule.paths));
        let prewarm: Vec<_> = prewarm.collect();
        let [allowed, denied] = [&admission.paths, &admission.deny_paths].map(|all| rules(all));
        let health = rules(&asleep.health_paths);
        let hooks = [
            &policy.wake.hooks.resumed,
            &policy.wake.hooks.before_standby,
        ];
        let hooks = hooks.into_iter().flatten();
        let hooks: Vec<_> = hooks.map(|path| special.rule(path)).collect();
        let robots = asleep.robots.as_ref();
        let robots = robots.map(|_| special.rule("/robots.txt"));
        let has_page = policy.waiting_page.enabled;
        let wake_status = has_page.then(|| special.rule(waiting::STATUS_PATH));
        let has_rules = [&allowed, &denied, &health, &hooks]
            .iter()
            .any(|all| !all.is_empty())
            || !prewarm.is_empty()
            || robots.is_some()
            || has_page
            || admission.preset.is_some();
        let rules = Rules {
            allowed,
            denied,
            robots,
            health,
            wake_status,
            hooks,
            prewarm,
            preset: admission.preset,
            special,
        };
        // Most routes have none, and there may be many routes.
        Self(has_rules.then(|| Box::new(rules)))
    }

    /// The verdict about a path, if all its readings have the same.
    pub fn judge(&self, path: &PathReadings<'_>) -> Result<PathVerdict, AmbiguousPath> {
        match &self.0 {
            Some(rules) => path.agree(&rules.special, |reading| rules.judge(reading)),
            None => Ok(PathVerdict::default()),
        }
    }

    /// Whether a path is that of a hook, where the instance is sent another one than its client has asked
    /// for.
    pub fn is_hook(&self, path: &PathReadings<'_>) -> Result<bool, AmbiguousPath> {
        match self.0.as_deref().filter(|rules| !rules.hooks.is_empty()) {
            Some(rules) => path.agree(&rules.special, |reading| rules.is_hook(reading)),
            None => Ok(false),
        }
    }
}

// === impl Rules ===

impl Rules {
    fn is_hook(&self, reading: &Reading<'_>) -> bool {
        self.hooks.iter().any(|rule| reading.is(rule))
    }

    fn judge(&self, reading: &Reading<'_>) -> PathVerdict {
        let is_below = |rules: &[PathRule]| rules.iter().any(|rule| reading.is_below(rule));
        let is = |rule: &Option<PathRule>| rule.as_ref().is_some_and(|rule| reading.is(rule));
        let prewarm = self.prewarm.iter().enumerate();
        let prewarm = prewarm.filter(|(_, rules)| is_below(rules));
        let with_preset = |is: fn(&[u8]) -> bool| self.preset.is_some() && is(reading.text());
        PathVerdict {
            is_denied: !self.allowed.is_empty() && !is_below(&self.allowed)
                || is_below(&self.denied),
            is_robots: is(&self.robots),
            is_health: self.health.iter().any(|rule| reading.is(rule)),
            is_wake_status: is(&self.wake_status),
            is_hook: self.is_hook(reading),
            is_guess: with_preset(preset::is_guess),
            is_icon: with_preset(preset::is_icon),
            prewarm: prewarm.map(|(position, _)| position).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Variables, load};

    fn rules(keys: &str) -> PathRules {
        let text = format!("[[route]]\nhost = \"a.b\"\ninstance = \"a\"\n{keys}");
        PathRules::new(&load("test", &text, &Variables::default()).unwrap().route[0])
    }

    #[test]
    fn no_spelling_of_a_path_passes_the_rule_that_is_about_it() {
        let rules = rules(
            "prewarm = [{ paths = [\"/login\"], instances = [\"b\"] }]\n\
             asleep = { robots = \"Cargo.toml\", health_paths = [\"/healthz\"] }\n\
             waiting_page = true\nwake = { hooks = { resumed = \"/_resumed\" } }\n\
             admission = { deny_paths = [\"/internal\"], preset = \"browser-abuse\" }",
        );
        let plain = |path: &str| rules.judge(&PathReadings::of(path)).unwrap();
        assert_eq!(plain("/"), PathVerdict::default());
        assert_eq!(plain("/a%2Fb//c;d/%20"), PathVerdict::default());
        assert!(plain("/internal/x").is_denied && plain("/healthz").is_health);
        assert!(plain("/robots.txt").is_robots && plain("/.wakegate/wake").is_wake_status);
        assert!(plain("/.env").is_guess && plain("/favicon.ico").is_icon);
        assert_eq!(plain("/login/x").prewarm, [0]);
        assert!(plain("/_resumed").is_hook);
        let paths = [
            "/_resumed",
            "/internal",
            "/healthz",
            "/robots.txt",
            "/.wakegate/wake",
            "/.git/config",
            "/favicon.ico",
            "/login",
        ];
        for path in paths {
            let (_, name) = path.split_at(1);
            let (first, rest) = name.split_at(1);
            let first = first.as_bytes()[0];
            let verdict = plain(path);
            assert_ne!(verdict, PathVerdict::default(), "{path}");
            for other in [
                format!("//{name}"),
                format!("/./{name}"),
                format!("/x/../{name}"),
                format!("/x/..%2f{name}"),
                format!("/x%5c..%5C{name}"),
                format!("/{name};x"),
                format!("/{name}%00"),
                format!("/%20{name}"),
                format!("/%25{first:02x}{rest}"),
                format!("/%{first:02X}{rest}"),
                path.to_ascii_uppercase(),
            ] {
                let judged = rules.judge(&PathReadings::of(&other));
                assert!(
                    judged.is_err() || judged.as_ref() == Ok(&verdict),
                    "{other}: {judged:?}"
                );
            }
        }
    }

    #[test]
    fn only_what_is_below_an_allowed_path_in_every_reading_may_wake() {
        let rules = rules("admission = { paths = [\"/public\"] }");
        let judge = |path: &str| rules.judge(&PathReadings::of(path));
        assert!(!judge("/public/a%2Fb;c//d").unwrap().is_denied);
        assert!(!judge("/%70ublic").unwrap().is_denied);
        assert!(judge("/private").unwrap().is_denied);
        for path in ["/public/../private", "/public/..%2fprivate", "/PUBLIC"] {
            assert_eq!(judge(path), Err(AmbiguousPath), "{path}");
        }
    }
}

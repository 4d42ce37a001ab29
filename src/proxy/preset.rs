//! `preset = "browser-abuse"`: requests whose answers nobody waits for.
//!
//! Guarantees: only requests that say so themselves, by their user agent, their `Sec-Purpose` or a
//! path that no application of ours serves by accident; and the answer is true: "asleep", 404 for
//! a scanner's guess, 200 for a health checker: one that hears 503 takes the gateway away from
//! those who may wake. Preflights are answered by what the instance said last time (see
//! [`preflight`](super::preflight)).

use http::Method;

use super::denied::Denied;
use super::request_head::RequestHead;
use crate::config::Preset;

/// Parts of user agents, in lower case: crawlers, link previews, monitors, scanners.
/// Sources: the agents' own documentation pages; "bot", "crawler" and "spider" are what most of
/// them call themselves. Monitors that do not say so: Prometheus' `Blackbox Exporter/0.24.0`, the
/// monitoring plugins' `check_http/v2.4`, `Checkly/1.0`, `DatadogSynthetics`, `NewRelicPinger/1.0`,
/// `updown.io daemon 2.11`, `Zabbix 7.0`.
const AGENTS: &[&str] = &[
    "bot",
    "crawler",
    "spider",
    "slurp",
    "archiver",
    "facebookexternalhit",
    "whatsapp",
    "embedly",
    "bingpreview",
    "skypeuripreview",
    "google-inspectiontool",
    "mediapartners-google",
    "ia_archiver",
    "uptime",
    "pingdom",
    "statuscake",
    "site24x7",
    "blackbox exporter",
    "check_http",
    "checkly",
    "datadog",
    "newrelicpinger",
    "updown.io",
    "zabbix",
    "meta-externalagent",
    "censysinspect",
    "zgrab",
    "masscan",
    "nmap",
    "nikto",
    "sqlmap",
    "nuclei",
    "wpscan",
    "expanse",
];

/// Parts of user agents, in lower case: health checkers of balancers and orchestrators, which send
/// people elsewhere when they dislike the answer. Sources: Kubernetes (`kube-probe/1.31`), Elastic
/// Load Balancing (`ELB-HealthChecker/2.0`), Route 53 and Global Accelerator
/// (`Amazon-Route53-Health-Check-Service`), `CloudWatch` (`CloudWatchSynthetics/arn:…`), Google Cloud
/// (`GoogleHC/1.0`, `GoogleStackdriverMonitoring-UptimeChecks`), Azure's Load Balancer (`Load
/// Balancer Agent`), Front Door (`Edge Health Probe`), Traffic Manager, App Service
/// (`HealthCheck/1.0`, `AlwaysOn`) and Application Insights (`…; AppInsights)`), Envoy
/// (`Envoy/HC`), Consul, Cloudflare (`Cloudflare-Healthchecks`, `Cloudflare-Traffic-Manager`) and
/// Fastly.
const HEALTH_CHECKERS: &[&str] = &[
    "healthcheck",
    "health check",
    "health-check",
    "health probe",
    "kube-probe",
    "googlehc",
    "googlestackdrivermonitoring",
    "cloudwatchsynthetics",
    "load balancer agent",
    "alwayson",
    "appinsights",
    "azure traffic manager endpoint monitor",
    "envoy/hc",
    "cloudflare-traffic-manager",
];

/// Paths that scanners guess. Each is matched as a whole path or a prefix on segment borders.
const SCANNED: &[&str] = &[
    "/.env",
    "/.git",
    "/.svn",
    "/.hg",
    "/.aws",
    "/.ssh",
    "/.DS_Store",
    "/.vscode",
    "/wp-login.php",
    "/wp-admin",
    "/wp-content",
    "/wp-includes",
    "/xmlrpc.php",
    "/phpmyadmin",
    "/phpinfo.php",
    "/vendor/phpunit",
    "/cgi-bin",
    "/actuator",
    "/server-status",
    "/HNAP1",
    "/boaform",
    "/owa/auth",
    "/autodiscover",
    "/solr/admin",
    "/_ignition",
];

/// Paths that browsers ask for by themselves.
const ICONS: &[&str] = &[
    "/favicon.ico",
    "/apple-touch-icon.png",
    "/apple-touch-icon-precomposed.png",
    "/browserconfig.xml",
];

pub(super) fn check(Preset::BrowserAbuse: Preset, head: &RequestHead<'_>) -> Result<(), Denied> {
    if head.path.is_guess {
        return Err(Denied::Scanner);
    }
    if matches!(*head.method, Method::GET | Method::HEAD) && head.path.is_icon {
        return Err(Denied::Icon);
    }
    let says_prefetch = |name: &str| {
        let values = head.headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|text| text.to_ascii_lowercase().contains("prefetch"))
    };
    if ["sec-purpose", "purpose", "x-purpose", "x-moz"]
        .into_iter()
        .any(says_prefetch)
    {
        return Err(Denied::Prefetch);
    }
    let agent = head.user_agent();
    if HEALTH_CHECKERS.iter().any(|part| agent.contains(part)) {
        // Only a read is answered with success.
        return Err(match head.is_read() {
            true => Denied::Health,
            false => Denied::Bot,
        });
    }
    if AGENTS.iter().any(|part| agent.contains(part)) {
        return Err(Denied::Bot);
    }
    Ok(())
}

/// Whether scanners guess this path.
pub(super) fn is_guess(path: &[u8]) -> bool {
    SCANNED.iter().any(|guess| {
        path.split_at_checked(guess.len())
            .is_some_and(|(start, rest)| {
                // `/.env.production` is as much of a guess as `/.env`.
                start.eq_ignore_ascii_case(guess.as_bytes())
                    && matches!(rest.first(), None | Some(b'/' | b'.'))
            })
    })
}

/// Whether browsers ask for this path by themselves.
pub(super) fn is_icon(path: &[u8]) -> bool {
    let is = |icon: &&str| icon.as_bytes().eq_ignore_ascii_case(path);
    ICONS.iter().any(is)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::super::path_verdict::PathVerdict;
    use super::*;

    #[track_caller]
    fn expect(path: &str, fields: &[(&'static str, &'static str)], expected: Result<(), Denied>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::GET,
            path: &PathVerdict {
                is_guess: is_guess(path.as_bytes()),
                is_icon: is_icon(path.as_bytes()),
                ..PathVerdict::default()
            },
            headers: &headers,
            client: [10, 0, 0, 1].into(),
        };
        assert_eq!(
            check(Preset::BrowserAbuse, &head),
            expected,
            "{path} {fields:?}"
        );
    }

    #[test]
    fn the_usual_abusers_are_known_and_people_are_not_among_them() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/131.0.0.0 Safari/537.36";
        expect("/", &[("user-agent", chrome)], Ok(()));
        expect("/environment", &[("user-agent", "curl/8.5.0")], Ok(()));
        expect("/.well-known/openid-configuration", &[], Ok(()));
        expect("/", &[], Ok(()));
        let google = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)";
        expect("/", &[("user-agent", google)], Err(Denied::Bot));
        expect(
            "/",
            &[("user-agent", "WhatsApp/2.23.20.0")],
            Err(Denied::Bot),
        );
        for path in [
            "/.env",
            "/.env.production",
            "/.git/config",
            "/WP-Login.php",
            "/wp-admin/x",
        ] {
            expect(path, &[], Err(Denied::Scanner));
        }
        expect("/favicon.ico", &[], Err(Denied::Icon));
        let anchor = "Mozilla/5.0 (healthy; compatible) Firefox/133.0";
        expect("/", &[("user-agent", anchor)], Ok(()));
        expect(
            "/a",
            &[("sec-purpose", "prefetch;prerender")],
            Err(Denied::Prefetch),
        );
        expect("/a", &[("x-moz", "prefetch")], Err(Denied::Prefetch));
    }

    #[test]
    fn the_usual_health_checkers_are_known_by_name() {
        for agent in [
            "kube-probe/1.31",
            "ELB-HealthChecker/2.0",
            "Amazon-Route53-Health-Check-Service (ref 5e1b; report http://amzn.to/1vsZADi)",
            "CloudWatchSynthetics/arn:aws:synthetics:eu-west-1:123456789012:canary:shop",
            "GoogleHC/1.0",
            "GoogleStackdriverMonitoring-UptimeChecks(https://cloud.google.com/monitoring)",
            "Load Balancer Agent",
            "AlwaysOn",
            "Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; Trident/5.0; AppInsights)",
            "Edge Health Probe",
            "Azure Traffic Manager Endpoint Monitor",
            "HealthCheck/1.0",
            "Envoy/HC",
            "Consul Health Check",
            "Mozilla/5.0 (compatible;Cloudflare-Healthchecks/1.0;+https://www.cloudflare.com/; \
             healthcheck-id: 4f)",
            "Mozilla/5.0 (compatible; Cloudflare-Traffic-Manager/1.0; \
             +https://www.cloudflare.com/traffic-manager/;)",
            "Varnish/fastly (healthcheck)",
        ] {
            expect("/", &[("user-agent", agent)], Err(Denied::Health));
            expect("/.env", &[("user-agent", agent)], Err(Denied::Scanner));
        }
    }

    #[test]
    fn monitors_that_call_themselves_no_bots_are_known_by_name() {
        for agent in [
            "Blackbox Exporter/0.24.0",
            "check_http/v2.4 (monitoring-plugins 2.4)",
            "Checkly/1.0 (https://www.checklyhq.com)",
            "DatadogSynthetics",
            "NewRelicPinger/1.0 (1234567)",
            "updown.io daemon 2.11",
            "Zabbix 7.0",
            "meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)",
        ] {
            expect("/", &[("user-agent", agent)], Err(Denied::Bot));
        }
    }
}

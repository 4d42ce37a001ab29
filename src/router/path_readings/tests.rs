//! Properties of the readings of a path.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

#[path = "servers.rs"]
#[expect(clippy::cast_possible_truncation, reason = "tests")]
mod servers;

/// What readings of a path meet: the first of these rules.
const RULES: [&str; 4] = ["/admin/users", "/admin", "/v1", "/@s/p"];

/// The position of the rule that all readings of a path meet.
fn judge(path: &str) -> Result<Option<usize>, AmbiguousPath> {
    let mut special = SpecialPaths::default();
    let rules = RULES.map(|rule| special.rule(rule));
    PathReadings::of(path).agree(&special, |reading| {
        rules.iter().position(|rule| reading.is_below(rule))
    })
}

/// The same by plain text.
fn plainly(path: &[u8]) -> Option<usize> {
    RULES.iter().position(|rule| {
        path.strip_prefix(rule.as_bytes())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    })
}

/// One way to spell a path differently.
#[derive(Debug, Clone, Copy)]
enum Trick {
    Encode { is_upper: bool },
    EncodeTwice,
    EncodeOverlong,
    Widen,
    TurnCase,
    TurnSlash(&'static str),
    Insert(&'static str),
    EndSegment(&'static str),
    Append(&'static str),
}

/// The path as a list of characters, each of which stays as it is once it has been encoded.
fn spell(path: &str, tricks: &[(Trick, Index)]) -> String {
    let mut letters: Vec<String> = path.chars().map(String::from).collect();
    for (trick, index) in tricks {
        let is_slash = |letter: &String| matches!(letter.as_str(), "/" | "\\");
        let slashes: Vec<usize> = (0..letters.len())
            .filter(|at| is_slash(&letters[*at]))
            .collect();
        // The first byte of a target is a slash.
        let singles: Vec<usize> = (1..letters.len())
            .filter(|at| letters[*at].len() == 1)
            .collect();
        let single = (!singles.is_empty()).then(|| singles[index.index(singles.len())]);
        let slash = slashes[index.index(slashes.len())];
        match (*trick, single) {
            (Trick::Encode { is_upper }, Some(at)) => {
                let byte = letters[at].as_bytes()[0];
                letters[at] = match is_upper {
                    true => format!("%{byte:02X}"),
                    false => format!("%{byte:02x}"),
                };
            }
            (Trick::EncodeTwice, Some(at)) => {
                let byte = letters[at].as_bytes()[0];
                letters[at] = format!("%25{byte:02x}");
            }
            (Trick::EncodeOverlong, Some(at)) => {
                let byte = letters[at].as_bytes()[0];
                letters[at] = format!("%{:02x}%{:02x}", 0xc0 | byte >> 6, 0x80 | byte & 0x3f);
            }
            (Trick::Widen, Some(at)) => {
                let byte = letters[at].as_bytes()[0];
                letters[at] = format!("%u00{byte:02x}");
            }
            (Trick::TurnCase, Some(at)) => letters[at] = letters[at].to_ascii_uppercase(),
            (Trick::TurnSlash(other), _) if slash > 0 => letters[slash] = other.to_owned(),
            (Trick::Insert(part), _) => {
                // Before a slash, which begins a segment.
                let part: Vec<String> = part.chars().map(String::from).collect();
                letters.splice(slash..slash, part);
            }
            (Trick::EndSegment(part), _) => {
                let end = slashes.iter().find(|at| **at > slash);
                let end = *end.unwrap_or(&letters.len());
                // Not into an empty segment, which would be none then, nor three dots.
                let is_dots = letters[end - 1] == "." && part.starts_with("%2e");
                if !is_slash(&letters[end - 1]) && !is_dots {
                    letters.insert(end, part.to_owned());
                }
            }
            // Two dots would be another path, and not another spelling of this.
            (Trick::Append("."), _) if letters.concat().ends_with("/.") => {}
            (Trick::Append(part), _) => letters.push(part.to_owned()),
            (_, _) => {}
        }
    }
    letters.concat()
}

fn trick() -> impl Strategy<Value = Trick> {
    prop_oneof![
        any::<bool>().prop_map(|is_upper| Trick::Encode { is_upper }),
        Just(Trick::EncodeTwice),
        Just(Trick::EncodeOverlong),
        Just(Trick::Widen),
        Just(Trick::TurnCase),
        prop::sample::select(vec!["\\", "%2f", "%2F", "%5c", "%5C", "%252f", "%c0%af"])
            .prop_map(Trick::TurnSlash),
        prop::sample::select(vec!["/", "/.", "/x/..", "\\", "/x/y/../.."]).prop_map(Trick::Insert),
        prop::sample::select(vec![";", ";x", ";x=.", "%3bx", "%20", "%09", "%2e%20"])
            .prop_map(Trick::EndSegment),
        prop::sample::select(vec![
            "%00", "%00x", "%20", "%3f", "%23x", "%0a", "%a0", "/", "/.", "."
        ])
        .prop_map(Trick::Append),
    ]
}

proptest! {
    #[test]
    fn no_spelling_of_a_protected_path_meets_another_rule(
        path in prop::sample::select(vec!["/admin", "/admin/x", "/admin/users/7", "/v1/a/b", "/@s/p"]),
        tricks in prop::collection::vec((trick(), any::<Index>()), 0..7),
    ) {
        let spelling = spell(path, &tricks);
        let judged = judge(&spelling);
        let expected = plainly(path.as_bytes());
        prop_assert!(judged.is_err() || judged == Ok(expected), "{}: {:?}", spelling, judged);
    }

    #[test]
    fn no_server_reads_a_path_differently_that_has_a_verdict(
        path in "/([adminusvADIN1xX]|%61|%64|%2e|%2f|%5C|%25|%00|%20|;x|/|/admin|/v1|\\.|\\.\\.|/\\.\\./|\\\\){0,9}",
    ) {
        if let Ok(verdict) = judge(&path) {
            for (name, read) in servers::SERVERS {
                let reading = read(path.as_bytes());
                prop_assert_eq!(plainly(&reading), verdict, "{}: {}", name, path);
            }
        }
    }

    #[test]
    fn an_ordinary_path_is_never_refused(
        path in "(/([a-z0-9_~.-]{0,12}[a-z0-9_~-]))*/?",
        rest in "(/([A-Za-z0-9_~.@:,+-]{0,12}[A-Za-z0-9_~-])){0,4}",
    ) {
        let path = format!("{}{rest}", if path.is_empty() { "/x" } else { path.trim_end_matches('/') });
        let folded = plainly(path.to_ascii_lowercase().as_bytes());
        prop_assume!(plainly(path.as_bytes()) == folded && !path.is_empty());
        prop_assert_eq!(judge(&path), Ok(folded), "{}", path);
    }

    #[test]
    fn what_is_encoded_below_a_rule_stays_below_it(
        path in prop::sample::select(vec!["", "/admin/x", "/v1"]),
        rest in "(/([a-z]|%2f|%2F|%c3%a9|%25|;|,){1,6}){1,3}",
    ) {
        let path = format!("{path}/x{rest}");
        prop_assert_eq!(judge(&path), Ok(plainly(path.as_bytes())), "{}", path);
    }
}

#[test]
fn each_trick_alone_meets_the_rule_or_is_ambiguous() {
    for path in [
        "/%61dmin/x",
        "/adm%69n",
        "/%61%64%6d%69%6e/x",
        "/admin/a%2fb",
    ] {
        assert_eq!(judge(path), Ok(Some(1)), "{path}");
    }
    for path in [
        "/admin%00",
        "/admin%20",
        "/ADMIN/x",
        "//admin",
        "/./admin",
        "/x/../admin",
        "/admin%2fx",
        "/x/..%2fadmin",
        "/%2561dmin",
        "/admin;x",
        "/x\\..\\admin",
        "/admin.",
        "/admin%3fx",
        "/admin/../x",
        "/adm%ffin",
        "/%c1%a1dmin",
        "/%u0061dmin",
        "/ad%0amin",
        "/adm\u{131}n",
        "/%EF%BC%A1dmin",
        "/x%2f..%2fadmin%2fx%252f..%252f..%252fy",
        "//x/admin",
        "//x:80/%61dmin/y",
        "///x/admin",
        "/\\x/admin",
        "/%2fx/admin",
        "/%09/x/admin",
        "//x//admin",
        "//x/../admin",
        "//x?/admin",
    ] {
        assert_eq!(judge(path), Err(AmbiguousPath), "{path}");
    }
    for path in [
        "/@scope%2fpkg",
        "/o/a%2Fb",
        "/a//b",
        "//a/b",
        "/a//x/admin",
        "/x/../y",
        "/%",
        "/%zz",
        "/a;b/%20/%00",
    ] {
        assert_eq!(judge(path), Ok(None), "{path}");
    }
}

#[test]
fn a_path_with_too_many_readings_is_ambiguous_and_costs_little() {
    let tricks = "/a%2f%252f;x/%20%3bx/../%5cx..\\/.%20/x%09//%ff%c0%af%u0061//%3f//x\\..//x%00/x";
    assert_eq!(judge(tricks), Err(AmbiguousPath));
    let long = format!("/{}", "%2f;%255c//%20/".repeat(4000));
    assert_eq!(judge(&long), Err(AmbiguousPath));
    // A long path of one kind has few readings.
    let key = format!("/bucket/{}", "caf%C3%A9%2F%20x/".repeat(200));
    assert_eq!(judge(&key), Ok(None));
}

#[test]
fn a_rule_that_is_special_itself_is_met_by_its_own_spelling_and_by_its_equals() {
    let mut special = SpecialPaths::default();
    let rules = ["/@s%2Fp", "/caf%c3%a9"].map(|rule| special.rule(rule));
    let judge = |path: &str| {
        PathReadings::of(path).agree(&special, |reading| {
            rules.iter().position(|rule| reading.is_below(rule))
        })
    };
    assert_eq!(judge("/@s%2fp/x"), Ok(Some(0)));
    assert_eq!(judge("/%40s%2fp/x"), Err(AmbiguousPath));
    assert_eq!(judge("/@s/p/x"), Err(AmbiguousPath));
    assert_eq!(judge("/caf%C3%A9"), Ok(Some(1)));
    assert_eq!(
        judge("/caf%C3%89"),
        Err(AmbiguousPath),
        "É is é where case means nothing"
    );
    assert_eq!(judge("/cafe"), Ok(None));
}

#[test]
fn what_comes_after_a_prefix_stays_as_it_is_spelled() {
    assert_eq!(after_prefix("/v1/a%2fb?c", "/v1"), Some("/a%2fb?c"));
    assert_eq!(after_prefix("/%76%31/x", "/v1"), Some("/x"));
    assert_eq!(after_prefix("/a%2fb/x", "/a%2Fb"), Some("/x"));
    assert_eq!(after_prefix("/v2", "/v1"), None);
    assert_eq!(after_prefix("/v", "/v1"), None);
}

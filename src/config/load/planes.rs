//! Control planes, and whose key from the environment is whose.
//!
//! Guarantees: a key goes to no control plane but the one that it was given for. `HYPEMAN_API_KEY`
//! is for the only one, at `HYPEMAN_BASE_URL` if that is set; where there are several, each has a
//! variable of its own. What is ambiguous is a problem, and no key is used.

use crate::config::diagnostics::nearest;
use crate::config::model::HypemanConfig;
use crate::config::reader::Section;
use crate::config::secret::Secret;
use crate::config::settings::Settings as _;
use crate::config::texts::parse_url;
use crate::config::variables::Variables;

/// Looks up a variable; an empty one counts as unset.
pub(super) type Lookup<'a> = dyn Fn(&str) -> Option<&'a str> + 'a;

const KEY: &str = "HYPEMAN_API_KEY";
const URL: &str = "HYPEMAN_BASE_URL";

/// Control planes as the file has them.
#[derive(Default)]
pub(super) struct Planes {
    all: Vec<HypemanConfig>,
    /// Whether the file says where each is.
    has_url: Vec<bool>,
}

/// The variable with the key of the control plane of this name.
fn own_variable(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let name = upper.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    format!("{KEY}_{name}")
}

impl Planes {
    /// Reads the next `[[hypeman]]`.
    pub(super) fn read(&mut self, s: &mut Section<'_, '_>) {
        let mut plane = HypemanConfig::default();
        plane.read(s);
        if self.all.iter().any(|other| other.name == plane.name) {
            s.problem(
                "name",
                format_args!("`{}` is the name of an earlier [[hypeman]]", plane.name),
            );
        }
        self.has_url.push(s.has("url"));
        self.all.push(plane);
    }

    /// The control planes with what the environment says of them, and what is wrong with that; the
    /// default one where there must be one and none is said.
    pub(super) fn with(
        mut self,
        is_needed: bool,
        variable: &Lookup<'_>,
    ) -> (Vec<HypemanConfig>, Vec<String>) {
        let mut problems = Vec::new();
        if self.all.is_empty() && is_needed {
            self.all.push(HypemanConfig::default());
            self.has_url.push(false);
        }
        let names: Vec<String> = self
            .all
            .iter()
            .map(|plane| own_variable(&plane.name))
            .collect();
        for (plane, name) in self.all.iter_mut().zip(&names) {
            let key = variable(name);
            if plane.api_key_file.is_some() || key.is_none() {
                continue;
            }
            if names.iter().filter(|other| *other == name).count() > 1 {
                problems.push(format!(
                    "{name} is the variable of several control planes: rename one"
                ));
                continue;
            }
            plane.api_key = key.map(Secret::new);
        }
        if let ([plane], [has_url]) = (self.all.as_mut_slice(), self.has_url.as_slice()) {
            problems.extend(only(plane, *has_url, variable).err());
        } else if variable(KEY).is_some() {
            let needy = self.all.iter().zip(&names);
            let needy =
                needy.filter(|(plane, _)| plane.api_key_file.is_none() && plane.api_key.is_none());
            let needy: Vec<&str> = needy.map(|(_, name)| name.as_str()).collect();
            if !needy.is_empty() {
                let (count, names) = (self.all.len(), needy.join(" and "));
                problems.push(format!(
                    "{KEY} does not say which of the {count} control planes it is for: set {names}, \
                     or `api_key_file`"
                ));
            }
        }
        (self.all, problems)
    }
}

/// What the environment says of the only control plane.
fn only(plane: &mut HypemanConfig, has_url: bool, variable: &Lookup<'_>) -> Result<(), String> {
    let key = variable(KEY);
    let takes_key = key.is_some() && plane.api_key_file.is_none() && plane.api_key.is_none();
    let base = variable(URL).filter(|_| takes_key || !has_url);
    if let Some(base) = base {
        let base = parse_url(base).map_err(|problem| format!("{URL} {problem}"))?;
        if has_url && base != plane.url {
            let own = own_variable(&plane.name);
            return Err(format!(
                "{KEY} is for {URL}, which is not the `url` of the file: unset {URL}, or give the \
                 key as {own} or `api_key_file`"
            ));
        }
        plane.url = base;
    }
    if takes_key {
        plane.api_key = key.map(Secret::new);
    }
    Ok(())
}

/// The variables that look as if they were meant for these control planes, and are not used.
pub(super) fn unused(planes: &[HypemanConfig], variables: &Variables) -> Vec<(String, String)> {
    let own: Vec<String> = planes
        .iter()
        .map(|plane| own_variable(&plane.name))
        .collect();
    let why = |name: &str, value: &str| match name {
        KEY => None,
        URL => {
            let base = parse_url(value);
            let is_used = planes.iter().any(|plane| base.as_ref() == Ok(&plane.url));
            (!is_used).then(|| match planes {
                [_] => "is not used, since the file has a `url` of its own".to_owned(),
                _ => "is not used where there are several control planes".to_owned(),
            })
        }
        name if own.iter().any(|own| own == name) => None,
        name if name.starts_with(KEY) => Some(format!(
            "is the key of no control plane here; those have {}",
            own.join(" and ")
        )),
        name => {
            let close = |known: &str| strsim::damerau_levenshtein(name, known) <= 2;
            let known = nearest(name, [KEY, URL].into_iter()).filter(|known| close(known));
            known.map(|known| format!("is nothing that is read here; did you mean `{known}`?"))
        }
    };
    let unused = variables.iter();
    unused
        .filter(|(name, _)| name.starts_with("HYPEMAN_"))
        .filter_map(|(name, value)| Some((name.to_owned(), why(name, value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::config::{Variables, load};

    const ROUTE: &str = "[[route]]\nhost = \"h.example.com\"\ninstance = \"i\"\nport = 1\n";

    /// The URL and key of each control plane, or what is wrong.
    fn planes(sections: &str, variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let pairs = variables.iter();
        let variables: Variables = pairs
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let config = load("w.toml", &format!("{sections}{ROUTE}"), &variables);
        let planes = config
            .map_err(|error| error.to_string())?
            .hypeman
            .into_iter();
        Ok(planes
            .map(|plane| {
                let key = plane.api_key.map(|key| key.reveal().to_owned());
                (plane.url, key.unwrap_or_default())
            })
            .collect())
    }

    type Planes = Result<Vec<(String, String)>, String>;

    #[allow(
        clippy::unnecessary_wraps,
        reason = "it is compared with what can also be an error"
    )]
    fn expect(all: &[(&str, &str)]) -> Planes {
        let all = all.iter();
        Ok(all
            .map(|(url, key)| ((*url).to_owned(), (*key).to_owned()))
            .collect())
    }

    const ONE: &str = "[[hypeman]]\nurl = \"https://a\"\n";
    const TWO: &str = "[[hypeman]]\nname = \"a\"\nurl = \"https://a\"\n\
                       [[hypeman]]\nname = \"eu-1\"\nurl = \"https://b\"\n";
    const KEY: (&str, &str) = ("HYPEMAN_API_KEY", "k");

    #[test]
    fn the_shared_key_is_for_the_only_control_plane() {
        assert_eq!(planes(ONE, &[KEY]), expect(&[("https://a", "k")]));
        assert_eq!(
            planes("", &[KEY]),
            expect(&[("http://127.0.0.1:4973", "k")])
        );
        let base = ("HYPEMAN_BASE_URL", "https://a/");
        assert_eq!(planes("", &[KEY, base]), expect(&[("https://a", "k")]));
        assert_eq!(planes(ONE, &[KEY, base]), expect(&[("https://a", "k")]));
        let bare = "[[hypeman]]\nname = \"a\"\n";
        assert_eq!(planes(bare, &[KEY, base]), expect(&[("https://a", "k")]));
        let file = format!("{ONE}api_key_file = \"/k\"\n");
        let elsewhere = ("HYPEMAN_BASE_URL", "https://b");
        assert_eq!(
            planes(&file, &[KEY, elsewhere]),
            expect(&[("https://a", "")])
        );
    }

    #[test]
    fn a_key_for_another_url_goes_nowhere() {
        for url in ["https://b", "https://a/other", "no URL"] {
            let error = planes(ONE, &[KEY, ("HYPEMAN_BASE_URL", url)]).unwrap_err();
            assert!(error.contains("HYPEMAN_BASE_URL"), "{error}");
        }
        let error = planes("", &[KEY, ("HYPEMAN_BASE_URL", "no URL")]).unwrap_err();
        assert!(error.contains("HYPEMAN_BASE_URL"), "{error}");
    }

    #[test]
    fn several_control_planes_have_a_variable_each() {
        let error = planes(TWO, &[KEY]).unwrap_err();
        assert!(
            error.contains("HYPEMAN_API_KEY_A and HYPEMAN_API_KEY_EU_1"),
            "{error}"
        );
        let (a, b) = (("HYPEMAN_API_KEY_A", "x"), ("HYPEMAN_API_KEY_EU_1", "y"));
        let both = expect(&[("https://a", "x"), ("https://b", "y")]);
        assert_eq!(planes(TWO, &[a, b]), both);
        // It is of no use to anybody then.
        assert_eq!(planes(TWO, &[a, b, KEY]), both);
        assert_eq!(
            planes(TWO, &[b]),
            expect(&[("https://a", ""), ("https://b", "y")])
        );
        let error = planes(TWO, &[a, KEY]).unwrap_err();
        assert!(error.contains("set HYPEMAN_API_KEY_EU_1,"), "{error}");
        let alike = "[[hypeman]]\nname = \"a-b\"\nurl = \"https://a\"\n\
                     [[hypeman]]\nname = \"a.b\"\nurl = \"https://b\"\n";
        let error = planes(alike, &[("HYPEMAN_API_KEY_A_B", "x")]).unwrap_err();
        assert!(error.contains("several control planes"), "{error}");
    }

    #[test]
    fn a_variable_that_is_of_no_use_is_named_with_the_reason() {
        let unused = |sections: &str, name: &str, value: &str| {
            let variables = [(name.to_owned(), value.to_owned())].into_iter().collect();
            let config = load("w.toml", &format!("{sections}{ROUTE}"), &variables).unwrap();
            let mut unused = config.unused_variables.into_iter();
            unused.next().map(|(found, why)| {
                assert_eq!(found, name);
                why
            })
        };
        let file = format!("{ONE}api_key_file = \"/k\"\n");
        for (sections, name, value, said) in [
            (
                "",
                "HYPEMAN_BASEURL",
                "https://b",
                "did you mean `HYPEMAN_BASE_URL`?",
            ),
            ("", "HYPEMAN_APIKEY", "k", "did you mean `HYPEMAN_API_KEY`?"),
            (
                "",
                "HYPEMAN_API_KEY_EU",
                "k",
                "those have HYPEMAN_API_KEY_DEFAULT",
            ),
            (&file, "HYPEMAN_BASE_URL", "https://b", "a `url` of its own"),
            (
                TWO,
                "HYPEMAN_BASE_URL",
                "https://c",
                "is not used where there are several",
            ),
        ] {
            let found = unused(sections, name, value);
            assert!(
                found.as_ref().is_some_and(|why| why.contains(said)),
                "{name}: {found:?}"
            );
        }
        for (sections, name, value) in [
            ("", "HYPEMAN_BASE_URL", "https://b"),
            ("", "HYPEMAN_API_KEY", "k"),
            ("", "HYPEMAN_API_KEY_DEFAULT", "k"),
            (&file, "HYPEMAN_BASE_URL", "https://a/"),
            ("", "HYPEMAN_DATA_DIR", "/data"),
        ] {
            assert_eq!(unused(sections, name, value), None, "{name}");
        }
    }
}

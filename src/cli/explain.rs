//! `wakegate explain CODE`: what an error code means and what to do about it.
//!
//! Guarantees: every code that the gateway, its admin API or its workloads' door can answer with is here (a test reads
//! the sources), and nothing else is.

mod codes;
mod door_codes;

use self::codes::{CODES, Code};
use self::door_codes::DOOR_CODES;
use super::output::{Failure, Output};

/// All codes.
fn all() -> impl Iterator<Item = &'static Code> {
    CODES.iter().chain(DOOR_CODES)
}

/// Says what a code means, or lists them all.
pub(super) fn run(word: Option<&str>, output: Output) -> Result<(), Failure> {
    let Some(word) = word else {
        for one in all() {
            output.print(&format!("{:<27} {}\n", one.word, one.status));
        }
        return Ok(());
    };
    // Whoever copies it from a log or a constant may have other letters.
    let small = word.trim().to_ascii_lowercase().replace('-', "_");
    let Some(one) = all().find(|one| one.word == small) else {
        let near = all()
            .map(|one| (strsim::damerau_levenshtein(&small, one.word), one.word))
            .min()
            .filter(|(distance, _)| *distance <= 4);
        let hint = near.map_or_else(String::new, |(_, code)| format!("; did you mean `{code}`?"));
        return Err(Failure::failed(format_args!(
            "there is no code `{word}`{hint}\n`wakegate explain` lists them all"
        )));
    };
    output.print(&format!(
        "{} ({})\n\n{}\n\nWhat to do: {}\n",
        one.word, one.status, one.meaning, one.help
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Words in quotes that look like codes, in what comes before the tests.
    fn words(source: &str) -> BTreeSet<String> {
        let source = source.split("#[cfg(test)]").next().unwrap();
        let quoted = source.split('"').skip(1).step_by(2);
        let is_code = |word: &&str| {
            word.contains('_')
                || matches!(
                    *word,
                    "asleep"
                        | "forbidden"
                        | "draining"
                        | "misdirected"
                        | "misplaced"
                        | "unauthenticated"
                )
        };
        let plain = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        quoted
            .filter(is_code)
            .filter(plain)
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn every_code_that_can_be_answered_is_explained_and_no_other() {
        let mut answered = words(include_str!("../proxy/error_response/descriptions.rs"));
        let errors = include_str!("../wake/error.rs").split("fn code(").nth(1);
        let code_of_error = errors.unwrap().split("\n    }\n").next();
        answered.extend(words(code_of_error.unwrap()));
        for source in [
            include_str!("../admin/access.rs"),
            include_str!("../admin/events.rs"),
            include_str!("../admin/api.rs"),
            include_str!("../app/operator.rs"),
            include_str!("../app/standby.rs"),
            include_str!("../workload/serve.rs"),
        ] {
            // What `Problem::new` is given.
            for call in source.split("Problem::new(").skip(1) {
                let end = call.find("))").unwrap_or(call.len()).min(400);
                let found = words(call.get(..end).unwrap());
                answered.extend(found.into_iter().next());
            }
        }
        let door = include_str!("../workload/refusal.rs")
            .split("fn describe(")
            .nth(1);
        answered.extend(words(door.unwrap()));
        answered.insert("waiting_page".to_owned());
        let explained: BTreeSet<String> = all().map(|one| one.word.to_owned()).collect();
        assert_eq!(explained.len(), all().count(), "one is there twice");
        let missing: Vec<_> = answered.difference(&explained).collect();
        let invented: Vec<_> = explained.difference(&answered).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "not explained: {missing:?}; never answered: {invented:?}"
        );
    }
}

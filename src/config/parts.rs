//! A large file, so that its routes are read a few hundred at a time.
//!
//! What a parser makes of a file is ten times as large as the file, and most of it is routes.
//!
//! Guarantees: a file that is read in parts says the same as in one piece; one of which that is not
//! plain, or in which anything is wrong, is not read in parts.

/// As many routes as are parsed together.
const TOGETHER: usize = 256;

/// A text in parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'t> {
    /// Everything but the `[[route]]`s.
    pub(super) rest: String,
    /// `[[route]]`s and nothing else, some in each.
    pub(super) routes: Vec<&'t str>,
}

/// What a line begins.
enum Begins {
    Route,
    Below,
    Other,
    Nothing,
}

impl Begins {
    fn of(line: &str) -> Self {
        let line = line.trim_start_matches([' ', '\t']);
        let is_end = |rest: &str| {
            let rest = rest.trim();
            rest.is_empty() || rest.starts_with('#')
        };
        if !line.starts_with('[') {
            Self::Nothing
        } else if line.strip_prefix("[[route]]").is_some_and(is_end) {
            Self::Route
        } else if line.starts_with("[route.") || line.starts_with("[[route.") {
            Self::Below
        } else {
            Self::Other
        }
    }
}

// === impl Parts ===

impl<'t> Parts<'t> {
    /// The parts of a text; `None` where a line need not be what it looks like.
    pub(super) fn of(text: &'t str) -> Option<Self> {
        if text.contains("\"\"\"") || text.contains("'''") {
            return None;
        }
        let mut parts = Self {
            rest: String::new(),
            routes: Vec::new(),
        };
        // Where the part begins that a line belongs to, and how many routes are in it.
        let (mut start, mut count, mut at) = (0, 0, 0);
        for line in text.split_inclusive('\n') {
            let is_border = match Begins::of(line) {
                Begins::Route => count == 0 || count == TOGETHER,
                Begins::Other => count > 0,
                Begins::Below | Begins::Nothing => false,
            };
            if is_border {
                parts.push(text.get(start..at)?, count);
                (start, count) = (at, 0);
            }
            count += usize::from(matches!(Begins::of(line), Begins::Route));
            at += line.len();
        }
        parts.push(text.get(start..)?, count);
        Some(parts)
    }

    fn push(&mut self, part: &'t str, count: usize) {
        match count {
            0 => self.rest.push_str(part),
            _ => self.routes.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_apart_from_the_rest_and_some_hundreds_are_together() {
        let text = "# [[route]]\n[server]\nworkers = 2\n\n[[route]] # a\nhost = \"a\"\n[route.wake]\n\
                    ready = \"port\"\n  [[route.keep_warm]]\n\t[[route]]\r\nhost = \"b\"\n[[listener]]\n\
                    x = [\n]\n[[route]]\nhost = \"c\"";
        let parts = Parts::of(text).unwrap();
        assert_eq!(
            parts.rest,
            "# [[route]]\n[server]\nworkers = 2\n\n[[listener]]\nx = [\n]\n"
        );
        assert_eq!(parts.routes.len(), 2);
        assert!(parts.routes[0].starts_with("[[route]] # a\n"));
        assert!(parts.routes[0].ends_with("host = \"b\"\n"));
        assert_eq!(parts.routes[1], "[[route]]\nhost = \"c\"");
        let many = "[[route]]\nhost = \"a\"\n".repeat(1_000);
        let lengths: Vec<_> = Parts::of(&many)
            .unwrap()
            .routes
            .iter()
            .map(|part| part.len())
            .collect();
        assert_eq!(lengths, [5_376, 5_376, 5_376, 4_872]);
    }

    #[test]
    fn where_a_line_need_not_be_a_header_there_are_no_parts() {
        for text in [
            "x = \"\"\"\n[[route]]\n\"\"\"",
            "x = '''\n[[route]]\n'''\n[a]",
        ] {
            assert_eq!(Parts::of(text), None);
        }
        // These are no parts of routes, so that whoever reads them finds a `route` among the rest.
        for text in [
            "[route]\n",
            "[[\"route\"]]\n",
            "[[ route ]]\n",
            "[[route]] x\n",
            "[route.wake]\n",
        ] {
            let parts = Parts::of(text).unwrap();
            assert_eq!((&*parts.rest, parts.routes.len()), (text, 0));
        }
    }
}

//! What the pages for people have in common: one style sheet, one policy, one way to fill them.
//!
//! Guarantees: what is filled in is never read as a placeholder, whoever it comes from; a page runs
//! and loads nothing but what has its nonce; it is light or dark as the person's system is.

use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap};

/// The style sheet of the waiting page and of the error pages.
pub(super) const STYLE: &str = include_str!("page.css");

/// Text that stays text in HTML.
pub(super) fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

/// A template with each `{{name}}` replaced by its value. The values are HTML; a name that is not
/// among them stays as it is.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + STYLE.len());
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once("{{") {
        out.push_str(before);
        let placeholder = behind.split_once("}}").and_then(|(name, after)| {
            let value = values.iter().find(|(known, _)| *known == name);
            value.map(|(_, value)| (*value, after))
        });
        match placeholder {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push_str("{{");
                rest = behind;
            }
        }
    }
    out.push_str(rest);
    out
}

/// The fields of a page whose style, and script where `has_script`, have this nonce.
pub(super) fn declare(headers: &mut HeaderMap, nonce: &str, has_script: bool) {
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    let script = match has_script {
        true => format!("script-src 'nonce-{nonce}'; connect-src 'self'; "),
        false => String::new(),
    };
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; {script}img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(
            escape("<a href='x'>&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;"
        );
    }

    #[test]
    fn what_is_filled_in_is_no_placeholder() {
        let values = [("host", "{{nonce}}"), ("nonce", "secret")];
        for (template, expected) in [
            ("<p>{{host}}</p>", "<p>{{nonce}}</p>"),
            ("{{nonce}}{{host}}{{nonce}}", "secret{{nonce}}secret"),
            ("{{other}} {{host}}", "{{other}} {{nonce}}"),
            ("{{{{nonce}}", "{{secret"),
            ("{{nonce", "{{nonce"),
            ("a { b: c }", "a { b: c }"),
            ("", ""),
        ] {
            assert_eq!(fill(template, &values), expected, "{template}");
        }
    }

    #[test]
    fn a_page_without_a_script_may_run_none() {
        let mut headers = HeaderMap::new();
        declare(&mut headers, "n", false);
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'nonce-n'; img-src"));
        declare(&mut headers, "n", true);
        let policy = headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.contains("script-src 'nonce-n'; connect-src 'self'"));
    }
}

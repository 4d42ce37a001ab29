//! Reads `[tracing]` and `[admin]`, and the files that they name.

use crate::config::model::AdminConfig;
use crate::config::reader::Section;
use crate::config::secret::Secret;
use crate::config::settings::Settings as _;
use crate::config::telemetry::{SecretHeaders, TracingConfig};

pub(super) fn read_tracing(s: &mut Section<'_, '_>, tracing: &mut TracingConfig) {
    tracing.read(s);
    if let Some(path) = &tracing.headers_file {
        let read = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()));
        match read.and_then(|text| SecretHeaders::parse(&text)) {
            Ok(headers) => tracing.headers = headers,
            Err(problem) => s.problem("headers_file", problem),
        }
    }
}

/// The shortest admin token: what cannot be guessed by trying.
const TOKEN_LENGTH: usize = 16;

pub(super) fn read_admin(s: &mut Section<'_, '_>, admin: &mut AdminConfig) {
    admin.read(s);
    let key = match (&admin.token_file, &admin.token) {
        (Some(_), Some(_)) => {
            s.problem("token", "is given twice: here and in `token_file`");
            return;
        }
        (Some(path), None) => match std::fs::read_to_string(path) {
            Ok(text) => {
                admin.token = Some(Secret::new(&text));
                "token_file"
            }
            Err(error) => {
                let path = path.display();
                s.problem("token_file", format_args!("cannot read {path}: {error}"));
                return;
            }
        },
        (None, _) => "token",
    };
    if let Some(token) = &admin.token {
        let token = token.reveal();
        let visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        if token.len() < TOKEN_LENGTH || !visible {
            s.problem(
                key,
                format_args!("must be at least {TOKEN_LENGTH} visible ASCII characters"),
            );
        }
    }
}

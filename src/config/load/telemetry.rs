//! Reads `[log]`, `[metrics]`, `[tracing]` and `[admin]`.

use super::parse::{parse_address, parse_url, set};
use crate::config::model::AdminConfig;
use crate::config::reader::Section;
use crate::config::secret::Secret;
use crate::config::telemetry::{
    AccessField, AccessFormat, AccessLog, LogConfig, LogFormat, MetricsConfig, SecretHeaders,
    TracingConfig, parse_filter,
};

pub(super) fn read_log(s: &mut Section<'_, '_>, log: &mut LogConfig) {
    let parse_level = |text: &str| match parse_filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    };
    set(&mut log.level, s.parsed("level", parse_level));
    let parse_format = |text: &str| match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        "logfmt" => Ok(LogFormat::Logfmt),
        _ => Err(format!("`{text}` is not \"text\", \"json\" or \"logfmt\"")),
    };
    set(&mut log.format, s.parsed("format", parse_format));
    let parse_access = |text: &str| match text {
        "stdout" => Ok(AccessLog::Stdout),
        "off" => Ok(AccessLog::Off),
        _ => Err(format!("`{text}` is not \"stdout\" or \"off\"")),
    };
    set(&mut log.access, s.parsed("access", parse_access));
    let parse_access_format = |text: &str| match text {
        "json" => Ok(AccessFormat::Json),
        "logfmt" => Ok(AccessFormat::Logfmt),
        _ => Err(format!("`{text}` is not \"json\" or \"logfmt\"")),
    };
    set(
        &mut log.access_format,
        s.parsed("access_format", parse_access_format),
    );
    set(&mut log.access_sample, s.share("access_sample"));
    let parse_field = |text: &str| {
        let mut fields = AccessField::ALL.iter().copied();
        fields.find(|field| field.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = AccessField::ALL.iter().map(|f| f.as_str()).collect();
            format!("`{text}` is not a field; there are: {}", names.join(", "))
        })
    };
    set(&mut log.access_fields, s.list("access_fields", parse_field));
}

pub(super) fn read_metrics(s: &mut Section<'_, '_>, metrics: &mut MetricsConfig) {
    set(&mut metrics.max_routes, s.number("max_routes"));
}

pub(super) fn read_tracing(s: &mut Section<'_, '_>, tracing: &mut TracingConfig) {
    tracing.endpoint = s.parsed("endpoint", parse_url);
    set(&mut tracing.sample, s.share("sample"));
    set(&mut tracing.service_name, s.text("service_name"));
    s.duration("timeout", &mut tracing.timeout);
    tracing.headers_file = s.text("headers_file").map(Into::into);
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
    set(&mut admin.address, s.parsed("address", parse_address));
    s.flag("dashboard", &mut admin.dashboard);
    s.flag("observe", &mut admin.observe);
    let (file, text) = (s.text("token_file"), s.text("token"));
    let (key, text) = match (&file, text) {
        (Some(_), Some(_)) => {
            s.problem("token", "is given twice: here and in `token_file`");
            return;
        }
        (Some(path), None) => match std::fs::read_to_string(path) {
            Ok(text) => ("token_file", Some(text)),
            Err(error) => {
                s.problem("token_file", format_args!("cannot read {path}: {error}"));
                return;
            }
        },
        (None, text) => ("token", text),
    };
    admin.token_file = file.map(Into::into);
    admin.token = text.as_deref().map(Secret::new);
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

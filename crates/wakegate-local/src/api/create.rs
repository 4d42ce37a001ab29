//! What a new instance is asked to be: read, checked, completed (contract A.6).
//!
//! Guarantees: every field that the contract knows is done, or refused with the contract's code;
//! none is taken and forgotten, but those of docs/reference/local.md ("Not as upstream"). Sums of
//! sizes do not overflow.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::driver::Driver;
use crate::error::Error;
use crate::fleet::{EXEC_IMAGE, HELLO_IMAGE};
use crate::policy::auto_standby::{Policy, PolicyRequest};
use crate::policy::compression::{SnapshotPolicy, SnapshotPolicyRequest};
use crate::policy::health_check::{Access, HealthCheck, HealthCheckRequest};
use crate::policy::restart::{RestartPolicy, RestartRequest};
use crate::scalars::{
    NAME_RULE, are_tags, are_words, is_environment, is_name, parse_bandwidth, parse_rate,
    parse_size,
};
use crate::store::Spec;
use hypeman::GoDuration;

/// The hypervisors that the contract names.
const HYPERVISORS: [&str; 5] = [
    "cloud-hypervisor",
    "firecracker",
    "qemu",
    "qemu-microvm",
    "vz",
];
/// The largest size; upstream keeps sizes in signed numbers of 64 bits.
const LARGEST: u64 = i64::MAX.unsigned_abs();

#[derive(Deserialize)]
pub(super) struct CreateRequest {
    name: String,
    image: String,
    platform: Option<String>,
    size: Option<String>,
    hotplug_size: Option<String>,
    overlay_size: Option<String>,
    vcpus: Option<i64>,
    disk_io_bps: Option<String>,
    env: Option<BTreeMap<String, String>>,
    tags: Option<BTreeMap<String, String>>,
    ttl: Option<String>,
    expires_at: Option<String>,
    network: Option<NetworkRequest>,
    devices: Option<Vec<String>>,
    gpu: Option<BTreeMap<String, Value>>,
    volumes: Option<Vec<BTreeMap<String, Value>>>,
    credentials: Option<BTreeMap<String, BTreeMap<String, Value>>>,
    hypervisor: Option<String>,
    snapshot_policy: Option<SnapshotPolicyRequest>,
    auto_standby: Option<PolicyRequest>,
    health_check: Option<HealthCheckRequest>,
    restart_policy: Option<RestartRequest>,
    skip_guest_agent: Option<bool>,
    /// No instance here has the kernel's headers, so there is nothing to skip.
    #[serde(rename = "skip_kernel_headers")]
    _skip_kernel_headers: Option<bool>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NetworkRequest {
    enabled: Option<bool>,
    bandwidth_download: Option<String>,
    bandwidth_upload: Option<String>,
    egress: Option<EgressRequest>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EgressRequest {
    enabled: Option<bool>,
    enforcement: Option<EnforcementRequest>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct EnforcementRequest {
    mode: Option<String>,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::bad_request("invalid_request", message)
}

/// A text that is there; an empty one counts as "not said".
fn said(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

/// Reads a quantity; zero counts as "not said", as upstream has it.
fn quantity(
    code: &'static str,
    text: Option<&String>,
    parse: impl Fn(&str) -> Option<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(text) = said(text) else {
        return Ok(None);
    };
    let what = code.trim_start_matches("invalid_");
    let number = parse(text)
        .ok_or_else(|| ApiError::bad_request(code, format!("invalid {what} format: {text}")))?;
    if number > LARGEST {
        let message = format!("{what} is too large: {text}");
        return Err(ApiError::bad_request(code, message));
    }
    Ok(Some(number).filter(|number| *number > 0))
}

/// The time when the instance is deleted; the outer `None` is "not said".
#[expect(
    clippy::option_option,
    reason = "not said, never, and then are three answers"
)]
pub(super) fn expiry(
    ttl: Option<&String>,
    expires_at: Option<&String>,
    now: Timestamp,
) -> Result<Option<Option<Timestamp>>, ApiError> {
    if ttl.is_some() && expires_at.is_some() {
        return Err(invalid("ttl and expires_at are mutually exclusive"));
    }
    if let Some(text) = ttl {
        let bad = |why: &str| ApiError::bad_request("invalid_ttl", format!("ttl: {why}"));
        let ttl: GoDuration = text.parse().map_err(|_| bad("not a duration"))?;
        return match ttl.nanos() {
            0 => Ok(Some(None)),
            nanos if nanos < 0 => Err(bad("must not be negative")),
            nanos => {
                let at = now.checked_add(jiff::SignedDuration::from_nanos(nanos));
                Ok(Some(Some(at.map_err(|_| bad("too long"))?)))
            }
        };
    }
    let Some(text) = expires_at else {
        return Ok(None);
    };
    let bad = |why: &str| ApiError::bad_request("invalid_expires_at", format!("expires_at: {why}"));
    let at: Timestamp = text.parse().map_err(|_| bad("not an RFC 3339 time"))?;
    if at <= now {
        return Err(bad("must be in the future"));
    }
    Ok(Some(Some(at)))
}

/// The platform of this machine, for which its images are.
pub(super) fn own_platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    }
}

/// Checks `os/arch[/variant]`: what it may be by the contract, and whether there is an image of it.
fn check_platform(text: &str) -> Result<(), ApiError> {
    let parts: Vec<&str> = text.split('/').collect();
    let (pair, variant) = match parts.as_slice() {
        ["linux", arch @ ("amd64" | "arm64")] => (format!("linux/{arch}"), None),
        ["linux", arch @ ("amd64" | "arm64"), variant] if !variant.is_empty() => {
            (format!("linux/{arch}"), Some(*variant))
        }
        _ => {
            let message = format!("platform must be linux/amd64 or linux/arm64: {text}");
            return Err(ApiError::bad_request("invalid_platform", message));
        }
    };
    // The variants that every processor of the architecture is.
    let is_common = matches!(
        (pair.as_str(), variant),
        (_, None) | ("linux/arm64", Some("v8")) | ("linux/amd64", Some("v1"))
    );
    match is_common && pair == own_platform() {
        true => Ok(()),
        false => Err(ApiError::platform_not_available(text)),
    }
}

/// Checks that the instance asks for what this driver can do. Returns the limit of its disk, in
/// bytes a second.
fn check_driver(request: &CreateRequest, driver: &Driver) -> Result<Option<u64>, ApiError> {
    let name = driver.name();
    if let Some(hypervisor) = said(request.hypervisor.as_ref()) {
        if !HYPERVISORS.contains(&hypervisor) {
            let names = HYPERVISORS.join(", ");
            return Err(ApiError::malformed(format!(
                "request body has an error: hypervisor must be one of {names}"
            )));
        }
        if Some(hypervisor) != driver.hypervisor() {
            let own = driver
                .hypervisor()
                .map_or_else(|| "none".to_owned(), |own| format!("{own} alone"));
            return Err(invalid(format!(
                "hypervisor: {hypervisor} is not available, the {name} driver has {own}"
            )));
        }
    }
    let default = NetworkRequest::default();
    let network = request.network.as_ref().unwrap_or(&default);
    let download = network.bandwidth_download.as_ref();
    let upload = network.bandwidth_upload.as_ref();
    let download = quantity("invalid_bandwidth_download", download, parse_bandwidth)?;
    let upload = quantity("invalid_bandwidth_upload", upload, parse_bandwidth)?;
    let egress = network.egress.as_ref();
    let enforcement = egress.and_then(|egress| egress.enforcement.as_ref());
    let mode = enforcement.and_then(|enforcement| enforcement.mode.as_deref());
    if mode.is_some_and(|mode| !matches!(mode, "all" | "http_https_only")) {
        return Err(ApiError::malformed(
            "request body has an error: network.egress.enforcement.mode must be all or \
             http_https_only",
        ));
    }
    let has_egress = egress.is_some_and(|egress| egress.enabled.unwrap_or(false));
    let disk = request.disk_io_bps.as_ref();
    let disk = quantity("invalid_disk_io_bps", disk, parse_rate)?;
    // A VM of the qemu driver has no disk, so any limit holds; a process writes where it likes.
    let limits_disk = disk.is_some() && matches!(driver, Driver::Process(_));
    let agent = request.skip_guest_agent.unwrap_or(false);
    let agent = agent && matches!(driver, Driver::Qemu(_));
    let has = |list: Option<usize>| list.is_some_and(|length| length > 0);
    let unsupported = [
        ("devices", has(request.devices.as_ref().map(Vec::len))),
        ("gpu", request.gpu.is_some()),
        ("volumes", has(request.volumes.as_ref().map(Vec::len))),
        (
            "credentials",
            has(request.credentials.as_ref().map(BTreeMap::len)),
        ),
        ("network.bandwidth_download", download.is_some()),
        ("network.bandwidth_upload", upload.is_some()),
        ("network.egress", has_egress),
        ("disk_io_bps", limits_disk),
        ("skip_guest_agent", agent),
    ];
    match unsupported.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(invalid(format!(
            "{field}: not supported by the {name} driver"
        ))),
        None => Ok(disk),
    }
}

fn check_image(request: &CreateRequest) -> Result<(), ApiError> {
    if !are_words(request.entrypoint.iter().chain(&request.cmd).flatten()) {
        return Err(invalid("entrypoint and cmd must not contain a NUL"));
    }
    match request.image.as_str() {
        HELLO_IMAGE => Ok(()),
        EXEC_IMAGE => {
            let mut words = request.entrypoint.iter().chain(&request.cmd).flatten();
            match words.next() {
                Some(_) => Ok(()),
                None => Err(invalid("local/exec needs entrypoint or cmd")),
            }
        }
        image => {
            let text =
                format!("image not found: {image}; there are {HELLO_IMAGE} and {EXEC_IMAGE}");
            Err(ApiError::not_found(&text))
        }
    }
}

/// Makes a specification of a request, for the driver that would run it.
pub(super) fn accept(
    request: CreateRequest,
    driver: &Driver,
    now: Timestamp,
) -> Result<Spec, ApiError> {
    if !is_name(&request.name) {
        return Err(invalid(NAME_RULE));
    }
    let platform = said(request.platform.as_ref());
    platform.map(check_platform).transpose()?;
    check_image(&request)?;
    let disk_io_bps = check_driver(&request, driver)?;
    let tags = request.tags.unwrap_or_default();
    if !are_tags(&tags) {
        return Err(invalid("tags are not valid"));
    }
    let env = request.env.unwrap_or_default();
    if !is_environment(&env) {
        return Err(invalid(
            "env: names must not be empty or contain =, and nothing a NUL",
        ));
    }
    if env
        .get("PORT")
        .is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0))
    {
        return Err(invalid("env.PORT must be 1 to 65535"));
    }
    if env
        .get("PWD")
        .is_some_and(|folder| !folder.starts_with('/'))
    {
        return Err(invalid("env.PWD must be an absolute path"));
    }
    let vcpus = request.vcpus.unwrap_or(2);
    let vcpus = u32::try_from(vcpus).ok().filter(|vcpus| *vcpus >= 1);
    let network_enabled = request
        .network
        .and_then(|network| network.enabled)
        .unwrap_or(true);
    let skip_guest_agent = request.skip_guest_agent.unwrap_or(false);
    let access = Access {
        network: network_enabled,
        agent: !skip_guest_agent,
    };
    let health_check = request.health_check;
    let health_check = health_check.map(|check| HealthCheck::accept(check, access));
    let restart_policy = request.restart_policy.as_ref();
    let restart_policy = restart_policy.map(RestartPolicy::accept);
    let snapshot_policy = request.snapshot_policy.as_ref();
    let snapshot_policy = snapshot_policy.map(SnapshotPolicy::accept).transpose()?;
    let size = quantity("invalid_size", request.size.as_ref(), parse_size)?.unwrap_or(1 << 30);
    let hotplug = request.hotplug_size.as_ref();
    let hotplug_size = quantity("invalid_hotplug_size", hotplug, parse_size)?;
    let memory = size.checked_add(hotplug_size.unwrap_or(0));
    if memory.is_none_or(|memory| memory > LARGEST) {
        let text = "size and hotplug_size are too large together";
        return Err(ApiError::bad_request("invalid_hotplug_size", text));
    }
    let overlay = request.overlay_size.as_ref();
    let overlay_size = quantity("invalid_overlay_size", overlay, parse_size)?;
    Ok(Spec {
        id: crate::id::new_id().map_err(Error::from)?,
        name: request.name,
        image: request.image,
        created_at: now,
        env,
        tags,
        entrypoint: request.entrypoint,
        cmd: request.cmd,
        size,
        hotplug_size,
        overlay_size: overlay_size.unwrap_or(10 << 30),
        disk_io_bps,
        vcpus: vcpus.ok_or_else(|| invalid("vcpus must be at least 1"))?,
        network_enabled,
        policy: request
            .auto_standby
            .map(|policy| Policy::accept(&policy))
            .transpose()?,
        snapshot_policy: snapshot_policy.map(|policy| json!(policy)),
        skip_guest_agent,
        health_check: health_check.transpose()?.flatten(),
        restart_policy: restart_policy.transpose()?.flatten(),
        hypervisor: driver.hypervisor().map(str::to_owned),
        expires_at: expiry(request.ttl.as_ref(), request.expires_at.as_ref(), now)?.flatten(),
        schedule: None,
    })
}

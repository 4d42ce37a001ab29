//! The auto-standby policy: what is accepted, and how it is kept (contract A.8).
//!
//! Guarantees: a kept policy is normalised: networks masked, lists sorted without repeats, a
//! disabled policy bare.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use hypeman::GoDuration;

use crate::error::Error;

/// An auto-standby policy as a caller sends it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PolicyRequest {
    enabled: Option<bool>,
    idle_timeout: Option<String>,
    ignore_destination_ports: Option<Vec<i64>>,
    ignore_source_cidrs: Option<Vec<String>>,
}

/// An auto-standby policy as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Policy {
    pub(crate) enabled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle_timeout: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignore_destination_ports: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignore_source_cidrs: Vec<IpNet>,
}

// === impl Policy ===

impl Policy {
    pub(crate) fn accept(request: &PolicyRequest) -> Result<Self, Error> {
        let invalid =
            |text: &str| Error::invalid("invalid_request", format!("auto_standby.{text}"));
        if !request.enabled.unwrap_or(false) {
            return Ok(Self::default());
        }
        let text = request
            .idle_timeout
            .as_deref()
            .filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| invalid("idle_timeout is required when enabled"))?;
        let idle: GoDuration = text
            .parse()
            .map_err(|error| invalid(&format!("idle_timeout is invalid: {error}")))?;
        if idle.nanos() <= 0 {
            return Err(invalid("idle_timeout must be positive"));
        }
        let mut ports = Vec::new();
        for port in request.ignore_destination_ports.iter().flatten() {
            match u16::try_from(*port) {
                Ok(port) if port > 0 => ports.push(port),
                _ => {
                    let message = format!("port {port} out of range");
                    return Err(Error::invalid("invalid_auto_standby", message));
                }
            }
        }
        let mut networks = Vec::new();
        for text in request.ignore_source_cidrs.iter().flatten() {
            let network: IpNet = text
                .parse()
                .map_err(|_| invalid(&format!("ignore_source_cidrs: `{text}` is not a CIDR")))?;
            networks.push(network.trunc());
        }
        ports.sort_unstable();
        ports.dedup();
        networks.sort_unstable();
        networks.dedup();
        Ok(Self {
            enabled: true,
            idle_timeout: Some(idle),
            ignore_destination_ports: ports,
            ignore_source_cidrs: networks,
        })
    }

    /// Whether a connection from `source` to `port` keeps the instance awake.
    pub(crate) fn counts(&self, source: Ipv4Addr, port: u16) -> bool {
        !self.ignore_destination_ports.contains(&port)
            && !self
                .ignore_source_cidrs
                .iter()
                .any(|network| network.contains(&IpAddr::V4(source)))
    }
}

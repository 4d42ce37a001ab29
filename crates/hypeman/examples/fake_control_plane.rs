//! Tests code that wakes instances without a server: a [`ControlPlane`] of a few lines plays one.
//!
//! `cargo run --example fake_control_plane`

#![allow(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hypeman::wire::{AutoStandbyStatus, Instance, InstanceState, WaitOutcome};
use hypeman::{ControlPlane, Error, InstanceId, InstanceRef};

/// The code under test: whatever the state, the instance runs afterwards, or there is an error.
async fn wake(plane: &impl ControlPlane, name: &InstanceRef) -> Result<Instance, Error> {
    let instance = plane.get(name).await?;
    let id = InstanceId::parse(&instance.id).map_err(|error| Error::Decode {
        op: "get",
        reason: error.to_string(),
    })?;
    if instance.state == InstanceState::Standby {
        plane.restore(&id).await
    } else if instance.state == InstanceState::Stopped {
        plane.start(&id).await
    } else {
        Ok(instance)
    }
}

/// A server with one instance.
struct Fake {
    state: Mutex<InstanceState>,
}

impl Fake {
    fn new(state: InstanceState) -> Self {
        let state = Mutex::new(state);
        Self { state }
    }

    /// Goes from one state to another, or says that it cannot, as a server does.
    fn step(&self, op: &'static str, from: &InstanceState) -> Result<Instance, Error> {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if *state != *from && *state != InstanceState::Running {
                let message = format!("cannot {op} from state {state}");
                return Err(Error::api(op, 409, "invalid_state", message));
            }
            *state = InstanceState::Running;
        }
        self.instance()
    }

    fn instance(&self) -> Result<Instance, Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!(
            r#"{{"id":"tz4a98xxat96iws9zmbrgj3a","name":"web","image":"nginx",
                "state":"{state}","created_at":"2026-01-01T00:00:00Z"}}"#
        );
        serde_json::from_str(&text).map_err(|error| Error::Decode {
            op: "get",
            reason: error.to_string(),
        })
    }
}

impl ControlPlane for Fake {
    async fn get(&self, _: &InstanceRef) -> Result<Instance, Error> {
        self.instance()
    }

    async fn restore(&self, _: &InstanceId) -> Result<Instance, Error> {
        self.step("restore", &InstanceState::Standby)
    }

    async fn start(&self, _: &InstanceId) -> Result<Instance, Error> {
        self.step("start", &InstanceState::Stopped)
    }

    async fn wait(
        &self,
        _: &InstanceId,
        _: &InstanceState,
        _: Duration,
    ) -> Result<WaitOutcome, Error> {
        let state = self.instance()?.state;
        Ok(WaitOutcome {
            state,
            timed_out: false,
            state_error: None,
            other: hypeman::wire::Members::default(),
        })
    }

    async fn hold(&self, _: &InstanceId) -> Result<AutoStandbyStatus, Error> {
        // What a server that is too old for holds answers.
        Err(Error::api("hold", 404, "Not Found", ""))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let web: InstanceRef = "web".parse()?;
    for state in [
        InstanceState::Standby,
        InstanceState::Stopped,
        InstanceState::Running,
    ] {
        let fake = Fake::new(state.clone());
        let awake = wake(&fake, &web).await?;
        println!("from {state} to {}", awake.state);
        assert_eq!(awake.state, InstanceState::Running);
    }
    Ok(())
}

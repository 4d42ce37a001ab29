//! State directories to begin with: an empty one for processes, a copy of one with a VM that sleeps
//! for VMs, which take seconds to boot and none to copy.
//!
//! Guarantees: the VM is made once in a run of the tests, and one test at a time has its copy, since
//! a VM's address is in its memory.

use std::process::Command;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::plane::{Kind, Site};
use super::tracer::{Deed, Tracer};
use super::verbs::make_template;
use crate::support::eventually;
use crate::support::tools::{run, scratch};

static MADE: OnceCell<()> = OnceCell::const_new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A site, for as long as its turn lasts.
pub struct Turn {
    pub site: Site,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl std::ops::Deref for Turn {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
}

/// A state directory of its own.
pub async fn site(kind: Kind) -> Turn {
    let turn = match kind {
        Kind::Process => None,
        Kind::Vm => Some(ONE_AT_A_TIME.lock().await),
    };
    let site = Site::new(kind);
    if kind == Kind::Vm {
        MADE.get_or_init(make).await;
        let template = scratch("sleeping-vm");
        let mut copy = Command::new("cp");
        copy.args(["-a", "--sparse=always", "-T"])
            .arg(template)
            .arg(site.state_dir());
        run(&mut copy);
    }
    Turn { site, _turn: turn }
}

async fn make() {
    let site = Site::new(Kind::Vm);
    let plane = site.start().await;
    make_template(&plane).await;
    // The sleep is kept beside in the background.
    let state_dir = site.state_dir();
    let tracer = Tracer::attach(plane.pid(), &state_dir, Deed::Nothing).await;
    eventually("the last sleep is kept beside", async || {
        tracer.is_quiet_for(Duration::from_millis(500))
    })
    .await;
    plane.program.signal("KILL");
    drop((tracer, plane));
    let template = scratch("sleeping-vm");
    // Of an earlier run.
    let _none = std::fs::remove_dir_all(&template);
    let mut copy = Command::new("cp");
    run(copy
        .args(["-a", "--sparse=always", "-T"])
        .arg(&state_dir)
        .arg(&template));
}

//! The local control plane as a whole: its directory, its socket, its end.
//!
//! Guarantees: nothing is started before the socket and the directory are ours; its end finishes
//! the verbs that run, leaves instances running or stops them, as asked, and saves what it knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::api;
use crate::clock::Clock;
use crate::driver::{
    Accelerator, Driver, DriverEvent, ProcessDriver, QemuConfig, QemuDriver, detect_accelerator,
    set_up_bridge,
};
use crate::faults::FaultBox;
use crate::fleet::{Fleet, FleetEvents};
use crate::image::{Image, ImageError, ImageSource};
use crate::store::{Kind, Store, StoreError};

/// The longest that the end waits for answers to be sent when all verbs have ended.
const ANSWERS: Duration = Duration::from_millis(250);

/// What becomes of instances when their control plane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnExit {
    /// They go on, and the next control plane with this state directory takes them over.
    Keep,
    /// They are stopped.
    Stop,
}

/// What instances are: processes or virtual machines.
#[derive(Debug, Clone, Default)]
pub enum DriverChoice {
    /// Processes.
    #[default]
    Process,
    /// Virtual machines.
    Qemu(QemuOptions),
}

/// The settings of virtual machines.
#[derive(Debug, Clone, Default)]
pub struct QemuOptions {
    /// The emulator, instead of `qemu-system-x86_64`.
    pub qemu: Option<PathBuf>,
    /// A kernel, instead of the machine's newest.
    pub kernel: Option<PathBuf>,
    /// Its modules' directory, instead of `/lib/modules/<its version>`.
    pub modules: Option<PathBuf>,
    /// A file system, instead of busybox's commands.
    pub initrd: Option<PathBuf>,
    /// The processors that are used, instead of those that work best here.
    pub accelerator: Option<Accelerator>,
    /// Whether VMs may reach out.
    pub egress: bool,
    /// Whether VMs are on a bridge of this machine's, as a Hypeman server has them; needs root.
    pub bridged: bool,
    /// The number of emulators of each kind of VM that are started before they are needed; wakes
    /// are faster, and a process waits while VMs sleep.
    pub prestart: usize,
}

/// The settings of a local control plane.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The address of the API; port 0 takes a free one.
    pub address: SocketAddr,
    /// The directory that keeps the state of one control plane at a time.
    pub state_dir: PathBuf,
    /// Whether a bearer token is needed.
    pub auth: bool,
    /// This program: `<program> hello` is the image `wakegate/hello`, and `<program> session`
    /// starts every instance.
    pub hello: PathBuf,
    /// What becomes of instances at the end.
    pub on_exit: OnExit,
    /// Whether `/_test/faults` exists.
    pub allow_faults: bool,
    /// What instances are: processes or virtual machines.
    pub driver: DriverChoice,
}

/// Why the local control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The API's address cannot be listened at.
    #[error("cannot listen at {address}: {source}; choose another with `--api-listen`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The state directory cannot be used.
    #[error("{0}")]
    State(String),
    /// The image that VMs boot cannot be built.
    #[error("cannot build an image for VMs: {0}")]
    Image(#[from] ImageError),
    /// QEMU cannot be run.
    #[error("cannot run `{}`: {source}; install qemu-system-x86, or use the process driver", qemu.display())]
    Qemu {
        /// The program that was tried.
        qemu: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The bridge for VMs cannot be set up.
    #[error("cannot set up a bridge for VMs: {0}; it needs root, iproute2 and nftables")]
    Bridge(String),
    /// The server broke off.
    #[error("the local control plane broke off: {0}")]
    Serve(std::io::Error),
}

impl From<StoreError> for LocalError {
    fn from(error: StoreError) -> Self {
        Self::State(error.to_string())
    }
}

/// A local control plane that has its socket and its instances.
#[derive(Debug)]
pub struct LocalServer {
    listener: TcpListener,
    address: SocketAddr,
    fleet: Arc<Fleet>,
    router: Router,
    token: Option<String>,
    token_path: PathBuf,
    stop: CancellationToken,
    on_exit: OnExit,
}

// === impl LocalServer ===

impl LocalServer {
    /// Takes the socket and the directory, and takes over instances that still run.
    pub async fn bind(config: LocalConfig) -> Result<Self, LocalError> {
        Self::bind_with(config, Clock::system()).await
    }

    /// Does what [`LocalServer::bind`] does, with a clock of the caller's.
    pub async fn bind_with(config: LocalConfig, clock: Clock) -> Result<Self, LocalError> {
        let failed = |source| LocalError::Bind {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let store = Store::open(&config.state_dir)?;
        let state = |error: std::io::Error| {
            LocalError::State(format!(
                "cannot use {}: {error}",
                config.state_dir.display()
            ))
        };
        let token = config
            .auth
            .then(|| store.token())
            .transpose()
            .map_err(state)?;
        let token_path = store.token_path();
        let stop = CancellationToken::new();
        let faults = FaultBox::default();
        let (sender, events) = mpsc::channel(64);
        let tasks = TaskTracker::new();
        let driver = driver(
            &clock,
            config.driver,
            config.hello,
            &store,
            sender,
            &tasks,
            &faults,
        )
        .await?;
        let fleet = Fleet::load(
            clock,
            store,
            driver,
            events,
            tasks,
            faults.clone(),
            stop.clone(),
        )
        .await
        .map_err(state)?;
        let faults = config.allow_faults.then_some(faults);
        let router = api::routes(Arc::clone(&fleet), token.clone(), faults);
        let on_exit = config.on_exit;
        Ok(Self {
            listener,
            address,
            fleet,
            router,
            token,
            token_path,
            stop,
            on_exit,
        })
    }

    /// The address at which the API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bearer token, when one is needed.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The file that holds the token.
    pub fn token_path(&self) -> &std::path::Path {
        &self.token_path
    }

    /// The changes of instances' states from now on.
    pub fn events(&self) -> FleetEvents {
        self.fleet.events()
    }

    /// Serves until `shutdown`; then ends as configured.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), LocalError> {
        let served = axum::serve(self.listener, self.router)
            .with_graceful_shutdown(self.stop.clone().cancelled_owned())
            .into_future();
        let mut served = std::pin::pin!(served);
        let result = tokio::select! {
            result = &mut served => Some(result.map_err(LocalError::Serve)),
            () = shutdown => None,
        };
        self.stop.cancel();
        // Whoever asked for something hears what became of it.
        self.fleet.finish_verbs().await;
        // Waits and followed logs may go on for ever, so the end does not wait for them for long.
        if result.is_none() {
            let _cut = tokio::time::timeout(ANSWERS, served).await;
        }
        if self.on_exit == OnExit::Stop {
            self.fleet.stop_all().await;
        }
        // Afterwards, so that no sleep is written to the disk that nobody wants.
        self.fleet.driver.end().await;
        self.fleet.save_all().await;
        result.unwrap_or(Ok(()))
    }
}

/// Makes the driver; for VMs, also what they boot.
async fn driver(
    clock: &Clock,
    choice: DriverChoice,
    launcher: PathBuf,
    store: &Store,
    events: mpsc::Sender<DriverEvent>,
    tasks: &TaskTracker,
    faults: &FaultBox,
) -> Result<Driver, LocalError> {
    let DriverChoice::Qemu(options) = choice else {
        let (clock, tasks, root) = (clock.clone(), tasks.clone(), store.root().to_owned());
        let driver = ProcessDriver::new(clock, events, tasks, launcher, root);
        return Ok(Driver::Process(driver));
    };
    let qemu = options.qemu.unwrap_or_else(|| "qemu-system-x86_64".into());
    let version = tokio::process::Command::new(&qemu)
        .arg("--version")
        .output();
    if let Err(source) = version.await {
        return Err(LocalError::Qemu { qemu, source });
    }
    if options.bridged {
        let set_up = set_up_bridge().await;
        set_up.map_err(|error| LocalError::Bridge(error.to_string()))?;
    }
    let source = ImageSource {
        program: launcher.clone(),
        kernel: options.kernel,
        modules: options.modules,
        initrd: options.initrd,
    };
    let place = store.own("image");
    let building = tasks.spawn_blocking(move || Image::up_to_date(&place, &source));
    let broke = |_| LocalError::State("building the image broke off".to_owned());
    let mut config = QemuConfig {
        qemu,
        image: building.await.map_err(broke)??,
        accelerator: Accelerator::Tcg,
        egress: options.egress,
        bridged: options.bridged,
        launcher,
        instances: store.all(Kind::Instance),
        prestart: options.prestart,
    };
    config.accelerator = match options.accelerator {
        Some(accelerator) => accelerator,
        None => detect_accelerator(config.clone(), &store.own("accelerator.json")).await,
    };
    let driver = QemuDriver::new(clock.clone(), events, tasks.clone(), faults.clone(), config);
    Ok(Driver::Qemu(driver.await))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_state_directory_is_free_again_when_its_control_plane_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let config = LocalConfig {
            address: ([127, 0, 0, 1], 0).into(),
            state_dir: dir.path().to_owned(),
            auth: false,
            hello: "/nonexistent".into(),
            on_exit: OnExit::Keep,
            allow_faults: false,
            driver: DriverChoice::Process,
        };
        let server = LocalServer::bind(config.clone()).await.unwrap();
        let taken = LocalServer::bind(config.clone()).await.unwrap_err();
        assert!(matches!(taken, LocalError::State(_)), "{taken}");
        server.run(async {}).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = LocalServer::bind(config.clone()).await {
            assert!(Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

//! The local control plane as a whole: its directory, its socket, its end.
//!
//! Guarantees: nothing is started before the socket and the directory are ours; its end leaves
//! instances running or stops them, as asked, and saves what it knows.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::api;
use super::faults::FaultBox;
use super::fleet::{Fleet, FleetEvents};
use super::store::{Store, StoreError};

/// What becomes of instances when their control plane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They go on and are adopted by the next one, as VMs are.
    Keep,
    /// They end.
    Stop,
}

/// How to run a local control plane.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// Where the API listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// Where state is kept; one control plane at a time.
    pub state_dir: PathBuf,
    /// Whether a bearer token is needed.
    pub auth: bool,
    /// This program: `<program> hello` is the image `wakegate/hello`, and `<program> session` starts
    /// every instance.
    pub hello: PathBuf,
    /// What becomes of instances at the end.
    pub on_exit: OnExit,
    /// Whether `/_test/faults` exists.
    pub allow_faults: bool,
}

/// The local control plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The socket.
    #[error("cannot listen at {address}: {source}; choose another with `--api-listen`")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The directory.
    #[error("{0}")]
    State(String),
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
        let fleet = Fleet::load(store, config.hello, faults.clone(), stop.clone())
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

    /// Where the API listens.
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

    /// Changes of instances' states from now on.
    pub fn events(&self) -> FleetEvents {
        self.fleet.events()
    }

    /// Serves until `shutdown`; then ends as configured.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), LocalError> {
        let served = axum::serve(self.listener, self.router).into_future();
        // Waits and followed logs may go on for ever, so the end does not wait for them; verbs are
        // on the fleet's tracker and are not cut.
        let result = tokio::select! {
            result = served => result.map_err(LocalError::Serve),
            () = shutdown => Ok(()),
        };
        self.stop.cancel();
        if self.on_exit == OnExit::Stop {
            self.fleet.stop_all().await;
        }
        for instance in self.fleet.all() {
            let _verb = instance.lock.write().await;
            self.fleet.save_or_warn(&instance);
        }
        result
    }
}

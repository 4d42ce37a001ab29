//! The threads that serve clients, each with a runtime of its own.
//!
//! Guarantees: what a task of a worker spawns stays on its worker; a connection goes to the worker
//! that accepted it unless another one has fewer; no thread outlives its [`WorkerThreads`], unless
//! something blocks it for longer than the limit of their end.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle, available_parallelism};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

/// How long the end of the threads is waited for.
const END_LIMIT: Duration = Duration::from_secs(5);
/// So many tasks may run before new events are asked for: a turn of many connections is not cut into pieces.
const TURN: u32 = 256;
/// A worker hands a connection over when it has more than the least busy one, and this part of its
/// number: evening out the last few of many is worth no thread's wake.
const TOLERATED_PART: usize = 8;

thread_local! {
    /// The worker whose thread this is, and how many there are.
    static HERE: OnceCell<(Worker, usize)> = const { OnceCell::new() };
}

/// One worker. Cheap to clone.
#[derive(Clone)]
pub struct Worker(Arc<Shared>);

struct Shared {
    number: usize,
    runtime: Handle,
    seats: AtomicUsize,
}

/// All workers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Worker]>);

/// The owner of the workers' threads: they end when it is dropped.
#[derive(Debug)]
pub struct WorkerThreads {
    workers: Workers,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    /// Disconnected once every thread has ended its runtime.
    running: mpsc::Receiver<Infallible>,
}

/// A connection, as long as it counts among its worker's.
#[derive(Debug)]
pub struct Seat(Worker);

/// The number of this thread's worker, from 0 on; `None` on other threads.
pub fn here() -> Option<usize> {
    HERE.with(|here| here.get().map(|(worker, _)| worker.0.number))
}

/// How many workers there are, as far as this thread knows: 1 on a thread that is none of them.
pub fn count() -> usize {
    HERE.with(|here| here.get().map_or(1, |(_, count)| *count))
}

/// As many workers as there are processors for this process.
pub fn default_count() -> NonZeroUsize {
    available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

// === impl Worker ===

impl Worker {
    /// The runtime of its thread.
    pub fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// Whether both are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Counts one more connection until the seat is dropped.
    pub fn seat(&self) -> Seat {
        self.0.seats.fetch_add(1, Ordering::Relaxed);
        Seat(self.clone())
    }

    fn seats(&self) -> usize {
        self.0.seats.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Worker({}, {} seats)", self.0.number, self.seats())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.seats.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Workers ===

impl Workers {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Worker> {
        self.0.iter()
    }

    /// The worker for one more connection, which `accepting` has accepted: itself, unless another
    /// one has clearly fewer.
    pub fn place<'a>(&'a self, accepting: &'a Worker) -> &'a Worker {
        let (mut least, mut fewest) = (accepting, accepting.seats());
        let own = fewest;
        for worker in self.iter() {
            let seats = worker.seats();
            if seats < fewest {
                (least, fewest) = (worker, seats);
            }
        }
        match own <= fewest + fewest / TOLERATED_PART {
            true => accepting,
            false => least,
        }
    }
}

// === impl WorkerThreads ===

impl WorkerThreads {
    /// Starts so many of them.
    pub fn start(count: NonZeroUsize) -> io::Result<Self> {
        let runtimes = (0..count.get()).map(|_| {
            Builder::new_current_thread()
                .event_interval(TURN)
                .enable_all()
                .build()
        });
        let runtimes = runtimes.collect::<io::Result<Vec<_>>>()?;
        let workers = runtimes.iter().enumerate().map(|(number, runtime)| {
            Worker(Arc::new(Shared {
                number,
                runtime: runtime.handle().clone(),
                seats: AtomicUsize::new(0),
            }))
        });
        let workers = Workers(workers.collect());
        // Nothing is ever sent; the threads hold the other ends.
        let (alive, running) = mpsc::sync_channel(0);
        let mut started = Self {
            workers: workers.clone(),
            threads: Vec::new(),
            stop: CancellationToken::new(),
            running,
        };
        for (worker, runtime) in workers.iter().zip(runtimes) {
            let here = (worker.clone(), count.get());
            let (stop, alive) = (started.stop.clone(), alive.clone());
            let thread = thread::Builder::new().name(format!("wakegate-w{}", worker.0.number));
            let thread = thread.spawn(move || {
                run(here, runtime, &stop);
                drop(alive);
            });
            // Without it those before end, too: `started` is dropped.
            started.threads.push(thread?);
        }
        Ok(started)
    }

    /// The workers.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }
}

/// One thread's life.
fn run(here: (Worker, usize), runtime: Runtime, stop: &CancellationToken) {
    HERE.with(|place| {
        // A thread is one worker's.
        let _first = place.set(here);
    });
    runtime.block_on(stop.cancelled());
    // The tasks that are left are dropped on their own thread.
    drop(runtime);
}

impl Drop for WorkerThreads {
    /// Drops what still runs on the workers, and waits for their threads.
    fn drop(&mut self) {
        self.stop.cancel();
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.running.recv_timeout(END_LIMIT) {
            tracing::error!(limit = ?END_LIMIT, "a worker is blocked; its thread is left behind");
            return;
        }
        for thread in self.threads.drain(..) {
            // One that panicked has ended, too.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn start(count: usize) -> WorkerThreads {
        WorkerThreads::start(NonZeroUsize::new(count).unwrap()).unwrap()
    }

    /// Where a task of a worker runs, and a task that it spawns.
    async fn seen_by(worker: &Worker) -> [(Option<usize>, usize, String); 2] {
        let look = || {
            let name = thread::current().name().unwrap_or_default().to_owned();
            (here(), count(), name)
        };
        let (sender, receiver) = oneshot::channel();
        let tasks = tokio_util::task::TaskTracker::new();
        let inner = tasks.clone();
        let task = async move {
            let outer = look();
            let spawned = inner.spawn(async move { look() });
            sender.send([outer, spawned.await.unwrap()]).unwrap();
        };
        tasks.spawn_on(task, worker.runtime());
        receiver.await.unwrap()
    }

    #[tokio::test]
    async fn what_a_workers_task_spawns_stays_on_its_thread() {
        let threads = start(3);
        for (number, worker) in threads.workers().iter().enumerate() {
            let expected = (Some(number), 3, format!("wakegate-w{number}"));
            assert_eq!(seen_by(worker).await, [expected.clone(), expected]);
        }
        assert_eq!((here(), count()), (None, 1));
    }

    #[tokio::test]
    async fn a_connection_goes_to_who_accepted_it_unless_another_one_has_clearly_fewer() {
        let threads = start(2);
        let workers = threads.workers();
        let [first, second] = [0, 1].map(|number| &workers.0[number]);
        let mut seats = Vec::new();
        for _ in 0..1000 {
            seats.push(workers.place(first).seat());
        }
        let (own, others) = (first.seats(), second.seats());
        assert!(
            own >= others && own <= others + others / 8 + 1,
            "{own} {others}"
        );
        assert!(others > 400, "{own} {others}");
        seats.clear();
        assert_eq!((first.seats(), second.seats()), (0, 0));
        let _one = workers.place(second).seat();
        assert_eq!((first.seats(), second.seats()), (0, 1));
        let _other = workers.place(second).seat();
        assert_eq!((first.seats(), second.seats()), (1, 1));
    }

    #[test]
    fn the_end_drops_what_runs_on_its_own_thread_and_leaves_no_thread() {
        struct OnDrop(mpsc::Sender<Option<usize>>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.send(here()).unwrap();
            }
        }
        let threads = start(2);
        let tasks = tokio_util::task::TaskTracker::new();
        let (sender, dropped) = mpsc::channel();
        for worker in threads.workers().iter() {
            let guard = OnDrop(sender.clone());
            let endless = async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            };
            tasks.spawn_on(endless, worker.runtime());
        }
        drop(sender);
        drop(threads);
        let mut seen: Vec<_> = dropped.try_iter().collect();
        seen.sort_unstable();
        assert_eq!(seen, [Some(0), Some(1)]);
        assert!(tasks.is_empty());
    }
}

//! Where the programs of this driver listen, so that their addresses lead there.
//!
//! Guarantees: one look is for all instances; looks are milliseconds apart only while an awake
//! program has yet to listen at its port, later a second apart, and there is none while nobody is
//! awake. A listener counts by its address (the instance's private one, also mapped into IPv6), or
//! by its port (the instance's own) when it is a socket of the instance's processes. A port closes
//! when two looks in a row have not shown its listener, since one may miss a socket while others
//! come and go. A listener that is elsewhere is named in the instance's log.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::address_proxy::{AddressProxy, Targets};
use super::contract::DriverEvent;
use super::listeners::{self, Listener};
use super::procfs::{Members, sockets_of, sockets_of_marked};

/// The pauses between two looks: the shortest and the longest while a program comes up, and later.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);
const LATER: Duration = Duration::from_secs(1);
/// The time after which a program that does not listen is no longer looked at so often.
const COMING_UP: Duration = Duration::from_secs(10);
/// The time after which a program without its port is asked where else it listens.
const ELSEWHERE: Duration = Duration::from_secs(2);
/// The most lines that an instance's log gets of one start.
const NOTES: usize = 20;
/// Looks take at most one part in so many of a processor, also where the kernel is slow to answer.
const SHARE: u32 = 20;

/// The ports of all awake programs.
#[derive(Debug)]
pub(super) struct PortWatch {
    watched: DashMap<String, Arc<Watched>>,
    /// Somebody is to be looked at now.
    news: Arc<Notify>,
    events: mpsc::Sender<DriverEvent>,
}

/// One program whose ports are looked for.
#[derive(Debug)]
pub(super) struct Watched {
    id: String,
    address: Arc<AddressProxy>,
    /// The port that it learns as `PORT`.
    own_port: u16,
    members: Members,
    search: Mutex<Search>,
}

/// What looks have found out.
#[derive(Debug)]
struct Search {
    /// Whether the program listens at its port, and since when it is so.
    found: bool,
    since: Instant,
    /// The ports that the last look has not shown; they are open until the next one.
    missing: BTreeSet<u16>,
    /// The sockets that were looked at, and whether they are the program's.
    examined: HashMap<u64, bool>,
    /// What the instance's log has already.
    noted: BTreeSet<String>,
}

// === impl PortWatch ===

impl PortWatch {
    /// `events` hears what an instance's owner should know.
    pub(super) fn new(events: mpsc::Sender<DriverEvent>) -> Self {
        Self {
            watched: DashMap::new(),
            news: Arc::default(),
            events,
        }
    }

    /// Whom an address tells that a program has refused.
    pub(super) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// Follows the ports of a program that is awake from now on.
    pub(super) fn add(&self, watched: &Arc<Watched>) {
        {
            let mut search = watched.search();
            search.found = watched.is_found(&watched.address.targets());
            search.since = Instant::now();
            search.missing.clear();
        }
        self.watched.insert(watched.id.clone(), Arc::clone(watched));
        self.news.notify_one();
    }

    /// Leaves the ports of a program as they are.
    pub(super) fn remove(&self, id: &str) {
        self.watched.remove(id);
    }

    /// Looks for the ports of one program now, whether it is awake or not.
    pub(super) fn look_at(&self, watched: &Watched) {
        if let Ok(listeners) = listeners::read() {
            self.take_in(watched, &listeners);
        }
    }

    /// Looks for ports, for ever.
    pub(super) async fn run(self: Arc<Self>, tasks: TaskTracker) {
        let mut took = Duration::ZERO;
        loop {
            let least = took * SHARE;
            let pause = async {
                match self.pause() {
                    Some(pause) => sleep(pause.max(least)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.news.notified() => sleep(SHORTEST.max(least)).await,
            }
            let began = Instant::now();
            let watch = Arc::clone(&self);
            // A panic in it is in the log already; the next look comes.
            let _panic = tasks.spawn_blocking(move || watch.look()).await;
            took = began.elapsed().min(LATER / SHARE);
        }
    }

    /// The pause until the next look; `None` while nobody is awake.
    fn pause(&self) -> Option<Duration> {
        self.watched.iter().map(|watched| watched.pause()).min()
    }

    fn look(&self) {
        let all = self.watched.iter();
        let all: Vec<_> = all.map(|watched| Arc::clone(watched.value())).collect();
        match listeners::read() {
            Ok(listeners) => all.iter().for_each(|one| self.take_in(one, &listeners)),
            // What cannot be read now is read again at the next look.
            Err(error) => tracing::debug!(%error, "cannot look for listeners"),
        }
    }

    fn take_in(&self, watched: &Watched, listeners: &[Listener]) {
        let mut search = watched.search();
        let (mut targets, mut notes) = watched.targets(listeners, &mut search);
        watched.keep_missing(&mut targets, &mut search);
        let found = watched.is_found(&targets);
        if search.found != found {
            (search.found, search.since) = (found, Instant::now());
        }
        for (port, error) in watched.address.follow(targets) {
            let public = watched.address.public;
            notes.push(format!(
                "cannot listen at {public}:{port}: {error}; does something else on this machine \
                 listen at port {port} of every address?"
            ));
        }
        for text in notes {
            if search.noted.len() >= NOTES || search.noted.contains(&text) {
                continue;
            }
            let remark = DriverEvent::Remark(watched.id.clone(), text.clone());
            // With no room for it now, the next look says it.
            if self.events.try_send(remark).is_ok() {
                search.noted.insert(text);
            }
        }
    }
}

// === impl Watched ===

impl Watched {
    pub(super) fn new(
        id: String,
        address: Arc<AddressProxy>,
        own_port: u16,
        members: Members,
    ) -> Self {
        let search = Search {
            found: false,
            since: Instant::now(),
            missing: BTreeSet::new(),
            examined: HashMap::new(),
            noted: BTreeSet::new(),
        };
        Self {
            id,
            address,
            own_port,
            members,
            search: Mutex::new(search),
        }
    }

    fn search(&self) -> MutexGuard<'_, Search> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_found(&self, targets: &Targets) -> bool {
        targets.contains_key(&self.address.port)
    }

    fn pause(&self) -> Duration {
        let search = self.search();
        if !search.missing.is_empty() {
            return SHORTEST;
        }
        let passed = search.since.elapsed();
        match search.found || passed >= COMING_UP {
            true => LATER,
            false => (passed / 8).clamp(SHORTEST, LONGEST),
        }
    }

    /// Where the address' ports lead, by the listeners of this machine; and what is to be said of
    /// those that nobody is led to.
    fn targets(&self, listeners: &[Listener], search: &mut Search) -> (Targets, Vec<String>) {
        let private = IpAddr::from(self.address.private);
        let mut targets = Targets::new();
        let (own, others): (Vec<&Listener>, Vec<&Listener>) =
            listeners.iter().partition(|l| l.address == private);
        for listener in &own {
            let target = SocketAddr::new(private, listener.port);
            if listener.port == self.own_port {
                targets.insert(self.address.port, target);
            } else {
                targets.entry(listener.port).or_insert(target);
            }
        }
        if self.is_found(&targets) && own.iter().any(|l| l.port == self.own_port) {
            return (targets, Vec::new());
        }
        let (mut sockets, mut marked) = (None, None);
        let mut is_ours = |listener: &Listener| {
            let known = search.examined.get(&listener.inode).copied();
            // Whose a socket is may change until a program has come up; only where it matters, and
            // where there is hardly one, it is worth another look.
            if let Some(known) = known.filter(|ours| *ours || listener.port != self.own_port) {
                return known;
            }
            let sockets: &HashSet<u64> = sockets.get_or_insert_with(|| sockets_of(&self.members));
            let mut is_marked = || {
                let sockets: &HashSet<u64> =
                    marked.get_or_insert_with(|| sockets_of_marked(&self.members));
                sockets.contains(&listener.inode)
            };
            let ours = sockets.contains(&listener.inode) || is_marked();
            search.examined.insert(listener.inode, ours);
            ours
        };
        let at_own_port = |l: &&&Listener| l.port == self.own_port;
        if let Some(listener) = others.iter().filter(at_own_port).find(|l| is_ours(l)) {
            targets.insert(self.address.port, self.target(listener));
        }
        let mut notes = Vec::new();
        if !self.is_found(&targets) && search.since.elapsed() >= ELSEWHERE {
            let elsewhere = others
                .iter()
                .filter(|l| !is_of_instances(l.address) && is_ours(l));
            notes.extend(elsewhere.map(|listener| self.note(listener)));
        }
        let alive: HashSet<u64> = listeners.iter().map(|listener| listener.inode).collect();
        search.examined.retain(|inode, _| alive.contains(inode));
        (targets, notes)
    }

    /// Adds the ports that are open and that this look is the first not to show.
    fn keep_missing(&self, targets: &mut Targets, search: &mut Search) {
        let mut missing = self.address.targets();
        missing.retain(|port, _| !targets.contains_key(port) && !search.missing.contains(port));
        search.missing = missing.keys().copied().collect();
        targets.extend(missing);
    }

    /// How a listener at the own port is reached.
    fn target(&self, listener: &Listener) -> SocketAddr {
        let address = match listener.address.is_unspecified() {
            false => listener.address,
            true if listener.only_ipv6 => Ipv6Addr::LOCALHOST.into(),
            true => self.address.private.into(),
        };
        SocketAddr::new(address, listener.port)
    }

    fn note(&self, listener: &Listener) -> String {
        let at = match listener.address.is_unspecified() {
            true => format!("*:{}", listener.port),
            false => SocketAddr::new(listener.address, listener.port).to_string(),
        };
        let (own, public, port) = (self.own_port, self.address.public, self.address.port);
        format!(
            "the program listens at {at}, where nobody reaches it: {public}:{port} leads to $PORT, \
             which is {own}"
        )
    }
}

/// Whether an address is one that this or another control plane gives to an instance.
fn is_of_instances(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if matches!(address.octets(), [127, 77 | 78, ..]))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::clock::Clock;

    /// An open address before a listener of the test's own, and that as a look has it.
    async fn watched() -> (Arc<Watched>, TcpListener, Listener) {
        let address = AddressProxy::free(&Clock::system(), 8080, |_| false).unwrap();
        let address = Arc::new(address);
        address.open();
        let application = TcpListener::bind((address.private, 0)).await.unwrap();
        let listener = Listener {
            address: address.private.into(),
            port: application.local_addr().unwrap().port(),
            only_ipv6: false,
            inode: 1,
        };
        let members = Members {
            leader: i32::MAX,
            group: None,
            mark: String::new(),
        };
        let watched = Watched::new("one".to_owned(), address, listener.port, members);
        (Arc::new(watched), application, listener)
    }

    async fn is_open(watched: &Watched) -> bool {
        let address = &watched.address;
        TcpStream::connect((address.public, address.port))
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn a_port_closes_when_two_looks_in_a_row_have_not_shown_it_and_not_before() {
        let watch = PortWatch::new(mpsc::channel(1).0);
        let (watched, _application, there) = watched().await;
        watch.take_in(&watched, &[]);
        assert!(!is_open(&watched).await, "nobody has seen it yet");
        watch.take_in(&watched, &[there]);
        for round in 0..3 {
            assert!(is_open(&watched).await, "round {round}");
            watch.take_in(&watched, &[]);
            assert!(
                is_open(&watched).await,
                "round {round}: one look has missed it"
            );
            assert_eq!(watched.pause(), SHORTEST, "it is looked for again at once");
            watch.take_in(&watched, &[there]);
        }
        assert_eq!(watched.pause(), LATER);
        watch.take_in(&watched, &[]);
        watch.take_in(&watched, &[]);
        assert!(!is_open(&watched).await);
        watch.take_in(&watched, &[there]);
        assert!(is_open(&watched).await, "it has come back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_of_a_program_that_listens_here_and_there_has_an_end() {
        let (events, mut heard) = mpsc::channel(1000);
        let watch = PortWatch::new(events);
        let (watched, _application, mut listener) = watched().await;
        tokio::time::advance(ELSEWHERE).await;
        for number in 0..500 {
            listener.inode = 1000 + u64::from(number);
            listener.port = 20000 + number;
            listener.address = Ipv6Addr::LOCALHOST.into();
            watched.search().examined.insert(listener.inode, true);
            watch.take_in(&watched, &[listener]);
        }
        let mut lines = 0;
        while heard.try_recv().is_ok() {
            lines += 1;
        }
        assert_eq!(lines, NOTES);
    }
}

//! The addresses of instances on this machine, and who has which.
//!
//! Guarantees: an address that is held is given to nobody else, also while its instance sleeps and
//! nobody listens there: this process counts its own, and of all control planes of this machine
//! each takes whole blocks of addresses for itself, as long as there are any; one that was given
//! back is not given away again at once, so that whoever remembers it does not reach a stranger.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The two last bytes of an address.
pub(super) type Low = [u8; 2];

/// The time for which an address that was given back is left alone.
const REST: Duration = Duration::from_secs(60);
/// A block with more addresses in use than this is full.
const ROOM: usize = 200;
const ATTEMPTS: usize = 1000;

/// The addresses that this process knows of.
#[derive(Debug)]
struct Range {
    /// The blocks that are ours, by the first of the two bytes, and what keeps others out of them.
    blocks: BTreeMap<u8, UnixDatagram>,
    /// The number of those who hold an address: a memory that is being put in place of another has
    /// the same.
    held: BTreeMap<Low, usize>,
    /// What was given back, the oldest first.
    resting: VecDeque<(Low, Instant)>,
}

/// The range is the machine's, and so there is one for all control planes of this process.
static RANGE: Mutex<Range> = Mutex::new(Range {
    blocks: BTreeMap::new(),
    held: BTreeMap::new(),
    resting: VecDeque::new(),
});

/// An address that nobody else is given while this lives.
#[derive(Debug)]
pub(super) struct HeldAddress(Low);

fn range() -> MutexGuard<'static, Range> {
    RANGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address of an instance that clients see, and that of its program behind it.
pub(super) fn public_and_private([x, y]: Low) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(127, 77, x, y), Ipv4Addr::new(127, 78, x, y))
}

/// Takes a block, which is another's when this name is in use (unix(7), abstract addresses): a name
/// goes with its process, and belongs to a network namespace as the addresses do.
fn take_block(block: u8) -> io::Result<UnixDatagram> {
    let name = format!("wakegate-local/127.77.{block}.0");
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

// === impl Range ===

impl Range {
    fn hold(&mut self, low: Low) -> HeldAddress {
        *self.held.entry(low).or_default() += 1;
        HeldAddress(low)
    }

    fn is_in_use(&self, low: Low) -> bool {
        self.held.contains_key(&low) || self.resting.iter().any(|(other, _)| *other == low)
    }

    fn forget_rested(&mut self) {
        while let Some((_, since)) = self.resting.front()
            && since.elapsed() >= REST
        {
            self.resting.pop_front();
        }
    }

    fn has_room(&self, block: u8) -> bool {
        let resting = self.resting.iter().map(|(low, _)| low);
        let used = self.held.keys().chain(resting);
        used.filter(|[x, _]| *x == block).count() < ROOM
    }

    /// A block of ours with room for one more; `None` when every other is another's.
    fn block(&mut self) -> Option<u8> {
        let mut ours = self.blocks.keys().copied();
        if let Some(block) = ours.find(|block| self.has_room(*block)) {
            return Some(block);
        }
        let first = fastrand::u8(..);
        let all = (0..=u8::MAX).map(|step| first.wrapping_add(step));
        let mut new = all.filter(|block| !self.blocks.contains_key(block) && self.has_room(*block));
        let (block, name) = new.find_map(|block| Some((block, take_block(block).ok()?)))?;
        self.blocks.insert(block, name);
        Some(block)
    }
}

// === impl HeldAddress ===

impl HeldAddress {
    /// Holds the address that an instance has had already. Its block is ours from then on, unless
    /// another control plane has taken it meanwhile.
    pub(super) fn former(low: Low) -> Self {
        let mut range = range();
        let [block, _] = low;
        if !range.blocks.contains_key(&block)
            && let Ok(name) = take_block(block)
        {
            range.blocks.insert(block, name);
        }
        range.hold(low)
    }

    /// Holds an address at random that nobody has and that `is_free` holds for.
    pub(super) fn free(is_free: impl Fn(Low) -> bool) -> Option<Self> {
        let mut range = range();
        range.forget_rested();
        let block = range.block();
        let mut choices = (0..ATTEMPTS).map(|_| {
            let block = block.unwrap_or_else(|| fastrand::u8(..));
            [block, fastrand::u8(1..=254)]
        });
        let low = choices.find(|low| !range.is_in_use(*low) && is_free(*low))?;
        Some(range.hold(low))
    }

    pub(super) fn low(&self) -> Low {
        self.0
    }
}

impl Drop for HeldAddress {
    fn drop(&mut self) {
        let mut range = range();
        let holders = range.held.get_mut(&self.0).map(|number| {
            *number -= 1;
            *number
        });
        if holders == Some(0) {
            range.held.remove(&self.0);
            range.forget_rested();
            range.resting.push_back((self.0, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_held_once_and_rests_when_it_was_given_back() {
        let first = HeldAddress::free(|_| true).unwrap();
        let low = first.low();
        assert!(HeldAddress::free(|other| other == low).is_none(), "held");
        let again = HeldAddress::former(low);
        drop(first);
        assert!(range().held.contains_key(&low), "the other one holds it");
        drop(again);
        assert!(!range().held.contains_key(&low));
        assert!(
            HeldAddress::free(|other| other == low).is_none(),
            "it rests"
        );
    }

    #[test]
    fn an_address_is_in_a_block_that_is_ours_alone() {
        let held = HeldAddress::free(|_| true).unwrap();
        let [block, _] = held.low();
        let taken = take_block(block).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_block_of_another_control_plane_is_not_chosen_from_and_a_full_one_neither() {
        let mut range = Range {
            blocks: BTreeMap::new(),
            held: BTreeMap::new(),
            resting: VecDeque::new(),
        };
        let others: Vec<(u8, UnixDatagram)> = (0..=u8::MAX)
            .filter(|block| block % 2 == 0)
            .filter_map(|block| Some((block, take_block(block).ok()?)))
            .collect();
        let first = range.block().unwrap();
        assert!(others.iter().all(|(block, _)| *block != first));
        for y in 0..200 {
            range.held.insert([first, y], 1);
        }
        let second = range.block().unwrap();
        assert_ne!(second, first);
        assert!(others.iter().all(|(block, _)| *block != second));
    }
}

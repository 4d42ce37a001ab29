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

/// A range of addresses, the machine's, and so one for all control planes of this process.
#[derive(Debug)]
pub(super) struct AddressRange {
    /// The first two bytes of its addresses.
    subnet: [u8; 2],
    known: Mutex<Range>,
}

/// The addresses of a range that this process knows of.
#[derive(Debug)]
struct Range {
    subnet: [u8; 2],
    /// The blocks that are ours, by the first of the two bytes, and what keeps others out of them.
    blocks: BTreeMap<u8, UnixDatagram>,
    /// The number of those who hold an address: a memory that is being put in place of another has
    /// the same.
    held: BTreeMap<Low, usize>,
    /// What was given back, the oldest first.
    resting: VecDeque<(Low, Instant)>,
}

/// The first two bytes of every address on the bridge of VMs.
pub(super) const BRIDGE_SUBNET: [u8; 2] = [10, 177];

/// The addresses that clients of processes and of VMs with a network of their own see.
pub(super) static LOOPBACK: AddressRange = AddressRange::new([127, 77]);
/// The addresses of VMs on the bridge.
pub(super) static BRIDGED: AddressRange = AddressRange::new(BRIDGE_SUBNET);

/// An address that nobody else is given while this lives.
#[derive(Debug)]
pub(super) struct HeldAddress {
    range: &'static AddressRange,
    low: Low,
}

/// The address of an instance that clients see, and that of its program behind it.
pub(super) fn public_and_private([x, y]: Low) -> (Ipv4Addr, Ipv4Addr) {
    (Ipv4Addr::new(127, 77, x, y), Ipv4Addr::new(127, 78, x, y))
}

/// Takes a block, which is another's when this name is in use (unix(7), abstract addresses): a name
/// goes with its process, and belongs to a network namespace as the addresses do.
fn take_block([a, b]: [u8; 2], block: u8) -> io::Result<UnixDatagram> {
    let name = format!("wakegate-local/{a}.{b}.{block}.0");
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

// === impl AddressRange ===

impl AddressRange {
    const fn new(subnet: [u8; 2]) -> Self {
        Self {
            subnet,
            known: Mutex::new(Range::new(subnet)),
        }
    }

    fn known(&self) -> MutexGuard<'_, Range> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds the address that an instance has had already. Its block is ours from then on, unless
    /// another control plane has taken it meanwhile.
    pub(super) fn former(&'static self, low: Low) -> HeldAddress {
        let mut known = self.known();
        let [block, _] = low;
        if !known.blocks.contains_key(&block)
            && let Ok(name) = take_block(self.subnet, block)
        {
            known.blocks.insert(block, name);
        }
        known.hold(low);
        drop(known);
        HeldAddress { range: self, low }
    }

    /// Holds an address at random that nobody has and that `is_free` holds for.
    pub(super) fn free(&'static self, is_free: impl Fn(Low) -> bool) -> Option<HeldAddress> {
        let mut known = self.known();
        known.forget_rested();
        let block = known.block();
        let mut choices = (0..ATTEMPTS).map(|_| {
            let block = block.unwrap_or_else(|| fastrand::u8(..));
            [block, fastrand::u8(1..=254)]
        });
        let low = choices.find(|low| !known.is_in_use(*low) && is_free(*low))?;
        known.hold(low);
        drop(known);
        Some(HeldAddress { range: self, low })
    }
}

// === impl Range ===

impl Range {
    const fn new(subnet: [u8; 2]) -> Self {
        Self {
            subnet,
            blocks: BTreeMap::new(),
            held: BTreeMap::new(),
            resting: VecDeque::new(),
        }
    }

    fn hold(&mut self, low: Low) {
        *self.held.entry(low).or_default() += 1;
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
        let (block, name) =
            new.find_map(|block| Some((block, take_block(self.subnet, block).ok()?)))?;
        self.blocks.insert(block, name);
        Some(block)
    }
}

// === impl HeldAddress ===

impl HeldAddress {
    pub(super) fn low(&self) -> Low {
        self.low
    }
}

impl Drop for HeldAddress {
    fn drop(&mut self) {
        let mut known = self.range.known();
        let holders = known.held.get_mut(&self.low).map(|number| {
            *number -= 1;
            *number
        });
        if holders == Some(0) {
            known.held.remove(&self.low);
            known.forget_rested();
            known.resting.push_back((self.low, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_held_once_and_rests_when_it_was_given_back() {
        let first = LOOPBACK.free(|_| true).unwrap();
        let low = first.low();
        assert!(LOOPBACK.free(|other| other == low).is_none(), "held");
        let again = LOOPBACK.former(low);
        drop(first);
        assert!(
            LOOPBACK.known().held.contains_key(&low),
            "the other one holds it"
        );
        drop(again);
        assert!(!LOOPBACK.known().held.contains_key(&low));
        assert!(LOOPBACK.free(|other| other == low).is_none(), "it rests");
    }

    #[test]
    fn an_address_of_the_bridge_is_held_once_and_rests_as_well() {
        let held = BRIDGED.free(|_| true).unwrap();
        let low = held.low();
        assert!(BRIDGED.free(|other| other == low).is_none(), "held");
        drop(held);
        assert!(BRIDGED.free(|other| other == low).is_none(), "it rests");
    }

    #[test]
    fn an_address_is_in_a_block_that_is_ours_alone() {
        let held = LOOPBACK.free(|_| true).unwrap();
        let [block, _] = held.low();
        let taken = take_block(LOOPBACK.subnet, block).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_block_of_another_control_plane_is_not_chosen_from_and_a_full_one_neither() {
        let mut range = Range::new(LOOPBACK.subnet);
        let others: Vec<(u8, UnixDatagram)> = (0..=u8::MAX)
            .filter(|block| block % 2 == 0)
            .filter_map(|block| Some((block, take_block(LOOPBACK.subnet, block).ok()?)))
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

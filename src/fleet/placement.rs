//! Where an instance is, as far as the directory knows.
//!
//! Guarantees: an answer is of one revision of the directory; silence of a host is not absence: its
//! claims stand until it or an operator takes them back.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

/// What a member of the fleet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Beside a Hypeman: owns the wakes of its instances.
    Node,
    /// Meets clients and forwards to nodes.
    Front,
    /// Both in one process.
    Both,
}

/// A member's record (`h/{host}`, `g/{front}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the cell, as in its certificate's SAN `wakegate://CELL/ROLE/NAME`.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// `host:port` of its listener for peers; the first that can be reached is taken.
    pub endpoints: Vec<String>,
    /// The zone that it stands in.
    pub zone: Option<String>,
    /// SHA-256 of its certificate's public key (`SubjectPublicKeyInfo`), if the record says so.
    pub spki: Option<[u8; 32]>,
    /// Whether its record's lease lives.
    pub alive: bool,
    /// Whether it asks for no new work.
    pub draining: bool,
}

/// A host's claim of an instance's name (`i/{host}/{name}`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The instance's id at that host.
    pub id: String,
    /// The revision of the directory at which the claim was made: the fence, and who is older.
    pub generation: i64,
    /// Which of the host's control planes has it, by its name there; none for the first.
    pub plane: Option<Arc<str>>,
}

/// Where a name's instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this process' own control plane.
    Here,
    /// At another host.
    Peer {
        /// Its member record; `None` if it never published one.
        host: Arc<Member>,
        /// Its claim.
        claim: Claim,
    },
    /// At a host that has no member record that says where it is: 503 `host_unreachable`.
    Unreachable {
        /// The host's name.
        host: String,
    },
    /// Nobody claims the name: 404 `instance_not_found`.
    Unclaimed,
}

/// Whoever knows where instances are.
pub trait Placement: Debug + Send + Sync {
    /// From what is in memory; costs no question.
    fn place(&self, name: &str) -> Place;

    /// The same after the directory was read anew (linearizable), within a second or so; what is in
    /// memory if the directory does not answer.
    fn read_again<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Place>;

    /// Which of this host's own control planes has a name, as it is published; none for the first, and for
    /// what is not published.
    fn own_plane(&self, _name: &str) -> Option<Arc<str>> {
        None
    }

    /// A member by its name; a node rather than a front, where both have that name.
    fn member(&self, name: &str) -> Option<Arc<Member>>;

    /// A member by its name and by what its certificate says that it is.
    fn member_as(&self, _role: Role, name: &str) -> Option<Arc<Member>> {
        self.member(name)
    }

    /// The revision that answers are of.
    fn revision(&self) -> i64;
}

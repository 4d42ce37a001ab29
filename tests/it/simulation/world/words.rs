//! What the world has said, to which gateway, and what follows from that.
//!
//! Guarantees: a word counts from the moment in which its answer was given; only what the control
//! plane has really said excuses what a gateway does.

use std::net::IpAddr;
use std::time::Duration;

use hypeman::wire::{Instance as Answer, InstanceState};
use hypeman::{Error as ControlPlaneError, InstanceId};
use tokio::time::Instant;
use wakegate::wake::Endpoint;

use super::{Inner, VERIFY, View, World};

/// How long a word is the reason for a refusal: a look-up or an attempt that others began.
const MEMORY: Duration = Duration::from_secs(60);
/// How long an answer may lie beside the one that it is waited for with.
const BESIDE: Duration = Duration::from_millis(300);
/// How long a gateway may not have heard of a new name.
const UNHEARD: Duration = Duration::from_secs(60);

/// One answer, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Awake(IpAddr),
    /// A restore or a start has succeeded.
    Fresh,
    Standby,
    Stopped,
    Passing,
    Gone,
    Unknown,
    NoAddress,
    NoNetwork,
    BadAddress,
    Conflict,
    NoRoom,
    Unauthorized,
    Unreachable,
    Failed,
    Unreadable,
    /// A whole list does not have it.
    Unlisted,
    /// A restore or a start has begun.
    Begun,
    /// A restore or a start hangs: its gateway may find out that it was lost.
    Hung,
}

#[derive(Debug, Clone)]
pub(super) struct Said {
    at: Instant,
    gateway: usize,
    about: String,
    word: Word,
}

/// The name that a gateway was told last.
#[derive(Debug, Clone)]
pub(super) struct Told {
    name: String,
    asked_at: Instant,
    at: Instant,
}

impl From<&Answer> for Word {
    fn from(answer: &Answer) -> Self {
        match answer.state {
            InstanceState::Running | InstanceState::Initializing => {}
            InstanceState::Standby => return Self::Standby,
            InstanceState::Stopped => return Self::Stopped,
            InstanceState::Created | InstanceState::Paused | InstanceState::Shutdown => {
                return Self::Passing;
            }
            InstanceState::Unknown | InstanceState::Other(_) => return Self::Unknown,
        }
        address_word(answer)
    }
}

impl From<&ControlPlaneError> for Word {
    fn from(error: &ControlPlaneError) -> Self {
        match (error.status(), error.code()) {
            (Some(404), "not_found" | "ambiguous") => Self::Gone,
            (Some(409), "instance_in_standby") => Self::Standby,
            (Some(409), "insufficient_resources") => Self::NoRoom,
            (Some(409), _) => Self::Conflict,
            // Somebody else's word is not about the key.
            (Some(401 | 403), _) if error.is_from_api() => Self::Unauthorized,
            (Some(_), _) => Self::Failed,
            (None, _) if matches!(error, ControlPlaneError::Decode { .. }) => Self::Unreadable,
            (None, _) => Self::Unreachable,
        }
    }
}

fn address_word(answer: &Answer) -> Word {
    let Some(network) = &answer.network else {
        return Word::NoNetwork;
    };
    match network.ip.as_deref().map(str::parse) {
        _ if network.enabled == Some(false) => Word::NoNetwork,
        Some(Ok(IpAddr::V4(ip))) if ip.is_unspecified() || ip.is_link_local() => Word::BadAddress,
        Some(Ok(ip)) => Word::Awake(ip),
        None | Some(Err(_)) => Word::NoAddress,
    }
}

impl Inner {
    pub(super) fn say(&mut self, gateway: usize, about: &str, word: Word) {
        let (at, about) = (Instant::now(), about.to_owned());
        self.said.push(Said {
            at,
            gateway,
            about,
            word,
        });
    }

    /// An answer to a question about `asked` that was asked at `asked_at`.
    pub(super) fn say_answer(
        &mut self,
        gateway: usize,
        asked: &str,
        answer: &Result<Answer, ControlPlaneError>,
        asked_at: Instant,
    ) {
        // Such a look is for the restore alone, and tells no name.
        let restoring = self.restoring.get(&(gateway, asked.to_owned()));
        let is_beside_a_restore = restoring.is_some_and(|count| *count > 0);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.code() == "ambiguous" => {
                return self.say(gateway, asked, Word::Gone);
            }
            Err(error) => return self.say(gateway, asked, error.into()),
        };
        if answer.id != asked && answer.name != asked {
            return self.say(gateway, asked, Word::Gone);
        }
        if answer.id != asked {
            // As a name it means this one; as an id it is nobody's.
            if self.called.contains_key(asked) {
                self.say(gateway, asked, Word::Gone);
            }
        }
        // Where it cannot be reached, that is a reason before it is awake.
        let address = address_word(answer);
        if !matches!(address, Word::Awake(_)) {
            self.say(gateway, asked, address);
        }
        self.say(gateway, asked, answer.into());
        // A look-up that finds what nobody can reach knows nothing of it, either.
        if is_beside_a_restore || matches!(address, Word::NoNetwork | Word::BadAddress) {
            return;
        }
        self.note_name(gateway, &answer.id, &answer.name, asked_at);
    }

    pub(super) fn note_name(&mut self, gateway: usize, id: &str, name: &str, asked_at: Instant) {
        let at = Instant::now();
        let key = (gateway, id.to_owned());
        match self.told.get_mut(&key) {
            Some(told) if told.asked_at > asked_at => {}
            Some(told) if told.name == name => told.asked_at = asked_at,
            Some(_) | None => {
                let name = name.to_owned();
                self.told.insert(key, Told { name, asked_at, at });
            }
        }
    }

    /// Whether a request for `name`, which came at `began`, may be at the instance of this id.
    pub(super) fn may_reach(
        &mut self,
        gateway: usize,
        id: &str,
        name: &str,
        began: Instant,
    ) -> Result<(), String> {
        if id == name {
            return Ok(());
        }
        let called = self.called.get(id).cloned().unwrap_or_default();
        if called.last().is_some_and(|(last, _)| last == name) {
            return Ok(());
        }
        let Some(was) = called.iter().rposition(|(former, _)| former == name) else {
            return Err("it never had this name".to_owned());
        };
        let renamed_at = called[was + 1].1;
        let told = self.told.get(&(gateway, id.to_owned()));
        if told.is_some_and(|told| {
            told.name != name && told.asked_at > renamed_at && told.at + BESIDE < began
        }) {
            return Err("the gateway knows its new name".to_owned());
        }
        match began > renamed_at + UNHEARD && self.troubles == super::Troubles::default() {
            true => Err("it has been called otherwise for long".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether what was asked about as `about` was called `name` at a time.
    fn is_named(&self, about: &str, name: &str, at: Instant) -> bool {
        let called = self.called.get(about).into_iter().flatten();
        let last = called.take_while(|(_, since)| *since <= at).last();
        last.map_or(about, |(last, _)| last) == name
    }

    /// What a request for `name` can be about: the name and the ids that had it.
    fn keys(&self, name: &str) -> Vec<String> {
        let had = |called: &Vec<(String, Instant)>| called.iter().any(|(was, _)| was == name);
        let ids = self.called.iter().filter(|(_, called)| had(called));
        let ids = ids.map(|(id, _)| id.clone());
        ids.chain([name.to_owned()]).collect()
    }
}

impl View {
    /// Whether one of these words was said about what `name` means, since shortly before `began`.
    pub fn was_told(&self, name: &str, began: Instant, words: &[Word]) -> bool {
        let inner = self.world.lock();
        let keys = inner.keys(name);
        let recent = inner.said.iter().rev();
        let mut recent = recent.take_while(|said| said.at + MEMORY >= began);
        recent.any(|said| {
            said.gateway == self.gateway && words.contains(&said.word) && keys.contains(&said.about)
        })
    }

    /// The number of restores and starts of others since shortly before `began`. One that had
    /// another name by then is another, whatever it was called before.
    pub fn others_began(&self, name: &str, began: Instant) -> usize {
        let inner = self.world.lock();
        let recent = inner.said.iter().rev();
        let recent = recent.take_while(|said| said.at + MEMORY >= began);
        let others = recent.filter(|said| {
            said.gateway == self.gateway
                && said.word == Word::Begun
                && !inner.is_named(&said.about, name, said.at)
        });
        others.count()
    }

    /// Whether `id` has ever been what `name` means.
    pub fn is_about(&self, id: &InstanceId, name: &str) -> bool {
        let inner = self.world.lock();
        inner.keys(name).iter().any(|key| key == id.as_str())
    }

    /// An endpoint is of use from now on.
    pub fn note_epoch(&self, endpoint: &Endpoint) {
        let mut inner = self.world.lock();
        let key = (self.gateway, endpoint.epoch());
        inner.epochs.entry(key).or_insert_with(Instant::now);
    }

    /// Something open was cut: was it said to this gateway that the instance is not there?
    pub fn check_cut(&self, endpoint: &Endpoint) {
        let mut inner = self.world.lock();
        let (id, now) = (endpoint.instance().as_str(), Instant::now());
        let epoch = inner.epochs.get(&(self.gateway, endpoint.epoch()));
        let since = epoch.copied().unwrap_or(now);
        let mut is_due = false;
        for said in inner.said.iter().rev() {
            if said.at + BESIDE < since {
                break;
            }
            if said.gateway != self.gateway || said.about != id {
                continue;
            }
            let is_before = said.at <= since;
            match said.word {
                // Whatever was said before it is of another time.
                Word::Fresh if is_before => break,
                Word::Awake(ip) if ip == endpoint.ip() => {}
                Word::Awake(_)
                | Word::Fresh
                | Word::Standby
                | Word::Stopped
                | Word::Passing
                | Word::Gone => is_due = true,
                _ => {}
            }
        }
        if !is_due {
            inner.wrong(format!("{id} was cut, and nobody had said why"));
        }
    }
}

impl World {
    /// Whether an address has been another's for so long that nobody may be sent there.
    pub(super) fn long_since(at: Instant) -> bool {
        at.elapsed() > VERIFY
    }
}

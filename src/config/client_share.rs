//! How much of a bounded number of places one client's network may take.
//!
//! Guarantees: clients together never take more than there is; a client that has its share leaves
//! something for a client that has nothing; a client alone can take at least three quarters.
//!
//! The rule of `"half"`, for a bound of N places: ⌈N/2⌉ of them are free for all, and nobody counts
//! whose they are. Each of the others is counted to its client, and a client may take one more only
//! while it has fewer of them than are left. So one client alone gets at most ⌈N/2⌉ + ⌈⌊N/2⌋/2⌉
//! places; a second one then half of what is left, a third half of that.

use std::fmt;
use std::num::NonZeroUsize;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

/// One client network's share of a bounded number of places: `"half"`, or a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientShare {
    /// At most half of what is left, once half is taken.
    #[default]
    Half,
    /// Never more than so many. As many as there are places switches the share off.
    Most(NonZeroUsize),
}

// === impl ClientShare ===

impl ClientShare {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "half" => Ok(Self::Half),
            _ => text.replace('_', "").parse().map(Self::Most).map_err(|_| {
                format!("`{text}` is neither \"half\" nor a whole number of at least 1")
            }),
        }
    }

    /// While fewer than so many of `limit` places are taken, of which `counted` are counted to
    /// clients, the next is free for all.
    #[inline]
    pub fn free_for_all(self, limit: usize, counted: usize) -> usize {
        match self {
            Self::Half => limit.div_ceil(2) + counted,
            Self::Most(most) if most.get() >= limit => limit,
            Self::Most(_) => 0,
        }
    }

    /// Whether a client to whom `of_client` of `limit` places are counted may have `amount` more
    /// counted, when `counted` are in all.
    pub fn allows(self, limit: usize, of_client: usize, counted: usize, amount: usize) -> bool {
        match self {
            Self::Half => {
                let left = (limit / 2).saturating_sub(counted);
                // Afterwards it has no more than then are left; the odd one is its own.
                let after = of_client.saturating_add(amount);
                amount == 0 || after.saturating_add(amount - 1) <= left
            }
            Self::Most(most) => of_client.saturating_add(amount) <= most.get(),
        }
    }
}

impl fmt::Display for ClientShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Half => f.write_str("half"),
            Self::Most(most) => most.fmt(f),
        }
    }
}

impl Serialize for ClientShare {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Half => serializer.serialize_str("half"),
            Self::Most(most) => most.serialize(serializer),
        }
    }
}

#[cfg(test)]
impl JsonSchema for ClientShare {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClientShare".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "const": "half", "description": "At most half of what is left, once half is taken" },
            { "type": "integer", "minimum": 1 },
        ]})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Takes one place; `None` when there is none for this client, else whether it was counted.
    fn take(
        (share, limit): (ClientShare, usize),
        taken: usize,
        counts: &mut BTreeMap<u8, usize>,
        client: u8,
    ) -> Option<bool> {
        if taken >= limit {
            return None;
        }
        let counted = counts.values().sum();
        if taken < share.free_for_all(limit, counted) {
            return Some(false);
        }
        let of_client = counts.entry(client).or_default();
        share.allows(limit, *of_client, counted, 1).then(|| {
            *of_client += 1;
            true
        })
    }

    /// How many places each of these clients gets that takes all that it can, one after the other.
    fn greedy(share: ClientShare, limit: usize, clients: u8) -> Vec<usize> {
        let (mut taken, mut counts) = (0, BTreeMap::new());
        let all = (0..clients).map(|client| {
            let before = taken;
            while take((share, limit), taken, &mut counts, client).is_some() {
                taken += 1;
            }
            taken - before
        });
        all.collect()
    }

    #[test]
    fn each_client_leaves_half_of_what_it_found_beyond_the_first_half() {
        assert_eq!(greedy(ClientShare::Half, 1000, 4), [750, 125, 63, 31]);
        assert_eq!(greedy(ClientShare::Half, 16, 4), [12, 2, 1, 1]);
        // Where there is little, the odd place is not left empty.
        let alone = [1, 2, 3, 4, 5].map(|limit| greedy(ClientShare::Half, limit, 1)[0]);
        assert_eq!(alone, [1, 2, 3, 3, 4]);
        let most = ClientShare::parse("20").unwrap();
        assert_eq!(greedy(most, 50, 4), [20, 20, 10, 0]);
        assert_eq!(greedy(most, 20, 2), [20, 0]);
    }

    #[test]
    fn a_share_prints_as_it_is_read() {
        for text in ["half", "1", "1000"] {
            assert_eq!(ClientShare::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "0", "-1", "Half", "50%", "1.5"] {
            assert!(ClientShare::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_limit_is_passed_and_no_client_takes_the_last_that_others_could_have(
            limit in 1_usize..60,
            most in prop::option::of(1_usize..70),
            steps in prop::collection::vec((0_u8..4, any::<bool>(), any::<usize>()), 0..200),
        ) {
            let most = most.and_then(NonZeroUsize::new);
            let share = most.map_or(ClientShare::Half, ClientShare::Most);
            let mut places: Vec<(u8, bool)> = Vec::new();
            let mut counts = BTreeMap::new();
            for (client, enter, which) in steps {
                if enter {
                    let counted = take((share, limit), places.len(), &mut counts, client);
                    places.extend(counted.map(|counted| (client, counted)));
                    let (all, own) = (counts.values().sum::<usize>(), counts.get(&client).copied().unwrap_or_default());
                    match share {
                        ClientShare::Most(most) => prop_assert!(own <= most.get()),
                        ClientShare::Half if counted == Some(true) => {
                            let others = all - own;
                            prop_assert!(own <= (limit / 2 - others).div_ceil(2));
                        }
                        ClientShare::Half => {}
                    }
                } else if !places.is_empty() {
                    let (client, counted) = places.swap_remove(which % places.len());
                    if counted {
                        *counts.entry(client).or_default() -= 1;
                    }
                }
                prop_assert!(places.len() <= limit);
                // Whoever has nothing gets in while anything is left.
                let newcomer = take((share, limit), places.len(), &mut counts.clone(), 99);
                prop_assert_eq!(newcomer.is_some(), places.len() < limit);
            }
        }
    }
}

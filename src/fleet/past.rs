//! Whether the directory still has the past that is known of it.
//!
//! Guarantees: an engine that was restored from a backup is noticed by whoever knew more of it, also once it has come
//! as far again and nodes have written what they had written before; where that cannot be told, it is said to be so.

use super::directory::Directory;
use super::engine::{Compare, Engine, EngineError, Operation, read_one, remembers, stands};
use super::records::{Key, PastRecord, read, write};

/// As many tokens of earlier pasts are kept.
const TOKENS: usize = 16;

/// What an engine's past is, beside what is known of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// It has what is known, as far as can be told.
    Same,
    /// It does not: it is another cluster, or was restored from a backup.
    Other,
    /// It has forgotten whether it had the changes that are known, or somebody has found that it went back.
    Unknown,
}

/// Whether the engine is still the one that is known: no other cluster, as far as it was, with what is known of the
/// last changes. One that was restored from a backup may lack few changes, and have made others since.
pub(super) async fn past(directory: &Directory, engine: &dyn Engine) -> Result<Past, EngineError> {
    // More may become known while the engine answers.
    let (changes, known, token) = (
        directory.last_changes(),
        directory.known(),
        directory.past(),
    );
    let known = changes
        .last()
        .map_or(known, |last| known.max(last.revision));
    let page = stands(engine, &Key::Past.text()).await?;
    if page.revision < known || directory.is_other(page.cluster) {
        return Ok(Past::Other);
    }
    let there = page.entries.into_iter().next().map(|entry| entry.value);
    let mut past = match there == token {
        true => Past::Same,
        false => Past::Unknown,
    };
    // The last one is the least that another past has had.
    for change in changes.iter().rev() {
        match remembers(engine, change).await {
            Ok(true) => {}
            Ok(false) => return Ok(Past::Other),
            Err(EngineError::Compacted(_)) => past = Past::Unknown,
            Err(error) => return Err(error),
        }
    }
    Ok(past)
}

/// Gives an engine that went back another token, unless somebody has done so: nodes will write again what was lost,
/// perhaps at the revisions of before, and then changes alone would not tell what else there was.
pub(super) async fn renew(directory: &Directory, engine: &dyn Engine) -> Result<(), EngineError> {
    if !directory.is_known() || past(directory, engine).await? != Past::Other {
        return Ok(());
    }
    let key = Key::Past.text();
    let there = read_one(engine, &key).await?.0;
    let record = |value: &Vec<u8>| read::<PastRecord>(value).unwrap_or_default();
    let known = directory.past().as_ref().map(record).unwrap_or_default();
    let stored = there.as_ref().map(|entry| record(&entry.value).token);
    let is_of_before = stored.is_none_or(|it| it == known.token || known.before.contains(&it));
    if !is_of_before {
        return Ok(());
    }
    let tokens = std::iter::once(known.token).chain(known.before);
    let next = PastRecord {
        token: format!("{:032x}", fastrand::u128(..)),
        before: tokens
            .filter(|token| !token.is_empty())
            .take(TOKENS)
            .collect(),
    };
    let compare = Compare::unchanged(&key, there.map(|entry| entry.modified));
    let put = Operation::Put {
        key,
        value: write(&next),
        lease: 0,
    };
    // Of several members one is the first.
    engine.commit(vec![compare], vec![put]).await?;
    Ok(())
}

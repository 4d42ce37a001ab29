//! The account at the CA, and one order from its beginning to its certificate.
//!
//! Guarantees: an account is made once for a directory and a CA, whichever gateway does it and whenever it
//! is killed, and again
//! only when its file is damaged or the CA does not know it any more; a challenge has its answer before
//! the CA is told to look; no order begins without room for its certificate; what went wrong is told in
//! the CA's own words where it has some.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    Identifier, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::Deserialize;
use tokio::time::sleep;

use super::chains;
use super::http_client::{HttpClient, other_chains};
use super::new_account::{AccountKey, Binding, find_or_make};
use super::shelf::NameLock;
use super::store::AcmeStore;
use crate::config::{AcmeChallenge, AcmeConfig};

/// How long a CA may take to look at a challenge, and to issue a certificate.
const POLLS: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(180));
/// The lock that makes an account; no host has such a name.
const ACCOUNT_LOCK: &str = "account_";
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// A certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub(super) enum OrderError {
    /// The CA, or the way to it.
    #[error("{}", told(.0))]
    Ca(#[from] Error),
    /// The CA has looked at the challenge and was not content.
    #[error("{0}")]
    Refused(String),
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file, or the directory that it is in.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// What is kept.
    #[error("{place}: {source}")]
    Kept {
        /// Where.
        place: String,
        /// What happened there.
        source: std::io::Error,
    },
    /// A key or a request could not be made.
    #[error("no key or request could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The client of the CA.
    #[error("the CA cannot be called: {0}")]
    Client(#[from] reqwest::Error),
}

/// What an error of the library says.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not told in words of ours is told in the library's"
)]
fn told(error: &Error) -> String {
    match error {
        Error::Json(error) => format!("the CA's answer is not what it should be: {error}"),
        Error::Timeout(_) => "the CA was not done in time".to_owned(),
        Error::Str(what) => format!("the CA's answer is not what it should be: {what}"),
        other => other.to_string(),
    }
}

// === impl OrderError ===

impl OrderError {
    /// What happened to a file, or in a directory.
    pub(super) fn of(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        Self::File { path, source }
    }

    /// What happened to what is kept.
    pub(super) fn kept(store: &AcmeStore, source: std::io::Error) -> Self {
        let place = store.shelf.place("");
        Self::Kept { place, source }
    }

    /// Whether the CA does not know the account.
    pub(super) fn is_of_unknown_account(&self) -> bool {
        matches!(self, Self::Ca(Error::Api(problem)) if is_kind(problem, "accountDoesNotExist"))
    }
}

/// What is looked at of an account's file.
#[derive(Deserialize)]
struct Kept {
    id: String,
    directory: Option<String>,
}

/// The account that is kept in the directory, unless it is the one that has `gone`.
fn kept_account(
    config: &AcmeConfig,
    text: &[u8],
    gone: Option<&str>,
) -> Option<AccountCredentials> {
    let read = serde_json::from_slice::<Kept>(text);
    let read = read.and_then(|kept| Ok((kept, serde_json::from_slice(text)?)));
    let (kept, credentials) = read
        .inspect_err(|error| {
            tracing::warn!(%error, "the ACME account cannot be read; another is made");
        })
        .ok()?;
    let is_gone = gone == Some(&kept.id);
    if is_gone {
        tracing::warn!(account = %kept.id, "the CA does not know the ACME account; another is made");
    }
    // Directories of two CAs may have the same name for a file.
    let is_ours = kept.directory.as_ref() == Some(&config.directory);
    (is_ours && !is_gone).then_some(credentials)
}

/// The account in the directory, or a new one, since the CA knows none that has `gone`.
pub(super) async fn account(
    config: &AcmeConfig,
    store: &AcmeStore,
    gone: Option<&str>,
) -> Result<Account, OrderError> {
    let in_store = |error| OrderError::kept(store, error);
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| OrderError::of(path, error));
    let roots = config.ca.as_ref().map(read).transpose()?;
    let http = HttpClient::new(roots.as_deref())?;
    let restored = |credentials| {
        let builder = Account::builder_with_http(Box::new(http.clone()));
        builder.from_credentials(credentials)
    };
    let _lock: NameLock = loop {
        match store.try_lock(ACCOUNT_LOCK).await.map_err(in_store)? {
            Some(lock) => break lock,
            None => sleep(LOCK_PAUSE).await,
        }
    };
    let text = store.account(&config.directory).map_err(in_store)?;
    if let Some(credentials) = text.and_then(|text| kept_account(config, &text, gone)) {
        match restored(credentials).await {
            Err(error @ (Error::KeyRejected | Error::Crypto)) => {
                tracing::warn!(%error, "the ACME account's key cannot be used; another is made");
            }
            account => return Ok(account?),
        }
    }
    let eab = config.eab.as_ref().map(|eab| {
        let text = read(&eab.key_file)?;
        let text = String::from_utf8_lossy(&text);
        let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
        let wrong = |_| std::io::Error::other("the key of `acme.eab` is not base64url");
        let key = key.map_err(|error| OrderError::of(&eab.key_file, wrong(error)))?;
        let kid = eab.kid.clone();
        Ok::<_, OrderError>(Binding { kid, key })
    });
    let eab = eab.transpose()?;
    let directory = &config.directory;
    // Whoever had it may have been killed before it heard of its account.
    let kept = store.account_key(directory).map_err(in_store)?;
    let kept = kept.and_then(|text| AccountKey::read(&text));
    let may_be_there = kept.is_some();
    let key = match kept {
        Some(key) => key,
        None => {
            let key = AccountKey::generate()?;
            let saved = store.save_account_key(directory, &key.text()).await;
            saved.map_err(in_store)?;
            key
        }
    };
    let of = (&config.contact[..], eab.as_ref());
    let id = find_or_make(&http, directory, &key, of, may_be_there).await?;
    let text = key.credentials(&id, directory);
    let saved = store.save_account(directory, &text);
    saved.await.map_err(in_store)?;
    if let Err(error) = store.forget_account_key(directory).await {
        tracing::warn!(%error, "the key of the ACME account is kept twice");
    }
    tracing::info!(directory, "a new ACME account");
    let credentials = serde_json::from_slice(&text).map_err(Error::from)?;
    Ok(restored(credentials).await?)
}

/// Orders a certificate and keeps it. `replaces` is the one of before, where the CA wants to know.
pub(super) async fn order(
    config: &AcmeConfig,
    store: &AcmeStore,
    account: &Account,
    (name, lock): (&str, &NameLock),
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<(), OrderError> {
    let in_store = |error| OrderError::kept(store, error);
    let room = store.make_room(name).map_err(in_store)?;
    let identifiers = [Identifier::Dns(name.to_owned())];
    let new = || {
        let new = NewOrder::new(&identifiers);
        match &config.profile {
            Some(profile) => new.profile(profile),
            None => new,
        }
    };
    let is_replaced = replaces.is_some();
    let made = match replaces {
        Some(replaces) => account.new_order(&new().replaces(replaces)).await,
        None => account.new_order(&new()).await,
    };
    let mut order = match made {
        // It has been replaced by an order whose certificate was lost, or is another account's; or
        // this CA knows no replacing.
        Err(error) if is_replaced && !is_rate_limit(&error) => account.new_order(&new()).await?,
        made => made?,
    };
    let kind = match config.challenge {
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http01 => ChallengeType::Http01,
    };
    // They are answered until the order is over.
    let mut open = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization.challenge(kind.clone()).ok_or_else(|| {
            OrderError::Refused(format!("the CA offers no challenge `{}`", config.challenge))
        })?;
        let text = challenge.key_authorization();
        let set = store.set_challenge(name, lock, &challenge.token, text.as_str());
        open.push(set.await.map_err(in_store)?);
        challenge.set_ready().await?;
    }
    let polled = order.poll_ready(&POLLS).await;
    if !matches!(polled, Ok(OrderStatus::Ready | OrderStatus::Valid)) {
        let told = refusal(&mut order).await;
        polled?;
        let told = told.unwrap_or_else(|| "the CA calls the order invalid".to_owned());
        return Err(OrderError::Refused(told));
    }
    drop(open);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key)?;
    order.finalize_csr(request.der()).await?;
    let mut chain = order.poll_certificate(&POLLS).await?;
    if let Some(root) = &config.preferred_chain {
        chain = chains::choose(account, chain, root, &other_chains()).await;
    }
    drop(room);
    let key = key.serialize_pem();
    let saved = store.save(name, &key, &chain);
    saved.await.map_err(in_store)?.map_err(OrderError::Refused)
}

/// Whether a problem is of a kind of RFC 8555 §6.7.
fn is_kind(problem: &Problem, kind: &str) -> bool {
    let told = problem.r#type.as_deref().unwrap_or_default();
    told.rsplit_once(':').is_some_and(|(_, told)| told == kind)
}

fn is_rate_limit(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if is_kind(problem, "rateLimited"))
}

/// What the CA says of a challenge that failed.
async fn refusal(order: &mut Order) -> Option<String> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.ok()?;
        let state = authorization.refresh().await.ok()?;
        let told = state.challenges.iter().find_map(|one| one.error.as_ref());
        if let Some(problem) = told {
            return Some(problem.to_string());
        }
    }
    None
}

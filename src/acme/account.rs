//! The account at the CA, and one order from its beginning to its certificate.
//!
//! Guarantees: an account is made once for a directory and a CA, whichever gateway does it; a
//! challenge has its answer before the CA is told to look; what went wrong is told in the CA's own
//! words where it has some.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error,
    ExternalAccountKey, Identifier, NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::sleep;

use super::http_client::{HttpClient, RetryAfter};
use super::store::{AcmeStore, NameLock};
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
    #[error("{0}")]
    Ca(#[from] Error),
    /// The CA has looked at the challenge and was not content.
    #[error("{0}")]
    Refused(String),
    /// A file.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// A key or a request could not be made.
    #[error("no key or request could be made: {0}")]
    Key(#[from] rcgen::Error),
    /// The client of the CA.
    #[error("the CA cannot be called: {0}")]
    Client(#[from] reqwest::Error),
}

/// The account in the directory, or a new one.
pub(super) async fn account(
    config: &AcmeConfig,
    store: &AcmeStore,
    retry_after: &RetryAfter,
) -> Result<Account, OrderError> {
    let roots = config.ca.as_ref().map(std::fs::read).transpose()?;
    let builder = || {
        let http = HttpClient::new(roots.as_deref(), retry_after.clone())?;
        Ok::<_, OrderError>(Account::builder_with_http(Box::new(http)))
    };
    let _lock: NameLock = loop {
        match store.try_lock(ACCOUNT_LOCK)? {
            Some(lock) => break lock,
            None => sleep(LOCK_PAUSE).await,
        }
    };
    if let Some(text) = store.account(&config.directory)? {
        match serde_json::from_slice::<AccountCredentials>(&text) {
            Ok(credentials) => return Ok(builder()?.from_credentials(credentials).await?),
            Err(error) => {
                tracing::warn!(%error, "the ACME account cannot be read; another is made");
            }
        }
    }
    let contact: Vec<&str> = config.contact.iter().map(String::as_str).collect();
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let eab = config.eab.as_ref().map(|eab| {
        let text = std::fs::read_to_string(&eab.key_file)?;
        let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
        let wrong = |_| std::io::Error::other("the key of `acme.eab` is not base64url");
        Ok::<_, std::io::Error>(ExternalAccountKey::new(
            eab.kid.clone(),
            &key.map_err(wrong)?,
        ))
    });
    let eab = eab.transpose()?;
    let made = builder()?.create(&new, config.directory.clone(), eab.as_ref());
    let (account, credentials) = made.await?;
    let text = serde_json::to_vec(&credentials).map_err(Error::from)?;
    store.save_account(&config.directory, &text)?;
    tracing::info!(directory = %config.directory, "a new ACME account");
    Ok(account)
}

/// Orders a certificate and keeps it. `replaces` is the one of before, where the CA wants to know.
pub(super) async fn order(
    config: &AcmeConfig,
    store: &AcmeStore,
    account: &Account,
    name: &str,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<(), OrderError> {
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
        // It has been replaced by an order whose certificate was lost, or is another account's.
        Err(Error::Api(problem)) if is_replaced && !is_rate_limit(&problem) => {
            account.new_order(&new()).await?
        }
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
        open.push(store.set_challenge(name, &challenge.token, text.as_str())?);
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
    let chain = order.poll_certificate(&POLLS).await?;
    store.save(name, &key.serialize_pem(), &chain)?;
    Ok(())
}

fn is_rate_limit(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.ends_with(":rateLimited")
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

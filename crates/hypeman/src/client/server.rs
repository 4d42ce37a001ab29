//! Operations on the server itself.
//!
//! Guarantees: see [`Client`].

use super::error::Error;
use super::handle::Client;
use super::wire::Capabilities;

impl Client {
    /// Asks whether the server is up. This needs no API key, and is not repeated.
    ///
    /// `GET /health`, operation `health`.
    pub async fn health(&self) -> Result<(), Error> {
        let call = self.read("health", ["health"]).once();
        call.accepting("application/json").nothing().await
    }

    /// Asks what the server is and can do.
    ///
    /// `GET /capabilities`, operation `capabilities`.
    ///
    /// # Errors
    /// An older server does not have the operation: [`Error::is_missing_operation`].
    pub async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.read("capabilities", ["capabilities"]).json().await
    }
}

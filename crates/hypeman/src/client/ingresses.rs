//! Operations on ingresses.
//!
//! Guarantees: see [`Client`].

use std::collections::BTreeMap;

use http::Method;

use super::error::Error;
use super::handle::Client;
use super::listed::Listed;
use super::name::ResourceRef;
use super::wire::{CreateIngress, Ingress};

impl Client {
    /// Creates an ingress.
    ///
    /// `POST /ingresses` (beside the seed; the official SDKs' `Ingresses.New`), operation
    /// `ingress_create`.
    ///
    /// # Errors
    /// - 400 `bad_request`: a rule is wrong. 400 `instance_not_found`, `domain_not_allowed`,
    ///   `config_validation_failed`: a rule cannot be.
    /// - 409 `already_exists`: another ingress has the name. 409 `hostname_in_use`, `port_in_use`.
    pub async fn create_ingress(&self, request: &CreateIngress) -> Result<Ingress, Error> {
        let call = self.change("ingress_create", Method::POST, ["ingresses"]);
        call.body(request).json().await
    }

    /// Lists the ingresses that have all of these labels; all of them without labels. An element
    /// that cannot be read is among [`Listed::odd`] and fails nothing.
    ///
    /// `GET /ingresses` (beside the seed; the official SDKs' `Ingresses.List`), operation
    /// `ingress_list`.
    ///
    /// # Errors
    /// 500 `internal_error`.
    pub async fn list_ingresses(
        &self,
        tags: &BTreeMap<String, String>,
    ) -> Result<Listed<Ingress>, Error> {
        let call = self.read("ingress_list", ["ingresses"]);
        call.tags(tags).list().await
    }

    /// Reads an ingress by its id or name.
    ///
    /// `GET /ingresses/{id}` (beside the seed; the official SDKs' `Ingresses.Get`), operation
    /// `ingress_get`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such ingress. 409 `ambiguous`: several have the id's prefix.
    pub async fn get_ingress(&self, id: &ResourceRef) -> Result<Ingress, Error> {
        let path = ["ingresses", id.as_str()];
        self.read("ingress_get", path).json().await
    }

    /// Deletes an ingress. There is no operation that changes one: delete it, and create what
    /// [`Ingress::to_request`] gives after your change.
    ///
    /// `DELETE /ingresses/{id}` (beside the seed; the official SDKs' `Ingresses.Delete`), operation
    /// `ingress_delete`.
    ///
    /// # Errors
    /// 404 `not_found`: there is no such ingress. 409 `ambiguous`: several have the id's prefix.
    pub async fn delete_ingress(&self, id: &ResourceRef) -> Result<(), Error> {
        let path = ["ingresses", id.as_str()];
        let call = self.change("ingress_delete", Method::DELETE, path);
        call.nothing().await
    }
}

//! Ingress resources.

use std::collections::BTreeMap;

use http::Method;

use super::client::{Call, HypemanClient};
use super::error::ControlPlaneError;
use super::instances::to_body;
use super::wire::{CreateIngress, Ingress};
use crate::InstanceRef;

impl HypemanClient {
    /// `POST /ingresses`.
    pub async fn create_ingress(
        &self,
        request: &CreateIngress,
    ) -> Result<Ingress, ControlPlaneError> {
        let call = self.change_call("ingress_create", Method::POST, &["ingresses"]);
        self.json(Call {
            body: to_body(request),
            ..call
        })
        .await
    }

    /// `GET /ingresses`, with all of these tags.
    pub async fn list_ingresses(
        &self,
        tags: &BTreeMap<String, String>,
    ) -> Result<Vec<Ingress>, ControlPlaneError> {
        let query = tags
            .iter()
            .map(|(key, value)| (format!("tags[{key}]"), value.clone()));
        let query = query.collect();
        self.json(Call {
            query,
            ..self.get_call("ingress_list", &["ingresses"])
        })
        .await
    }

    /// `GET /ingresses/{id}`.
    pub async fn get_ingress(&self, id: &InstanceRef) -> Result<Ingress, ControlPlaneError> {
        self.json(self.get_call("ingress_get", &["ingresses", id.as_str()]))
            .await
    }

    /// `DELETE /ingresses/{id}`.
    pub async fn delete_ingress(&self, id: &InstanceRef) -> Result<(), ControlPlaneError> {
        let path = ["ingresses", id.as_str()];
        self.nothing(self.change_call("ingress_delete", Method::DELETE, &path))
            .await
    }
}

//! `AdmissionReview`, version `admission.k8s.io/v1`: the request of the API and the answer.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chassis::kubernetes::members;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    denial::Denial,
    inject::{PodInjection, inject},
    metrics::Outcome,
    sidecar::InjectionSettings,
};

const VERSION: &str = "admission.k8s.io/v1";

/// The body of the request is not a review that this program understands.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("the body is not a JSON object of kind AdmissionReview: {0}")]
    Malformed(String),
    #[error("the review has the version {0:?}, and this webhook answers {VERSION}")]
    Version(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawReview {
    api_version: String,
    kind: String,
    request: ReviewRequest,
}

/// The request of a review. Members that this program does not need are left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReviewRequest {
    uid: String,
    resource: Resource,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Resource {
    group: String,
    resource: String,
}

/// The answer to a review.
pub(super) struct ReviewAnswer {
    pub(super) outcome: Outcome,
    /// The answer as JSON.
    pub(super) answer: Value,
}

impl ReviewRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, ReviewError> {
        let review: RawReview =
            serde_json::from_slice(body).map_err(|error| ReviewError::Malformed(error.to_string()))?;
        if review.api_version != VERSION {
            return Err(ReviewError::Version(review.api_version));
        }
        if review.kind != "AdmissionReview" {
            return Err(ReviewError::Malformed(format!("its kind is {:?}", review.kind)));
        }
        Ok(review.request)
    }

    /// Returns the answer. Everything but the creation of a pod is allowed as it is: containers cannot be added later.
    pub(super) fn review(&self, settings: &InjectionSettings, vault_ca: &str) -> ReviewAnswer {
        let is_pod = self.resource.group.is_empty() && self.resource.resource == "pods";
        if !is_pod || !self.sub_resource.is_empty() || self.operation != "CREATE" {
            return self.answer(Outcome::Ignored, json!({"allowed": true}));
        }
        match inject(&self.object, &self.namespace, settings, vault_ca) {
            Ok(PodInjection::NotRequested) => self.answer(Outcome::NotRequested, json!({"allowed": true})),
            Ok(PodInjection::Complete) => self.answer(Outcome::Complete, json!({"allowed": true})),
            Ok(PodInjection::Patch(operations)) => {
                let patch = BASE64.encode(Value::from(operations).to_string());
                tracing::info!(namespace = self.namespace, pod = self.pod(), "sidecar added");
                let allowed = json!({"allowed": true, "patchType": "JSONPatch", "patch": patch});
                self.answer(Outcome::Injected, allowed)
            }
            Err(denial) => {
                let reason = denial.to_string();
                tracing::info!(namespace = self.namespace, pod = self.pod(), reason, "pod denied");
                self.answer(Outcome::Denied, denied(&denial))
            }
        }
    }

    /// Returns the name of the pod, or the beginning of its name when the API completes the name later.
    fn pod(&self) -> &str {
        let metadata = |name: &str| self.object.get("metadata")?.get(name)?.as_str();
        let named = Some(self.name.as_str()).filter(|name| !name.is_empty());
        named
            .or_else(|| metadata("name"))
            .or_else(|| metadata("generateName"))
            .unwrap_or_default()
    }

    fn answer(&self, outcome: Outcome, mut response: Value) -> ReviewAnswer {
        members::set(&mut response, "uid", self.uid.as_str());
        ReviewAnswer {
            outcome,
            answer: json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}),
        }
    }
}

fn denied(denial: &Denial) -> Value {
    let code = denial.code();
    json!({
        "allowed": false,
        "status": {
            "code": code.as_u16(),
            "message": denial.to_string(),
            "reason": if code == http::StatusCode::FORBIDDEN { "Forbidden" } else { "BadRequest" },
        },
    })
}

//! Secrets that this program keeps: read, changed, and written under the condition that nobody else wrote in the meantime.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{ApiClient, ApiError, CertificatesError, NamespacedName, members};

/// The label of Secrets that this program made. A Secret without the label is changed only while it has no data.
const OWN_LABEL: &str = "aerostack.dev/certificates";
/// Maximum number of attempts of one change. Only replicas of the same program write at the same time.
pub(super) const MAX_ATTEMPTS: usize = 10;

/// The data of a Secret, by key.
pub(super) type SecretData = BTreeMap<String, Zeroizing<String>>;

/// A change of a Secret: the entries that are replaced or added.
pub(super) type SecretChange = Vec<(&'static str, Zeroizing<String>)>;

/// Reads a Secret, passes its data to `change`, and writes the returned entries. Without an entry, nothing is written. A missing
/// Secret has no data, and is made with the type `kind`. When another client wrote in the meantime, everything is done again.
pub(super) async fn update_secret<T>(
    api: &ApiClient,
    secret: &NamespacedName,
    kind: &str,
    mut change: impl FnMut(&SecretData) -> Result<(SecretChange, T), CertificatesError>,
) -> Result<T, CertificatesError> {
    let collection = format!("/api/v1/namespaces/{}/secrets", secret.namespace);
    let path = format!("{collection}/{}", secret.name);
    for _ in 0..MAX_ATTEMPTS {
        let found = match api.get(&path).await {
            Ok(found) => Some(found),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        let data = found.as_ref().map(data_of).unwrap_or_default();
        if found.as_ref().is_some_and(|found| !is_own(found)) && !data.is_empty() {
            return Err(CertificatesError::Foreign(secret.clone()));
        }
        let (entries, result) = change(&data)?;
        if entries.is_empty() {
            return Ok(result);
        }
        let written = match found {
            None => api.create(&collection, &new_secret(secret, kind, &entries)).await,
            Some(mut found) => {
                set_entries(&mut found, &entries);
                api.replace(&path, &found).await
            }
        };
        match written {
            Ok(_) => return Ok(result),
            Err(error) if was_changed(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CertificatesError::Contended(format!("the Secret {secret}")))
}

/// Returns true when a write failed because the object had been made, changed or deleted since it was read.
pub(super) fn was_changed(error: &ApiError) -> bool {
    error.is_conflict() || error.is_not_found()
}

fn new_secret(secret: &NamespacedName, kind: &str, entries: &SecretChange) -> Value {
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": kind,
        "metadata": {"namespace": secret.namespace.as_str(), "name": secret.name.as_str()},
    });
    set_entries(&mut object, entries);
    object
}

fn set_entries(object: &mut Value, entries: &SecretChange) {
    let data = members::object(object, "data");
    for (key, text) in entries {
        members::set(data, key, BASE64.encode(text.as_bytes()));
    }
    if let Some(metadata) = object.get_mut("metadata") {
        members::set(members::object(metadata, "labels"), OWN_LABEL, "true");
    }
}

fn is_own(object: &Value) -> bool {
    let labels = object.get("metadata").and_then(|metadata| metadata.get("labels"));
    let label = labels.and_then(|labels| labels.get(OWN_LABEL));
    label.and_then(Value::as_str) == Some("true")
}

/// Returns the entries of a Secret. An entry that is not UTF-8 in base64 is returned as empty text.
fn data_of(object: &Value) -> SecretData {
    let Some(data) = object.get("data").and_then(Value::as_object) else {
        return SecretData::new();
    };
    let text = |value: &Value| {
        let bytes = BASE64.decode(value.as_str()?).ok()?;
        String::from_utf8(bytes).ok().map(Zeroizing::new)
    };
    data.iter()
        .map(|(key, value)| (key.clone(), text(value).unwrap_or_default()))
        .collect()
}

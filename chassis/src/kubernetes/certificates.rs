//! An authority and a leaf that are kept in Secrets and renew themselves.

use std::time::SystemTime;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    ApiClient, CertificatesError, NamespacedName, ObjectName,
    secret::{MAX_ATTEMPTS, SecretChange, SecretData, update_secret, was_changed},
};
use crate::pki::{AuthorityBundle, RenewalPlan};

const AUTHORITY_CERTIFICATES: &str = "ca.crt";
const AUTHORITY_KEYS: &str = "ca.key";
const LEAF_CERTIFICATE: &str = "tls.crt";
const LEAF_KEY: &str = "tls.key";

/// The type of a Secret with `tls.crt` and `tls.key`.
const TLS: &str = "kubernetes.io/tls";
const OPAQUE: &str = "Opaque";

/// The certificates after a renewal.
pub struct RenewedCertificates {
    /// The authorities that clients have to trust, PEM.
    pub authorities_pem: String,
    /// The leaf, PEM.
    pub certificate_pem: String,
    /// The key of the leaf (PKCS #8, PEM).
    pub key_pem: Zeroizing<String>,
    /// True when the authorities changed.
    pub authorities_changed: bool,
    /// True when the leaf was made.
    pub leaf_made: bool,
}

/// Renews an authority and a leaf in one Secret, which has the keys of both. Replicas that call this function at the same time end up
/// with the same certificates.
///
/// # Errors
/// [`CertificatesError`]; a Secret of somebody else is never changed.
pub async fn renew_in_one_secret(
    api: &ApiClient,
    secret: &NamespacedName,
    plan: &RenewalPlan,
    now: SystemTime,
) -> Result<RenewedCertificates, CertificatesError> {
    update_secret(api, secret, TLS, |data| {
        let (bundle, authorities_changed) = authorities(secret, data, plan, now)?;
        let (mut change, renewed) = leaf(&bundle, data, plan, now)?;
        if authorities_changed {
            change.extend(authority_entries(&bundle));
        }
        let renewed = RenewedCertificates {
            authorities_changed,
            ..renewed
        };
        Ok((change, renewed))
    })
    .await
}

/// Renews an authority in the Secret `authority` and a leaf in the Secret `secret`, which has the certificates of the authority, too.
/// So a pod can mount `secret` without getting the key of the authority.
///
/// # Errors
/// [`CertificatesError`]; a Secret of somebody else is never changed.
pub async fn renew_in_two_secrets(
    api: &ApiClient,
    secret: &NamespacedName,
    authority: &NamespacedName,
    plan: &RenewalPlan,
    now: SystemTime,
) -> Result<RenewedCertificates, CertificatesError> {
    let (bundle, authorities_changed) = update_secret(api, authority, OPAQUE, |data| {
        let (bundle, changed) = authorities(authority, data, plan, now)?;
        let change = match changed {
            true => authority_entries(&bundle).into(),
            false => SecretChange::new(),
        };
        Ok((change, (bundle, changed)))
    })
    .await?;
    update_secret(api, secret, TLS, |data| {
        let (mut change, renewed) = leaf(&bundle, data, plan, now)?;
        if text(data, AUTHORITY_CERTIFICATES) != Some(&renewed.authorities_pem) {
            change.push((AUTHORITY_CERTIFICATES, renewed.authorities_pem.clone().into()));
        }
        let renewed = RenewedCertificates {
            authorities_changed,
            ..renewed
        };
        Ok((change, renewed))
    })
    .await
}

/// Returns the authorities in a Secret, renewed, and true when they changed.
fn authorities(
    secret: &NamespacedName,
    data: &SecretData,
    plan: &RenewalPlan,
    now: SystemTime,
) -> Result<(AuthorityBundle, bool), CertificatesError> {
    let (certificates, keys) = (text(data, AUTHORITY_CERTIFICATES), text(data, AUTHORITY_KEYS));
    if certificates.is_none() && keys.is_none() {
        return Ok((AuthorityBundle::generate(plan, now)?, true));
    }
    let parsed = AuthorityBundle::parse(certificates.unwrap_or_default(), keys.unwrap_or_default());
    let mut bundle = parsed.map_err(|source| CertificatesError::Authority {
        secret: secret.clone(),
        source,
    })?;
    let changed = bundle
        .renew(plan, now)
        .map_err(|source| CertificatesError::Renew {
            secret: secret.clone(),
            source,
        })?;
    Ok((bundle, changed))
}

fn authority_entries(bundle: &AuthorityBundle) -> [(&'static str, Zeroizing<String>); 2] {
    [
        (AUTHORITY_CERTIFICATES, bundle.certificates_pem().into()),
        (AUTHORITY_KEYS, bundle.keys_pem()),
    ]
}

/// Returns the leaf in a Secret, or a new one with the entries to write.
fn leaf(
    bundle: &AuthorityBundle,
    data: &SecretData,
    plan: &RenewalPlan,
    now: SystemTime,
) -> Result<(SecretChange, RenewedCertificates), CertificatesError> {
    let stored = text(data, LEAF_CERTIFICATE).zip(text(data, LEAF_KEY));
    let pair = stored.map(|(certificate, key)| (certificate.as_bytes(), key.as_bytes()));
    let issued = bundle.leaf(plan, pair, now)?;
    let leaf_made = issued.is_some();
    let (certificate_pem, key_pem) = match (issued, stored) {
        (Some(issued), _) => (issued.cert_pem, issued.key_pem),
        (None, Some((certificate, key))) => (certificate.to_owned(), key.to_owned().into()),
        // A bundle without a stored leaf always issues one.
        (None, None) => Default::default(),
    };
    let change = match leaf_made {
        true => vec![
            (LEAF_CERTIFICATE, certificate_pem.clone().into()),
            (LEAF_KEY, key_pem.clone()),
        ],
        false => SecretChange::new(),
    };
    let renewed = RenewedCertificates {
        authorities_pem: bundle.certificates_pem(),
        certificate_pem,
        key_pem,
        authorities_changed: false,
        leaf_made,
    };
    Ok((change, renewed))
}

fn text<'d>(data: &'d SecretData, key: &str) -> Option<&'d str> {
    let text = data.get(key)?;
    (!text.is_empty()).then_some(text.as_str())
}

/// Makes the API trust `authorities_pem` for every webhook of a `MutatingWebhookConfiguration`. Returns true when the object had to be
/// changed.
///
/// # Errors
/// [`CertificatesError`], for example when there is no such object.
pub async fn set_ca_bundle(
    api: &ApiClient,
    configuration: &ObjectName,
    authorities_pem: &str,
) -> Result<bool, CertificatesError> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{configuration}");
    let bundle = Value::from(BASE64.encode(authorities_pem));
    for _ in 0..MAX_ATTEMPTS {
        let mut object = api.get(&path).await?;
        let webhooks = object.get_mut("webhooks").and_then(Value::as_array_mut);
        let mut changed = false;
        for client in webhooks
            .into_iter()
            .flatten()
            .filter_map(|webhook| webhook.get_mut("clientConfig")?.as_object_mut())
        {
            changed |= client.insert("caBundle".to_owned(), bundle.clone()) != Some(bundle.clone());
        }
        if !changed {
            return Ok(false);
        }
        match api.replace(&path, &object).await {
            Ok(_) => return Ok(true),
            Err(error) if was_changed(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CertificatesError::Contended(format!(
        "the MutatingWebhookConfiguration {configuration}"
    )))
}

#[cfg(test)]
mod tests;

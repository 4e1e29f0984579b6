//! Checks whether stored certificates may stay. rustls-webpki does the checks, because the services' connections use it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

use super::certificate::{Leaf, Usage, parse_key, since_epoch};

/// Returns the first certificate of a PEM text.
#[must_use]
pub fn parse_certificate(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

/// Returns true when two certificates have the same name, key and constraints.
#[must_use]
pub fn is_same_authority(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    match (anchor_from_trusted_cert(one), anchor_from_trusted_cert(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

/// Returns true when the authority is valid at all of these times.
///
/// webpki ignores the dates of a trust anchor, but checks those of a leaf before anything else. So the CA is verified as
/// if it were a leaf: webpki returns `CaUsedAsEndEntity` only if the dates are right.
#[must_use]
pub fn ca_is_valid(ca: &CertificateDer<'_>, times: &[SystemTime]) -> bool {
    let is_valid = |time: &SystemTime| matches!(check_ca(ca, *time), Some(webpki::Error::CaUsedAsEndEntity));
    times.iter().all(is_valid)
}

/// Returns true when the validity of the authority has ended before `time`.
pub(super) fn ca_has_expired(ca: &CertificateDer<'_>, time: SystemTime) -> bool {
    matches!(check_ca(ca, time), Some(webpki::Error::CertExpired { .. }))
}

/// Returns the begin of the validity of the authority when that is after `time`.
pub(super) fn ca_begins_after(ca: &CertificateDer<'_>, time: SystemTime) -> Option<SystemTime> {
    match check_ca(ca, time)? {
        webpki::Error::CertNotValidYet { not_before, .. } => {
            Some(UNIX_EPOCH + Duration::from_secs(not_before.as_secs()))
        }
        _ => None,
    }
}

/// Returns the error of a verification of the authority as if it were a leaf.
fn check_ca(ca: &CertificateDer<'_>, time: SystemTime) -> Option<webpki::Error> {
    let anchor = anchor_from_trusted_cert(ca).ok()?;
    let cert = EndEntityCert::try_from(ca).ok()?;
    verify(&cert, &anchor, time, Usage::Server).err()
}

/// Returns true when `cert` has the key `key`, is valid at all of these times, was issued by `ca`, has all usages and
/// addresses of `leaf`, and has exactly the URIs and DNS names of `leaf`.
#[must_use]
pub fn leaf_is_valid(
    ca: &CertificateDer<'_>,
    leaf: &Leaf,
    cert: &[u8],
    key: &[u8],
    times: &[SystemTime],
) -> bool {
    let Some(der) = parse_certificate(cert) else {
        return false;
    };
    let (Ok(anchor), Ok(cert)) = (anchor_from_trusted_cert(ca), EndEntityCert::try_from(&der)) else {
        return false;
    };
    let verified = times.iter().all(|time| {
        leaf.usages
            .iter()
            .all(|usage| verify(&cert, &anchor, *time, *usage).is_ok())
    });
    verified && has_names(&cert, leaf) && has_key(&cert, key)
}

fn verify(
    cert: &EndEntityCert<'_>,
    anchor: &TrustAnchor<'_>,
    time: SystemTime,
    usage: Usage,
) -> Result<(), webpki::Error> {
    let time = UnixTime::since_unix_epoch(since_epoch(time));
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let anchors = std::slice::from_ref(anchor);
    cert.verify_for_usage(&[ECDSA_P256_SHA256], anchors, &[], time, usage, None, None)
        .map(drop)
}

fn has_names(cert: &EndEntityCert<'_>, leaf: &Leaf) -> bool {
    cert.valid_uri_names().eq(leaf.uris.iter().map(String::as_str))
        && cert.valid_dns_names().eq(leaf.dns.iter().map(String::as_str))
        && leaf.ips.iter().all(|ip| {
            cert.verify_is_valid_for_subject_name(&ServerName::IpAddress((*ip).into()))
                .is_ok()
        })
}

fn has_key(cert: &EndEntityCert<'_>, key: &[u8]) -> bool {
    parse_key(key).is_ok_and(|key| key.subject_public_key_info() == cert.subject_public_key_info().as_ref())
}

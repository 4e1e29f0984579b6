//! Checks whether stored certificates may stay. rustls-webpki does the checks, because the services' connections use it.

use std::time::{Duration, SystemTime};

use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

use super::certificate::{Ca, Leaf, Usage, parse_key, since_epoch};

/// A leaf that expires within this time is made anew. An authority that does is reported as out of date.
const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

pub(super) fn parse(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

/// Returns true when two certificates have the same name, key and constraints.
pub(super) fn is_same_authority(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    match (anchor_from_trusted_cert(one), anchor_from_trusted_cert(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

/// Returns true when the authority is valid now and for [`RENEW_BEFORE`] longer.
///
/// webpki ignores the dates of a trust anchor, but checks those of a leaf before anything else. So the CA is verified as
/// if it were a leaf: webpki returns `CaUsedAsEndEntity` only if the dates are right.
pub(super) fn ca_is_valid(ca: &CertificateDer<'_>, now: SystemTime) -> bool {
    let (Ok(anchor), Ok(cert)) = (anchor_from_trusted_cert(ca), EndEntityCert::try_from(ca)) else {
        return false;
    };
    checked_times(now).into_iter().all(|time| {
        let refused = verify(&cert, &anchor, time, Usage::Server).err();
        matches!(refused, Some(webpki::Error::CaUsedAsEndEntity))
    })
}

/// Returns true when `cert` has the key `key`, is valid now and for [`RENEW_BEFORE`] longer, was issued by `ca`, has all
/// usages and addresses of `leaf`, and has exactly the URIs and DNS names of `leaf`.
pub(super) fn leaf_is_valid(ca: &Ca, leaf: &Leaf, cert: &[u8], key: &[u8], now: SystemTime) -> bool {
    let Some(der) = parse(cert) else { return false };
    let (Ok(anchor), Ok(cert)) = (anchor_from_trusted_cert(ca.cert()), EndEntityCert::try_from(&der)) else {
        return false;
    };
    let verified = checked_times(now).into_iter().all(|time| {
        leaf.usages
            .iter()
            .all(|usage| verify(&cert, &anchor, time, *usage).is_ok())
    });
    verified && has_names(&cert, leaf) && has_key(&cert, key)
}

fn checked_times(now: SystemTime) -> [UnixTime; 2] {
    let now = since_epoch(now);
    [now, now.saturating_add(RENEW_BEFORE)].map(UnixTime::since_unix_epoch)
}

fn verify(
    cert: &EndEntityCert<'_>,
    anchor: &TrustAnchor<'_>,
    time: UnixTime,
    usage: Usage,
) -> Result<(), webpki::Error> {
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

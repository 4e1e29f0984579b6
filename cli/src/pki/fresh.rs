//! Whether what is on disk may stay. Asked of rustls-webpki, which judges it on every connection.

use std::time::SystemTime;

use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring::ECDSA_P256_SHA256};

use super::RENEW_BEFORE;
use super::issue::{Ca, Leaf, Usage, parse_key, since_epoch};

pub(super) fn parse(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem).ok()
}

/// Whether two certificates are the same trust anchor: the same name, key and constraints.
pub(super) fn is_same_authority(one: &CertificateDer<'_>, other: &CertificateDer<'_>) -> bool {
    match (anchor_from_trusted_cert(one), anchor_from_trusted_cert(other)) {
        (Ok(one), Ok(other)) => one == other,
        (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
    }
}

/// webpki looks at no date of a trust anchor. It does at those of a leaf, and before anything else;
/// so a CA shown to it as a leaf is refused for being a CA only when its dates are right.
pub(super) fn ca_is_fresh(ca: &CertificateDer<'_>, now: SystemTime) -> bool {
    let (Ok(anchor), Ok(cert)) = (anchor_from_trusted_cert(ca), EndEntityCert::try_from(ca)) else {
        return false;
    };
    moments(now).into_iter().all(|time| {
        let refused = verify(&cert, &anchor, time, Usage::Server).err();
        matches!(refused, Some(webpki::Error::CaUsedAsEndEntity))
    })
}

/// Whether `cert` still does for `leaf`: of this authority, for these usages and addresses at least,
/// with just these principals and DNS names, and with this key.
pub(super) fn leaf_is_fresh(ca: &Ca, leaf: &Leaf, cert: &[u8], key: &[u8], now: SystemTime) -> bool {
    let Some(der) = parse(cert) else { return false };
    let (Ok(anchor), Ok(cert)) = (anchor_from_trusted_cert(ca.cert()), EndEntityCert::try_from(&der)) else {
        return false;
    };
    let verified = moments(now).into_iter().all(|time| {
        leaf.usages
            .iter()
            .all(|usage| verify(&cert, &anchor, time, *usage).is_ok())
    });
    verified && has_names(&cert, leaf) && belongs(&cert, key)
}

fn moments(now: SystemTime) -> [UnixTime; 2] {
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

fn belongs(cert: &EndEntityCert<'_>, key: &[u8]) -> bool {
    parse_key(key).is_ok_and(|key| key.subject_public_key_info() == cert.subject_public_key_info().as_ref())
}

//! The certificate and the bundles in an answer of the Workload API.

use std::{collections::BTreeMap, time::SystemTime};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::messages::{X509Svid, X509SvidResponse};
use crate::tls::{
    authorities::{Authorities, trust_domain},
    identity::Identity,
};

/// The parsed content of an answer.
pub(super) struct X509Context {
    pub(super) identity: Identity,
    pub(super) authorities: Authorities,
}

impl X509Context {
    /// Reads the default certificate of an answer and all bundles. The error is a sentence for the log.
    pub(super) fn parse(answer: X509SvidResponse) -> Result<Self, String> {
        let X509SvidResponse {
            svids,
            federated_bundles,
        } = answer;
        let X509Svid {
            spiffe_id,
            x509_svid,
            x509_svid_key,
            bundle,
        } = svids.into_iter().next().ok_or("the answer has no X.509-SVID")?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(x509_svid_key));
        let identity =
            Identity::of_svid(certificates(&x509_svid)?, key).map_err(|error| error.to_string())?;
        identity
            .check_valid(SystemTime::now())
            .map_err(|error| error.to_string())?;
        let named = identity.principal().map(|principal| principal.to_string());
        if named.as_deref() != Some(&*spiffe_id) {
            return Err(format!("the certificate does not name {spiffe_id:?}"));
        }
        let mut bundles = BTreeMap::new();
        let own = trust_domain(&spiffe_id).ok_or("the SPIFFE ID has no trust domain")?;
        for (id, der) in federated_bundles {
            let domain = trust_domain(&id).ok_or_else(|| format!("{id:?} is not a trust domain"))?;
            bundles.insert(domain.to_owned(), certificates(&der)?);
        }
        bundles.insert(own.to_owned(), certificates(&bundle)?);
        Ok(Self {
            identity,
            authorities: Authorities::of_trust_domains(bundles).map_err(|error| error.to_string())?,
        })
    }
}

/// Reads DER certificates that are written one after the other.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = X509Certificate::from_der(der).map_err(|_| "a certificate cannot be read")?;
        let (one, _) = der.split_at(der.len() - rest.len());
        found.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    if found.is_empty() {
        return Err("a list of certificates is empty".to_owned());
    }
    Ok(found)
}

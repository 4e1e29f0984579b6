//! Certificates of tests.

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

use super::*;

/// The validity of a certificate.
#[derive(Clone, Copy)]
pub(super) enum Days {
    Valid,
    Expired,
    Future,
}

pub(super) struct TestCa {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

pub(super) struct Issued {
    pub(super) cert: String,
    pub(super) key: String,
}

impl TestCa {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn authorities(&self) -> Authorities {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        fs::write(&file, &self.pem).unwrap();
        Authorities::load(&file).unwrap()
    }

    /// Issues a certificate for servers and clients that names `uri`.
    pub(super) fn issue(&self, uri: &str, days: Days) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = match days {
            Days::Valid => (date_time_ymd(2020, 1, 1), date_time_ymd(4000, 1, 1)),
            Days::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
            Days::Future => (date_time_ymd(3999, 1, 1), date_time_ymd(4000, 1, 1)),
        };
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        Issued {
            cert: params.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Issued {
    pub(super) fn write(&self, cert: &Path, key: &Path) {
        fs::write(cert, &self.cert).unwrap();
        write_key(key, &self.key);
    }

    pub(super) fn identity(&self) -> Identity {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key, _) = paths(dir.path());
        self.write(&cert, &key);
        Identity::load(&cert, &key).unwrap()
    }
}

pub(super) fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

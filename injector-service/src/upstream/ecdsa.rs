//! Verification of the ECDSA signatures (FIPS 186-5) that *ring* does not verify: those of P-521 keys, and those of P-256
//! and P-384 keys with SHA-512.
//!
//! P-521 certificates work in TLS 1.3 alone. In TLS 1.2 a server uses a P-521 key only for a client that offers key
//! exchange with P-521 as well (RFC 8422), which *ring* does not implement.

use std::sync::LazyLock;

use chassis::tls::provider;
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rustls::{
    SignatureScheme,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

type Algorithm = &'static dyn SignatureVerificationAlgorithm;
type Scheme = (SignatureScheme, &'static [Algorithm]);

#[derive(Debug, Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug)]
struct Ecdsa(Curve, Hash);

const MISSING_IN_RING: [Algorithm; 5] = [
    &Ecdsa(Curve::P521, Hash::Sha512),
    &Ecdsa(Curve::P521, Hash::Sha384),
    &Ecdsa(Curve::P521, Hash::Sha256),
    &Ecdsa(Curve::P384, Hash::Sha512),
    &Ecdsa(Curve::P256, Hash::Sha512),
];

/// The scheme of a handshake's signature. In TLS 1.3 it stands for the first curve alone, in TLS 1.2 for each of them.
const P521_SHA512: Scheme = (
    SignatureScheme::ECDSA_NISTP521_SHA512,
    &[
        &Ecdsa(Curve::P521, Hash::Sha512),
        &Ecdsa(Curve::P384, Hash::Sha512),
        &Ecdsa(Curve::P256, Hash::Sha512),
    ],
);

/// `CryptoProvider::signature_verification_algorithms.all`, for the signatures of certificates.
static ALL: LazyLock<Vec<Algorithm>> = LazyLock::new(|| {
    let ring = provider().signature_verification_algorithms.all;
    ring.iter().copied().chain(MISSING_IN_RING).collect()
});

/// The schemes for the signatures of handshakes, in order of preference.
static SCHEMES: LazyLock<Vec<Scheme>> = LazyLock::new(|| {
    let ring = provider().signature_verification_algorithms.mapping;
    std::iter::once(P521_SHA512).chain(ring.iter().copied()).collect()
});

/// Returns the crypto provider for connections to upstreams.
pub(super) fn upstream_provider() -> CryptoProvider {
    CryptoProvider {
        signature_verification_algorithms: WebPkiSupportedAlgorithms {
            all: &ALL,
            mapping: &SCHEMES,
        },
        ..CryptoProvider::clone(&provider())
    }
}

impl Ecdsa {
    /// Verifies the DER-encoded `signature` of `message` with the public key `key`, an encoded point (SEC 1).
    fn verify(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), p256::ecdsa::Error> {
        let Self(curve, hash) = self;
        let hash = match hash {
            Hash::Sha256 => Sha256::digest(message).to_vec(),
            Hash::Sha384 => Sha384::digest(message).to_vec(),
            Hash::Sha512 => Sha512::digest(message).to_vec(),
        };
        match curve {
            Curve::P256 => p256::ecdsa::VerifyingKey::from_sec1_bytes(key)?
                .verify_prehash(&hash, &p256::ecdsa::Signature::from_der(signature)?),
            Curve::P384 => p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?
                .verify_prehash(&hash, &p384::ecdsa::Signature::from_der(signature)?),
            Curve::P521 => p521::ecdsa::VerifyingKey::from_sec1_bytes(key)?
                .verify_prehash(&hash, &p521::ecdsa::Signature::from_der(signature)?),
        }
    }
}

impl SignatureVerificationAlgorithm for Ecdsa {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        self.verify(key, message, signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        match self.0 {
            Curve::P256 => alg_id::ECDSA_P256,
            Curve::P384 => alg_id::ECDSA_P384,
            Curve::P521 => alg_id::ECDSA_P521,
        }
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        match self.1 {
            Hash::Sha256 => alg_id::ECDSA_SHA256,
            Hash::Sha384 => alg_id::ECDSA_SHA384,
            Hash::Sha512 => alg_id::ECDSA_SHA512,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;

    /// Self-signed certificates made by OpenSSL, one for each algorithm of [`MISSING_IN_RING`], in the same order.
    const CERTIFICATES: &[u8] = include_bytes!("ecdsa/test_certificates.pem");

    #[test]
    fn each_algorithm_verifies_its_signature_by_openssl_and_no_other() {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(CERTIFICATES)
            .map(Result::unwrap)
            .collect();
        assert_eq!(certificates.len(), MISSING_IN_RING.len());
        for (der, algorithm) in certificates.iter().zip(MISSING_IN_RING) {
            let (_, certificate) = X509Certificate::from_der(der).unwrap();
            let key = &certificate.public_key().subject_public_key.data;
            let signed = certificate.tbs_certificate.as_ref();
            let signature = &certificate.signature_value.data;
            let verify = |message: &[u8], signature: &[u8]| {
                algorithm.verify_signature(key, message, signature).is_ok()
            };
            assert!(verify(signed, signature), "{algorithm:?}");
            assert!(!verify(&signed[1..], signature), "{algorithm:?}");
            assert!(!verify(signed, &signature[1..]), "{algorithm:?}");
            let others = MISSING_IN_RING
                .iter()
                .filter(|other| !std::ptr::eq(**other, algorithm));
            for other in others {
                assert!(
                    other.verify_signature(key, signed, signature).is_err(),
                    "{other:?}"
                );
            }
        }
    }

    #[test]
    fn the_algorithms_of_ring_are_kept() {
        let (ours, ring) = (upstream_provider(), provider());
        let (ours, ring) = (
            ours.signature_verification_algorithms,
            ring.signature_verification_algorithms,
        );
        assert_eq!(ours.all.len(), ring.all.len() + MISSING_IN_RING.len());
        assert_eq!(ours.mapping.len(), ring.mapping.len() + 1);
    }
}

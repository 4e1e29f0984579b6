//! ECDSA signatures (FIPS 186-5) that *ring* does not verify: those of P-521 keys, and SHA-512 with P-256 and P-384 keys.

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

/// One curve with one hash.
#[derive(Debug)]
struct Ecdsa(Curve, Hash);

const MORE: [Algorithm; 5] = [
    &Ecdsa(Curve::P521, Hash::Sha512),
    &Ecdsa(Curve::P521, Hash::Sha384),
    &Ecdsa(Curve::P521, Hash::Sha256),
    &Ecdsa(Curve::P384, Hash::Sha512),
    &Ecdsa(Curve::P256, Hash::Sha512),
];

/// Signs the handshake: in TLS 1.3 the scheme means the curve, too, which is the first one; in TLS 1.2 it does not.
const P521_SHA512: Scheme = (
    SignatureScheme::ECDSA_NISTP521_SHA512,
    &[
        &Ecdsa(Curve::P521, Hash::Sha512),
        &Ecdsa(Curve::P384, Hash::Sha512),
        &Ecdsa(Curve::P256, Hash::Sha512),
    ],
);

/// Every algorithm that verifies the signature of a certificate.
static ALL: LazyLock<Vec<Algorithm>> = LazyLock::new(|| {
    let ring = provider().signature_verification_algorithms.all;
    ring.iter().copied().chain(MORE).collect()
});

/// Every scheme that verifies the signature of a handshake, the best one first.
static SCHEMES: LazyLock<Vec<Scheme>> = LazyLock::new(|| {
    let ring = provider().signature_verification_algorithms.mapping;
    std::iter::once(P521_SHA512).chain(ring.iter().copied()).collect()
});

/// The crypto provider for upstreams.
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
    /// Whether `signature` (DER) is the one of `message` by the key at the point `key`.
    fn verifies(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), p256::ecdsa::Error> {
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
        self.verifies(key, message, signature)
            .map_err(|_| InvalidSignature)
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

    /// Signed by themselves, by OpenSSL: one for each of [`MORE`], in its order.
    const CERTIFICATES: &[u8] = include_bytes!("ecdsa_tests.pem");

    #[test]
    fn each_algorithm_verifies_what_openssl_signed_and_nothing_else() {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(CERTIFICATES)
            .map(Result::unwrap)
            .collect();
        assert_eq!(certificates.len(), MORE.len());
        for (der, algorithm) in certificates.iter().zip(MORE) {
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
            let others = MORE.iter().filter(|other| !std::ptr::eq(**other, algorithm));
            for other in others {
                assert!(
                    other.verify_signature(key, signed, signature).is_err(),
                    "{other:?}"
                );
            }
        }
    }

    #[test]
    fn what_ring_verifies_is_verified_too() {
        let (ours, ring) = (upstream_provider(), provider());
        let (ours, ring) = (
            ours.signature_verification_algorithms,
            ring.signature_verification_algorithms,
        );
        assert_eq!(ours.all.len(), ring.all.len() + MORE.len());
        assert_eq!(ours.mapping.len(), ring.mapping.len() + 1);
    }
}

//! Certificate authorities and leaf certificates in memory.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::tls::DEVELOPMENT_ORGANIZATION;

/// Principal of the vault in certificates of `aerostack dev` and `aerostack init`.
pub const VAULT_ID: &str = "spiffe://aerostack.localhost/vault";
/// Principal of the injector in the same certificates.
pub const INJECTOR_ID: &str = "spiffe://aerostack.localhost/injector";
/// Principal of the developer or administrator in the same certificates.
pub const ADMIN_ID: &str = "spiffe://aerostack.localhost/admin";
/// Principal that `aerostack demo` uses after `aerostack init`.
pub const DEMO_ID: &str = "spiffe://aerostack.localhost/demo";

const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);

/// Failure of rcgen to make a key or a certificate.
#[derive(Debug, thiserror::Error)]
#[error("the certificate could not be made")]
pub struct IssueError(#[from] rcgen::Error);

/// The content of a CA certificate. The key is always P-256, and the path length is 0: no CA may be beneath this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSpec {
    /// Organization of the subject.
    pub organization: String,
    /// Common name of the subject.
    pub common_name: String,
    /// The DNS names, besides `localhost`, that the CA may issue for, with all names beneath each. `None` permits any name.
    pub permitted_names: Option<Vec<String>>,
    /// True for a CA of an earlier release, whose constraints also permit only loopback addresses. BoringSSL refuses every
    /// leaf with an address beneath such a CA.
    pub only_loopback_addresses: bool,
    /// Begin of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
}

/// A certificate authority with its private key.
pub struct Ca {
    params: CertificateParams,
    cert: Certificate,
    key: Zeroizing<KeyPair>,
}

/// An extended key usage (RFC 5280, 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The holder accepts TLS connections.
    Server,
    /// The holder makes TLS connections and presents the certificate.
    Client,
}

/// The content of a leaf certificate. All fields are public, so that a test can make a wrong certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Name of the files and common name of the subject. No service looks at this name.
    pub name: String,
    /// URI SANs: the principal, when the principal is a SPIFFE ID.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// IP address SANs.
    pub ips: Vec<IpAddr>,
    /// The extended key usages.
    pub usages: Vec<Usage>,
    /// Begin of the validity.
    pub not_before: SystemTime,
    /// End of the validity.
    pub not_after: SystemTime,
    /// Basic constraints, cA. True only in tests.
    pub is_ca: bool,
}

/// A leaf certificate and its private key (PKCS #8), both PEM.
pub struct Issued {
    /// The whole certificate chain, which is one certificate: intermediate authorities do not exist.
    pub cert_pem: String,
    /// The private key.
    pub key_pem: Zeroizing<String>,
}

impl CaSpec {
    /// Returns the CA of `aerostack dev`: valid for ten years, from one hour ago.
    #[must_use]
    pub fn development(now: SystemTime) -> Self {
        CaSpec {
            organization: DEVELOPMENT_ORGANIZATION.to_owned(),
            common_name: "aerostack development CA".to_owned(),
            permitted_names: Some(Vec::new()),
            only_loopback_addresses: false,
            not_before: now - HOUR,
            not_after: now + YEAR * 10,
        }
    }

    /// Returns the CA of `aerostack init`, for services that others reach under `names`.
    #[must_use]
    pub fn for_names(names: Vec<String>, now: SystemTime) -> Self {
        CaSpec {
            organization: "Aerostack".to_owned(),
            common_name: "aerostack CA".to_owned(),
            permitted_names: Some(names),
            ..Self::development(now)
        }
    }

    /// Returns the CA of `aerostack pki`, which may issue for any name.
    #[must_use]
    pub fn for_any_name(now: SystemTime) -> Self {
        CaSpec {
            permitted_names: None,
            ..Self::for_names(Vec::new(), now)
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        set_validity(&mut params, self.not_before, self.not_after);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, self.organization.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, self.common_name.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = self.name_constraints();
        params
    }

    /// Returns the name constraints (RFC 5280, 4.2.1.10), where `localhost` includes all names beneath it. A kind of name
    /// that is not listed is unconstrained. The list has no URIs, because webpki refuses every URI where URIs are listed.
    fn name_constraints(&self) -> Option<NameConstraints> {
        let names = self.permitted_names.iter().flatten().map(String::as_str);
        let names = std::iter::once("localhost").chain(names);
        let mut permitted: Vec<_> = names
            .map(|name| GeneralSubtree::DnsName(name.to_owned()))
            .collect();
        if self.only_loopback_addresses {
            // Earlier releases wrote the addresses at this place. `is_same_authority` compares the order too.
            let loopback = [
                CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0]),
                CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16]),
            ];
            permitted.splice(1..1, loopback.map(GeneralSubtree::IpAddress));
        }
        self.permitted_names.is_some().then_some(NameConstraints {
            permitted_subtrees: permitted,
            excluded_subtrees: Vec::new(),
        })
    }
}

impl Ca {
    /// Makes a key and a CA that has this key.
    ///
    /// # Errors
    /// [`IssueError`], when the system's random number generator fails.
    pub fn generate(spec: &CaSpec) -> Result<Ca, IssueError> {
        Self::sign_itself(spec.params(), new_key()?)
    }

    /// Makes a CA with an existing key (PKCS #8, PEM). The certificate is signed anew, so only the dates and the signature
    /// differ from an earlier certificate, and no leaf depends on them.
    ///
    /// # Errors
    /// [`IssueError`], when the key is not a P-256 key in this form.
    pub fn with_key(spec: &CaSpec, key_pem: &[u8]) -> Result<Ca, IssueError> {
        Self::sign_itself(spec.params(), parse_key(key_pem)?)
    }

    fn sign_itself(params: CertificateParams, key: Zeroizing<KeyPair>) -> Result<Ca, IssueError> {
        let cert = params.self_signed(&*key)?;
        Ok(Ca { params, cert, key })
    }

    /// Returns the certificate in PEM, for trust stores.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        self.cert.pem()
    }

    /// Returns the certificate in DER.
    #[must_use]
    pub fn cert(&self) -> &CertificateDer<'static> {
        self.cert.der()
    }

    /// Returns the private key (PKCS #8, PEM).
    #[must_use]
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }
}

impl Leaf {
    /// Returns a leaf with one principal and no other name, valid for one year, from one hour ago.
    #[must_use]
    pub fn new(name: &str, principal: &str, usages: &[Usage], now: SystemTime) -> Self {
        Leaf {
            name: name.to_owned(),
            uris: vec![principal.to_owned()],
            dns: Vec::new(),
            ips: Vec::new(),
            usages: usages.to_vec(),
            not_before: now - HOUR,
            not_after: now + YEAR,
            is_ca: false,
        }
    }

    /// Sets the DNS name to `localhost`, and the IP addresses to the loopback addresses.
    #[must_use]
    pub fn on_loopback(self) -> Self {
        Leaf {
            dns: vec!["localhost".to_owned()],
            ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            ..self
        }
    }

    /// Adds a DNS name.
    #[must_use]
    pub fn also_named(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// Returns the leaf of a server that has DNS names and no principal, such as an upstream.
    #[must_use]
    pub fn server(name: &str, now: SystemTime) -> Self {
        Leaf {
            uris: Vec::new(),
            ..Leaf::new(name, "", &[Usage::Server], now).on_loopback()
        }
    }

    /// Returns the leaf of a development vault, with [`VAULT_ID`].
    #[must_use]
    pub fn vault(now: SystemTime) -> Self {
        Leaf::new("vault", VAULT_ID, &[Usage::Server], now).on_loopback()
    }

    /// Returns the injector's leaf, with both usages: the injector serves its admin API, and is a client of the vault.
    #[must_use]
    pub fn injector(now: SystemTime) -> Self {
        Leaf::new("injector", INJECTOR_ID, &[Usage::Server, Usage::Client], now).on_loopback()
    }

    /// Returns the leaf of a developer, with [`ADMIN_ID`].
    #[must_use]
    pub fn admin(now: SystemTime) -> Self {
        Leaf::new("admin", ADMIN_ID, &[Usage::Client], now)
    }

    fn params(&self) -> Result<CertificateParams, IssueError> {
        let mut params = CertificateParams::default();
        set_validity(&mut params, self.not_before, self.not_after);
        params.distinguished_name = DistinguishedName::new();
        // The space in the name is needed: without a DNS SAN, OpenSSL applies the name constraints to a common name that
        // looks like a host name.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("aerostack {}", self.name));
        params.subject_alt_names = self.names()?;
        params.is_ca = if self.is_ca {
            IsCa::Ca(BasicConstraints::Unconstrained)
        } else {
            IsCa::ExplicitNoCa
        };
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.usages.iter().map(|usage| purpose(*usage)).collect();
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }

    fn names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let uris = self
            .uris
            .iter()
            .map(|uri| Ok(SanType::URI(uri.as_str().try_into()?)));
        let dns = self
            .dns
            .iter()
            .map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        let ips = self.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
        uris.chain(dns).chain(ips).collect()
    }
}

/// Makes a key and a leaf that has this key. The name constraints of `ca` are not checked, because tests make leaves that
/// violate them.
///
/// # Errors
/// [`IssueError`], when a name is not ASCII or the system's random number generator fails.
pub fn issue(ca: &Ca, leaf: &Leaf) -> Result<Issued, IssueError> {
    let key = new_key()?;
    let issuer = Issuer::from_params(&ca.params, &*ca.key);
    let cert = leaf.params()?.signed_by(&*key, &issuer)?;
    Ok(Issued {
        cert_pem: cert.pem(),
        key_pem: Zeroizing::new(key.serialize_pem()),
    })
}

pub(super) fn parse_key(pem: &[u8]) -> Result<Zeroizing<KeyPair>, IssueError> {
    let pem = str::from_utf8(pem).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
    Ok(Zeroizing::new(key))
}

fn new_key() -> Result<Zeroizing<KeyPair>, IssueError> {
    Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
}

/// Adds durations to a date that rcgen makes, so that this crate need not depend on the `time` crate.
fn set_validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}

/// Returns the time since 1970, and zero for an earlier time. No certificate of ours is valid in 1970.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn purpose(usage: Usage) -> ExtendedKeyUsagePurpose {
    match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

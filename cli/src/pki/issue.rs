//! Authorities and leaves in memory: what `aerostack dev` keeps on disk, and what tests ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::{ADMIN_ID, INJECTOR_ID, VAULT_ID};

/// The organization in the subject of a development CA. The services know it by this.
pub use chassis::tls::DEVELOPMENT_ORGANIZATION;

const HOUR: Duration = Duration::from_hours(1);
const YEAR: Duration = Duration::from_hours(365 * 24);

/// rcgen would not make the key or the certificate.
#[derive(Debug, thiserror::Error)]
#[error("the certificate could not be made")]
pub struct IssueError(#[from] rcgen::Error);

/// What an authority is to be: always P-256, with no CA beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSpec {
    /// Subject, O.
    pub organization: String,
    /// Subject, CN.
    pub common_name: String,
    /// The DNS names, and what is beneath them, that it may issue for besides `localhost`; without a list it may issue
    /// for any name.
    pub only: Option<Vec<String>>,
    /// True for authorities of earlier releases, which may also issue for no addresses but those of loopback. BoringSSL
    /// refuses every leaf with an address beneath such an authority.
    pub only_loopback_addresses: bool,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

/// A certificate authority that can issue.
pub struct Ca {
    params: CertificateParams,
    cert: Certificate,
    key: Zeroizing<KeyPair>,
}

/// What a certificate may be used for: the extended key usages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// serverAuth
    Server,
    /// clientAuth
    Client,
}

/// What a leaf is to be. All fields are open, so that a test can ask for a wrong one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// What its files and its subject are called; says nothing about who it is.
    pub name: String,
    /// URI SANs: the principal, if it is a SPIFFE ID.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// IP SANs.
    pub ips: Vec<IpAddr>,
    /// Extended key usages.
    pub usages: Vec<Usage>,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Basic constraints, cA: never, but in a test.
    pub is_ca: bool,
}

/// A leaf and its key, both PEM.
pub struct Issued {
    /// The certificate. There are no intermediates, so it is the whole chain.
    pub cert_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: Zeroizing<String>,
}

impl CaSpec {
    /// The authority of `aerostack dev`: ten years from an hour ago.
    #[must_use]
    pub fn development(now: SystemTime) -> Self {
        CaSpec {
            organization: DEVELOPMENT_ORGANIZATION.to_owned(),
            common_name: "aerostack development CA".to_owned(),
            only: Some(Vec::new()),
            only_loopback_addresses: false,
            not_before: now - HOUR,
            not_after: now + YEAR * 10,
        }
    }

    /// The authority of a pair whose parts run apart, each under one of these names.
    #[must_use]
    pub fn apart(names: Vec<String>, now: SystemTime) -> Self {
        CaSpec {
            organization: "Aerostack".to_owned(),
            common_name: "aerostack CA".to_owned(),
            only: Some(names),
            ..Self::development(now)
        }
    }

    /// The authority of `aerostack pki`, which may issue for any name.
    #[must_use]
    pub fn for_any_name(now: SystemTime) -> Self {
        CaSpec {
            only: None,
            ..Self::apart(Vec::new(), now)
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

    /// `localhost` includes the names beneath it (RFC 5280, 4.2.1.10). The list names no URIs, because a kind of name
    /// that is not listed is free, and webpki refuses every URI where URIs are listed.
    fn name_constraints(&self) -> Option<NameConstraints> {
        let names = self.only.iter().flatten().map(String::as_str);
        let names = std::iter::once("localhost").chain(names);
        let mut permitted: Vec<_> = names
            .map(|name| GeneralSubtree::DnsName(name.to_owned()))
            .collect();
        if self.only_loopback_addresses {
            // The place that earlier releases gave them: the order counts when a stored authority is compared.
            let loopback = [
                CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0]),
                CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [255; 16]),
            ];
            permitted.splice(1..1, loopback.map(GeneralSubtree::IpAddress));
        }
        self.only.is_some().then_some(NameConstraints {
            permitted_subtrees: permitted,
            excluded_subtrees: Vec::new(),
        })
    }
}

impl Ca {
    /// Makes a key and an authority with it.
    ///
    /// # Errors
    /// [`IssueError`], when the system has no randomness.
    pub fn generate(spec: &CaSpec) -> Result<Ca, IssueError> {
        Self::sign_itself(spec.params(), new_key()?)
    }

    /// Makes an authority with a key that exists (PKCS #8, PEM). Its certificate is signed anew: what
    /// differs from an earlier one is the dates and the signature, and no leaf depends on those.
    pub(super) fn with_key(spec: &CaSpec, key_pem: &[u8]) -> Result<Ca, IssueError> {
        Self::sign_itself(spec.params(), parse_key(key_pem)?)
    }

    fn sign_itself(params: CertificateParams, key: Zeroizing<KeyPair>) -> Result<Ca, IssueError> {
        let cert = params.self_signed(&*key)?;
        Ok(Ca { params, cert, key })
    }

    /// The certificate, PEM: what others trust.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        self.cert.pem()
    }

    pub(super) fn cert(&self) -> &CertificateDer<'static> {
        self.cert.der()
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }
}

impl Leaf {
    /// A leaf with one principal and no other name: one year from an hour ago.
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

    /// The same, reachable as `localhost` and by the loopback addresses.
    #[must_use]
    pub fn on_loopback(self) -> Self {
        Leaf {
            dns: vec!["localhost".to_owned()],
            ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            ..self
        }
    }

    /// The same, reachable under one more name.
    #[must_use]
    pub fn also_named(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// A server's that is nobody in particular: it has names and no principal.
    #[must_use]
    pub fn server(name: &str, now: SystemTime) -> Self {
        Leaf {
            uris: Vec::new(),
            ..Leaf::new(name, "", &[Usage::Server], now).on_loopback()
        }
    }

    /// The development vault's.
    #[must_use]
    pub fn vault(now: SystemTime) -> Self {
        Leaf::new("vault", VAULT_ID, &[Usage::Server], now).on_loopback()
    }

    /// The development injector's: it serves its admin API and is a client of the vault.
    #[must_use]
    pub fn injector(now: SystemTime) -> Self {
        Leaf::new("injector", INJECTOR_ID, &[Usage::Server, Usage::Client], now).on_loopback()
    }

    /// The developer's.
    #[must_use]
    pub fn admin(now: SystemTime) -> Self {
        Leaf::new("admin", ADMIN_ID, &[Usage::Client], now)
    }

    fn params(&self) -> Result<CertificateParams, IssueError> {
        let mut params = CertificateParams::default();
        set_validity(&mut params, self.not_before, self.not_after);
        params.distinguished_name = DistinguishedName::new();
        // The space matters: where there is no DNS SAN, OpenSSL holds a CN that looks like a host
        // name against the name constraints.
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

/// Makes a key and a leaf with it. Whether the leaf keeps to the name constraints is for whoever
/// verifies it: a test may want one that does not.
///
/// # Errors
/// [`IssueError`], when a name is not ASCII or the system has no randomness.
pub fn issue(ca: &Ca, leaf: &Leaf) -> Result<Issued, IssueError> {
    let key = new_key()?;
    let issuer = Issuer::from_params(&ca.params, &*ca.key);
    let cert = leaf.params()?.signed_by(&*key, &issuer)?;
    Ok(Issued {
        cert_pem: cert.pem(),
        key_pem: Zeroizing::new(key.serialize_pem()),
    })
}

/// A P-256 key in PEM.
pub(super) fn parse_key(pem: &[u8]) -> Result<Zeroizing<KeyPair>, IssueError> {
    let pem = str::from_utf8(pem).map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(pem, &PKCS_ECDSA_P256_SHA256)?;
    Ok(Zeroizing::new(key))
}

fn new_key() -> Result<Zeroizing<KeyPair>, IssueError> {
    Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
}

/// In rcgen's words the epoch is a date, so that nobody else needs the `time` crate.
fn set_validity(params: &mut CertificateParams, not_before: SystemTime, not_after: SystemTime) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(not_before);
    params.not_after = epoch + since_epoch(not_after);
}

/// A clock before 1970 becomes 1970: none of our certificates is valid then.
pub(super) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO)
}

fn purpose(usage: Usage) -> ExtendedKeyUsagePurpose {
    match usage {
        Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }
}

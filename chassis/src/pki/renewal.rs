//! Renewal of a leaf and of the authority that issues it, without an operator.
//!
//! A bundle holds every authority that has not expired, the oldest first. When the newest authority has used two thirds of its
//! life, a new one joins the bundle, and clients have to learn the new bundle. The oldest authority issues leaves for as long
//! as it outlives them. So a client has the rest of the authority's life, less the life of a leaf, to learn a new authority.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Unit};
use rustls_pki_types::CertificateDer;
use webpki::anchor_from_trusted_cert;
use zeroize::Zeroizing;

use super::{
    certificate::{Ca, CaSpec, IssueError, Issued, Leaf, Usage, issue},
    validity::{
        ca_begins_after, ca_has_expired, ca_is_valid, is_same_authority, leaf_is_valid, parse_certificate,
    },
};

/// The names and the lives of a leaf and its authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalPlan {
    /// Names the holder in the subject of the leaf. No service looks at this name.
    pub holder: String,
    /// DNS SANs of the leaf.
    pub dns: Vec<String>,
    /// URI SANs of the leaf.
    pub uris: Vec<String>,
    /// Life of an authority.
    pub authority_life: Duration,
    /// Life of a leaf.
    pub leaf_life: Duration,
}

/// The stored authorities cannot be used. They are never replaced, because clients trust them.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The text has no pair of a certificate and its key, or the numbers of both differ.
    #[error("there are {certificates} certificates of authorities and {keys} keys")]
    Unpaired {
        /// Number of certificates.
        certificates: usize,
        /// Number of keys.
        keys: usize,
    },
    /// A certificate is not one that this program makes with its key.
    #[error("certificate {0} of the authorities is not one that this program made, or has another key")]
    Foreign(usize),
}

/// The authorities were not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The newest authority is not valid yet. It stays, because clients trust it.
    #[error(
        "the newest authority is valid from {} on, and the clock of this machine says {}: one of these clocks is wrong, this \
         one or that of the machine that made the authority", timestamp(.not_before), timestamp(.now)
    )]
    NotYetValid {
        /// Begin of the validity of the authority.
        not_before: SystemTime,
        /// The time of this machine.
        now: SystemTime,
    },
    /// A new authority could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

fn timestamp(time: &SystemTime) -> Timestamp {
    let whole_seconds = Timestamp::try_from(*time).and_then(|time| time.round(Unit::Second));
    whole_seconds.unwrap_or(Timestamp::MAX)
}

/// Authorities that are valid at the same time, the oldest first. Never empty.
pub struct AuthorityBundle(Vec<StoredAuthority>);

struct StoredAuthority {
    /// The stored certificate, which clients get: the one in `ca` was signed anew and differs in its signature.
    pem: String,
    cert: CertificateDer<'static>,
    ca: Ca,
}

impl RenewalPlan {
    fn authority(&self, now: SystemTime) -> CaSpec {
        CaSpec {
            not_after: now + self.authority_life,
            ..CaSpec::for_any_name(now)
        }
    }

    fn leaf(&self, now: SystemTime) -> Leaf {
        Leaf {
            uris: self.uris.clone(),
            dns: self.dns.clone(),
            not_after: now + self.leaf_life,
            ..Leaf::new(&self.holder, "", &[Usage::Server], now)
        }
    }
}

impl AuthorityBundle {
    /// Makes a bundle with one new authority.
    ///
    /// # Errors
    /// [`IssueError`], when the system's random number generator fails.
    pub fn generate(plan: &RenewalPlan, now: SystemTime) -> Result<Self, IssueError> {
        Ok(Self(vec![StoredAuthority::generate(plan, now)?]))
    }

    /// Reads the PEM texts of a bundle: the certificates, and their keys in the same order.
    ///
    /// # Errors
    /// [`BundleError`] for authorities that this program did not make.
    pub fn parse(certificates: &str, keys: &str) -> Result<Self, BundleError> {
        let (certificates, keys) = (sections(certificates), sections(keys));
        if certificates.is_empty() || certificates.len() != keys.len() {
            return Err(BundleError::Unpaired {
                certificates: certificates.len(),
                keys: keys.len(),
            });
        }
        let pairs = certificates.into_iter().zip(keys).zip(1..);
        pairs
            .map(|((pem, key), number)| StoredAuthority::parse(pem, key).ok_or(BundleError::Foreign(number)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Removes the authorities that have expired, and adds a new one when the newest has used two thirds of its life. Returns
    /// true when the bundle changed.
    ///
    /// # Errors
    /// [`RenewError`]; the bundle has then not changed.
    pub fn renew(&mut self, plan: &RenewalPlan, now: SystemTime) -> Result<bool, RenewError> {
        let newest = self.0.last();
        if let Some(not_before) = newest.and_then(|newest| ca_begins_after(&newest.cert, now)) {
            return Err(RenewError::NotYetValid { not_before, now });
        }
        let before = self.0.len();
        self.0.retain(|stored| !ca_has_expired(&stored.cert, now));
        let removed = self.0.len() != before;
        let later = now + plan.authority_life / 3;
        let is_young = |newest: &StoredAuthority| ca_is_valid(&newest.cert, &[later]);
        if self.0.last().is_some_and(is_young) {
            return Ok(removed);
        }
        self.0.push(StoredAuthority::generate(plan, now)?);
        Ok(true)
    }

    /// Returns a new leaf, or `None` when the stored one, a certificate and its key in PEM, may stay: an authority of the
    /// bundle issued it with the names of the plan, and it has not used two thirds of its life.
    ///
    /// # Errors
    /// [`IssueError`], when a name of the plan is not ASCII or the system's random number generator fails.
    pub fn leaf(
        &self,
        plan: &RenewalPlan,
        stored: Option<(&[u8], &[u8])>,
        now: SystemTime,
    ) -> Result<Option<Issued>, IssueError> {
        let leaf = plan.leaf(now);
        let times = [now, now + plan.leaf_life / 3];
        let may_stay = stored.is_some_and(|(cert, key)| {
            let mut authorities = self.0.iter();
            authorities.any(|stored| leaf_is_valid(&stored.cert, &leaf, cert, key, &times))
        });
        if may_stay {
            return Ok(None);
        }
        let outlives = |stored: &&StoredAuthority| ca_is_valid(&stored.cert, &[now, now + plan.leaf_life]);
        let issuer = self.0.iter().find(outlives).or(self.0.last());
        issuer.map(|stored| issue(&stored.ca, &leaf)).transpose()
    }

    /// Returns the certificates in PEM, for clients.
    #[must_use]
    pub fn certificates_pem(&self) -> String {
        self.0.iter().map(|stored| stored.pem.as_str()).collect()
    }

    /// Returns the keys in PEM, in the order of the certificates.
    #[must_use]
    pub fn keys_pem(&self) -> Zeroizing<String> {
        let keys = self.0.iter().map(|stored| stored.ca.key_pem());
        keys.fold(Zeroizing::default(), |mut all: Zeroizing<String>, key| {
            all.push_str(&key);
            all
        })
    }
}

impl StoredAuthority {
    fn generate(plan: &RenewalPlan, now: SystemTime) -> Result<Self, IssueError> {
        let ca = Ca::generate(&plan.authority(now))?;
        Ok(Self {
            pem: ca.cert_pem(),
            cert: ca.cert().clone(),
            ca,
        })
    }

    fn parse(pem: &str, key: &str) -> Option<Self> {
        // The dates of this specification are in the certificate that is signed anew, which nobody sees.
        let ca = Ca::with_key(&CaSpec::for_any_name(SystemTime::now()), key.as_bytes()).ok()?;
        let cert = parse_certificate(pem.as_bytes())?;
        is_same_authority(&cert, ca.cert()).then(|| Self {
            pem: pem.to_owned(),
            cert,
            ca,
        })
    }
}

/// Returns the certificates of a PEM text without anything else that the text has, such as comments and keys. Returns `None` when there
/// is none, or one cannot be read.
#[must_use]
pub fn only_certificates(pem: &str) -> Option<String> {
    let sections = sections(pem);
    let certificates = sections
        .into_iter()
        .filter(|section| section.starts_with("-----BEGIN CERTIFICATE-----"));
    let text = certificates
        .map(|section| {
            let der = parse_certificate(section.as_bytes())?;
            anchor_from_trusted_cert(&der).ok()?;
            Some(format!("{}\n", section.trim_end()))
        })
        .collect::<Option<String>>()?;
    (!text.is_empty()).then_some(text)
}

/// Returns the sections of a PEM text (RFC 7468), each with its last line break.
fn sections(pem: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let mut rest = pem;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let section = rest.split_at(begin).1;
        let Some(footer) = section.find("-----END ") else {
            break;
        };
        let end = section
            .split_at(footer)
            .1
            .find('\n')
            .map_or(section.len(), |line_break| footer + line_break + 1);
        let (section, after) = section.split_at(end);
        sections.push(section);
        rest = after;
    }
    sections
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::time::UNIX_EPOCH;

    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    };
    use rustls_pki_types::{ServerName, UnixTime};

    use super::*;
    use crate::tls;

    const DAY: Duration = Duration::from_hours(24);

    fn plan() -> RenewalPlan {
        RenewalPlan {
            holder: "webhook".to_owned(),
            dns: vec!["webhook.test.svc".to_owned()],
            uris: Vec::new(),
            authority_life: 360 * DAY,
            leaf_life: 30 * DAY,
        }
    }

    /// Returns the leaf that the bundle issues at `now`, and checks that it verifies against the authority at `index`.
    fn issued_by(bundle: &AuthorityBundle, index: usize, now: SystemTime) -> Issued {
        let leaf = bundle.leaf(&plan(), None, now).unwrap().unwrap();
        let authority = &bundle.0.get(index).unwrap().cert;
        let expected = plan().leaf(now);
        let (cert, key) = (leaf.cert_pem.as_bytes(), leaf.key_pem.as_bytes());
        assert!(leaf_is_valid(authority, &expected, cert, key, &[now]));
        leaf
    }

    #[test]
    fn a_leaf_stays_for_two_thirds_of_its_life() {
        let now = SystemTime::now();
        let bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        let leaf = issued_by(&bundle, 0, now);
        let stored = Some((leaf.cert_pem.as_bytes(), leaf.key_pem.as_bytes()));
        let stays = |plan: &RenewalPlan, days| bundle.leaf(plan, stored, now + days * DAY).unwrap().is_none();
        assert!(stays(&plan(), 19) && !stays(&plan(), 21));
        let renamed = RenewalPlan {
            dns: vec!["other.test.svc".to_owned()],
            ..plan()
        };
        assert!(!stays(&renamed, 0));
        let other_key = issued_by(&bundle, 0, now).key_pem;
        let mixed = Some((leaf.cert_pem.as_bytes(), other_key.as_bytes()));
        assert!(bundle.leaf(&plan(), mixed, now).unwrap().is_some());
    }

    #[test]
    fn a_new_authority_joins_the_bundle_long_before_it_issues_leaves() {
        let now = SystemTime::now();
        let mut bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        assert!(!bundle.renew(&plan(), now + 239 * DAY).unwrap());
        assert!(bundle.renew(&plan(), now + 241 * DAY).unwrap());
        assert_eq!(bundle.0.len(), 2);
        issued_by(&bundle, 0, now + 329 * DAY);
        issued_by(&bundle, 1, now + 331 * DAY);
        assert!(!bundle.renew(&plan(), now + 359 * DAY).unwrap());
        assert!(bundle.renew(&plan(), now + 361 * DAY).unwrap());
        assert_eq!(bundle.0.len(), 1);
    }

    /// Both authorities have the same name, so a verifier has to try more than the first.
    #[test]
    fn a_client_with_the_bundle_accepts_the_leaves_of_both_authorities() {
        let now = SystemTime::now();
        let mut bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        bundle.renew(&plan(), now + 241 * DAY).unwrap();
        let mut roots = RootCertStore::empty();
        for stored in &bundle.0 {
            roots.add(stored.cert.clone()).unwrap();
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), tls::provider());
        let verifier = verifier.build().unwrap();
        let name = ServerName::try_from("webhook.test.svc").unwrap();
        for (index, day) in [(0, 250), (1, 335)] {
            let leaf = issued_by(&bundle, index, now + day * DAY);
            let leaf = parse_certificate(leaf.cert_pem.as_bytes()).unwrap();
            let time = UnixTime::since_unix_epoch((now + day * DAY).duration_since(UNIX_EPOCH).unwrap());
            let verified = verifier.verify_server_cert(&leaf, &[], &name, &[], time);
            assert!(verified.is_ok(), "{index}: {verified:?}");
        }
    }

    #[test]
    fn a_bundle_whose_authorities_have_all_expired_gets_a_new_one() {
        let now = SystemTime::now();
        let mut bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        assert!(bundle.renew(&plan(), now + 400 * DAY).unwrap());
        assert_eq!(bundle.0.len(), 1);
        issued_by(&bundle, 0, now + 400 * DAY);
    }

    /// The error names both times, so that the operator looks at the clocks.
    #[test]
    fn a_clock_that_is_behind_removes_no_authority_and_adds_none() {
        let now = SystemTime::now();
        let mut bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        bundle.renew(&plan(), now + 241 * DAY).unwrap();
        let before = bundle.certificates_pem();
        for behind in [now + 240 * DAY, now - 2 * DAY] {
            let refused = bundle.renew(&plan(), behind).unwrap_err().to_string();
            let says = format!("the clock of this machine says {}", timestamp(&behind));
            assert!(refused.contains(&says), "{refused}");
            assert_eq!(bundle.certificates_pem(), before);
        }
        assert!(!bundle.renew(&plan(), now + 241 * DAY).unwrap());
    }

    #[test]
    fn a_stored_bundle_issues_the_same_leaves() {
        let now = SystemTime::now();
        let mut bundle = AuthorityBundle::generate(&plan(), now).unwrap();
        bundle.renew(&plan(), now + 241 * DAY).unwrap();
        let (certificates, keys) = (bundle.certificates_pem(), bundle.keys_pem());
        let stored = AuthorityBundle::parse(&certificates, &keys).unwrap();
        assert_eq!(stored.certificates_pem(), certificates);
        assert_eq!(*stored.keys_pem(), *keys);
        let leaf = issued_by(&stored, 0, now + 241 * DAY);
        let pair = Some((leaf.cert_pem.as_bytes(), leaf.key_pem.as_bytes()));
        assert!(bundle.leaf(&plan(), pair, now + 241 * DAY).unwrap().is_none());
    }

    #[test]
    fn a_key_between_certificates_is_left_out() {
        let bundle = AuthorityBundle::generate(&plan(), SystemTime::now()).unwrap();
        let certificate = bundle.certificates_pem();
        let mixed = format!("a comment\n{certificate}{}{certificate}", *bundle.keys_pem());
        assert_eq!(only_certificates(&mixed).unwrap(), certificate.repeat(2));
        assert_eq!(only_certificates(&bundle.keys_pem()), None);
        assert_eq!(only_certificates(&certificate.replace("MII", "mii")), None);
    }

    #[test]
    fn authorities_that_this_program_did_not_make_are_refused() {
        let now = SystemTime::now();
        let one = AuthorityBundle::generate(&plan(), now).unwrap();
        let other = AuthorityBundle::generate(&plan(), now).unwrap();
        let refusal = |certificates: &str, keys: &str| {
            let refused = AuthorityBundle::parse(certificates, keys);
            refused.err().unwrap().to_string()
        };
        let (certificate, key) = (one.certificates_pem(), one.keys_pem());
        assert_eq!(
            refusal(&certificate, &other.keys_pem()),
            "certificate 1 of the authorities is not one that this program made, or has another key"
        );
        assert_eq!(
            refusal(&certificate.repeat(2), &key),
            "there are 2 certificates of authorities and 1 keys"
        );
        assert_eq!(
            refusal("", ""),
            "there are 0 certificates of authorities and 0 keys"
        );
    }
}

//! The messages of the Workload API that this client uses (SPIFFE Workload API, appendix A).

use std::{collections::HashMap, fmt};

/// A request for X.509-SVIDs.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidRequest {}

/// The X.509-SVIDs of the workload, and the bundles to verify its peers with. Each answer replaces the one before.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidResponse {
    /// The first one is the default.
    #[prost(message, repeated, tag = "1")]
    pub(super) svids: Vec<X509Svid>,
    /// Bundles of other trust domains, by the SPIFFE ID of the trust domain, each as DER certificates one after the other.
    #[prost(map = "string, bytes", tag = "3")]
    pub(super) federated_bundles: HashMap<String, Vec<u8>>,
}

/// A certificate, its key, and the bundle of its trust domain.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub(super) spiffe_id: String,
    /// The chain as DER certificates one after the other, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) x509_svid: Vec<u8>,
    /// The key as PKCS #8 in DER.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) x509_svid_key: Vec<u8>,
    /// DER certificates one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) bundle: Vec<u8>,
}

/// Leaves the key out.
impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

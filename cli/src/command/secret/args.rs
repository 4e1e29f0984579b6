//! Arguments that several commands for secrets share.

use std::collections::BTreeMap;

use chassis::service_channel::ServiceChannel;
use clap::Args;
use prost_types::Timestamp;
use proto::{SecretName, SecretNameError, vault::v1::secret_service_client::SecretServiceClient};

use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    secret_metadata::{label, time_at, time_in},
};

/// Where the values may be sent to, and the labels.
#[derive(Debug, Args)]
pub(super) struct MetadataArgs {
    /// An origin that the value may be sent to: `https://api.github.com`, `https://*.example.com`; may be repeated. Without
    /// this flag, a secret that is replaced keeps its origins
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    only_to: Vec<String>,
    /// Let the value be sent to any origin, also when the secret was bound to origins before
    #[arg(long, conflicts_with = "only_to")]
    anywhere: bool,
    /// A label, to sort secrets by; may be repeated. Without this flag, a secret that is replaced keeps its labels
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Remove all labels of the secret
    #[arg(long, conflicts_with = "labels")]
    no_labels: bool,
}

/// The metadata that the flags name. `None` keeps that of a secret that is replaced.
pub(super) struct Metadata {
    pub(super) origins: Option<Vec<String>>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

impl MetadataArgs {
    pub(super) fn metadata(self) -> Metadata {
        let Self {
            only_to,
            anywhere,
            labels,
            no_labels,
        } = self;
        Metadata {
            origins: (anywhere || !only_to.is_empty()).then_some(only_to),
            labels: (no_labels || !labels.is_empty()).then(|| BTreeMap::from_iter(labels)),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct ExpiryArgs {
    /// The time at which the value expires, such as 2027-01-31T00:00:00Z; servers do not get an expired value. Without an
    /// expiry flag a new value never expires
    #[arg(long, value_name = "TIME", value_parser = time_at, conflicts_with = "expires_in")]
    expires_at: Option<Timestamp>,
    /// The time after which the value expires: `90d`, `12h`, `1h30m`
    #[arg(long, value_name = "DURATION", value_parser = time_in)]
    expires_in: Option<Timestamp>,
}

impl ExpiryArgs {
    pub(super) fn time(self) -> Option<Timestamp> {
        self.expires_at.or(self.expires_in)
    }
}

pub(super) fn client(vault: &Remote) -> SecretServiceClient<ServiceChannel> {
    SecretServiceClient::new(vault.channel.clone())
}

/// Parses the name of a secret, and normalizes it as the vault does.
pub(super) fn secret_name(name: &str) -> Result<SecretName, Failure> {
    SecretName::parse(name).map_err(|error| {
        let failure = Failure::new(FailureKind::Usage, error);
        match error {
            SecretNameError::EqualsSign => failure.hint(
                "write NAME VALUE instead of NAME=VALUE: `aerostack workspace secret set WORKSPACE NAME VALUE`; \
                 --from-env-file FILE sets all secrets of a file of NAME=VALUE lines",
            ),
            _ => failure,
        }
    })
}

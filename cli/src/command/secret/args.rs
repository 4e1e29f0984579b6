//! Arguments that several commands for secrets share.

use clap::Args;
use prost_types::Timestamp;
use proto::{SecretName, SecretNameError, vault::v1::secret_service_client::SecretServiceClient};
use tonic::transport::Channel;

use crate::{
    connect::Remote,
    failure::{Failure, FailureKind},
    secret_metadata::{time_at, time_in},
};

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

pub(super) fn client(vault: &Remote) -> SecretServiceClient<Channel> {
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

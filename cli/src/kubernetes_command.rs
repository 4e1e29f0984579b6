//! `aerostack kubernetes`: work inside a cluster, with the service account of a pod.

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use chassis::{
    kubernetes::{
        ApiClient, ApiError, CertificatesError, NamespacedName, ObjectName, SERVICE_ACCOUNT_DIR,
        renew_in_two_secrets,
    },
    pki::{RenewError, RenewalPlan},
};
use clap::{Args, Subcommand};
use http::StatusCode;

use crate::{failure::FailureKind, pki_command::spiffe_id};

/// Life of an authority. Pods keep the authorities that were known when the pods were created, so the life is long.
const AUTHORITY_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
/// Life of a certificate.
const LEAF_LIFE: Duration = Duration::from_hours(90 * 24);

#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
Example:\n\
\x20 aerostack kubernetes certificates --namespace aerostack --secret aerostack-vault-tls --dns aerostack-vault.aerostack.svc")]
pub enum KubernetesCommand {
    /// Make or renew a certificate and its authority in two Secrets
    ///
    /// The Secret NAME gets tls.crt, tls.key and ca.crt, and the Secret NAME-ca gets the authority with its key. A certificate is
    /// valid for 90 days, and is renewed after 60. An authority is valid for 10 years; its successor is added to ca.crt
    /// long before it issues certificates. The command may run every day, and by several pods at once. It runs inside a
    /// cluster, with a service account that may get, create and update Secrets.
    Certificates(ClusterCertificatesArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:\n\
\x20 aerostack kubernetes certificates --namespace aerostack --secret aerostack-vault-tls --dns aerostack-vault.aerostack.svc \
--uri spiffe://aerostack/vault")]
pub struct ClusterCertificatesArgs {
    /// The namespace of both Secrets
    #[arg(long, value_name = "NAMESPACE")]
    namespace: ObjectName,
    /// The Secret for the certificate. A Secret of this name that another program made is never changed
    #[arg(long, value_name = "NAME")]
    secret: ObjectName,
    /// A DNS name under which others reach the holder; may be repeated
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    dns: Vec<ObjectName>,
    /// The principal of the holder: spiffe://TRUST-DOMAIN/PATH. Without it, the only DNS name is the principal
    #[arg(long, value_name = "PRINCIPAL", value_parser = spiffe_id)]
    uri: Option<String>,
    /// Directory with the token and the ca.crt for the API of Kubernetes
    #[arg(long, default_value = SERVICE_ACCOUNT_DIR, value_name = "DIR")]
    service_account_dir: PathBuf,
}

impl KubernetesCommand {
    /// Makes what is missing or stale, and returns a sentence for each thing that was made.
    pub async fn run(&self) -> Result<Vec<String>, CertificatesError> {
        let Self::Certificates(args) = self;
        let api = ApiClient::in_cluster(&args.service_account_dir)?;
        let secret = args.secret_named(args.secret.clone());
        let authority = args.secret_named(args.secret.with_suffix("-ca")?);
        let renewed =
            renew_in_two_secrets(&api, &secret, &authority, &args.plan(), SystemTime::now()).await?;
        let authority = renewed
            .authorities_changed
            .then(|| format!("a certificate authority, in the Secret {authority}"));
        let leaf = renewed
            .leaf_made
            .then(|| format!("a certificate, in the Secret {secret}"));
        Ok(authority.into_iter().chain(leaf).collect())
    }
}

impl ClusterCertificatesArgs {
    fn secret_named(&self, name: ObjectName) -> NamespacedName {
        NamespacedName {
            namespace: self.namespace.clone(),
            name,
        }
    }

    fn plan(&self) -> RenewalPlan {
        RenewalPlan {
            holder: self.secret.to_string(),
            dns: self.dns.iter().map(ToString::to_string).collect(),
            uris: self.uri.iter().cloned().collect(),
            authority_life: AUTHORITY_LIFE,
            leaf_life: LEAF_LIFE,
        }
    }
}

/// Returns the kind of a failure, which has the exit code.
pub(crate) fn failure_kind(error: &CertificatesError) -> FailureKind {
    match error {
        CertificatesError::Api(error) => match error {
            ApiError::NotInCluster(_) => FailureKind::Configuration,
            ApiError::ServiceAccount { .. } | ApiError::Token(_) => FailureKind::File,
            ApiError::Unreachable { .. } | ApiError::Timeout => FailureKind::Unavailable,
            ApiError::Malformed(_) => FailureKind::Internal,
            ApiError::Refused { code, .. } => match *code {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::NotAllowed,
                StatusCode::NOT_FOUND => FailureKind::NotFound,
                _ => FailureKind::Refused,
            },
        },
        CertificatesError::Name(_) => FailureKind::Usage,
        CertificatesError::Foreign(_) | CertificatesError::Authority { .. } => FailureKind::Configuration,
        CertificatesError::Renew { secret: _, source } => match source {
            RenewError::NotYetValid { .. } => FailureKind::Configuration,
            RenewError::Issue(_) => FailureKind::Internal,
        },
        CertificatesError::Issue(_) => FailureKind::Internal,
        CertificatesError::Contended(_) => FailureKind::Conflict,
    }
}

//! Errors of the API and of certificates that are kept in it.

use std::{io, path::PathBuf};

use http::{Method, StatusCode};

use super::{NameError, NamespacedName};
use crate::{
    jwt::TokenFileError,
    pki::{BundleError, IssueError, RenewError},
};

/// The error of a call of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The environment does not name the API.
    #[error("this program does not run inside a cluster: the environment variable {0} is missing or wrong")]
    NotInCluster(&'static str),
    /// A file of the service account cannot be used.
    #[error("the file {path} of the service account cannot be used", path = path.display())]
    ServiceAccount {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The token of the service account cannot be used.
    #[error(transparent)]
    Token(#[from] TokenFileError),
    /// The connection failed, or the certificate of the API was refused.
    #[error("the API of Kubernetes on {address} cannot be reached")]
    Unreachable {
        /// Host and port.
        address: String,
        /// The error of the system or of TLS.
        source: io::Error,
    },
    /// The answer is not complete, not HTTP, too large or not JSON.
    #[error("the API of Kubernetes did not answer as expected: {0}")]
    Malformed(String),
    /// No answer came in time.
    #[error("the API of Kubernetes did not answer in time")]
    Timeout,
    /// The API refused the call.
    #[error("the API of Kubernetes refused {method} {path} ({code}): {message}")]
    Refused {
        /// The method.
        method: Method,
        /// The path of the object.
        path: String,
        /// The status code.
        code: StatusCode,
        /// The message in the answer.
        message: String,
    },
}

impl ApiError {
    /// Returns true when the object was changed or made by another client in the meantime.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == StatusCode::CONFLICT)
    }

    /// Returns true when there is no such object.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == StatusCode::NOT_FOUND)
    }
}

/// The error of certificates that are kept in Secrets.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// A call of the API failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The Secret has data of somebody else.
    #[error(
        "the Secret {0} exists and was not made by this program: its label aerostack.dev/certificates is not \"true\"; choose \
         another name, or delete the Secret"
    )]
    Foreign(NamespacedName),
    /// The authority in a Secret cannot be used.
    #[error("the authority in the Secret {secret} cannot be used: delete the Secret to have a new one made")]
    Authority {
        /// The Secret.
        secret: NamespacedName,
        /// The reason.
        source: BundleError,
    },
    /// The authority in a Secret was not renewed. The Secret is as it was.
    #[error("the authority in the Secret {secret} was not renewed")]
    Renew {
        /// The Secret.
        secret: NamespacedName,
        /// The reason.
        source: RenewError,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Other clients changed the object during every attempt.
    #[error("{0}: other clients changed it during every attempt; run the command again")]
    Contended(String),
}

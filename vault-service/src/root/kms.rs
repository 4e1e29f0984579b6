//! A Kubernetes KMS v2 plugin: a gRPC service on a Unix socket, which encrypts with a key that it does not give away.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use proto::Uid;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

use crate::crypto::RootKey;
use api::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
    key_management_service_client::KeyManagementServiceClient,
};

/// Generated from `proto/kms/v2/api.proto`: protobuf package `v2`.
pub mod api {
    #![allow(
        missing_docs,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    use std::fmt;

    tonic::include_proto!("v2");

    impl fmt::Debug for EncryptRequest {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self { plaintext: _, uid } = self;
            f.debug_struct("EncryptRequest")
                .field("uid", uid)
                .finish_non_exhaustive()
        }
    }

    impl fmt::Debug for DecryptResponse {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self { plaintext: _ } = self;
            f.debug_struct("DecryptResponse").finish_non_exhaustive()
        }
    }
}

/// How long a plugin may take for a call; it may have to ask a service far away.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the API allows of a ciphertext, of a key's id, and of all annotations.
const MOST: (usize, usize, usize) = (1024, 1024, 32 * 1024);
/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024;

/// A root key, encrypted by a plugin.
#[derive(Clone, PartialEq, Message)]
pub struct KmsWrapped {
    /// The root key, encrypted.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// The KMS's key that it was encrypted with.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// What the plugin wants back with it.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// Why a plugin was of no help.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// Nobody answers on the socket.
    #[error("the KMS plugin on {} does not answer", .0.display())]
    Unreachable(PathBuf, #[source] tonic::transport::Error),
    /// It refused, or took too long.
    #[error("the KMS plugin did not do what it was asked ({code:?}: {message})")]
    Refused {
        /// The code of its answer.
        code: Code,
        /// Its words.
        message: String,
    },
    /// It is not well.
    #[error("the KMS plugin says of itself: {0}")]
    Unhealthy(String),
    /// It speaks another API.
    #[error("the KMS plugin has the API {0:?}, not v2")]
    Version(String),
    /// Its answer is not what the API allows.
    #[error("the KMS plugin's answer has {0}")]
    Malformed(&'static str),
}

impl From<Status> for KmsError {
    fn from(status: Status) -> Self {
        Self::Refused {
            code: status.code(),
            message: status.message().chars().take(200).collect(),
        }
    }
}

/// Talks to the plugin on a socket, over a new connection each time: it is asked rarely, and may have been restarted.
#[derive(Debug, Clone)]
pub struct Kms {
    socket: PathBuf,
    patience: Duration,
}

impl Kms {
    /// The plugin that listens on `socket`.
    pub fn at(socket: &Path) -> Self {
        Self::with_patience(socket, PATIENCE)
    }

    /// The same, waiting so long for each answer.
    pub fn with_patience(socket: &Path, patience: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            patience,
        }
    }

    /// The id of the key that the plugin encrypts with now.
    pub async fn status(&self) -> Result<String, KmsError> {
        let StatusResponse {
            version,
            healthz,
            key_id,
        } = self.connect().await?.status(StatusRequest {}).await?.into_inner();
        match (version.as_str(), healthz.as_str()) {
            ("v2" | "v2beta1", "ok") => Ok(key_id),
            ("v2" | "v2beta1", _) => Err(KmsError::Unhealthy(healthz.chars().take(200).collect())),
            _ => Err(KmsError::Version(version.chars().take(20).collect())),
        }
    }

    /// Has a root key encrypted, and makes sure that it is given back.
    pub async fn encrypt(&self, key: &RootKey) -> Result<KmsWrapped, KmsError> {
        let mut client = self.connect().await?;
        let request = EncryptRequest {
            plaintext: key.to_bytes().to_vec(),
            uid: Uid::generate().to_string(),
        };
        let wrapped = parse(client.encrypt(request).await?.into_inner())?;
        match self.decrypt(&wrapped).await? {
            again if again.id() == key.id() => Ok(wrapped),
            _ => Err(KmsError::Malformed("a ciphertext of something else")),
        }
    }

    /// Has a root key decrypted.
    pub async fn decrypt(&self, wrapped: &KmsWrapped) -> Result<RootKey, KmsError> {
        let KmsWrapped {
            ciphertext,
            key_id,
            annotations,
        } = wrapped.clone();
        let request = DecryptRequest {
            ciphertext,
            uid: Uid::generate().to_string(),
            key_id,
            annotations: annotations.into_iter().collect(),
        };
        let DecryptResponse { plaintext } = self.connect().await?.decrypt(request).await?.into_inner();
        let plaintext = Zeroizing::new(plaintext);
        let key = plaintext.as_slice().try_into().map(Zeroizing::new);
        let key = key.map_err(|_| KmsError::Malformed("a plaintext that is no root key"))?;
        RootKey::from_bytes(key).map_err(|_| KmsError::Malformed("a plaintext that is no root key"))
    }

    async fn connect(&self) -> Result<KeyManagementServiceClient<Channel>, KmsError> {
        let unreachable = |error| KmsError::Unreachable(self.socket.clone(), error);
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()))
            .map_err(unreachable)?
            .connect_timeout(self.patience)
            .timeout(self.patience);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(KeyManagementServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }
}

fn parse(answer: EncryptResponse) -> Result<KmsWrapped, KmsError> {
    let EncryptResponse {
        ciphertext,
        key_id,
        annotations,
    } = answer;
    let (most_ciphertext, most_id, most_annotations) = MOST;
    let size: usize = annotations
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if !(1..=most_ciphertext).contains(&ciphertext.len()) {
        return Err(KmsError::Malformed("a ciphertext of no or more than 1024 bytes"));
    }
    if !(1..=most_id).contains(&key_id.len()) {
        return Err(KmsError::Malformed("a key id of no or more than 1024 bytes"));
    }
    if size > most_annotations {
        return Err(KmsError::Malformed("annotations of more than 32 KiB"));
    }
    Ok(KmsWrapped {
        ciphertext,
        key_id,
        annotations: annotations.into_iter().collect(),
    })
}

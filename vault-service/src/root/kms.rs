//! Client of a Kubernetes KMS v2 plugin, a gRPC service on a Unix socket that encrypts with a key of its own.

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

/// Time limit of a call. A plugin may have to call a remote service.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Limits of the KMS API for the ciphertext, the key id and all annotations, in bytes.
const MAX_CIPHERTEXT: usize = 1024;
const MAX_KEY_ID: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;
/// Maximum size of a response that is read, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;

/// A root key that a plugin encrypted.
#[derive(Clone, PartialEq, Message)]
pub struct KmsWrapped {
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// Id of the KMS key that encrypted the root key.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// Data of the plugin that it needs for decryption.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    #[error("the KMS plugin on {} does not answer", .0.display())]
    Unreachable(PathBuf, #[source] tonic::transport::Error),
    /// The plugin answered with an error, or not in time.
    #[error("a call of the KMS plugin failed ({code:?}: {message})")]
    Refused { code: Code, message: String },
    /// The plugin reports that it is not healthy.
    #[error("the KMS plugin reports that it is not healthy: {0}")]
    Unhealthy(String),
    /// The plugin has another version of the API.
    #[error("the KMS plugin has the API {0:?}, not v2")]
    Version(String),
    /// The response violates the API.
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

/// Client of the plugin on a socket. Each call uses a new connection, because calls are rare and the plugin may have been
/// restarted in between.
#[derive(Debug, Clone)]
pub struct Kms {
    socket: PathBuf,
}

impl Kms {
    pub fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Returns the id of the KMS key that the plugin encrypts with now.
    pub(crate) async fn status(&self) -> Result<String, KmsError> {
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

    /// Has the plugin encrypt a root key, and checks that the plugin can decrypt the result.
    pub(crate) async fn encrypt(&self, key: &RootKey) -> Result<KmsWrapped, KmsError> {
        let mut client = self.connect().await?;
        let request = EncryptRequest {
            plaintext: key.to_bytes().to_vec(),
            uid: Uid::generate().to_string(),
        };
        let wrapped = parse(client.encrypt(request).await?.into_inner())?;
        match self.decrypt(&wrapped).await? {
            decrypted if decrypted.id() == key.id() => Ok(wrapped),
            _ => Err(KmsError::Malformed("a ciphertext of something else")),
        }
    }

    pub(crate) async fn decrypt(&self, wrapped: &KmsWrapped) -> Result<RootKey, KmsError> {
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
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT);
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(KeyManagementServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE))
    }
}

fn parse(response: EncryptResponse) -> Result<KmsWrapped, KmsError> {
    let EncryptResponse {
        ciphertext,
        key_id,
        annotations,
    } = response;
    let size: usize = annotations
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if !(1..=MAX_CIPHERTEXT).contains(&ciphertext.len()) {
        return Err(KmsError::Malformed("a ciphertext of no or more than 1024 bytes"));
    }
    if !(1..=MAX_KEY_ID).contains(&key_id.len()) {
        return Err(KmsError::Malformed("a key id of no or more than 1024 bytes"));
    }
    if size > MAX_ANNOTATIONS {
        return Err(KmsError::Malformed("annotations of more than 32 KiB"));
    }
    Ok(KmsWrapped {
        ciphertext,
        key_id,
        annotations: annotations.into_iter().collect(),
    })
}

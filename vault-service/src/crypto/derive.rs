//! Derivation of ids and one-time keys from a key, by HKDF-SHA256 (RFC 5869).

use hkdf::Hkdf;
use sha2::Sha256;

/// Use of the derived bytes. Each use has a label of its own, so that no two uses of a key derive the same bytes.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    RootKeyId,
    StoreKeyId,
    WorkspaceKekId,
    WrapStoreKey,
    WrapWorkspaceKek,
    WrapDek,
    RequestFingerprint,
    WrapRootKey,
    WrapBackupKey,
}

impl Purpose {
    pub(super) fn label(self) -> &'static [u8] {
        match self {
            Self::RootKeyId => b"aerostack-vault/1/root-key-id",
            Self::StoreKeyId => b"aerostack-vault/1/store-key-id",
            Self::WorkspaceKekId => b"aerostack-vault/1/workspace-kek-id",
            Self::WrapStoreKey => b"aerostack-vault/1/wrap-store-key/aes-256-gcm",
            Self::WrapWorkspaceKek => b"aerostack-vault/1/wrap-workspace-kek/aes-256-gcm",
            Self::WrapDek => b"aerostack-vault/1/wrap-dek/aes-256-gcm",
            Self::RequestFingerprint => b"aerostack-vault/1/request-fingerprint/hmac-sha256",
            Self::WrapRootKey => b"aerostack-vault/1/wrap-root-key/aes-256-gcm",
            Self::WrapBackupKey => b"aerostack-vault/1/wrap-backup-key/aes-256-gcm",
        }
    }
}

/// `HKDF-SHA256[salt, label](key, len(out))`. Without a salt, RFC 5869 uses 32 zero bytes.
pub(super) fn derive(key: &[u8; 32], salt: Option<&[u8]>, purpose: Purpose, out: &mut [u8]) {
    Hkdf::<Sha256>::new(salt, key)
        .expand(purpose.label(), out)
        .expect("no caller derives more than 64 bytes, and HKDF-SHA256 gives up to 255 * 32");
}

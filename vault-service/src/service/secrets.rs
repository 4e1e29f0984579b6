//! `vault.v1.SecretService`.

use std::collections::BTreeMap;

use chassis::authz::{Authorized, Role};
use prost_types::Timestamp;
use proto::{
    OriginPattern, Reason, Refusal, SecretValue,
    page::{Page, PageTokenError},
    vault::v1::{
        self as api, DeleteSecretRequest, DeleteSecretResponse, GetSecretMetadataRequest,
        GetSecretMetadataResponse, ListSecretVersionsRequest, ListSecretVersionsResponse, ListSecretsRequest,
        ListSecretsResponse, PutSecretRequest, PutSecretResponse, RestoreSecretVersionRequest,
        RestoreSecretVersionResponse, put_secret_request::Value, restore_secret_version_request,
        secret_service_server::SecretService,
    },
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{subject::Subject, value_warnings::value_warnings};
use crate::{
    authz::{ReadPermit, WritePermit},
    status::{page_token, refusal},
    vault::{
        Expiry, Labels, LastUse, MAX_ORIGINS, NewSecret, RequestId, RestoreOverrides, RestoredExpiry,
        SecretMetadata, VersionRestore, Writer, WrittenVersion,
    },
};

/// The last second of the year 9999, which is the largest Protocol Buffers timestamp.
const LAST_SECOND: i64 = 253_402_300_799;

pub(crate) struct SecretRpcs(pub(crate) Writer);

#[tonic::async_trait]
impl SecretService for SecretRpcs {
    async fn put_secret(
        &self,
        mut request: Request<PutSecretRequest>,
    ) -> Result<Response<PutSecretResponse>, Status> {
        let subject = Subject::of(&request);
        // The value is taken first, so that it is wiped even when the request is refused.
        let value = request.get_mut().value.take().map(value_bytes);
        let PutSecretRequest {
            workspace,
            name,
            value: _,
            upstream_origins,
            labels,
            expires_at,
            expected_version,
            request_id,
        } = request.get_ref();
        let permit = WritePermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let new = NewSecret {
            name: subject.parse_secret(name)?,
            value: parse_value(value)?,
            upstream_origins: parse_origins(upstream_origins)?,
            labels: parse_labels(labels)?,
            expiry: expires_at.as_ref().map(parse_expiry).transpose()?,
            expected_version: *expected_version,
            request_id: parse_request_id(request_id)?,
        };
        let WrittenVersion {
            secret,
            created,
            facts,
        } = self.0.put_secret(&permit, new).await.map_err(refusal)?;
        subject.note_version(secret.version);
        Ok(Response::new(PutSecretResponse {
            warnings: value_warnings(secret.name.as_str(), &facts),
            secret: Some(to_wire(secret)),
            created,
        }))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let subject = Subject::of(&request);
        let ListSecretsRequest {
            workspace,
            page_size,
            page_token: token,
        } = request.get_ref();
        let permit = ReadPermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let scope = ("secrets", Authorized::of(&request)?.principal()?, workspace);
        let page = Page::parse(*page_size, token, scope).map_err(page_token)?;
        let (secrets, more) = self.0.secrets(&permit, page.clone()).await.map_err(refusal)?;
        let next_page_token = match secrets.last() {
            Some(last) if more => page.token(last.name.as_str()),
            _ => String::new(),
        };
        let secrets = secrets.into_iter().map(to_wire).collect();
        Ok(Response::new(ListSecretsResponse {
            secrets,
            next_page_token,
        }))
    }

    async fn get_secret_metadata(
        &self,
        request: Request<GetSecretMetadataRequest>,
    ) -> Result<Response<GetSecretMetadataResponse>, Status> {
        let subject = Subject::of(&request);
        let GetSecretMetadataRequest { workspace, name } = request.get_ref();
        let permit = ReadPermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let name = subject.parse_secret(name)?;
        let secret = self.0.secret(&permit, &name).await.map_err(refusal)?;
        Ok(Response::new(GetSecretMetadataResponse {
            secret: Some(to_wire(secret)),
        }))
    }

    async fn list_secret_versions(
        &self,
        request: Request<ListSecretVersionsRequest>,
    ) -> Result<Response<ListSecretVersionsResponse>, Status> {
        let subject = Subject::of(&request);
        let ListSecretVersionsRequest {
            workspace,
            name,
            page_size,
            page_token: token,
        } = request.get_ref();
        let permit = ReadPermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let name = subject.parse_secret(name)?;
        let scope = (
            "versions",
            Authorized::of(&request)?.principal()?,
            workspace,
            name.as_str(),
        );
        let page = Page::parse(*page_size, token, scope).map_err(page_token)?;
        let before = parse_before(&page)?;
        let versions = self.0.secret_versions(&permit, &name, before, page.size);
        let (versions, more) = versions.await.map_err(refusal)?;
        let next_page_token = match versions.last() {
            Some(last) if more => page.token(&last.version.to_string()),
            _ => String::new(),
        };
        Ok(Response::new(ListSecretVersionsResponse {
            versions: versions.into_iter().map(version_to_wire).collect(),
            next_page_token,
        }))
    }

    async fn restore_secret_version(
        &self,
        request: Request<RestoreSecretVersionRequest>,
    ) -> Result<Response<RestoreSecretVersionResponse>, Status> {
        let subject = Subject::of(&request);
        let RestoreSecretVersionRequest {
            workspace,
            name,
            version,
            expiry,
            expected_version,
            request_id,
            allow_wider_origins,
            allow_later_expiry,
        } = request.get_ref();
        let permit = WritePermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let overrides = RestoreOverrides {
            wider_origins: *allow_wider_origins,
            later_expiry: *allow_later_expiry,
        };
        let restore = VersionRestore {
            name: subject.parse_secret(name)?,
            version: *version,
            expiry: parse_new_expiry(expiry.as_ref())?,
            overrides: check_overrides(overrides, &permit)?,
            expected_version: *expected_version,
            request_id: parse_request_id(request_id)?,
        };
        let WrittenVersion {
            secret,
            created: _,
            facts,
        } = self.0.restore_version(&permit, restore).await.map_err(refusal)?;
        subject.note_version(secret.version);
        Ok(Response::new(RestoreSecretVersionResponse {
            warnings: value_warnings(secret.name.as_str(), &facts),
            secret: Some(to_wire(secret)),
        }))
    }

    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Result<Response<DeleteSecretResponse>, Status> {
        let subject = Subject::of(&request);
        let DeleteSecretRequest {
            workspace,
            name,
            expected_version,
        } = request.get_ref();
        let permit = WritePermit::decide(Authorized::of(&request)?, &subject.parse_workspace(workspace)?)?;
        let name = subject.parse_secret(name)?;
        let deleted = self.0.delete_secret(&permit, &name, *expected_version);
        deleted.await.map_err(refusal)?;
        Ok(Response::new(DeleteSecretResponse {}))
    }
}

fn value_bytes(value: Value) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(match value {
        Value::Text(text) => text.into_bytes(),
        Value::Data(data) => data,
    })
}

fn parse_value(value: Option<Zeroizing<Vec<u8>>>) -> Result<SecretValue, Refusal> {
    let value = value.ok_or_else(|| Refusal::new(Reason::SecretValueSize, "text or data is required"))?;
    SecretValue::parse(value).map_err(|error| Refusal::new(Reason::SecretValueSize, error))
}

fn parse_origins(texts: &[String]) -> Result<Vec<OriginPattern>, Refusal> {
    let wrong = |message: String| Refusal::new(Reason::OriginInvalid, format!("upstream_origins: {message}"));
    if texts.len() > MAX_ORIGINS {
        return Err(wrong(format!("at most {MAX_ORIGINS} may be given")));
    }
    let mut patterns: Vec<OriginPattern> = Vec::with_capacity(texts.len());
    for text in texts {
        let pattern = OriginPattern::parse(text).map_err(|error| wrong(error.to_string()))?;
        if !patterns.contains(&pattern) {
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

fn parse_labels(labels: &BTreeMap<String, String>) -> Result<Labels, Refusal> {
    Labels::parse(labels.clone()).map_err(|error| malformed(format!("labels: {error}")))
}

/// Parses a time in whole seconds, and drops its nanoseconds.
fn parse_expiry(time: &Timestamp) -> Result<Expiry, Refusal> {
    let Timestamp { seconds, nanos } = *time;
    if !(0..1_000_000_000).contains(&nanos) {
        return Err(malformed("expires_at has nanos outside of 0 to 999,999,999"));
    }
    let seconds = match seconds {
        seconds @ 1..=LAST_SECOND => u64::try_from(seconds).ok(),
        _ => None,
    };
    seconds
        .and_then(Expiry::from_seconds)
        .ok_or_else(|| malformed("expires_at is a time after 1970 and before the year 10000"))
}

fn parse_new_expiry(
    expiry: Option<&restore_secret_version_request::Expiry>,
) -> Result<RestoredExpiry, Refusal> {
    use restore_secret_version_request::Expiry::{ExpiresAt, NeverExpires};
    Ok(match expiry {
        None | Some(NeverExpires(false)) => RestoredExpiry::Kept,
        Some(NeverExpires(true)) => RestoredExpiry::Never,
        Some(ExpiresAt(time)) => RestoredExpiry::At(parse_expiry(time)?),
    })
}

/// Returns `overrides` when `permit` allows them: only an administrator may use any.
fn check_overrides(overrides: RestoreOverrides, permit: &WritePermit) -> Result<RestoreOverrides, Refusal> {
    if overrides == RestoreOverrides::default() || permit.role() == Role::Admin {
        return Ok(overrides);
    }
    Err(Refusal::new(
        Reason::PermissionDenied,
        "allow_wider_origins and allow_later_expiry are for administrators of the workspace",
    ))
}

fn parse_request_id(text: &str) -> Result<Option<RequestId>, Refusal> {
    match text {
        "" => Ok(None),
        text => RequestId::parse(text).map(Some).map_err(malformed),
    }
}

fn parse_before(page: &Page) -> Result<Option<u64>, Refusal> {
    let before = page.after.as_deref().map(str::parse).transpose();
    before.map_err(|_| page_token(PageTokenError))
}

fn malformed(message: impl ToString) -> Refusal {
    Refusal::new(Reason::RequestMalformed, message)
}

fn to_wire(secret: SecretMetadata) -> api::Secret {
    let SecretMetadata {
        workspace,
        name,
        uid,
        version,
        create_time,
        update_time,
        upstream_origins,
        labels,
        expiry,
        expired,
        last_use,
    } = secret;
    let (last_decrypt_time, last_decrypt_server, decrypt_count) = match last_use {
        Some(LastUse { time, server, count }) => (Some(time), server, count),
        None => (None, String::new(), 0),
    };
    api::Secret {
        workspace: workspace.to_string(),
        name: name.to_string(),
        uid: uid.to_string(),
        // A secret changes only by getting another version.
        revision: version,
        create_time: Some(create_time),
        update_time: Some(update_time),
        version,
        upstream_origins,
        labels: labels.into_map(),
        expires_at: expiry.map(timestamp),
        expired,
        last_decrypt_time,
        last_decrypt_server,
        decrypt_count,
    }
}

fn version_to_wire(version: SecretMetadata) -> api::SecretVersion {
    let SecretMetadata {
        workspace: _,
        name: _,
        uid: _,
        version,
        create_time: _,
        update_time,
        upstream_origins,
        labels,
        expiry,
        expired,
        last_use: _,
    } = version;
    api::SecretVersion {
        version,
        create_time: Some(update_time),
        upstream_origins,
        labels: labels.into_map(),
        expires_at: expiry.map(timestamp),
        expired,
    }
}

fn timestamp(expiry: Expiry) -> Timestamp {
    Timestamp {
        // A damaged expiry may be beyond the year 9999.
        seconds: i64::try_from(expiry.seconds())
            .unwrap_or(LAST_SECOND)
            .min(LAST_SECOND),
        nanos: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_must_be_a_valid_protocol_buffers_timestamp() {
        let parsed =
            |seconds, nanos| parse_expiry(&Timestamp { seconds, nanos }).map_err(|refusal| refusal.reason);
        for nanos in [0, 1, 999_999_999] {
            assert!(parsed(2_000_000_000, nanos).is_ok(), "{nanos}");
        }
        for nanos in [-1, 1_000_000_000, i32::MIN, i32::MAX] {
            assert_eq!(
                parsed(2_000_000_000, nanos),
                Err(Reason::RequestMalformed),
                "{nanos}"
            );
        }
        for seconds in [i64::MIN, 0, LAST_SECOND + 1] {
            assert_eq!(parsed(seconds, 0), Err(Reason::RequestMalformed), "{seconds}");
        }
    }
}

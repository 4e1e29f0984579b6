//! `vault.v1.SecretService`.

use proto::{
    OriginPattern, Reason, Refusal, SecretName, SecretValue,
    page::Page,
    serve::authz::Authorized,
    vault::v1::{
        self as api, DeleteSecretRequest, DeleteSecretResponse, GetSecretMetadataRequest,
        GetSecretMetadataResponse, ListSecretsRequest, ListSecretsResponse, PutSecretRequest,
        PutSecretResponse, put_secret_request::Value, secret_service_server::SecretService,
    },
};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::workspace_name;
use crate::{
    authz::AdminPermit,
    status::{page_token, refusal, secret_name},
    vault::{MAX_ORIGINS, NewSecret, Put, SecretMetadata, Writer},
};

/// Answers from a [`Writer`].
pub(crate) struct Secrets(pub(crate) Writer);

#[tonic::async_trait]
impl SecretService for Secrets {
    async fn put_secret(
        &self,
        mut request: Request<PutSecretRequest>,
    ) -> Result<Response<PutSecretResponse>, Status> {
        // Taken over first, so that it is wiped whatever follows.
        let value = request.get_mut().value.take().map(bytes_of);
        let PutSecretRequest {
            workspace,
            name,
            value: _,
            upstream_origins,
        } = request.get_ref();
        let permit = AdminPermit::decide(&request, &workspace_name(workspace)?)?;
        let new = NewSecret {
            name: SecretName::parse(name).map_err(secret_name)?,
            value: parse_value(value)?,
            upstream_origins: parse_origins(upstream_origins)?,
        };
        let Put { secret, created } = self.0.put_secret(&permit, new).await.map_err(refusal)?;
        Ok(Response::new(PutSecretResponse {
            secret: Some(shown(secret)),
            created,
        }))
    }

    async fn list_secrets(
        &self,
        request: Request<ListSecretsRequest>,
    ) -> Result<Response<ListSecretsResponse>, Status> {
        let ListSecretsRequest {
            workspace,
            page_size,
            page_token: token,
        } = request.get_ref();
        let permit = AdminPermit::decide(&request, &workspace_name(workspace)?)?;
        let scope = ("secrets", Authorized::of(&request)?.principal()?, workspace);
        let page = Page::parse(*page_size, token, scope).map_err(page_token)?;
        let (secrets, more) = self.0.secrets(&permit, page.clone()).await.map_err(refusal)?;
        let next_page_token = match secrets.last() {
            Some(last) if more => page.token(last.name.as_str()),
            _ => String::new(),
        };
        let secrets = secrets.into_iter().map(shown).collect();
        Ok(Response::new(ListSecretsResponse {
            secrets,
            next_page_token,
        }))
    }

    async fn get_secret_metadata(
        &self,
        request: Request<GetSecretMetadataRequest>,
    ) -> Result<Response<GetSecretMetadataResponse>, Status> {
        let GetSecretMetadataRequest { workspace, name } = request.get_ref();
        let permit = AdminPermit::decide(&request, &workspace_name(workspace)?)?;
        let name = SecretName::parse(name).map_err(secret_name)?;
        let secret = self.0.secret(&permit, &name).await.map_err(refusal)?;
        Ok(Response::new(GetSecretMetadataResponse {
            secret: Some(shown(secret)),
        }))
    }

    async fn delete_secret(
        &self,
        request: Request<DeleteSecretRequest>,
    ) -> Result<Response<DeleteSecretResponse>, Status> {
        let DeleteSecretRequest { workspace, name } = request.get_ref();
        let permit = AdminPermit::decide(&request, &workspace_name(workspace)?)?;
        let name = SecretName::parse(name).map_err(secret_name)?;
        self.0.delete_secret(&permit, &name).await.map_err(refusal)?;
        Ok(Response::new(DeleteSecretResponse {}))
    }
}

fn bytes_of(value: Value) -> Zeroizing<Vec<u8>> {
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

fn shown(secret: SecretMetadata) -> api::Secret {
    let SecretMetadata {
        workspace,
        name,
        uid,
        version,
        create_time,
        update_time,
        upstream_origins,
    } = secret;
    api::Secret {
        workspace: workspace.to_string(),
        name: name.to_string(),
        uid: uid.to_string(),
        // A secret changes only by being put, so far.
        revision: version,
        create_time: Some(create_time),
        update_time: Some(update_time),
        version,
        upstream_origins,
    }
}

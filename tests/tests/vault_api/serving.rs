//! Tests of reflection, health and probes.

use super::*;

/// Returns the services that reflection lists. The messages of the two versions differ only in their package.
async fn reflected(channel: &tonic::transport::Channel, version: &str) -> Result<Vec<String>, Status> {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
    let answer = wire::open(channel, &path, list.encode_to_vec().into()).await?;
    let message = answer.into_inner().message().await?.expect("an answer");
    match ServerReflectionResponse::decode(message)
        .unwrap()
        .message_response
    {
        Some(MessageResponse::ListServicesResponse(list)) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_answers_callers_with_a_role_and_can_be_turned_off() {
    let services = [
        "grpc.health.v1.Health",
        "vault.v1.BackupService",
        "vault.v1.DecryptService",
        "vault.v1.KeyService",
        "vault.v1.SecretService",
        "vault.v1.WorkspaceService",
    ];
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    for version in ["v1", "v1alpha"] {
        for principal in [pki::ADMIN, pki::INJECTOR] {
            let mut listed = reflected(&vault.channel(principal), version).await.unwrap();
            listed.retain(|service| !service.starts_with("grpc.reflection."));
            listed.sort_unstable();
            assert_eq!(listed, services, "{version}");
        }
        let stranger = vault.channel("spiffe://test/stranger");
        refused(
            reflected(&stranger, version).await,
            Code::PermissionDenied,
            "PERMISSION_DENIED",
        );
        let nobody = wire::anonymous(&pki, vault.address);
        refused(
            reflected(&nobody, version).await,
            Code::Unauthenticated,
            "UNAUTHENTICATED",
        );
    }
    vault.stop().await;

    let silent = Vault::start_with(pki, |settings| settings.no_reflection = true).await;
    for version in ["v1", "v1alpha"] {
        let status = reflected(&silent.channel(pki::ADMIN), version).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    silent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_answers_anyone() {
    let pki = Pki::new();
    let vault = Vault::start_with(pki.clone(), |_| {}).await;
    for channel in [
        wire::anonymous(&pki, vault.address),
        vault.channel("spiffe://test/stranger"),
    ] {
        let mut health = HealthClient::new(channel);
        for service in ["", "vault.v1.DecryptService"] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let answer = health.check(request).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
        }
        let request = HealthCheckRequest {
            service: "unknown".to_owned(),
        };
        assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
    }
    vault.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_only_for_hosts_that_are_ip_addresses_or_localhost() {
    let vault = Vault::start().await;
    let ask = async |path: &str, hosts: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        raw::exchange(vault.metrics, request).await
    };
    let ours = [
        "127.0.0.1",
        "localhost",
        "LocalHost:9051",
        "[::1]:9051",
        "10.1.2.3:9051",
    ];
    let foreign = [
        "evil.example",
        "evil.example:9051",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
    ];
    for path in ["/livez", "/readyz", "/metrics"] {
        for host in ours {
            assert_eq!(
                raw::status(&ask(path, &format!("Host: {host}\r\n")).await),
                200,
                "{path} {host}"
            );
        }
        for host in foreign {
            assert_eq!(
                raw::status(&ask(path, &format!("Host: {host}\r\n")).await),
                421,
                "{path} {host:?}"
            );
        }
        assert_eq!(raw::status(&ask(path, "").await), 421, "{path} without Host");
        assert_eq!(
            raw::status(&ask(path, "Host: localhost\r\nHost: evil.example\r\n").await),
            421,
            "{path} with two"
        );
    }
    vault.workspace("w").await;
    vault.put("w", "NAME", "v").await;
    decrypt(&vault, ask_for("w", &["NAME", "MISSING"])).await.unwrap();
    refused(
        decrypt(&vault, ask_for("gone", &["NAME"])).await,
        Code::NotFound,
        "WORKSPACE_NOT_FOUND",
    );
    for workspace in ["w", "gone"] {
        let check = DecryptRequest {
            check_only: true,
            ..ask_for(workspace, &["NAME", "MISSING"])
        };
        assert_eq!(decrypt(&vault, check).await.is_ok(), workspace == "w");
    }
    let metrics = ask("/metrics", "Host: localhost\r\n").await;
    for line in [
        "aerostack_vault_decrypts_total{outcome=\"OK\"} 1",
        "aerostack_vault_decrypts_total{outcome=\"WORKSPACE_NOT_FOUND\"} 1",
        "aerostack_vault_decrypt_checks_total{outcome=\"OK\"} 1",
        "aerostack_vault_decrypt_checks_total{outcome=\"WORKSPACE_NOT_FOUND\"} 1",
        "aerostack_vault_decrypt_duration_seconds_count 2",
        "aerostack_vault_decrypted_secrets_total{status=\"ok\"} 1",
        "aerostack_vault_decrypted_secrets_total{status=\"not_found\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    vault.stop().await;
}

fn ask_for(workspace: &str, names: &[&str]) -> DecryptRequest {
    ask(workspace, names)
}

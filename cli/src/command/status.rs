//! `aerostack status`

use clap::Args;

use crate::{
    connect::Connection,
    failure::Failure,
    output::{OutputArgs, Report, table},
    service_status::{ClientIdentity, ServiceStatus, StatusReport},
};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:\n\
\x20 aerostack status\n\
\x20 aerostack status --output json")]
pub struct StatusArgs {
    #[command(flatten)]
    output: OutputArgs,
}

impl StatusArgs {
    pub(super) async fn run(self, connection: &Connection) -> Result<Report, Failure> {
        let status = StatusReport::ask(connection, &connection.vault()?, &connection.injector()?).await?;
        let is_negative = !status.services.iter().all(ServiceStatus::is_well);
        let report = Report::new(self.output, &status, status_text)?;
        Ok(Report {
            is_negative,
            ..report
        })
    }
}

fn status_text(status: &StatusReport) -> String {
    let rows = status.services.iter().map(|service| {
        let access = match service.access {
            Some(true) => "allowed",
            Some(false) => "refused",
            None => "",
        };
        [
            service.service.to_owned(),
            service.address.clone(),
            service.state.label().to_owned(),
            service
                .latency_ms
                .map(|ms| format!("{ms:.1} ms"))
                .unwrap_or_default(),
            access.to_owned(),
        ]
    });
    let mut text = table(["SERVICE", "ADDRESS", "STATE", "ANSWERED IN", "ACCESS"], rows);
    for service in &status.services {
        if let Some(detail) = &service.detail {
            text.push_str(&format!(
                "{}: {}\n",
                service.service,
                crate::output::printable(detail)
            ));
        }
    }
    if let Some(ClientIdentity {
        principal,
        not_after,
        credential,
    }) = &status.identity
    {
        text.push_str(&format!(
            "You are {principal}; the {} is valid until {not_after}.\n",
            credential.label()
        ));
    }
    if let Some(context) = &status.context {
        text.push_str(&format!("The context {context} names these services.\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service_status::CredentialKind;

    #[test]
    fn the_report_names_the_credential_that_expires() {
        for (credential, says) in [
            (CredentialKind::Certificate, "the certificate is valid until"),
            (CredentialKind::Token, "the token is valid until"),
        ] {
            let identity = Some(ClientIdentity {
                principal: "spiffe://example.org/admin".to_owned(),
                not_after: "2027-01-01T00:00:00Z".to_owned(),
                credential,
            });
            let text = status_text(&StatusReport {
                services: Vec::new(),
                identity,
                context: None,
            });
            assert!(text.contains(says), "{text}");
        }
    }
}

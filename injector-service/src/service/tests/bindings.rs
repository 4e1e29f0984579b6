//! Tests of the check of a server's secrets against the origins that they are bound to.

use super::*;
use crate::resolve::tests::fake_vault;

#[tokio::test(start_paused = true)]
async fn a_secret_bound_to_another_origin_is_refused_when_the_client_certificate_cannot_be_looked_up() {
    let (resolver, mut vault) = fake_vault::start(Duration::from_secs(2));
    let fixture = Fixture::with_resolver(resolver).await;
    let with_certificate = Server {
        tls: Some(UpstreamTls {
            client_cert_secret: "CERTIFICATE".into(),
            ..Default::default()
        }),
        ..server("a", "two")
    };
    let before = fixture.text();
    let answer_once = async {
        let mut stream = vault.stream().await;
        stream.bind_to("https://elsewhere.example");
        stream.answer_next().await;
        // The stream stays open, but the vault answers no further lookup.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = answer_once => {}
        updated = fixture.update(with_certificate, &["tls"]) => {
            let details = updated.unwrap_err().get_details_error_info().unwrap();
            assert_eq!(details.reason, Reason::SecretNotForThisUpstream.name());
        }
    }
    assert_eq!(fixture.text(), before);
}

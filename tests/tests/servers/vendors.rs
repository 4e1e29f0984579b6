//! Tests of the catalog that the project ships. Each entry is added by its name, and called. The upstream checks the
//! credential as the page of the vendor says, and refuses every other call as the vendor does.

mod mimic;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use e2e::{Pair, Upstream, pair::send};
use http::{Request, StatusCode};
use proto::injector::v1::{
    CatalogEntry, ListCatalogEntriesRequest, Server, catalog_service_client::CatalogServiceClient,
};
use tonic::Code;

use super::{catalog::with_roles, why};
use mimic::{Credential, value_of};
use table::{VENDORS, Vendor};

/// The entry that shows the auth type `secret_headers`. No vendor has a server like this.
const EXAMPLE: &str = "@aerostack/github";

fn shipped() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/catalog.yaml"))
}

async fn entries(pair: &Pair) -> Vec<CatalogEntry> {
    let request = ListCatalogEntriesRequest {
        page_size: 1000,
        page_token: String::new(),
    };
    let mut client = CatalogServiceClient::new(pair.injector.channel(e2e::pki::ADMIN));
    client
        .list_catalog_entries(request)
        .await
        .unwrap()
        .into_inner()
        .entries
}

/// Returns the URL of the entry on another origin.
fn moved(url: &str, origin: &str) -> String {
    let after_scheme = url.split_once("://").unwrap().1;
    let path = after_scheme.split_once('/').map_or("", |(_, path)| path);
    format!("{origin}/{path}")
}

#[tokio::test]
async fn every_entry_has_a_vendor_in_the_table_and_every_vendor_an_entry() {
    let pair = with_roles(Some(shipped())).await;
    let entries = entries(&pair).await;
    let names: BTreeSet<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let vendors: BTreeSet<_> = VENDORS
        .iter()
        .map(|vendor| vendor.entry)
        .chain([EXAMPLE])
        .collect();
    assert_eq!(names, vendors);
    assert!(VENDORS.len() >= 40);
    for entry in &entries {
        assert!(!entry.description.is_empty(), "{}", entry.name);
        if let Some(vendor) = VENDORS.iter().find(|vendor| vendor.entry == entry.name) {
            let origin = format!("{}/", entry.url).starts_with(&format!("{}/", vendor.origin));
            assert!(origin, "{} is at {}", entry.name, entry.url);
            assert!(entry.documentation_url.starts_with("https://"), "{}", entry.name);
        }
    }
    let default_names: Vec<_> = entries
        .iter()
        .filter(|entry| entry.name != EXAMPLE)
        .map(|entry| entry.default_name.as_str())
        .collect();
    let distinct: BTreeSet<_> = default_names.iter().collect();
    assert_eq!(distinct.len(), default_names.len(), "{default_names:?}");
    pair.stop().await;
}

#[tokio::test]
async fn the_page_about_the_catalog_lists_every_entry() {
    let pair = with_roles(Some(shipped())).await;
    let page = include_str!("../../../docs/catalog.md");
    let rows: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `@") || line.starts_with("| [`@"))
        .collect();
    let entries = entries(&pair).await;
    assert_eq!(rows.len(), entries.len());
    for (row, entry) in rows.iter().zip(&entries) {
        let name = match entry.documentation_url.as_str() {
            "" => format!("`{}`", entry.name),
            docs => format!("[`{}`]({docs})", entry.name),
        };
        let start = format!("| {name} | `{}` | ", entry.url);
        assert!(
            row.starts_with(&start),
            "docs/catalog.md: a row should begin with {start}"
        );
        for secret in &entry.suggested_secrets {
            assert!(row.contains(&format!("${{{secret}}}")), "{secret} in {row}");
        }
    }
    pair.stop().await;
}

#[tokio::test]
async fn an_entry_needs_only_its_name_unless_its_host_depends_on_the_customer() {
    let pair = with_roles(Some(shipped())).await;
    for entry in entries(&pair).await {
        let server = |url: &str| Server {
            workspace: "dev".into(),
            url: url.to_owned(),
            ..Default::default()
        };
        let added = pair.injector.try_add_from(&entry.name, server("")).await;
        if entry.needs_url {
            let refused = added.unwrap_err();
            assert_eq!(
                why(&refused),
                (Code::InvalidArgument, "SERVER_INVALID".into()),
                "{}",
                entry.name
            );
            assert!(
                refused.message().contains("--url") && refused.message().contains(&entry.url),
                "{refused}"
            );
            // The example could be somebody else's site.
            let example = pair.injector.try_add_from(&entry.name, server(&entry.url)).await;
            assert_eq!(why(&example.unwrap_err()).1, "SERVER_INVALID", "{}", entry.name);
            continue;
        }
        let added = added.unwrap();
        assert_eq!(
            (added.name, added.url),
            (entry.default_name.clone(), entry.url.clone())
        );
        if entry.name != EXAMPLE {
            assert_eq!(added.inject_secrets, entry.suggested_secrets, "{}", entry.name);
            assert!(!added.inject_secrets.is_empty(), "{}", entry.name);
        }
        pair.injector.remove("dev", &entry.default_name).await;
    }
    pair.stop().await;
}

#[tokio::test]
async fn a_vendor_accepts_the_calls_of_the_injector_and_no_others() {
    let pair = with_roles(Some(shipped())).await;
    let entries: BTreeMap<_, _> = entries(&pair)
        .await
        .into_iter()
        .map(|entry| (entry.name.clone(), entry))
        .collect();
    for vendor in VENDORS {
        check_vendor(&pair, vendor, &entries[vendor.entry]).await;
    }
    pair.stop().await;
}

/// Calls a mimic of the vendor, first directly and then through the injector.
async fn check_vendor(pair: &Pair, vendor: &'static Vendor, entry: &CatalogEntry) {
    let upstream = Upstream::answering(move |seen| vendor.answer(seen)).await;
    let request = |credentials: &[Credential]| {
        let target = format!("{}{}", vendor.base, vendor.call);
        mimic::request(&target, credentials, value_of)
    };
    let direct = async |request: http::request::Builder| send(upstream.address, request, "").await;
    let accepted = direct(request(vendor.credentials)).await;
    assert_eq!(accepted.status(), StatusCode::OK, "the mimic of {}", vendor.entry);
    let refused = direct(request(&[])).await;
    assert_eq!(refused.status(), vendor.refusal, "the mimic of {}", vendor.entry);

    for secret in &entry.suggested_secrets {
        pair.vault.put("dev", secret, value_of(secret)).await;
    }
    let server = Server {
        workspace: "dev".into(),
        url: moved(&entry.url, &upstream.url()),
        ..Default::default()
    };
    let added = pair
        .injector
        .try_add_from(vendor.entry, server)
        .await
        .unwrap_or_else(|refused| panic!("{}: {refused}", vendor.entry));
    let prefix = format!("/dev/{}", added.name);
    let through = async |credentials: &[Credential], value: fn(&str) -> String| {
        let target = format!("{prefix}{}", vendor.call);
        let request = match credentials {
            // A program cannot send a credential in the path of the server's URL.
            [Credential::Path(_)] | [] => Request::get(&target),
            credentials => mimic::request(&target, credentials, value),
        };
        pair.injector.send(request, "").await
    };
    let forged: fn(&str) -> String = |_| "forged-by-the-program".to_owned();
    for own in [&[], vendor.credentials] {
        let answer = through(own, forged).await;
        assert_eq!(
            answer.status(),
            StatusCode::OK,
            "{}: {:?}",
            vendor.entry,
            answer.body()
        );
        assert_eq!(answer.body(), "accepted", "{}", vendor.entry);
    }

    for secret in &entry.suggested_secrets {
        pair.vault.delete("dev", secret).await;
    }
    // The right credential, sent by the program, does not stand in for the secrets.
    for own in [&[], vendor.credentials] {
        let answer = through(own, value_of).await;
        let reason = answer
            .headers()
            .get("x-aerostack-reason")
            .map(|reason| reason.to_str().unwrap());
        let expected = match (vendor.anonymous, vendor.refusal) {
            (false, _) => Some("SECRET_REQUIRED_MISSING"),
            (true, 401) => Some("UPSTREAM_REJECTED_CREDENTIAL"),
            (true, _) => None,
        };
        assert_eq!(reason, expected, "{}: {}", vendor.entry, answer.status());
        assert!(
            !answer.status().is_success(),
            "{}: {}",
            vendor.entry,
            answer.status()
        );
    }
    pair.injector.remove("dev", &added.name).await;
}

//! Many secrets at once, from a pasted text or a file.

use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use proto::vault::v1::{
    DecryptRequest, DecryptedSecret, GetSecretMetadataRequest, decrypt_service_client::DecryptServiceClient,
    secret_service_client::SecretServiceClient,
};

use rustix::process::{Signal, kill_process};

use crate::{
    browser::{Answer, Browser, Console, between},
    services,
    support::dev::PATIENCE,
};

const IMPORT: &str = "/w/w/secrets/import";
const PREVIEW: &str = "/w/w/secrets/import/preview";

async fn with_workspace(console: &Console, plan: &str) -> Browser {
    let mut browser = console.signed_in().await;
    browser
        .change("/workspaces", &[("name", "w"), ("plan", plan)])
        .await;
    browser
}

/// Sends a text with the token of the session.
async fn paste(browser: &mut Browser, text: &str) -> Answer {
    let csrf = browser.csrf.clone();
    browser
        .upload(
            IMPORT,
            &[
                ("csrf", csrf.as_bytes()),
                ("text", text.as_bytes()),
                ("file", b""),
            ],
        )
        .await
}

/// Sends a text, and returns the number of its import with its preview.
async fn preview(browser: &mut Browser, text: &str) -> (String, Answer) {
    let answer = paste(browser, text).await;
    assert_eq!(answer.leads_to(), PREVIEW);
    let page = browser.get(PREVIEW).await;
    assert_eq!(page.status, StatusCode::OK);
    let number = between(&page.text, "name=\"import\" value=\"", "\"").to_owned();
    (number, page)
}

/// Confirms an import, and returns the page with the results.
async fn confirm(browser: &mut Browser, number: &str, more: &[(&str, &str)]) -> Answer {
    let fields = [&[("import", number)], more].concat();
    browser.change(PREVIEW, &fields).await
}

/// Decrypts secrets as the injector.
async fn decrypt(console: &Console, names: &[&str]) -> Vec<DecryptedSecret> {
    let request = DecryptRequest {
        workspace: "w".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let mut client = DecryptServiceClient::new(console.dev.injector());
    client.decrypt(request).await.unwrap().into_inner().secrets
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_text_is_previewed_and_then_stored() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    let present = [
        ("name", "B"),
        ("value", "old"),
        ("origins", "https://b.example"),
        ("expiry", "90d"),
    ];
    browser.change("/w/w/secrets", &present).await;
    assert!(
        browser
            .get("/w/w/secrets")
            .await
            .has(&format!("href=\"{IMPORT}\""))
    );
    let text = "# tokens\r\ngithub-token=planted1\r\nB=planted2\r\nKEY='planted3\r\nline'\r\nx-y=planted4\r\nX_Y=planted5\r\nEMPTY=''\r\n";
    let (number, page) = preview(&mut browser, text).await;
    for text in [
        "2 to create, 1 to replace, 3 left out",
        "<span class=\"mono\">GITHUB_TOKEN</span><small>written <code>github-token</code>",
        "replaces version 1",
        "Its expiry is replaced",
        "Fits no header: the value has several lines.",
        "Lines 6 and 7 set the same secret, X_Y",
        "There is no value.",
        "Store 3 secrets",
    ] {
        assert!(page.has(text), "{text}: {}", page.text);
    }
    assert!(
        browser.get("/w/w/secrets").await.has("1 secret shown"),
        "nothing is stored yet"
    );

    let more = [("labels", "team=payments"), ("expiry", "30d")];
    let results = confirm(&mut browser, &number, &more).await;
    assert!(
        results.has("Stored 3 of 6.") && results.has("replaced, version 2"),
        "{}",
        results.text
    );
    assert!(
        results.has("Lines 6 and 7 set the same secret"),
        "{}",
        results.text
    );
    let stored = decrypt(&console, &["GITHUB_TOKEN", "B", "KEY"]).await;
    let values: Vec<_> = stored.iter().map(|secret| secret.value.as_slice()).collect();
    assert_eq!(values, [b"planted1".as_slice(), b"planted2", b"planted3\nline"]);
    assert_eq!(stored[1].upstream_origins, ["https://b.example"]);
    let page = browser.get("/w/w/secrets/GITHUB_TOKEN").await;
    assert!(page.has("team=payments"), "{}", page.text);
    let request = GetSecretMetadataRequest {
        workspace: "w".to_owned(),
        name: "GITHUB_TOKEN".to_owned(),
    };
    let mut client = SecretServiceClient::new(console.dev.admin());
    let secret = client
        .get_secret_metadata(request)
        .await
        .unwrap()
        .into_inner()
        .secret;
    let expires_at = SystemTime::try_from(secret.unwrap().expires_at.unwrap()).unwrap();
    let day = Duration::from_secs(24 * 3600);
    let left = expires_at.duration_since(SystemTime::now()).unwrap();
    assert!((29 * day..=30 * day).contains(&left), "{left:?}");
    for text in [browser.seen.as_str(), &console.log()] {
        assert!(!text.contains("planted"), "…{}", between(text, "planted", "\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_in_a_file_is_stored() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    let manifest = b"apiVersion: v1\nkind: Secret\ndata:\n  db-password: cGxhbnRlZDE=\n  bin: /wA=\n---\napiVersion: v1\nkind: ConfigMap\n";
    let csrf = browser.csrf.clone();
    let answer = browser
        .upload(
            IMPORT,
            &[("csrf", csrf.as_bytes()), ("text", b""), ("file", manifest)],
        )
        .await;
    let page = browser.get(answer.leads_to()).await;
    assert!(
        page.has("Line 7: this is no Secret") && page.has("Fits no header: the value is not UTF-8."),
        "{}",
        page.text
    );
    let number = between(&page.text, "name=\"import\" value=\"", "\"").to_owned();
    let results = confirm(&mut browser, &number, &[("origins", "https://db.example")]).await;
    assert!(
        results.has("2 secrets of the text: all were stored.") && results.has("Line 7: this is no Secret"),
        "{}",
        results.text
    );
    let stored = decrypt(&console, &["DB_PASSWORD", "BIN"]).await;
    assert_eq!(stored[0].value, b"planted1");
    assert_eq!(stored[0].upstream_origins, ["https://db.example"]);
    assert_eq!(stored[1].value, b"\xff\x00");
    for text in [browser.seen.as_str(), &console.log()] {
        assert!(!text.contains("planted") && !text.contains("cGxhbnRlZDE"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_cannot_be_read_is_refused_with_its_lines_and_not_kept() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    let (number, _) = preview(&mut browser, "A=planted\n").await;
    let answer = paste(&mut browser, "A=planted\nplanted\nB='planted\n").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("<th scope=\"row\">Line 2</th>")
            && answer.has("<th scope=\"row\">Line 3</th>")
            && answer.has("it was not kept"),
        "{}",
        answer.text
    );
    let answer = paste(&mut browser, "A=cGxhbnRlZCBwbGFudGVkIHBs\nYW50ZWQ=\n").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer.has("<th scope=\"row\">Line 2</th>") && answer.has("looks like the last line"),
        "{}",
        answer.text
    );
    for (text, problem) in [
        ("", "Paste a text, or choose a file"),
        ("planted", "neither NAME=VALUE lines"),
        ("A=planted\nkind: planted", "ambiguous"),
        ("{\"A\": \"planted\"", "cannot be read"),
    ] {
        let answer = paste(&mut browser, text).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.has(problem), "{problem}: {}", answer.text);
    }
    // The text before was forgotten when the second one arrived.
    let answer = browser.post(PREVIEW, &[("import", &number)]).await;
    assert!(answer.has("no longer there"), "{}", answer.text);
    let csrf = browser.csrf.clone();
    let token = ("csrf", csrf.as_bytes());
    let long = vec![b'x'; 3 * 1024 * 1024];
    for (form, status) in [
        (vec![token, ("text", b"A=planted"), ("file", b"B=planted")], 422),
        (vec![token, ("file", b"A=\xff")], 422),
        (vec![token, ("file", long.as_slice())], 413),
        (vec![("csrf", b"x"), ("text", b"A=planted")], 403),
        (vec![("text", b"A=planted"), token], 403),
    ] {
        let answer = browser.upload(IMPORT, &form).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    }
    assert!(browser.get("/w/w/secrets").await.has("Add the first secret"));
    for text in [browser.seen.as_str(), &console.log()] {
        assert!(!text.contains("planted"), "…{}", between(text, "planted", "\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_stored_once_and_forgotten_when_the_person_says_so() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    browser.change("/workspaces", &[("name", "other")]).await;
    let (number, _) = preview(&mut browser, "A=1\n").await;
    // A mistake in the form forgets nothing, and the import of one workspace is none of another.
    let mistake = browser
        .post(PREVIEW, &[("import", &number), ("labels", "no label")])
        .await;
    assert_eq!(mistake.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        mistake.has("Store 1 secret") && mistake.has("no label</textarea>"),
        "{}",
        mistake.text
    );
    let elsewhere = browser
        .post("/w/other/secrets/import/preview", &[("import", &number)])
        .await;
    assert_eq!(elsewhere.status, StatusCode::NOT_FOUND);
    assert!(confirm(&mut browser, &number, &[]).await.has("all were stored"));
    let again = browser.post(PREVIEW, &[("import", &number)]).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert!(again.has(&format!("href=\"{IMPORT}\"")), "{}", again.text);

    let (number, _) = preview(&mut browser, "B=1\n").await;
    let page = browser.change("/w/w/secrets/import/discard", &[]).await;
    assert!(page.has("The text was forgotten."), "{}", page.text);
    assert!(
        browser
            .post(PREVIEW, &[("import", &number)])
            .await
            .has("no longer there")
    );
    assert_eq!(browser.get(PREVIEW).await.status, StatusCode::NOT_FOUND);
    assert!(!browser.get("/w/w/secrets").await.has("secrets/B\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_stored_is_named_with_the_reason() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "free").await;
    for number in 0..9 {
        let name = format!("KEY_{number}");
        browser
            .post("/w/w/secrets", &[("name", &name), ("value", "x")])
            .await
            .leads_to();
    }
    let text = "KEY_0=new\nKEY_1=new\nNEW_1=x\nNEW_2=x\nKEY_2=new\n";
    let (number, _) = preview(&mut browser, text).await;
    // Somebody else replaces a secret meanwhile.
    let replaced = [("version", "1"), ("value", "theirs")];
    browser.change("/w/w/secrets/KEY_1/replace", &replaced).await;
    let results = confirm(&mut browser, &number, &[]).await;
    assert!(results.has("Stored 3 of 5."), "{}", results.text);
    let (_, not_stored) = results.text.split_once("Not stored").unwrap();
    let (not_stored, stored) = not_stored.split_once("<h2>Stored").unwrap();
    assert!(
        not_stored.contains("Somebody else changed it") && not_stored.contains("KEY_1"),
        "{not_stored}"
    );
    assert!(
        not_stored.contains("NEW_2") && not_stored.contains("plan"),
        "{not_stored}"
    );
    for name in ["KEY_0", "KEY_2", "NEW_1"] {
        assert!(stored.contains(name), "{name}: {stored}");
    }
    let values = decrypt(&console, &["KEY_0", "KEY_1", "KEY_2"]).await;
    let values: Vec<_> = values.iter().map(|secret| secret.value.as_slice()).collect();
    assert_eq!(values, [b"new".as_slice(), b"theirs", b"new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_does_not_fit_into_the_plan_and_what_is_left_out() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "free").await;
    let lines: String = (0..11).map(|index| format!("KEY_{index}=1\n")).collect();
    let (_, preview) = preview(&mut browser, &format!("{lines}EMPTY=\nNOTE=x # a note\n")).await;
    for text in [
        "Only 10 of the 11 new secrets fit into the plan of the workspace. The vault refuses the others.",
        "Store 10 secrets",
        "<a href=\"/w/w/settings\">Choose a larger plan</a>",
        "The console keeps the values until",
        "There is no value.",
        "<code>#</code> may begin a comment",
    ] {
        assert!(preview.has(text), "{text}: {}", preview.text);
    }
    services::put_many(&console, 10).await;
    let full = browser.get(PREVIEW).await;
    assert!(
        full.has("None of the 11 new secrets fit into the plan of the workspace. The vault refuses them."),
        "{}",
        full.text
    );
    assert!(
        !full.has("Store 1") && full.has("Forget the text now"),
        "{}",
        full.text
    );
    let settings = browser.get("/w/w/settings").await;
    let revision = between(&settings.text, "name=\"revision\" value=\"", "\"");
    let larger = [("plan", "pro"), ("kept_versions", "3"), ("revision", revision)];
    browser.change("/w/w/settings", &larger).await;
    assert!(!browser.get(PREVIEW).await.has("fit into the plan"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_import_shows_its_progress_and_leads_to_its_results() {
    let console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    let (number, _) = preview(&mut browser, "A=1\nB=2\nC=3\n").await;
    let dev = console.dev.id();
    // The vault does not answer, so the import takes longer than its confirmation waits.
    kill_process(dev, Signal::STOP).unwrap();
    let progress = confirm(&mut browser, &number, &[]).await;
    let live = format!("/w/w/secrets/import/results/live?import={number}");
    for text in [
        "<title>Storing the secrets",
        "0 of 3 secrets</span> tried",
        "<noscript><meta http-equiv=\"refresh\"",
        &format!("data-live=\"{live}\""),
    ] {
        assert!(progress.has(text), "{text}: {}", progress.text);
    }
    let part = browser.get(&live).await;
    assert!(
        part.has("<progress max=\"3\" value=\"0\"") && !part.has("<title>"),
        "{}",
        part.text
    );
    kill_process(dev, Signal::CONT).unwrap();
    let started = Instant::now();
    let part = loop {
        let part = browser.get(&live).await;
        if !part.has("<progress") {
            break part;
        }
        assert!(started.elapsed() < PATIENCE, "{}", part.text);
    };
    let results = between(&part.text, "data-next=\"", "\"").to_owned();
    let results = browser.get(&results).await;
    assert!(
        results.has("all were stored") && !results.has("http-equiv"),
        "{}",
        results.text
    );
    let forgotten = browser.get("/w/w/secrets/import/results/live?import=99").await;
    assert!(forgotten.has("no longer known"), "{}", forgotten.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_goes_down_stops_an_import_and_the_results_say_so() {
    let mut console = Console::start().await;
    let mut browser = with_workspace(&console, "pro").await;
    let (number, _) = preview(&mut browser, "A=1\nB=2\nC=3\n").await;
    console.dev.child.kill().unwrap();
    console.dev.wait().await;
    let results = confirm(&mut browser, &number, &[]).await;
    assert!(results.has("Stored 0 of 3."), "{}", results.text);
    assert!(results.has("whether it was put is not known"), "{}", results.text);
    assert_eq!(
        results.text.matches("Not tried after the failure above.").count(),
        2
    );
}

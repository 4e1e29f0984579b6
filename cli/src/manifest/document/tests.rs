#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use super::*;

const HEAD: &str = "apiVersion: aerostack/v1\nkind: Workspace\nname: w\n";

fn parse(text: &str) -> Result<Manifest, ManifestError> {
    Manifest::parse(text.as_bytes())
}

#[test]
fn a_document_reads_back_the_same_in_one_order() {
    let text = format!(
        "{HEAD}plan: free\nkept_versions: 3\nservers:\n- name: z\n  url: https://z.example\n- name: a\n  url: https://a.example\n  \
         description: 'no'\nsecrets:\n- name: b-token\n  labels: {{x: 'y', a: '1e3'}}\n  upstream_origins: [https://z.example, \
         https://A.example]\n- name: A\n  expires_at: 2030-01-01T00:00:00.5Z\n"
    );
    let manifest = parse(&text).unwrap();
    let written = manifest.render().unwrap();
    assert_eq!(parse(&written).unwrap(), manifest);
    assert_eq!(parse(&written).unwrap().render().unwrap(), written);
    let order = ["A", "B_TOKEN", "name: a", "name: z"].map(|name| written.find(name).unwrap());
    assert!(order.is_sorted(), "{written}");
    assert!(written.contains("2030-01-01T00:00:00Z"), "{written}");
    assert!(written.contains("https://a.example"), "{written}");
}

#[test]
fn a_mistake_is_named_with_its_line_and_nothing_of_the_file_is_repeated() {
    let secret = "secrets:\n- name: TOKEN\n";
    let server = "servers:\n- name: one\n  url: https://a.example\n";
    for (text, says) in [
        (String::new(), "it is empty"),
        ("# apiVersion: v1\n---\n  # kind\n".to_owned(), "it is empty"),
        (
            HEAD.replace("/v1", "/v2"),
            "apiVersion: this release reads aerostack/v1",
        ),
        (HEAD.replace("Workspace", "Pod"), "kind: it must be Workspace"),
        (HEAD.replace("name: w", "name: W"), "name:"),
        (HEAD.replace("name: w\n", ""), "name is missing"),
        (
            format!("{HEAD}kept_versions: 0\n"),
            "kept_versions: it is 1 to 100",
        ),
        (format!("{HEAD}plan: gold\n"), "line 4"),
        (
            format!("{HEAD}{secret}  value: ghp_planted\n"),
            "line 6, column 3: field value is not one of the fields",
        ),
        (
            format!("{HEAD}{secret}  upstream_origins: [ghp_planted]\n"),
            "line 5: secret: upstream_origins: number 1",
        ),
        (
            format!("{HEAD}{secret}  labels: {{\"a\\e[2Jplanted\": b}}\n"),
            "line 5: secret: labels: a key is",
        ),
        (
            format!("{HEAD}{secret}  labels: {{a: \"\\e[2Jplanted\"}}\n"),
            "line 5: secret: labels: a value is",
        ),
        (
            format!("{HEAD}{secret}  expires_at: ghp_planted\n"),
            "line 5: secret: expires_at",
        ),
        (
            format!("{HEAD}{secret}- name: token\n"),
            "line 6: secret TOKEN is there above already",
        ),
        (
            format!("{HEAD}{server}  value: ghp_planted\n"),
            "line 7, column 3: field value is not one of the fields",
        ),
        (format!("{HEAD}{server}  auth_type: bearer\n"), "line 5: server:"),
        (
            format!("{HEAD}{server}- name: one\n  url: https://b.example\n"),
            "line 7: server one is there above already",
        ),
        (
            format!("{HEAD}{server}  revision: 3\n"),
            "line 5: server: revision: the injector decides it",
        ),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{says:?} is not in {error:?}");
        assert!(!error.contains("planted"), "{error}");
    }
}

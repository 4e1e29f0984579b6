#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use proto::ServerName;

use super::*;

const DOCUMENT: &str = "\
apiVersion: aerostack/v1
kind: Workspace
name: w
plan: starter
kept_versions: 5
secrets:
- name: A
  upstream_origins: [https://a.example]
  labels: {team: a}
  expires_at: 2030-01-01T00:00:00Z
- name: B
servers:
- name: one
  url: https://a.example
  auth_type: bearer
  injections: [{secret: A}]
- name: two
  url: https://b.example
";

fn manifest(document: &str) -> Manifest {
    Manifest::parse(document.as_bytes()).unwrap()
}

/// Returns the state that a document describes. Revisions and versions are 7.
fn state(document: &str) -> PresentState {
    let Manifest {
        name: _,
        plan,
        kept_versions,
        secrets,
        servers,
    } = manifest(document);
    let secret = |metadata| PresentSecret {
        metadata,
        version: 7,
        versions: vec![7, 6, 5],
    };
    let server = |description| PresentServer {
        description,
        revision: 7,
        workspace_uid: "present".to_owned(),
    };
    PresentState {
        workspace: Some(PresentWorkspace {
            uid: "present".to_owned(),
            revision: 7,
            plan: plan.unwrap_or(PlanName::Free),
            kept_versions: kept_versions.unwrap_or(3),
        }),
        secrets: secrets.unwrap_or_default().into_iter().map(secret).collect(),
        servers: servers.unwrap_or_default().into_iter().map(server).collect(),
    }
}

fn choices() -> Choices {
    Choices {
        prune: false,
        allow_later_expiry: false,
        now: "2029-01-01T00:00:00Z".parse().unwrap(),
    }
}

/// Returns the difference from the state of `before` to the document `after`.
fn between(before: &str, after: &str) -> Difference {
    Difference::between(&manifest(after), &state(before), choices())
}

#[test]
fn a_workspace_that_is_as_the_document_says_has_no_difference() {
    let same = between(DOCUMENT, DOCUMENT);
    assert!(same.is_empty());
    assert_eq!(same, Difference::default());
}

#[test]
fn a_workspace_that_does_not_exist_is_created_before_its_servers() {
    let difference = Difference::between(&manifest(DOCUMENT), &PresentState::default(), choices());
    let steps: Vec<_> = difference.changes.iter().map(|change| &change.step).collect();
    assert!(matches!(
        steps.as_slice(),
        [
            Step::CreateWorkspace {
                plan: Some(PlanName::Starter),
                kept_versions: Some(5)
            },
            Step::AddServer(one),
            Step::AddServer(two),
        ] if one.name().as_str() == "one" && two.name().as_str() == "two"
    ));
    let missing: Vec<_> = difference
        .missing_secrets
        .iter()
        .map(|secret| secret.name.as_str())
        .collect();
    assert_eq!(missing, ["A", "B"]);
}

#[test]
fn only_the_fields_that_differ_are_named() {
    let after = DOCUMENT
        .replace("plan: starter", "plan: pro")
        .replace("url: https://b.example", "url: https://c.example\n  oauth: pass");
    let changes = between(DOCUMENT, &after).changes;
    assert_eq!(changes.len(), 2);
    assert_eq!(
        changes[0],
        PlannedChange {
            step: Step::UpdateWorkspace {
                revision: 7,
                plan: Some(PlanName::Pro),
                kept_versions: None,
            },
            fields: vec![change("plan", Some(json!("starter")), Some(json!("pro")))],
        }
    );
    assert!(matches!(changes[1].step, Step::UpdateServer { revision: 7, .. }));
    assert_eq!(
        changes[1].fields,
        [
            change("oauth", None, Some(json!("pass"))),
            change(
                "url",
                Some(json!("https://b.example")),
                Some(json!("https://c.example"))
            ),
        ]
    );
}

#[test]
fn what_a_document_leaves_out_is_no_difference() {
    let nothing = "apiVersion: aerostack/v1\nkind: Workspace\nname: w\n";
    let difference = between(DOCUMENT, nothing);
    assert_eq!(difference, Difference::default());
    let pruned = Choices {
        prune: true,
        ..choices()
    };
    let difference = Difference::between(&manifest(nothing), &state(DOCUMENT), pruned);
    assert_eq!(difference, Difference::default());
}

#[test]
fn a_server_is_removed_only_by_a_prune_and_before_others_are_added() {
    let (first, _) = DOCUMENT.split_once("- name: one").unwrap();
    let after = format!("{first}- name: new\n  url: https://n.example\n");
    let kept = between(DOCUMENT, &after);
    assert_eq!(kept.changes.len(), 1);
    let names: Vec<_> = kept.kept_servers.iter().map(ServerName::as_str).collect();
    assert_eq!(names, ["one", "two"]);
    let pruned = Choices {
        prune: true,
        ..choices()
    };
    let difference = Difference::between(&manifest(&after), &state(DOCUMENT), pruned);
    assert!(difference.kept_servers.is_empty());
    assert_eq!(difference.losses(), ["server one", "server two"]);
    let steps: Vec<_> = difference.changes.iter().map(|change| &change.step).collect();
    assert!(matches!(
        steps.as_slice(),
        [
            Step::RemoveServer { revision: 7, .. },
            Step::RemoveServer { .. },
            Step::AddServer(_)
        ]
    ));
}

#[test]
fn a_server_of_a_deleted_workspace_is_removed_and_added_again() {
    let replaced = |state: &PresentState| {
        let difference = Difference::between(&manifest(DOCUMENT), state, choices());
        assert!(difference.losses().is_empty());
        let steps = difference.changes.into_iter().map(|change| match change.step {
            Step::RemoveServer {
                name,
                is_added_again: true,
                ..
            } => format!("-{name}"),
            Step::AddServer(server) => format!("+{}", server.name()),
            Step::CreateWorkspace { .. } => "create".to_owned(),
            other => panic!("{other:?}"),
        });
        steps.collect::<Vec<_>>()
    };
    let mut made_anew = state(DOCUMENT);
    made_anew.servers[1].workspace_uid = "deleted".to_owned();
    assert_eq!(replaced(&made_anew), ["-two", "+two"]);
    // A servers file may name no workspace's uid.
    made_anew.servers[1].workspace_uid = String::new();
    assert!(replaced(&made_anew).is_empty());
    let deleted = PresentState {
        workspace: None,
        secrets: Vec::new(),
        ..state(DOCUMENT)
    };
    assert_eq!(replaced(&deleted), ["create", "-one", "+one", "-two", "+two"]);
}

#[test]
fn the_versions_that_a_new_expiry_displaces_are_named() {
    let losses = |kept: &str| {
        let after = DOCUMENT
            .replace("kept_versions: 5", kept)
            .replace("2030-01-01T00:00:00Z", "2029-06-01T00:00:00Z");
        let difference = between(DOCUMENT, &after);
        let shown = difference.changes.iter().flat_map(|change| &change.fields);
        let shown = shown.filter(|field| field.field == "lost_versions").count();
        (difference.losses(), shown)
    };
    assert_eq!(losses("kept_versions: 5"), (Vec::new(), 0));
    assert_eq!(losses("kept_versions: 4"), (Vec::new(), 0));
    let lost = vec!["secret A version 5 and version 6".to_owned()];
    assert_eq!(losses("kept_versions: 2"), (lost, 1));
}

#[test]
fn a_secret_that_the_document_does_not_have_is_named_and_stays() {
    let after = DOCUMENT.replace("- name: B\n", "");
    let difference = between(DOCUMENT, &after);
    assert!(difference.is_empty());
    assert_eq!(difference.other_secrets[0].as_str(), "B");
}

#[test]
fn origins_and_labels_cannot_change_without_the_value() {
    let after = DOCUMENT
        .replace("https://a.example]", "https://x.example]")
        .replace("team: a", "team: b");
    let difference = between(DOCUMENT, &after);
    assert!(difference.changes.is_empty() && !difference.is_empty());
    let fields: Vec<_> = difference
        .unchangeable
        .iter()
        .map(|difference| (difference.field.field.as_str(), difference.reason))
        .collect();
    let needs_value = UnchangeableReason::NeedsValue;
    assert_eq!(
        fields,
        [("labels", needs_value), ("upstream_origins", needs_value)]
    );
}

#[test]
fn an_expiry_changes_by_itself_but_later_only_when_the_user_asks_for_it() {
    let expiry = "  expires_at: 2030-01-01T00:00:00Z\n";
    let never = DOCUMENT.replace(expiry, "");
    let at = |time: &str| DOCUMENT.replace("2030-01-01T00:00:00Z", time);
    let earlier = at("2029-06-01T00:00:00Z");
    let later = at("2031-01-01T00:00:00Z");
    let past = at("2028-01-01T00:00:00Z");
    let reason = |before: &str, after: &str, allow_later_expiry: bool| {
        let choices = Choices {
            allow_later_expiry,
            ..choices()
        };
        let difference = Difference::between(&manifest(after), &state(before), choices);
        match (difference.changes.as_slice(), difference.unchangeable.as_slice()) {
            (
                [
                    PlannedChange {
                        step:
                            Step::SetExpiry {
                                version: 7, is_later, ..
                            },
                        ..
                    },
                ],
                [],
            ) => Ok(*is_later),
            ([], [unchangeable]) => Err(unchangeable.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(DOCUMENT, &earlier, false), Ok(false));
    assert_eq!(reason(&never, DOCUMENT, false), Ok(false));
    assert_eq!(
        reason(DOCUMENT, &later, false),
        Err(UnchangeableReason::LaterExpiry)
    );
    assert_eq!(
        reason(DOCUMENT, &never, false),
        Err(UnchangeableReason::LaterExpiry)
    );
    assert_eq!(reason(DOCUMENT, &later, true), Ok(true));
    assert_eq!(reason(DOCUMENT, &never, true), Ok(true));
    assert_eq!(reason(DOCUMENT, &past, true), Err(UnchangeableReason::PastExpiry));
}

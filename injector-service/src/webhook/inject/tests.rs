//! Injections into the recorded reviews of `tests/peers/webhook`, which the tests of peers post over HTTPS.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

use std::{fs, path::PathBuf};

use chassis::{kubernetes::ObjectName, settings::Problems};
use proto::Principal;
use serde_json::json;

use super::*;
use crate::{
    limits::LimitSettings,
    webhook::{annotations, image_prefix::ImagePrefix, sidecar::SidecarReadiness},
};

/// The CAs and the settings are those of the tests of peers, so that a recorded pod that has its sidecar already has this one.
const VAULT_CA: &str = include_str!("../../../../tests/peers/webhook/vault-ca.pem");

fn settings() -> InjectionSettings {
    InjectionSettings {
        image: "registry.example.org/aerostack/injector:test".to_owned(),
        allowed_images: vec![ImagePrefix::parse("registry.example.org/mirror").unwrap()],
        vault: "aerostack-vault.aerostack.svc:7150".parse().unwrap(),
        vault_id: Principal::parse("spiffe://aerostack/vault").unwrap(),
        token_audience: "aerostack-vault".to_owned(),
        token_seconds: 3600,
        metrics_listen: "0.0.0.0:9052".parse().unwrap(),
        readiness: SidecarReadiness::Vault,
        cpu: annotations::cpu("20m").unwrap(),
        memory: annotations::memory("64Mi,128Mi").unwrap(),
        excluded_namespaces: vec![ObjectName::parse("kube-system").unwrap()],
    }
}

fn file(name: &str) -> Value {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/webhook");
    serde_json::from_slice(&fs::read(folder.join(format!("{name}.json"))).unwrap()).unwrap()
}

/// Returns the pod of a recorded review.
fn recorded(name: &str) -> Value {
    file(name)["request"]["object"].clone()
}

fn review(pod: &Value) -> Result<PodInjection, Denial> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    inject(pod, namespace, &settings(), VAULT_CA)
}

/// Applies a patch whose operations all add a member of an object.
fn patched(mut pod: Value, operations: Vec<Value>) -> Value {
    for operation in operations {
        assert_eq!(operation["op"], "add");
        let (parent, member) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[member] = operation["value"].clone();
    }
    pod
}

fn injected(pod: Value) -> Value {
    match review(&pod).unwrap() {
        PodInjection::Patch(operations) => patched(pod, operations),
        other => panic!("{other:?}"),
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(pod::name).collect()
}

#[test]
fn each_recorded_pod_has_the_expected_result_and_a_second_review_changes_nothing() {
    let expected = file("expected");
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 20);
    for (name, expected) in expected {
        let pod = recorded(name);
        match (expected["outcome"].as_str().unwrap(), review(&pod)) {
            ("injected", Ok(PodInjection::Patch(operations))) => {
                assert_eq!(
                    review(&patched(pod, operations)),
                    Ok(PodInjection::Complete),
                    "{name}"
                );
            }
            ("complete", Ok(PodInjection::Complete)) | ("not_requested", Ok(PodInjection::NotRequested)) => {}
            ("denied", Err(denial)) => {
                let message = expected["message"].as_str().unwrap();
                assert!(denial.to_string().contains(message), "{name}: {denial}");
                assert_eq!(denial.code().as_u16(), expected["code"], "{name}");
            }
            // `review` looks at the pod alone, and not at the operation.
            ("ignored", Ok(_)) => {}
            (expected, result) => panic!("{name}: {expected}, {result:?}"),
        }
    }
}

#[test]
fn a_pod_chooses_an_image_only_among_those_of_the_settings() {
    let pod = recorded("own-image-and-resources");
    let namespace = pod["metadata"]["namespace"].as_str().unwrap();
    let without_images = InjectionSettings {
        allowed_images: Vec::new(),
        ..settings()
    };
    let denial = inject(&pod, namespace, &without_images, VAULT_CA).unwrap_err();
    assert_eq!(denial.code().as_u16(), 403);
    let image = pod["metadata"]["annotations"]["aerostack.dev/image"]
        .as_str()
        .unwrap();
    assert_eq!(denial, Denial::ImageNotAllowed(image.to_owned()));
    let of_the_settings = InjectionSettings {
        image: image.to_owned(),
        ..without_images
    };
    assert!(inject(&pod, namespace, &of_the_settings, VAULT_CA).is_ok());
}

#[test]
fn fields_that_no_release_knows_stay_as_they_are() {
    let mut pod = recorded("plain");
    pod["spec"]["ofTomorrow"] = json!({"list": [1, 2.5, null]});
    pod["spec"]["containers"][0]["ofTomorrow"] = json!(true);
    let injected = injected(pod);
    assert_eq!(injected["spec"]["ofTomorrow"], json!({"list": [1, 2.5, null]}));
    assert_eq!(injected["spec"]["containers"][0]["ofTomorrow"], true);
}

#[test]
fn the_sidecar_gets_a_token_the_vaults_authorities_and_the_servers() {
    let injected = injected(recorded("plain"));
    let volumes = &injected["spec"]["volumes"];
    let by_name = |name| &volumes[pod::position(volumes.as_array().unwrap(), name).unwrap()];
    let token = &by_name("aerostack-token")["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        token,
        &json!({"audience": "aerostack-vault", "expirationSeconds": 3600, "path": "token"})
    );
    // Without `fsGroup`, the file belongs to root, and uid 65532 reads it by this mode alone.
    assert_eq!(by_name("aerostack-token")["projected"]["defaultMode"], 0o444);
    let servers = &by_name("aerostack-servers")["configMap"];
    assert_eq!(servers["name"], "web-servers");
    assert_eq!(
        servers["items"],
        json!([{"key": "servers.yaml", "path": "servers.yaml"}])
    );
    let items = &by_name("aerostack-ca")["downwardAPI"]["items"];
    let annotation = "metadata.annotations['aerostack.dev/vault-ca']";
    assert_eq!(items[0]["fieldRef"]["fieldPath"], annotation);
    assert_eq!(
        injected["metadata"]["annotations"]["aerostack.dev/vault-ca"],
        VAULT_CA
    );
    assert_eq!(injected["metadata"]["labels"]["aerostack.dev/injector"], "true");
    let mounting = |container: &Value| container["volumeMounts"].to_string().contains("aerostack-token");
    assert!(mounting(&injected["spec"]["initContainers"][0]));
    assert!(!mounting(&injected["spec"]["containers"][0]));
}

#[test]
fn the_sidecar_has_a_thread_for_each_processor_that_it_asks_for() {
    for (cpu, threads) in [
        (None, "1"),
        (Some("500m"), "1"),
        (Some("1001m"), "2"),
        (Some("100m,4"), "4"),
        (Some("16"), "16"),
    ] {
        let mut pod = recorded("plain");
        if let Some(cpu) = cpu {
            pod["metadata"]["annotations"]["aerostack.dev/cpu"] = json!(cpu);
        }
        let injected = injected(pod);
        let variables = injected["spec"]["initContainers"][0]["env"].as_array().unwrap();
        let set = json!({"name": "AEROSTACK_INJECTOR_WORKER_THREADS", "value": threads});
        assert!(variables.contains(&set), "{cpu:?}: {variables:?}");
    }
}

/// Bodies that fill the whole limit would end the sidecar and all its calls.
#[test]
fn the_sidecar_buffers_bodies_in_half_of_its_memory() {
    let buffered = |default: &str, annotation: Option<&str>| {
        let mut pod = recorded("plain");
        if let Some(memory) = annotation {
            pod["metadata"]["annotations"]["aerostack.dev/memory"] = json!(memory);
        }
        let settings = InjectionSettings {
            memory: annotations::memory(default).unwrap(),
            ..settings()
        };
        let PodInjection::Patch(operations) = inject(&pod, "shop", &settings, VAULT_CA).unwrap() else {
            panic!("the pod was not injected");
        };
        let injected = patched(pod, operations);
        let env = injected["spec"]["initContainers"][0]["env"].as_array().unwrap();
        let at = pod::position(env, "AEROSTACK_INJECTOR_MAX_BUFFERED_TOTAL")?;
        Some(env[at]["value"].as_str().unwrap().to_owned())
    };
    for (default, annotation, expected) in [
        ("64Mi,128Mi", None, Some("64MiB")),
        ("64Mi,128Mi", Some("64Mi,256Mi"), Some("128MiB")),
        ("64Mi,128Mi", Some("300M"), Some("143MiB")),
        ("16Mi,16Mi", None, Some("8MiB")),
        ("64Mi,900T", None, Some("1048576MiB")),
        // Without a limit of its own, the sidecar may use the memory of the node.
        ("64Mi", None, None),
        ("64Mi", Some("128Mi"), None),
    ] {
        let value = buffered(default, annotation);
        assert_eq!(value.as_deref(), expected, "{default} {annotation:?}");
        if let Some(value) = value {
            let limits = LimitSettings {
                max_buffered_total: value,
                ..LimitSettings::default()
            };
            let mut problems = Problems::default();
            assert!(limits.check(&mut problems).is_some(), "{default} {annotation:?}");
        }
    }
}

#[test]
fn the_sidecar_starts_when_the_network_of_a_mesh_works() {
    for (recorded_as, order) in [
        (
            "init-containers",
            &["aerostack-injector", "migrate", "log-agent"][..],
        ),
        (
            "istio-native",
            &["istio-init", "istio-proxy", "aerostack-injector", "migrate"],
        ),
        (
            "after-another-webhook",
            &["istio-init", "istio-proxy", "aerostack-injector"],
        ),
        ("istio-classic", &["aerostack-injector", "istio-init", "migrate"]),
        (
            "linkerd-native",
            &["linkerd-init", "linkerd-proxy", "aerostack-injector"],
        ),
    ] {
        let injected = injected(recorded(recorded_as));
        assert_eq!(names(&injected["spec"]["initContainers"]), order, "{recorded_as}");
    }
}

#[test]
fn variables_come_first_so_that_others_can_refer_to_them() {
    let mut pod = recorded("plain");
    pod["spec"]["containers"][0]["env"] = json!([{"name": "API", "value": "$(AEROSTACK_URL)/shop/api"}]);
    let injected = injected(pod);
    assert_eq!(
        names(&injected["spec"]["containers"][0]["env"]),
        ["AEROSTACK_URL", "API"]
    );
}

#[test]
fn a_sidecar_keeps_what_others_added_to_it() {
    let mut pod = injected(recorded("deployment"));
    let sidecar = &mut pod["spec"]["initContainers"][0];
    let env = sidecar["env"].as_array_mut().unwrap();
    env.insert(
        0,
        json!({"name": "KUBERNETES_CLUSTER_DOMAIN", "value": "cluster.local"}),
    );
    sidecar["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access-1", "mountPath": "/x"}));
    sidecar["image"] = "registry.example.org/injector:0".into();
    let again = injected(pod);
    let sidecar = &again["spec"]["initContainers"][0];
    assert_eq!(sidecar["image"], settings().image);
    assert!(names(&sidecar["env"]).contains(&"KUBERNETES_CLUSTER_DOMAIN"));
    assert!(names(&sidecar["volumeMounts"]).contains(&"kube-api-access-1"));
    assert_eq!(review(&again), Ok(PodInjection::Complete));
}

#[test]
fn a_pod_that_claims_to_be_injected_gets_its_sidecar_all_the_same() {
    let mut pod = recorded("plain");
    pod["metadata"]["annotations"]["aerostack.dev/status"] = "injected".into();
    pod["metadata"]["annotations"]["aerostack.dev/vault-ca"] = "another authority".into();
    let injected = injected(pod);
    assert_eq!(names(&injected["spec"]["initContainers"]), ["aerostack-injector"]);
    assert_eq!(
        injected["metadata"]["annotations"]["aerostack.dev/vault-ca"],
        VAULT_CA
    );
}

#[test]
fn each_probe_has_our_action_alone_after_a_mesh_or_an_earlier_release_had_another() {
    let injected = injected(recorded("probes-rewritten"));
    let containers = injected["spec"]["initContainers"].as_array().unwrap();
    let sidecar = &containers[pod::position(containers, NAME).unwrap()];
    for (probe, flags) in [
        ("startupProbe", &["--startup"][..]),
        ("readinessProbe", &[]),
        ("livenessProbe", &["--live"]),
    ] {
        let command = [&["injector-service", "healthcheck"], flags].concat();
        assert_eq!(sidecar[probe]["exec"]["command"], json!(command), "{probe}");
        assert!(sidecar[probe].get("httpGet").is_none(), "{probe}");
    }
}

#[test]
fn with_the_readiness_live_an_outage_of_the_vault_leaves_the_pod_ready() {
    let settings = InjectionSettings {
        readiness: SidecarReadiness::Live,
        ..settings()
    };
    let PodInjection::Patch(operations) = inject(&recorded("plain"), "shop", &settings, VAULT_CA).unwrap()
    else {
        panic!("the pod was not injected");
    };
    let pod = patched(recorded("plain"), operations);
    let sidecar = &pod["spec"]["initContainers"][0];
    let command = ["injector-service", "healthcheck", "--live"];
    assert_eq!(sidecar["readinessProbe"]["exec"]["command"], json!(command));
}

#[test]
fn the_metrics_listen_on_the_address_of_the_setting() {
    let settings = InjectionSettings {
        metrics_listen: "[::]:9152".parse().unwrap(),
        ..settings()
    };
    let PodInjection::Patch(operations) = inject(&recorded("plain"), "shop", &settings, VAULT_CA).unwrap()
    else {
        panic!("the pod has no sidecar");
    };
    let injected = patched(recorded("plain"), operations);
    let sidecar = &injected["spec"]["initContainers"][0];
    assert_eq!(sidecar["ports"][0]["containerPort"], 9152);
    let env = sidecar["env"].as_array().unwrap();
    let listen = &env[pod::position(env, "AEROSTACK_INJECTOR_METRICS_LISTEN").unwrap()];
    assert_eq!(listen["value"], "[::]:9152");
}

/// The tests of peers have the same pods with one fault each.
#[test]
fn a_pod_whose_own_parts_reach_into_the_sidecar_is_denied() {
    let injected = injected(recorded("init-containers"));
    let denial = |change: &dyn Fn(&mut Value)| {
        let mut pod = injected.clone();
        change(&mut pod);
        review(&pod).unwrap_err()
    };
    for volume in sidecar::VOLUMES {
        for list in ["initContainers", "containers"] {
            let container = |pod: &Value| pod["spec"][list].as_array().unwrap().len() - 1;
            let denied = denial(&|pod| {
                let last = container(pod);
                pod["spec"][list][last]["volumeMounts"] = json!([{"name": volume, "mountPath": "/x"}]);
            });
            let container = pod::name(&injected["spec"][list][container(&injected)]).to_owned();
            assert_eq!(denied, Denial::MountedVolume { container, volume });
        }
    }
    for (field, value) in [
        ("command", json!(["sh"])),
        ("args", json!(["--allow-debugging"])),
        ("envFrom", json!([{"configMapRef": {"name": "settings"}}])),
        ("lifecycle", json!({"postStart": {"exec": {"command": ["sh"]}}})),
    ] {
        let denied = denial(&|pod| pod["spec"]["initContainers"][0][field] = value.clone());
        assert_eq!(denied, Denial::ForeignSidecar(field));
    }
    let denied =
        denial(&|pod| pod["spec"]["initContainers"][0]["securityContext"]["privileged"] = true.into());
    assert_eq!(denied, Denial::ForeignSidecar("securityContext.privileged"));
    let denied = denial(&|pod| {
        pod["spec"]["initContainers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_PTRACE"]);
    });
    assert_eq!(denied, Denial::ForeignSidecar("securityContext.capabilities.add"));
    // Fields that others set to their defaults change nothing.
    let mut pod = injected.clone();
    pod["spec"]["initContainers"][0]["args"] = json!([]);
    pod["spec"]["initContainers"][0]["securityContext"]["privileged"] = false.into();
    assert_eq!(review(&pod), Ok(PodInjection::Complete));
}

#[test]
fn a_label_in_the_place_of_the_annotation_is_denied() {
    let mut pod = recorded("no-annotations");
    for (value, is_denied) in [("true", true), ("enabled", true), ("false", false)] {
        pod["metadata"]["labels"]["aerostack.dev/inject"] = value.into();
        assert_eq!(review(&pod).is_err(), is_denied, "{value}");
    }
    let mut pod = recorded("plain");
    pod["metadata"]["labels"]["aerostack.dev/inject"] = "true".into();
    assert!(matches!(review(&pod), Ok(PodInjection::Patch(_))));
    // The label of a sidecar that is written by hand.
    let mut pod = recorded("no-annotations");
    pod["metadata"]["labels"]["aerostack.dev/injector"] = "true".into();
    assert_eq!(review(&pod), Ok(PodInjection::NotRequested));
}

#[test]
fn the_sidecar_gets_only_variables_of_settings_that_the_injector_has() {
    use clap::{Args as _, Command};
    let settings = crate::config::Settings::augment_args(Command::new("settings"));
    let settings = chassis::settings::with_variables(settings, crate::config::ENVIRONMENT);
    let known: Vec<_> = settings
        .get_arguments()
        .filter_map(|arg| arg.get_env()?.to_str())
        .collect();
    let injected = injected(recorded("listen-server"));
    for name in names(&injected["spec"]["initContainers"][0]["env"]) {
        assert!(known.contains(&name), "{name} is not in {known:?}");
    }
}

//! Tests of `aerostack dev` on a disk that becomes full. The disk is a `tmpfs`, which only root can mount; without root the
//! test is skipped.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that panics has failed"
)]

mod support;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use proto::vault::v1::{
    CreateWorkspaceRequest, DecryptRequest, DecryptStatus, DeleteSecretRequest, Plan, PutSecretRequest,
    Workspace, decrypt_service_client::DecryptServiceClient, put_secret_request::Value,
    secret_service_client::SecretServiceClient, workspace_service_client::WorkspaceServiceClient,
};
use support::{
    dev::{Dev, command},
    run, text,
};
use tempfile::TempDir;
use tonic::{Code, Status};

const WORKSPACE: &str = "w";
/// Size of the disk. The vault keeps 16 MiB of it free.
const DISK: &str = "size=96m";

/// A small disk, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(parent: &TempDir) -> Option<Self> {
        let at = parent.path().join("disk");
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(&at)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    /// Fills the disk, except for `left` bytes.
    fn fill(&self, left: u64) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .unwrap();
        let free = || {
            let disk = rustix::fs::statvfs(&self.0).unwrap();
            disk.f_bavail * disk.f_frsize
        };
        while free() > left {
            let size = (free() - left).clamp(1, 1 << 20);
            if file.write_all(&vec![1; usize::try_from(size).unwrap()]).is_err() {
                break;
            }
        }
    }

    fn clear(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn put(dev: &Dev, name: &str) -> Result<(), Status> {
    let request = PutSecretRequest {
        workspace: WORKSPACE.to_owned(),
        name: name.to_owned(),
        value: Some(Value::Text(format!("value of {name}"))),
        ..Default::default()
    };
    SecretServiceClient::new(dev.admin())
        .put_secret(request)
        .await
        .map(drop)
}

async fn delete(dev: &Dev, name: &str) -> Result<(), Status> {
    let request = DeleteSecretRequest {
        workspace: WORKSPACE.to_owned(),
        name: name.to_owned(),
        ..Default::default()
    };
    SecretServiceClient::new(dev.admin())
        .delete_secret(request)
        .await
        .map(drop)
}

/// Checks that all of `names` can be decrypted.
async fn assert_decrypted(dev: &Dev, names: &[String]) {
    for names in names.chunks(64) {
        let request = DecryptRequest {
            workspace: WORKSPACE.to_owned(),
            names: names.to_vec(),
            ..Default::default()
        };
        let answer = DecryptServiceClient::new(dev.injector()).decrypt(request).await;
        for secret in answer.unwrap().into_inner().secrets {
            assert_eq!(secret.status(), DecryptStatus::Ok, "{}", secret.name);
            assert_eq!(secret.value, format!("value of {}", secret.name).as_bytes());
        }
    }
}

/// Returns the answer of the vault's `/readyz`.
fn readyz(dev: &Dev) -> String {
    let address = dev.ports.get("vault_metrics").unwrap();
    let mut probe = std::net::TcpStream::connect(address).unwrap();
    probe
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut probe, &mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap_or_default().trim().to_owned()
}

async fn start_with_workspace(dir: &Path) -> Dev {
    let dev = Dev::start(dir).await;
    let workspace = Some(Workspace {
        name: WORKSPACE.to_owned(),
        plan: Plan::Enterprise.into(),
        ..Default::default()
    });
    WorkspaceServiceClient::new(dev.admin())
        .create_workspace(CreateWorkspaceRequest { workspace })
        .await
        .unwrap();
    dev
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_puts_are_refused_deletes_succeed_and_acknowledged_secrets_stay() {
    let parent = TempDir::new().unwrap();
    let Some(disk) = Disk::mount(&parent) else {
        eprintln!("not tested: no file system can be mounted here");
        return;
    };
    // The files of the services are on the small disk, and the log is elsewhere.
    let dir = disk.0.join("dev");
    let mut dev = start_with_workspace(&dir).await;
    let mut names = Vec::new();
    for number in 0..50 {
        let name = format!("BEFORE_{number}");
        put(&dev, &name).await.unwrap();
        names.push(name);
    }

    disk.fill(1 << 20);
    let full = put(&dev, "FULL").await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted, "{full:?}");
    assert_eq!(readyz(&dev), "not ready: the disk is full");
    assert_decrypted(&dev, &names).await;
    for name in names.drain(..10) {
        delete(&dev, &name).await.unwrap();
    }
    let still_full = put(&dev, "FULL").await.unwrap_err();
    assert_eq!(still_full.code(), Code::ResourceExhausted, "{still_full:?}");
    assert_decrypted(&dev, &names).await;

    disk.clear();
    assert_eq!(readyz(&dev), "ok");
    put(&dev, "AFTER").await.unwrap();
    names.push("AFTER".to_owned());

    // The process is killed, and almost no space is free at the next start.
    dev.child.kill().unwrap();
    dev.wait().await;
    disk.fill(1 << 20);
    let db = fs::read(dir.join("vault/db")).unwrap();
    let refused = run(command(&dir)).await;
    assert_eq!(refused.status.code(), Some(70));
    let said = text(&refused.stderr);
    assert!(said.contains("the disk is too full to open the store"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    assert!(
        fs::read(dir.join("vault/db")).unwrap() == db,
        "it was changed: {said}"
    );

    disk.clear();
    let dev = Dev::start(&dir).await;
    assert_decrypted(&dev, &names).await;
}

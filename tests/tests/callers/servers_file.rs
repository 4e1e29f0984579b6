//! A servers file from a ConfigMap.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use e2e::{Injector, Pair, Upstream, Vault, eventually, pair::get};
use futures_util::future::join_all;
use http::Response;
use http_body_util::Full;
use proto::injector::v1::{ListServersRequest, ListServersResponse};
use tempfile::TempDir;

use super::yaml;

/// A directory as a kubelet makes it for a ConfigMap: an update replaces the link `..data`.
struct ConfigMapVolume {
    dir: TempDir,
    updates: AtomicUsize,
}

impl ConfigMapVolume {
    fn with(text: &str) -> Self {
        let volume = Self {
            dir: TempDir::new().unwrap(),
            updates: AtomicUsize::new(0),
        };
        volume.update(text);
        symlink("..data/servers.yaml", volume.path()).unwrap();
        volume
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("servers.yaml")
    }

    fn update(&self, text: &str) {
        let at = |name: &str| self.dir.path().join(name);
        let number = self.updates.fetch_add(1, Ordering::Relaxed);
        let (old, new) = (format!("..{number}"), format!("..{}", number + 1));
        fs::create_dir(at(&new)).unwrap();
        fs::write(at(&new).join("servers.yaml"), text).unwrap();
        fs::set_permissions(
            at(&new).join("servers.yaml"),
            std::os::unix::fs::PermissionsExt::from_mode(0o444),
        )
        .unwrap();
        symlink(&new, at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let _ = fs::remove_dir_all(at(&old));
    }
}

async fn pair(volume: &ConfigMapVolume) -> Pair {
    let vault = Vault::start().await;
    vault.workspace("dev").await;
    vault.put("dev", "TOKEN", "tok-1").await;
    let injector = Injector::start_with(vault.pki.clone(), vault.address, |settings| {
        settings.servers = Some(volume.path());
    })
    .await;
    injector.ready().await;
    Pair { vault, injector }
}

/// Returns the number of servers, the revision in the list, and the metrics of the servers file.
async fn state(injector: &Injector) -> (usize, String, Vec<String>) {
    let listed = injector
        .servers()
        .list_servers(ListServersRequest::default())
        .await;
    let ListServersResponse {
        servers,
        next_page_token: _,
        servers_file_revision,
    } = listed.unwrap().into_inner();
    let metrics = get(&format!("http://{}/metrics", injector.metrics)).await;
    let metrics = String::from_utf8(metrics.body().to_vec()).unwrap();
    let of_file = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("aerostack_injector_servers_file_"));
    (
        servers.len(),
        servers_file_revision,
        of_file.map(ToOwned::to_owned).collect(),
    )
}

#[tokio::test]
async fn the_list_and_the_metrics_name_the_content_that_is_in_use() {
    let upstream = Upstream::start().await;
    let volume = ConfigMapVolume::with(&yaml("api", &upstream.url()));
    let pair = pair(&volume).await;
    let (servers, first, metrics) = state(&pair.injector).await;
    assert_eq!((servers, first.len()), (1, 16));
    let expected = |invalid: u8, rejections: u8, revision: &str| {
        vec![
            format!("invalid {invalid}"),
            format!("rejections_total {rejections}"),
            format!("revision{{revision=\"{revision}\"}} 1"),
        ]
    };
    assert_eq!(metrics, expected(0, 0, &first));
    volume.update("version: 1\nservers:\n- workspace: dev\n  name: api\n");
    eventually("the content was rejected", async || {
        state(&pair.injector).await.2 == expected(1, 1, &first)
    })
    .await;
    assert_eq!(pair.injector.get("/dev/api/").await.status(), 200);
    volume.update(&yaml("moved", &upstream.url()));
    eventually("the next content is used", async || {
        let (_, revision, metrics) = state(&pair.injector).await;
        revision != first && metrics == expected(0, 1, &revision)
    })
    .await;
    assert_eq!(pair.injector.get("/dev/moved/").await.status(), 200);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_under_way_finish_when_their_server_is_removed() {
    /// More than the connections and the pool of a worker thread hold in buffers.
    const BODY: usize = 2 << 20;
    const CALLS: usize = 40;
    let upstream = Upstream::answering(|_| {
        tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(20)));
        Response::new(Full::from(Bytes::from(vec![b'x'; BODY])))
    })
    .await;
    let volume = ConfigMapVolume::with(&yaml("api", &upstream.url()));
    let pair = pair(&volume).await;
    let answered = AtomicUsize::new(0);
    let callers = join_all((0..CALLS).map(async |_| {
        loop {
            let answer = pair.injector.get("/dev/api/").await;
            match answer.status().as_u16() {
                200 => assert_eq!(answer.body().len(), BODY),
                404 => return,
                other => panic!("{other}: {:?}", answer.body()),
            }
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let removal = async {
        eventually("calls are under way", async || {
            answered.load(Ordering::Relaxed) > CALLS
        })
        .await;
        volume.update("version: 1\nservers: []\n");
    };
    tokio::join!(callers, removal);
    assert_eq!(state(&pair.injector).await.0, 0);
    pair.stop().await;
}

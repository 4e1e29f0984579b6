//! A listener on a Unix socket, whose peers are known by their uid.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::{Instant, sleep},
};

use super::{
    connection_slots::Holder,
    listen::{BACKLOG, Listener},
};

/// The mode of the socket's file. Every user may connect, and the service decides by the peer's uid.
const MODE: u32 = 0o666;

/// Longest wait for another process that starts, and interval between two looks. Every process that may read the directory can
/// hold its lock, so the wait needs an end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// A listener on a Unix socket. Dropping it removes the file of the socket.
pub struct UnixSocketListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that a file that another process made at the same path is not removed.
    file: (u64, u64),
}

impl UnixSocketListener {
    /// Listens on `path`. A socket that a process left behind is replaced; a socket on which a process listens is refused,
    /// and so is any other file. The error names the path and the remedy.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        Self::bind_at(path).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on {}: {}", path.display(), cause_of(&error)),
            )
        })
    }

    async fn bind_at(path: &Path) -> io::Result<Self> {
        // Held until the new socket listens: of two processes that start at once, the second one then sees the socket of
        // the first one in use.
        let _directory = lock_directory(path).await?;
        remove_stale(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Set before the socket listens, so that nobody is turned away by the umask. A connection before that is refused.
        let file = open_to_every_user(path)?;
        let listener = socket.listen(BACKLOG)?;
        Ok(Self {
            listener,
            file,
            path: path.to_owned(),
        })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocketListener {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|file| file == self.file) {
            // A file that stays is replaced by the next process that listens here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for UnixSocketListener {
    type Stream = UnixStream;
    /// The uid of the process that connected, at the time of its `connect`.
    type Peer = u32;

    async fn accept(&self) -> io::Result<(UnixStream, u32)> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, uid))
    }

    fn holder(uid: &u32) -> Holder {
        Holder::User(*uid)
    }
}

async fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    };
    let file = File::open(directory)?;
    let end = Instant::now() + LOCK_TIMEOUT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => sleep(LOCK_INTERVAL).await,
            Err(Errno::WOULDBLOCK) => return Err(locked(directory)),
            Err(error) => return Err(error.into()),
        }
    }
}

fn locked(directory: &Path) -> io::Error {
    let directory = directory.display();
    let message = format!("another process holds a lock on {directory}; `fuser -v {directory}` shows which");
    io::Error::new(io::ErrorKind::WouldBlock, message)
}

/// Lets every user connect to the socket at `path`, and returns the device and inode of its file.
///
/// `chmod` follows symbolic links: whoever may write the directory could put one in the place of the new socket, and have the
/// mode of another file changed. So the file is opened without following links, and its mode is changed through the descriptor.
/// `fchmod` refuses a descriptor with `O_PATH`, and the path in `/proc` leads to the same file.
fn open_to_every_user(path: &Path) -> io::Result<(u64, u64)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    fs::set_permissions(descriptor, Permissions::from_mode(MODE))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket on which no process listens.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match connect_once(path) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path),
        // The queue of a listener that accepts too slowly is full.
        Ok(()) | Err(Errno::AGAIN) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error.into()),
    }
}

/// Connects without waiting for room in the listener's queue.
fn connect_once(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn cause_of(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            "there is a file that is no socket; remove it, or give another path".to_owned()
        }
        io::ErrorKind::AddrInUse => "another process listens there; `ss -xlp` shows which".to_owned(),
        io::ErrorKind::NotFound => "the directory does not exist; make it first".to_owned(),
        io::ErrorKind::InvalidInput => {
            "the path is not one of a Unix socket, which has at most 107 bytes".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use tempfile::TempDir;

    use super::*;

    async fn refusal(path: &Path) -> String {
        UnixSocketListener::bind(path)
            .await
            .err()
            .expect("it was bound")
            .to_string()
    }

    #[tokio::test]
    async fn a_peer_is_known_by_its_uid_and_every_user_may_connect() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixSocketListener::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let _client = UnixStream::connect(&path).await.unwrap();
        let (_stream, uid) = listener.accept().await.unwrap();
        assert_eq!(uid, rustix::process::getuid().as_raw());
    }

    #[tokio::test]
    async fn the_socket_of_a_process_that_lives_is_not_taken_over() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let first = UnixSocketListener::bind(&path).await.unwrap();
        let refused = refusal(&path).await;
        assert!(
            refused.ends_with("another process listens there; `ss -xlp` shows which"),
            "{refused}"
        );
        drop(first);
        assert!(!path.exists());
        UnixSocketListener::bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_process_left_is_replaced() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        // The listener of the standard library leaves its file behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = UnixSocketListener::bind(&path).await.unwrap();
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(refusal(&path).await.contains("a file that is no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(refusal(&link).await.contains("a file that is no socket"));
    }

    #[tokio::test]
    async fn the_socket_of_a_successor_is_not_removed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        let first = UnixSocketListener::bind(&path).await.unwrap();
        fs::remove_file(&path).unwrap();
        let _second = UnixSocketListener::bind(&path).await.unwrap();
        drop(first);
        UnixStream::connect(&path).await.unwrap();
    }

    #[tokio::test]
    async fn a_path_that_cannot_work_is_refused_with_the_reason() {
        let dir = TempDir::new().unwrap();
        assert!(
            refusal(&dir.path().join("none/socket"))
                .await
                .contains("the directory does not exist")
        );
        assert!(
            refusal(&dir.path().join("x".repeat(120)))
                .await
                .contains("at most 107 bytes")
        );
    }

    #[test]
    fn the_mode_of_a_file_behind_a_link_does_not_change() {
        let dir = TempDir::new().unwrap();
        let (key, link) = (dir.path().join("key"), dir.path().join("socket"));
        fs::write(&key, "precious").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&key, &link).unwrap();
        for path in [&link, &key] {
            let refused = open_to_every_user(path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
        }
        assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_another_process_holds_is_an_error_and_no_hang() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("socket");
        // A lock belongs to an open file, so that this one also excludes the listener's.
        let holder = File::open(dir.path()).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let refused = refusal(&path).await;
        let named = format!("another process holds a lock on {}", dir.path().display());
        assert!(refused.contains(&named), "{refused}");
        drop(holder);
        UnixSocketListener::bind(&path).await.unwrap();
    }
}

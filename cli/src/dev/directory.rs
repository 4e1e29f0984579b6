//! The directory of `aerostack dev`: made on the first start, and used again on every later one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use vault_service::{crypto::root_key_file, new_file};

use super::error::DevError;
use crate::pki::DevPki;

/// The first file that `dev` writes. It keeps git from tracking the keys in the directory.
const IGNORE_FILE: &str = ".gitignore";
/// Contents of a new catalog. The developer may edit the file.
const SHIPPED_CATALOG: &str = include_str!("../../../deploy/catalog.yaml");

/// Paths of the files that the services use.
pub(super) struct DevDirectory {
    pub(super) pki: DevPki,
    pub(super) root_key: PathBuf,
    pub(super) store: PathBuf,
    pub(super) servers: PathBuf,
    pub(super) catalog: PathBuf,
}

/// Makes the files that are missing in `dir`.
pub(super) fn prepare(dir: &Path) -> Result<DevDirectory, DevError> {
    refuse_foreign(dir)?;
    let (root_key, store) = (dir.join("root.key"), dir.join("vault"));
    refuse_lost_root_key(&root_key, &store)?;
    make_private_dir(dir)?;
    write(&dir.join(IGNORE_FILE), "*\n")?;
    let pki = DevPki::ensure(dir)?;
    if !root_key.exists() {
        root_key_file::write_new(&root_key)?;
    }
    let injector = dir.join("injector");
    make_private_dir(&injector)?;
    let catalog = injector.join("catalog.yaml");
    if !catalog.exists() {
        write(&catalog, SHIPPED_CATALOG)?;
    }
    Ok(DevDirectory {
        pki,
        root_key,
        store,
        servers: injector.join("servers.yaml"),
        catalog,
    })
}

/// Refuses a directory that `dev` did not make, because `dev` changes the modes of its directory. A killed start may
/// have left only [`IGNORE_FILE`], or the partial file that becomes [`IGNORE_FILE`].
fn refuse_foreign(dir: &Path) -> Result<(), DevError> {
    let names = file_names(dir).map_err(DevError::at(dir))?;
    let is_complete = ["pki", "root.key"]
        .iter()
        .any(|name| names.iter().any(|found| found == name));
    let partial = new_file::partial(Path::new(IGNORE_FILE)).map_err(DevError::at(dir))?;
    let is_begun = names
        .iter()
        .all(|name| name == IGNORE_FILE || name.as_os_str() == partial.as_os_str());
    if is_complete || is_begun {
        Ok(())
    } else {
        Err(DevError::ForeignDirectory(dir.to_owned()))
    }
}

/// Refuses a store without its root key. A new root key could not open the store, and would hide the loss. A first start writes the
/// root key before the store, so a killed start leaves no store without one.
fn refuse_lost_root_key(root_key: &Path, store: &Path) -> Result<(), DevError> {
    let is_empty = file_names(store).map_err(DevError::at(store))?.is_empty();
    if is_empty || root_key.exists() {
        return Ok(());
    }
    Err(DevError::RootKeyLost {
        root_key: root_key.to_owned(),
        store: store.to_owned(),
    })
}

/// Returns the names of the files in `dir`, and none when `dir` does not exist.
fn file_names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn make_private_dir(path: &Path) -> Result<(), DevError> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let make = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        // A crash may lose the new directory and its files unless the parent directory is synced.
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    };
    make().map_err(DevError::at(path))
}

/// Writes a file that only its owner can read. After a failure the old file is unchanged.
pub(super) fn write(path: &Path, text: &str) -> Result<(), DevError> {
    new_file::replace(path, text.as_bytes()).map_err(DevError::at(path))
}

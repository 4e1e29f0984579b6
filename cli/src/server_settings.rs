//! The settings of a server, for tests that no list of them misses one.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Fields of `Server` that no update changes: its names, and those that only the injector sets.
const NO_SETTINGS: [&str; 7] = [
    "workspace",
    "name",
    "uid",
    "revision",
    "create_time",
    "update_time",
    "workspace_uid",
];

/// Returns the fields of `injector.v1.Server` that an update can change.
pub(crate) fn settings_of_server() -> BTreeSet<String> {
    let files = FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET)
        .unwrap()
        .file;
    let files = files.iter().filter(|file| file.package() == "injector.v1");
    let mut messages = files.flat_map(|file| &file.message_type);
    let server = messages.find(|message| message.name() == "Server").unwrap();
    let fields = server.field.iter().map(|field| field.name().to_owned());
    fields
        .filter(|field| !NO_SETTINGS.contains(&field.as_str()))
        .collect()
}

//! Compiles the protocol without `protoc`, and generates a redacting `Debug` for every message with a field that is marked
//! `(aerostack.v1.sensitive)`.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf};

use prost_reflect::{DescriptorPool, FieldDescriptor, MessageDescriptor, OneofDescriptor, Value};

const FILES: [&str; 10] = [
    "aerostack/v1/options.proto",
    "aerostack/v1/reason.proto",
    "aerostack/v1/warning.proto",
    "vault/v1/workspace.proto",
    "vault/v1/secret.proto",
    "vault/v1/decrypt.proto",
    "vault/v1/key.proto",
    "vault/v1/backup.proto",
    "injector/v1/server.proto",
    "injector/v1/catalog.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut compiler = protox::Compiler::new(["."])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(FILES)?;
    let pool = compiler.descriptor_pool();
    let sensitive: Vec<MessageDescriptor> = pool
        .all_messages()
        .filter(|message| message.fields().any(|field| is_sensitive(&pool, &field)))
        .collect();

    // Ordered maps, so that the encoding of a message is deterministic.
    let mut builder = tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .btree_map(".");
    for message in &sensitive {
        builder = builder.skip_debug([format!(".{}", message.full_name())]);
        builder = builder.skip_debug(oneofs(message).map(|oneof| format!(".{}", oneof.full_name())));
    }
    builder.compile_fds(compiler.file_descriptor_set())?;

    // Encoded by protox, because the descriptor types of prost drop custom options.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    fs::write(out.join("redacted.rs"), redacted(&pool, &sensitive)?)?;
    Ok(())
}

fn is_sensitive(pool: &DescriptorPool, field: &FieldDescriptor) -> bool {
    let Some(option) = pool.get_extension_by_name("aerostack.v1.sensitive") else {
        return false;
    };
    matches!(*field.options().get_extension(&option), Value::Bool(true))
}

/// Returns an `impl Debug` for each of `messages`, which prints `[redacted]` for a sensitive field.
fn redacted(pool: &DescriptorPool, messages: &[MessageDescriptor]) -> Result<String, std::fmt::Error> {
    let mut code = String::new();
    for message in messages {
        let path = rust_path(message);
        writeln!(code, "impl ::core::fmt::Debug for {path} {{")?;
        writeln!(
            code,
            "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{"
        )?;
        writeln!(code, "        f.debug_struct({:?})", message.name())?;
        for field in message
            .fields()
            .filter(|field| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic()))
        {
            let name = field.name();
            if is_sensitive(pool, &field) {
                writeln!(code, "            .field({name:?}, &\"[redacted]\")")?;
            } else {
                writeln!(code, "            .field({name:?}, &self.{name})")?;
            }
        }
        for oneof in oneofs(message) {
            let name = oneof.name();
            writeln!(
                code,
                "            .field({name:?}, &self.{name}.as_ref().map(|_| \"[redacted]\"))"
            )?;
        }
        writeln!(code, "            .finish()\n    }}\n}}")?;
    }
    Ok(code)
}

/// Returns the oneofs of a message, without the synthetic ones that stand for `optional` fields.
fn oneofs(message: &MessageDescriptor) -> impl Iterator<Item = OneofDescriptor> {
    message.oneofs().filter(|oneof| !oneof.is_synthetic())
}

/// Returns the Rust path of a message: `crate::vault::v1::PutSecretRequest` for `vault.v1.PutSecretRequest`.
fn rust_path(message: &MessageDescriptor) -> String {
    format!(
        "crate::{}::{}",
        message.package_name().replace('.', "::"),
        message.name()
    )
}

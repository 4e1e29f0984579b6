//! Names of enum values in the output.

/// Returns the name of an enum value without the prefix of its type, in lower case: `bearer` for `AUTH_TYPE_BEARER`. The
/// servers file uses the same names. A value that this release does not know is `unknown`.
pub(super) fn enum_name(name: &str, prefix: &str) -> String {
    match name.trim_start_matches(prefix) {
        "UNSPECIFIED" => "unknown".to_owned(),
        name => name.to_ascii_lowercase(),
    }
}

//! Limits on the bytes that several values have together in one place.

use proto::{SecretName, value_facts::MAX_HEADER_VALUE, vault::v1::ValueFacts};

use crate::placement::{Injection, Placement, is_binary_metadata};

/// The most bytes whose base64 without padding has [`MAX_HEADER_VALUE`] bytes.
pub(crate) const MAX_METADATA: usize = MAX_HEADER_VALUE / 4 * 3;
/// The most bytes of the target of a request. The crate `http` takes no longer ones.
pub(crate) const MAX_TARGET: usize = 65_534;

/// Returns the reason why the values of `placement`, which may be legal one by one, are together too long for their place.
/// `injections` are those of the whole server. `facts` returns `None` for a secret whose value is not known; an injection
/// with such a secret counts as left out.
///
/// In the URL only the bytes of the values count, without percent-encoding. So the URL of a request may be too long although
/// this function returns `None`.
pub(crate) fn excess(
    placement: &Placement,
    injections: &[Injection],
    facts: impl Fn(&SecretName) -> Option<ValueFacts>,
) -> Option<String> {
    match placement {
        Placement::Header { .. } | Placement::Basic { .. } | Placement::Cookie { .. } => {
            excess_of_head(placement, facts)
        }
        Placement::Query { .. } | Placement::Path { .. } => {
            total(placement, &facts)?;
            excess_of_url(injections, facts)
        }
        Placement::Json { .. } | Placement::Form { .. } | Placement::Protobuf { .. } => None,
    }
}

fn excess_of_head(
    placement: &Placement,
    facts: impl Fn(&SecretName) -> Option<ValueFacts>,
) -> Option<String> {
    let is_legal_header = |name: &SecretName| facts(name).is_some_and(|facts| facts.header_fault().is_none());
    let most = match placement {
        // A value that only a gRPC call can carry is carried in base64.
        Placement::Header { name, .. } if is_binary_metadata(name) => {
            match placement.secrets().all(is_legal_header) {
                true => MAX_HEADER_VALUE,
                false => MAX_METADATA,
            }
        }
        Placement::Header { .. }
        | Placement::Basic { .. }
        | Placement::Cookie { .. }
        | Placement::Query { .. }
        | Placement::Path { .. }
        | Placement::Json { .. }
        | Placement::Form { .. }
        | Placement::Protobuf { .. } => MAX_HEADER_VALUE,
    };
    let total = total(placement, &facts)?;
    let names: Vec<_> = placement.secrets().map(SecretName::as_str).collect();
    let names = names.join(" and ");
    let message =
        format!("the values of {names} have together more than {most} bytes, so they do not fit their place");
    (total > most).then_some(message)
}

fn excess_of_url(
    injections: &[Injection],
    facts: impl Fn(&SecretName) -> Option<ValueFacts>,
) -> Option<String> {
    let placements = injections.iter().map(|injection| &injection.placement);
    let in_url = placements.filter(|place| matches!(place, Placement::Query { .. } | Placement::Path { .. }));
    let total: usize = in_url.filter_map(|placement| total(placement, &facts)).sum();
    let message = format!(
        "the values in the URL have together more than {MAX_TARGET} bytes, so no request can carry them"
    );
    (total > MAX_TARGET).then_some(message)
}

/// Returns the bytes of the values of a placement, each counted as often as the placement names its secret.
fn total(placement: &Placement, facts: impl Fn(&SecretName) -> Option<ValueFacts>) -> Option<usize> {
    let sizes = placement.secrets().map(|name| Some(facts(name)?.size as usize));
    sizes.sum()
}

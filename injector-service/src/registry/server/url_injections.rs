//! The injections that follow from `${NAME}` in the URL of a server.

use super::{
    UpstreamUrl,
    error::{InjectionError, SpecError},
};
use crate::placement::{Injection, Placement};

/// Returns the injections in the path and the query of a URL. All are required, because the URL lacks a part without them.
pub(super) fn of_url(url: &UpstreamUrl) -> Vec<Injection> {
    let paths = url.path_secrets().into_iter().map(|secret| Placement::Path {
        secret: secret.clone(),
    });
    let queries = url
        .query_injections()
        .iter()
        .map(|(name, value)| Placement::Query {
            name: name.clone(),
            value: value.clone(),
        });
    let injection = |placement| Injection {
        required: true,
        placement,
    };
    paths.chain(queries).map(injection).collect()
}

/// Adds the injections in the URL behind the listed ones, which may list them too.
pub(super) fn add_those_of_url(
    listed: Vec<Injection>,
    url: &UpstreamUrl,
) -> Result<Vec<Injection>, SpecError> {
    let of_url = of_url(url);
    let is_in_url = |placement: &Placement| of_url.iter().any(|injection| injection.placement == *placement);
    let mut injections = Vec::with_capacity(listed.len() + of_url.len());
    for (number, injection) in (1..).zip(listed) {
        match &injection.placement {
            placement if is_in_url(placement) => {}
            Placement::Path { .. } => {
                return Err(SpecError::Injection(number, InjectionError::NoPathVariable));
            }
            Placement::Header { .. }
            | Placement::Basic { .. }
            | Placement::Query { .. }
            | Placement::Cookie { .. }
            | Placement::Json { .. }
            | Placement::Form { .. }
            | Placement::Protobuf { .. } => injections.push(injection),
        }
    }
    injections.extend(of_url);
    Ok(injections)
}

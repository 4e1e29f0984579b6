//! Names of parameters that hold a credential, in the part of a server's URL that is not in the vault.

/// Names of credentials, in lower case and without punctuation.
const NAMES: [&str; 10] = [
    "auth",
    "authorization",
    "credential",
    "credentials",
    "jwt",
    "key",
    "pass",
    "pwd",
    "sig",
    "signature",
];
/// Ends of names of credentials, such as of `exaApiKey` and `access_token`.
const ENDS: [&str; 8] = [
    "accesskey",
    "apikey",
    "appkey",
    "passwd",
    "password",
    "secret",
    "subscriptionkey",
    "token",
];

/// Returns the names of the parameters of `query` that have a value and the name of a credential, as they are written.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = &str> {
    let parameters = query
        .split(['&', ';'])
        .filter_map(|parameter| parameter.split_once('='));
    parameters
        .filter(|(name, value)| !value.is_empty() && is_of_credential(name))
        .map(|(name, _)| name)
}

fn is_of_credential(name: &str) -> bool {
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let folded: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    NAMES.contains(&folded.as_str()) || ENDS.iter().any(|end| folded.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_with_the_name_of_a_credential_is_found() {
        for (query, found) in [
            ("key=sk-1", &["key"][..]),
            ("api_key=x&v=2&access_token=y", &["api_key", "access_token"]),
            ("exaApiKey=x", &["exaApiKey"]),
            ("Subscription-Key=x", &["Subscription-Key"]),
            ("v=2;token=x", &["token"]),
            ("client_secret=a=b", &["client_secret"]),
            ("sv=2026&sig=x%2By", &["sig"]),
        ] {
            assert_eq!(parameters(query).collect::<Vec<_>>(), found, "{query}");
        }
    }

    #[test]
    fn other_parameters_are_not_found() {
        for query in [
            "",
            "api-version=2",
            "sort_key=name",
            "keys=all",
            "tokens=3",
            "author=x",
            "q=token",
            "key",
            "key=",
            "design=x",
        ] {
            assert_eq!(parameters(query).next(), None, "{query}");
        }
    }
}

//! Finds credentials that somebody entered as the name of a secret. Names are shown and stored in clear.

/// Beginnings of most tokens and keys of vendors.
const PREFIXES: [&str; 24] = [
    "-----BEGIN",
    "AIza",
    "AKIA",
    "ASIA",
    "Basic ",
    "Bearer ",
    "SG.",
    "dop_v1_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hf_",
    "npm_",
    "pk_live_",
    "rk_live_",
    "sk-",
    "sk_live_",
    "sk_test_",
    "whsec_",
    "xox",
];
/// The shortest text with such a beginning that is a credential. `sk-key` and `hf_token` are names.
const MIN_LENGTH: usize = 20;
/// The number of hexadecimal digits of a UUID, and of the shortest keys in this form.
const HEX_DIGITS: usize = 32;

/// A text that is perhaps the credential itself. The message does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this looks like a credential, and everybody who may look at the workspace can read names: give a name such as \
     GITHUB_TOKEN, and store the credential as the value of the secret"
)]
pub(crate) struct PastedCredential;

/// Refuses the name of a secret that looks like a credential.
pub(crate) fn check(name: &str) -> Result<(), PastedCredential> {
    match looks_like_credential(name.trim()) {
        true => Err(PastedCredential),
        false => Ok(()),
    }
}

fn looks_like_credential(text: &str) -> bool {
    let has_prefix = PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    (text.len() >= MIN_LENGTH && has_prefix)
        || is_hexadecimal(text)
        || text.split(is_separator).any(is_random)
}

fn is_hexadecimal(text: &str) -> bool {
    let mut digits = text.chars().filter(|digit| *digit != '-');
    digits.clone().count() >= HEX_DIGITS && digits.all(|digit| digit.is_ascii_hexdigit())
}

fn is_separator(letter: char) -> bool {
    !letter.is_ascii_alphanumeric()
}

/// Returns true for a long part of a name in which digits stand at several places. Parts that people write have digits at one end.
fn is_random(part: &str) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let numbers = part.as_bytes().chunk_by(|a, b| is_digit(a) == is_digit(b));
    part.len() >= MIN_LENGTH && numbers.filter(|run| run.first().is_some_and(is_digit)).count() >= 3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_also_in_the_form_of_a_stored_name() {
        for text in [
            "ghp_aB3dE5fG7hI9jK1lM3nO5pQ7rS9tU1vW3xY5",
            "GHP_AB3DE5FG7HI9JK1LM3NO5PQ7RS9TU1VW3XY5",
            "sk-proj-abcdefghijklmnop",
            " xoxb-123456789012-abcdefghijkl\n",
            "AKIAIOSFODNN7EXAMPLE",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "550e8400-e29b-41d4-a716-446655440000",
            "d41d8cd98f00b204e9800998ecf8427e",
            "Bearer abcdefghijklmnop",
        ] {
            assert_eq!(check(text), Err(PastedCredential), "{text}");
        }
    }

    #[test]
    fn names_are_taken() {
        for text in [
            "",
            "GITHUB_TOKEN",
            "sk-key",
            "hf_token",
            "AWS_S3_ACCESS_KEY_ID_EU_WEST_1",
            "stage2oauth2clientsecret",
            "PAYMENTS_PRODUCTION_OAUTH2_CLIENT_SECRET",
            "mySecretForTheProductionServer2",
            "KEY_0123456789012345678901234567890123456789",
            "github-token",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }
}

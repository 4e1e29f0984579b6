//! Static tokens of callers, each in a file (`--caller-token-file`), which is read again when it changes.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use chassis::{blocking::blocking, telemetry::chain};
use proto::Principal;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::{self, MissedTickBehavior};
use zeroize::Zeroizing;

/// Interval between two reads of the files.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The fewest bytes of a token, so that no token can be guessed.
const MIN_LENGTH: usize = 32;
const MAX_LENGTH: usize = 4096;

type TokenDigest = [u8; 32];

/// The static tokens. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct StaticTokens(Arc<[StaticToken]>);

struct StaticToken {
    principal: Principal,
    path: PathBuf,
    /// `None` while the file holds no token.
    digest: ArcSwapOption<TokenDigest>,
}

/// The reason why a file holds no token. The messages repeat nothing of the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenFileError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("others may read it; chmod it to 600 or 640")]
    Exposed,
    #[error(
        "a token has {MIN_LENGTH} to {MAX_LENGTH} visible ASCII characters in one line, such as the output of \
         `openssl rand -hex 32`"
    )]
    Form,
}

/// The reason why the tokens of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenSettingError {
    #[error(
        "{0:?} is not ID=FILE, such as ci=/etc/aerostack/ci-token; an ID has 1 to 63 of a-z, 0-9 and '-'"
    )]
    Setting(String),
    #[error("{0} is given twice")]
    Twice(Principal),
    #[error("{}: {}", .0.display(), chain(.1))]
    File(PathBuf, TokenFileError),
    #[error("{0} and {1} have the same token")]
    Same(Principal, Principal),
}

impl StaticTokens {
    /// Reads the tokens of all settings, each `ID=FILE`. Returns the mistakes when there are any.
    pub(crate) fn load<'t>(texts: impl Iterator<Item = &'t String>) -> Result<Self, Vec<TokenSettingError>> {
        let mut mistakes = Vec::new();
        let mut tokens = Vec::<StaticToken>::new();
        for text in texts {
            match StaticToken::load(text).and_then(|token| token.unlike(&tokens)) {
                Ok(token) => tokens.push(token),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        match mistakes.is_empty() {
            true => Ok(Self(tokens.into())),
            false => Err(mistakes),
        }
    }

    pub(crate) fn principals(&self) -> impl Iterator<Item = &Principal> {
        self.0.iter().map(|token| &token.principal)
    }

    /// Returns the principal of `token`. The time that this takes depends on the number of tokens alone.
    pub(super) fn principal(&self, token: &[u8]) -> Option<Principal> {
        let digest: TokenDigest = Sha256::digest(token).into();
        let has_digest = |known: &&StaticToken| {
            let known = known.digest.load();
            known.as_deref().is_some_and(|known| known.ct_eq(&digest).into())
        };
        let found: Vec<_> = self.0.iter().filter(has_digest).collect();
        match found.as_slice() {
            [only] => Some(only.principal.clone()),
            // After a change of the files, a token may belong to two callers, and so identifies neither.
            _ => None,
        }
    }

    /// Follows the files. Does not return.
    pub(crate) async fn watch(self) {
        let mut problems = vec![None; self.0.len()];
        let mut ticks = time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tokens = self.clone();
            problems = blocking(move || {
                let each = tokens.0.iter().zip(problems);
                each.map(|(token, problem)| token.refresh(problem)).collect()
            })
            .await;
        }
    }
}

impl StaticToken {
    fn load(text: &str) -> Result<Self, TokenSettingError> {
        let wrong = || TokenSettingError::Setting(text.to_owned());
        let (id, path) = text
            .split_once('=')
            .filter(|(_, path)| !path.is_empty())
            .ok_or_else(wrong)?;
        let principal = Principal::token(id).ok_or_else(wrong)?;
        let path = PathBuf::from(path);
        match read(&path) {
            Ok(digest) => Ok(Self {
                principal,
                path,
                digest: ArcSwapOption::from_pointee(digest),
            }),
            Err(error) => Err(TokenSettingError::File(path, error)),
        }
    }

    /// Returns the token if it differs from all of `others`.
    fn unlike(self, others: &[Self]) -> Result<Self, TokenSettingError> {
        for other in others {
            if other.principal == self.principal {
                return Err(TokenSettingError::Twice(self.principal));
            }
            if *other.digest.load() == *self.digest.load() {
                return Err(TokenSettingError::Same(other.principal.clone(), self.principal));
            }
        }
        Ok(self)
    }

    /// Reads the file again. `problem` is the problem of the read before; the problem of this read is returned.
    ///
    /// A file without a token withdraws the token only when two reads in a row find none: a program that writes the file in
    /// place leaves it incomplete for a moment.
    fn refresh(&self, problem: Option<String>) -> Option<String> {
        let caller = &self.principal;
        match read(&self.path) {
            Ok(digest) => {
                let before = self.digest.swap(Some(Arc::new(digest)));
                if before.as_deref() != Some(&digest) {
                    tracing::info!(%caller, file = %self.path.display(), "token of a caller read again");
                }
                None
            }
            Err(error) => {
                let error = chain(&error);
                if problem.is_some() && self.digest.swap(None).is_some() {
                    let file = self.path.display();
                    tracing::warn!(%caller, %file, error, "token of a caller is no longer accepted: its file has no token");
                }
                Some(error)
            }
        }
    }
}

/// Reads a token, and returns its digest.
fn read(path: &Path) -> Result<TokenDigest, TokenFileError> {
    let metadata = fs::metadata(path).map_err(TokenFileError::Read)?;
    if metadata.mode() & 0o007 != 0 {
        return Err(TokenFileError::Exposed);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LENGTH + 2));
    File::open(path)
        // Room for a token that is too long by one byte, and a line break.
        .and_then(|file| file.take(MAX_LENGTH as u64 + 2).read_to_end(&mut bytes))
        .map_err(TokenFileError::Read)?;
    let token = bytes.trim_ascii_end();
    let is_token = (MIN_LENGTH..=MAX_LENGTH).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic);
    match is_token {
        true => Ok(Sha256::digest(token).into()),
        false => Err(TokenFileError::Form),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use tempfile::TempDir;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn write(dir: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn setting(id: &str, path: &Path) -> String {
        format!("{id}={}", path.display())
    }

    fn mistake(settings: &[String]) -> String {
        let mistakes = StaticTokens::load(settings.iter())
            .err()
            .expect("they were loaded");
        mistakes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn a_token_identifies_its_caller_and_nothing_else_does() {
        let dir = TempDir::new().unwrap();
        let settings = [
            setting("ci", &write(&dir, "ci", &format!("{TOKEN}\n"))),
            setting("web", &write(&dir, "web", OTHER)),
        ];
        let tokens = StaticTokens::load(settings.iter()).unwrap();
        for (token, caller) in [(TOKEN, Some("token:ci")), (OTHER, Some("token:web"))] {
            let found = tokens
                .principal(token.as_bytes())
                .map(|principal| principal.to_string());
            assert_eq!(found.as_deref(), caller);
        }
        for token in ["", &TOKEN[1..], &format!("{TOKEN} "), &TOKEN.to_uppercase()] {
            assert_eq!(tokens.principal(token.as_bytes()), None, "{token:?}");
        }
    }

    #[test]
    fn a_file_without_a_token_is_refused_and_not_repeated() {
        let dir = TempDir::new().unwrap();
        for text in [
            "",
            "\n",
            "short",
            &TOKEN[1..],
            &format!("{TOKEN}\n{OTHER}"),
            &"x".repeat(4097),
        ] {
            let refused = mistake(&[setting("ci", &write(&dir, "ci", text))]);
            assert!(refused.contains("visible ASCII"), "{refused}");
            assert!(
                text.trim().is_empty() || !refused.contains(text.trim()),
                "{refused}"
            );
        }
        let exposed = write(&dir, "exposed", TOKEN);
        fs::set_permissions(&exposed, Permissions::from_mode(0o644)).unwrap();
        assert!(mistake(&[setting("ci", &exposed)]).contains("others may read it"));
        assert!(mistake(&[setting("ci", &dir.path().join("none"))]).contains("cannot be read"));
        assert!(mistake(&["ci".to_owned()]).contains("is not ID=FILE"));
        assert!(mistake(&["CI=/x".to_owned()]).contains("is not ID=FILE"));
    }

    #[test]
    fn two_callers_do_not_share_a_token_or_an_id() {
        let dir = TempDir::new().unwrap();
        let (one, two) = (write(&dir, "one", TOKEN), write(&dir, "two", TOKEN));
        let both = mistake(&[setting("ci", &one), setting("web", &two)]);
        assert_eq!(both, "token:ci and token:web have the same token");
        assert!(
            mistake(&[setting("ci", &one), setting("ci", &write(&dir, "three", OTHER))]).contains("twice")
        );
        // The same can come about while the injector runs.
        let settings = [setting("ci", &one), setting("web", &write(&dir, "two", OTHER))];
        let tokens = StaticTokens::load(settings.iter()).unwrap();
        write(&dir, "two", TOKEN);
        assert_eq!(tokens.0[1].refresh(None), None);
        assert_eq!(tokens.principal(TOKEN.as_bytes()), None);
    }

    #[test]
    fn a_new_token_replaces_the_old_one_and_an_empty_file_withdraws_it_at_the_second_read() {
        let dir = TempDir::new().unwrap();
        let path = write(&dir, "ci", TOKEN);
        let tokens = StaticTokens::load([setting("ci", &path)].iter()).unwrap();
        let token = &tokens.0[0];
        let accepts = |text: &str| tokens.principal(text.as_bytes()).is_some();
        write(&dir, "ci", OTHER);
        assert_eq!(token.refresh(None), None);
        assert!(accepts(OTHER) && !accepts(TOKEN));
        write(&dir, "ci", "");
        let problem = token.refresh(None);
        assert!(problem.is_some() && accepts(OTHER));
        assert!(token.refresh(problem).is_some() && !accepts(OTHER));
        fs::remove_file(&path).unwrap();
        assert!(token.refresh(None).is_some() && !accepts(OTHER));
        write(&dir, "ci", TOKEN);
        assert_eq!(token.refresh(None), None);
        assert!(accepts(TOKEN));
    }
}

//! A client's own token in a file that somebody else renews, such as the projected token of a Kubernetes service account.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::{sync::watch, time};

use super::bearer::{BearerToken, ClaimedIdentity, TokenFileError};
use crate::{blocking::blocking, expiry::unix_seconds};

/// Interval between two reads of the file. A read of the whole file also notices a file that replaces another one, as in
/// Kubernetes, and costs as little as a look at its times.
const INTERVAL: Duration = Duration::from_secs(1);

/// A token of this client, with the identity that it claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientToken {
    /// The token.
    pub token: BearerToken,
    /// The identity that it claims.
    pub identity: ClaimedIdentity,
}

impl ClientToken {
    fn is_valid(&self) -> bool {
        SystemTime::now() <= self.identity.not_after
    }
}

/// The token in a file. Clones share it. [`TokenFile::watch`] has to run for a renewed token to be noticed.
#[derive(Clone)]
pub struct TokenFile {
    setting: &'static str,
    path: Arc<Path>,
    state: Arc<watch::Sender<TokenState>>,
}

/// The content of the file at the last read, or the reason why it cannot be used. The reason is shown by the probe, to anybody, so
/// it names the setting and not the path.
type TokenState = Result<Arc<ClientToken>, String>;

impl TokenFile {
    /// Reads the file that `setting` names. A file that is missing or has no token may come later.
    pub fn open(setting: &'static str, path: &Path) -> Self {
        Self {
            setting,
            path: path.into(),
            state: Arc::new(watch::Sender::new(load(setting, path))),
        }
    }

    /// Returns the token, or the reason why there is none that is valid now. The reason names the setting and not the path.
    pub fn current(&self) -> Result<Arc<ClientToken>, String> {
        let current = self.state.borrow().clone()?;
        match current.is_valid() {
            true => Ok(current),
            false => Err(format!(
                "the token of {} expired at {}",
                self.setting,
                text(current.identity.not_after)
            )),
        }
    }

    /// Completes when the file has a valid token that differs from `present`.
    pub async fn renewed(&self, present: &BearerToken) -> Arc<ClientToken> {
        let mut state = self.state.subscribe();
        loop {
            // The next change is awaited from here on, so a change after `current` is not missed.
            state.mark_unchanged();
            match self.current() {
                Ok(current) if current.token != *present => return current,
                Ok(_) | Err(_) => {}
            }
            if state.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Reads the file again and again. Does not return.
    pub async fn watch(self) {
        let mut last = self.state.borrow().clone();
        if last.is_err() {
            self.log(&last);
        }
        loop {
            time::sleep(INTERVAL).await;
            let (setting, path) = (self.setting, self.path.clone());
            let read = blocking(move || load(setting, &path)).await;
            if read != last {
                self.log(&read);
            }
            last = read.clone();
            self.state.send_if_modified(|state| replace(state, read));
        }
    }

    fn log(&self, read: &TokenState) {
        let file = self.path.display();
        match read {
            Ok(token) if !token.is_valid() => tracing::warn!(
                %file,
                expired = text(token.identity.not_after),
                "the file has an expired token; the last token stays in use until it expires"
            ),
            Ok(token) => {
                let ClaimedIdentity { principal, not_after } = &token.identity;
                tracing::info!(%file, %principal, expires = text(*not_after), "the token was read again");
            }
            Err(error) => tracing::warn!(
                %file,
                error,
                "the token file cannot be used; the last token stays in use until it expires"
            ),
        }
    }
}

/// Replaces the state, and returns true when it changed. A file that is briefly unreadable, or has an expired token, does not
/// take a token away that is still valid.
fn replace(state: &mut TokenState, read: TokenState) -> bool {
    let stays = match (&*state, &read) {
        (Ok(present), read) if present.is_valid() && !read.as_ref().is_ok_and(|read| read.is_valid()) => true,
        (present, read) => present == read,
    };
    if !stays {
        *state = read;
    }
    !stays
}

fn load(setting: &str, path: &Path) -> TokenState {
    let token = BearerToken::read(path).map_err(|error| match error {
        TokenFileError::Read { path: _, source } => format!("the file of {setting} cannot be read: {source}"),
        TokenFileError::Form { path: _ } => {
            format!("the file of {setting} does not hold one token of 1 byte to 16 KiB")
        }
    })?;
    let no_jwt = || format!("the file of {setting} does not hold a JSON Web Token");
    let identity = token.claimed_identity().ok_or_else(no_jwt)?;
    Ok(Arc::new(ClientToken { token, identity }))
}

/// Returns the time at which the token is no longer valid, which is a moment after `not_after`.
fn text(not_after: SystemTime) -> String {
    let expiry = Timestamp::try_from(not_after + Duration::from_nanos(1)).unwrap_or(Timestamp::MAX);
    format!("{expiry:.0}")
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.path).finish()
    }
}

/// The metric of the expiry of a service's own token, which has no series without a token.
#[derive(Debug, Clone)]
pub struct TokenExpiry(pub Option<TokenFile>);

impl Collector for TokenExpiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut expiry = encoder.encode_descriptor(
            "aerostack_token_expiration_timestamp_seconds",
            "Unix time at which a token expires by which the service identifies itself, by the setting that names its file; 0 while \
             the file cannot be used",
            None,
            MetricType::Gauge,
        )?;
        let Some(file) = &self.0 else {
            return Ok(());
        };
        let not_after = file
            .state
            .borrow()
            .as_ref()
            .ok()
            .map(|token| token.identity.not_after);
        // The last moment of validity is 1 ns before `exp`.
        let exp = not_after.map_or(0, |time| unix_seconds(time + Duration::from_nanos(1)));
        ConstGauge::new(exp)
            .encode(expiry.encode_family(&[("token", file.setting.trim_start_matches("--"))])?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::{super::test_keys::TestKey, *};

    fn token(subject: &str, expires_in: i64) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let exp = i64::try_from(now.as_secs()).unwrap() + expires_in;
        let claims = json!({"iss": "https://i.example", "sub": subject, "exp": exp});
        TestKey::ed25519().token("a", &claims)
    }

    /// Replaces the file as Kubernetes does: readers see the old or the new content, and no part of it.
    fn write(dir: &TempDir, text: &str) {
        fs::write(dir.path().join("new"), text).unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("token")).unwrap();
    }

    fn subject(token: &ClientToken) -> String {
        token.identity.principal.to_string()
    }

    #[tokio::test]
    async fn a_renewed_token_is_noticed_and_an_unreadable_file_takes_no_valid_token_away() {
        let dir = TempDir::new().unwrap();
        let file = TokenFile::open("--token", &dir.path().join("token"));
        let watching = tokio::spawn(file.clone().watch());
        assert!(file.current().unwrap_err().contains("--token"));
        let none = BearerToken::parse("none").unwrap();
        write(&dir, &format!("{}\n", token("first", 600)));
        let first = file.renewed(&none).await;
        assert_eq!(subject(&first), "jwt:https://i.example#first");
        write(&dir, "");
        let mut state = file.state.subscribe();
        state.mark_unchanged();
        assert!(time::timeout(2 * INTERVAL, state.changed()).await.is_err());
        assert_eq!(file.current().unwrap(), first);
        write(&dir, &token("second", 600));
        let second = file.renewed(&first.token).await;
        assert_eq!(subject(&second), "jwt:https://i.example#second");
        watching.abort();
    }

    #[test]
    fn an_expired_token_takes_no_valid_token_away() {
        let dir = TempDir::new().unwrap();
        let read = |subject, expires_in| {
            write(&dir, &token(subject, expires_in));
            load("--token", &dir.path().join("token"))
        };
        let (valid, expired, renewed) = (read("a", 600), read("b", -1), read("c", 600));
        let mut state = valid.clone();
        assert!(!replace(&mut state, expired.clone()));
        assert_eq!(state, valid);
        assert!(replace(&mut state, renewed.clone()));
        assert_eq!(state, renewed);
        // The reason of the probe is that of the token that was read last.
        state = read("d", -600);
        assert!(replace(&mut state, expired.clone()));
        assert_eq!(state, expired);
    }

    #[test]
    fn a_token_that_is_not_used_has_a_reason_with_the_setting_and_without_the_path() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("token");
        let current = || TokenFile::open("--vault-token-file", &path).current();
        let missing = current().unwrap_err();
        write(&dir, &token("s", -1));
        let expired = current().unwrap_err();
        write(&dir, "two words");
        let words = current().unwrap_err();
        write(&dir, "opaque");
        let opaque = current().unwrap_err();
        for (reason, part) in [
            (missing, "cannot be read: No such file"),
            (expired, "expired at 20"),
            (words, "does not hold one token"),
            (opaque, "does not hold a JSON Web Token"),
        ] {
            assert!(reason.contains(part), "{reason}");
            assert!(reason.contains("--vault-token-file"), "{reason}");
            assert!(!reason.contains(dir.path().to_str().unwrap()), "{reason}");
        }
    }
}

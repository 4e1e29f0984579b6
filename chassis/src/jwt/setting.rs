//! The text of `--jwt-issuer`.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use http::Uri;
use proto::Principal;

use crate::settings;

/// The longest life of a token when `max-life=` is not given. The tokens of sidecars live for a day at most.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// One issuer of tokens, as the settings describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSetting {
    /// The text of `iss`.
    pub(super) url: String,
    /// The audience of this service: one of the texts in `aud`.
    pub(super) audience: String,
    pub(super) name: Option<String>,
    pub(super) keys: KeySource,
    /// CAs of the URLs that are read, PEM. Without them, the system's CAs count.
    pub(super) ca: Option<PathBuf>,
    /// A bearer token for reading the key set.
    pub(super) token: Option<PathBuf>,
    /// Longest life of a token.
    pub(super) max_life: Duration,
}

/// The place of an issuer's key set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeySource {
    File(PathBuf),
    Url(Uri),
    /// The `jwks_uri` in the document at this URL (OpenID Connect Discovery 1.0, section 4).
    Discovery(Uri),
}

/// The text is not the setting of an issuer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerSettingError {
    /// The text does not begin with an issuer and an audience.
    #[error(
        "{0:?} is not URL=AUDIENCE[,name=NAME][,jwks=FILE|URL][,ca=FILE][,token=FILE][,max-life=DURATION]; URL and AUDIENCE are \
         visible ASCII characters, and URL has no '#'"
    )]
    Form(String),
    /// A further part is unknown or occurs twice.
    #[error(
        "{0:?}: the parts after the audience are name=, jwks=, ca=, token= and max-life=, each with a value and once"
    )]
    Part(String),
    /// A key set is read only over TLS.
    #[error(
        "{0:?}: keys are read from https:// (or http:// on a loopback address), or from a file given as jwks=/PATH"
    )]
    Url(String),
    /// A setting is not used by a key set in a file.
    #[error("{0:?}: ca= and token= are for key sets with a URL, and this one is a file")]
    Unused(String),
    /// The longest life of a token is no duration, or 0.
    #[error("max-life: {0}")]
    MaxLife(String),
    /// Two issuers have the same URL or name.
    #[error("{0:?} is given to two issuers")]
    Twice(String),
}

impl IssuerSetting {
    /// Reads `URL=AUDIENCE[,name=NAME][,jwks=FILE|URL][,ca=FILE][,token=FILE][,max-life=DURATION]`.
    pub fn parse(text: &str) -> Result<Self, IssuerSettingError> {
        let form = || IssuerSettingError::Form(text.to_owned());
        let (url, rest) = text.split_once('=').ok_or_else(form)?;
        let mut parts = rest.split(',');
        let audience = parts
            .next()
            .filter(|audience| is_visible(audience))
            .ok_or_else(form)?;
        // Any subject shows whether the issuer is possible in a principal.
        Principal::jwt(url, "subject").ok_or_else(form)?;
        let [mut name, mut jwks, mut ca, mut token, mut max_life] = [None; 5];
        for part in parts {
            let wrong = || IssuerSettingError::Part(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            let field = match key {
                "name" => &mut name,
                "jwks" => &mut jwks,
                "ca" => &mut ca,
                "token" => &mut token,
                "max-life" => &mut max_life,
                _ => return Err(wrong()),
            };
            if value.is_empty() || field.replace(value).is_some() {
                return Err(wrong());
            }
        }
        let keys = key_source(url, jwks)?;
        if let (KeySource::File(_), true) = (&keys, ca.is_some() || token.is_some()) {
            return Err(IssuerSettingError::Unused(text.to_owned()));
        }
        Ok(Self {
            url: url.to_owned(),
            audience: audience.to_owned(),
            name: name.map(ToOwned::to_owned),
            keys,
            ca: ca.map(PathBuf::from),
            token: token.map(PathBuf::from),
            max_life: max_life.map_or(Ok(MAX_LIFE), parse_max_life)?,
        })
    }

    /// Returns the name of `name=`.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the name of the issuer in the metrics.
    pub(super) fn label(&self) -> &str {
        self.name().unwrap_or(&self.url)
    }
}

fn parse_max_life(text: &str) -> Result<Duration, IssuerSettingError> {
    let max_life = settings::parse_duration(text).map_err(IssuerSettingError::MaxLife)?;
    match max_life.is_zero() {
        true => Err(IssuerSettingError::MaxLife(format!("{text:?} accepts no token"))),
        false => Ok(max_life),
    }
}

fn key_source(issuer: &str, jwks: Option<&str>) -> Result<KeySource, IssuerSettingError> {
    let url = |text: &str| safe_url(text).ok_or_else(|| IssuerSettingError::Url(text.to_owned()));
    match jwks {
        Some(text) if text.contains("://") => url(text).map(KeySource::Url),
        Some(path) => Ok(KeySource::File(path.into())),
        None => {
            let document = format!(
                "{}/.well-known/openid-configuration",
                issuer.trim_end_matches('/')
            );
            url(issuer)?;
            url(&document).map(KeySource::Discovery)
        }
    }
}

/// Reads a URL from which keys may be read: `https`, or `http` to a loopback address, where no other machine can change the
/// answer.
pub(super) fn safe_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let host = crate::dial::without_brackets(authority.host());
    let is_loopback = host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let is_safe = match uri.scheme_str()? {
        "https" => true,
        "http" => is_loopback,
        _ => false,
    };
    (is_safe && !host.is_empty() && !authority.as_str().contains('@')).then_some(uri)
}

/// Checks that no two issuers have the same URL or the same name.
pub(super) fn check_distinct(settings: &[IssuerSetting]) -> Result<(), IssuerSettingError> {
    let mut seen = BTreeSet::new();
    let urls = settings.iter().map(|setting| ("url", setting.url.as_str()));
    let names = settings
        .iter()
        .filter_map(|setting| Some(("name", setting.name()?)));
    match urls.chain(names).find(|named| !seen.insert(*named)) {
        Some((_, twice)) => Err(IssuerSettingError::Twice(twice.to_owned())),
        None => Ok(()),
    }
}

/// Returns true when both texts can be names of Kubernetes: a namespace is a DNS label, a service account a DNS name.
pub(super) fn is_account(namespace: &str, name: &str) -> bool {
    Principal::dns(name).is_some() && Principal::dns(namespace).is_some() && !namespace.contains('.')
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_has_a_url_an_audience_and_further_parts() {
        let text = "https://kubernetes.default.svc=aerostack-vault,name=kubernetes,ca=/ca.crt,token=/token";
        let setting = IssuerSetting::parse(text).unwrap();
        assert_eq!(setting.url, "https://kubernetes.default.svc");
        assert_eq!(setting.audience, "aerostack-vault");
        assert_eq!(setting.name(), Some("kubernetes"));
        assert_eq!(setting.ca, Some("/ca.crt".into()));
        assert_eq!(setting.token, Some("/token".into()));
        let document = "https://kubernetes.default.svc/.well-known/openid-configuration";
        assert_eq!(setting.keys, KeySource::Discovery(document.parse().unwrap()));
    }

    #[test]
    fn tokens_live_for_a_day_unless_the_setting_says_otherwise() {
        let max_life = |text: &str| IssuerSetting::parse(text).map(|setting| setting.max_life);
        let hours = |hours: u64| Ok(Duration::from_secs(hours * 3600));
        assert_eq!(max_life("https://i.example=aud"), hours(24));
        assert_eq!(max_life("https://i.example=aud,max-life=1h"), hours(1));
        assert_eq!(max_life("https://i.example=aud,max-life=8760h"), hours(8760));
        for wrong in ["0s", "1d", "1y", "-1h"] {
            let setting = max_life(&format!("https://i.example=aud,max-life={wrong}"));
            assert!(matches!(setting, Err(IssuerSettingError::MaxLife(_))), "{wrong}");
        }
    }

    #[test]
    fn keys_come_from_a_file_or_from_a_url_that_nobody_can_change() {
        let keys = |text: &str| IssuerSetting::parse(text).map(|setting| setting.keys);
        assert_eq!(
            keys("anything=aud,jwks=/keys.json"),
            Ok(KeySource::File("/keys.json".into()))
        );
        for url in [
            "https://keys.example/jwks",
            "http://127.0.0.1:80/jwks",
            "http://[::1]:80/jwks",
        ] {
            let source = keys(&format!("anything=aud,jwks={url}"));
            assert_eq!(source, Ok(KeySource::Url(url.parse().unwrap())), "{url}");
        }
        for wrong in [
            "http://issuer.example=aud",
            "issuer.example=aud",
            "https://i.example=aud,jwks=http://keys.example/jwks",
            "https://i.example=aud,jwks=http://localhost/jwks",
            "https://i.example=aud,jwks=ftp://keys.example/jwks",
            "https://i.example=aud,jwks=https://user@keys.example/jwks",
        ] {
            assert!(matches!(keys(wrong), Err(IssuerSettingError::Url(_))), "{wrong}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for wrong in [
            "",
            "https://i.example",
            "https://i.example=",
            "=aud",
            "https://i.example#x=aud",
            "https://i.example=two words",
            "https://i.example=aud,name",
            "https://i.example=aud,name=",
            "https://i.example=aud,name=a,name=b",
            "https://i.example=aud,alg=HS256",
            "https://i.example=aud,jwks=/keys,ca=/ca.crt",
        ] {
            assert!(IssuerSetting::parse(wrong).is_err(), "{wrong}");
        }
        let one = IssuerSetting::parse("https://i.example=aud,name=a").unwrap();
        let other = IssuerSetting::parse("https://j.example=aud,name=a").unwrap();
        let distinct = IssuerSetting::parse("https://j.example=aud").unwrap();
        assert!(check_distinct(&[one.clone(), other]).is_err());
        assert!(check_distinct(&[one.clone(), one.clone()]).is_err());
        assert!(check_distinct(&[one, distinct]).is_ok());
    }
}

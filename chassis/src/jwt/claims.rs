//! The claims of a token (RFC 7519, section 4.1).

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};

use super::refusal::TokenRefusal;

/// Time by which the clock of an issuer may be ahead of this machine's: a token counts this much before its `nbf`, and its life may
/// exceed the longest one by as much. Its `exp` has no such tolerance.
pub(super) const CLOCK_LEEWAY: Duration = Duration::from_secs(30);
/// Latest time that is read, about the year 9999. It keeps the arithmetic from overflowing.
const MAX_SECONDS: f64 = 253_402_300_800.0;

/// The claims that matter. Each of them may occur only once.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    #[serde(default)]
    pub(super) aud: Audience,
    exp: NumericDate,
    #[serde(default, deserialize_with = "given")]
    iat: Option<NumericDate>,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<NumericDate>,
}

/// The recipients of a token: one text, or a list of texts.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Many(Vec<String>),
    #[default]
    Missing,
}

/// Seconds since 1970, with or without a fraction (RFC 7519, section 2).
#[derive(Debug, Clone, Copy, Deserialize)]
struct NumericDate(f64);

/// Reads an optional claim that may be missing, and not `null`.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<NumericDate>, D::Error> {
    NumericDate::deserialize(value).map(Some)
}

impl Claims {
    /// Checks the audience and the times, and returns the last moment at which the token is valid. `max_life` is the longest time
    /// from `iat`, or without `iat` from `now`, to `exp`.
    pub(super) fn check(
        &self,
        audience: &str,
        max_life: Duration,
        now: SystemTime,
    ) -> Result<SystemTime, TokenRefusal> {
        if !self.aud.contains(audience) {
            return Err(TokenRefusal::Audience);
        }
        let not_after = self.not_after().ok_or(TokenRefusal::Malformed)?;
        if now > not_after {
            return Err(TokenRefusal::Expired);
        }
        if let Some(not_before) = self.nbf {
            let not_before = not_before.time().ok_or(TokenRefusal::Malformed)?;
            if now + CLOCK_LEEWAY < not_before {
                return Err(TokenRefusal::NotYetValid);
            }
        }
        let issued_at = self.iat.map(|iat| iat.time().ok_or(TokenRefusal::Malformed));
        let begin = issued_at.transpose()?.map_or(now, |issued_at| issued_at.min(now));
        let life = not_after.duration_since(begin).unwrap_or_default();
        if life > max_life.saturating_add(CLOCK_LEEWAY) {
            return Err(TokenRefusal::MaxLife);
        }
        Ok(not_after)
    }

    /// Returns the last moment at which the token is valid: 1 ns before `exp` (RFC 7519, section 4.1.4).
    pub(super) fn not_after(&self) -> Option<SystemTime> {
        self.exp.time()?.checked_sub(Duration::from_nanos(1))
    }
}

impl Audience {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
            Self::Missing => false,
        }
    }
}

impl NumericDate {
    fn time(self) -> Option<SystemTime> {
        (0.0..=MAX_SECONDS)
            .contains(&self.0)
            .then(|| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(self.0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const EXP: u64 = 2_000_000_000;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn claims(change: Value) -> Result<Claims, serde_json::Error> {
        let mut claims = json!({"iss": "i", "sub": "s", "aud": "us", "exp": EXP});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        serde_json::from_value(claims)
    }

    #[test]
    fn a_token_is_valid_until_the_moment_before_exp() {
        let claims = claims(json!({})).unwrap();
        let not_after = claims.check("us", Duration::MAX, at(EXP - 1)).unwrap();
        assert!(not_after < at(EXP) && not_after > at(EXP) - Duration::from_millis(1));
        assert_eq!(
            claims.check("us", Duration::MAX, at(EXP)),
            Err(TokenRefusal::Expired)
        );
    }

    #[test]
    fn a_token_is_valid_from_nbf_on_with_a_small_leeway() {
        let claims = claims(json!({"nbf": 1_000_000_000})).unwrap();
        let leeway = CLOCK_LEEWAY.as_secs();
        assert!(
            claims
                .check("us", Duration::MAX, at(1_000_000_000 - leeway))
                .is_ok()
        );
        let early = claims.check("us", Duration::MAX, at(1_000_000_000 - leeway - 1));
        assert_eq!(early, Err(TokenRefusal::NotYetValid));
    }

    #[test]
    fn a_token_lives_no_longer_than_the_longest_life_from_iat_or_from_now_on() {
        let (now, leeway) = (at(1_000_000_000), CLOCK_LEEWAY.as_secs());
        let check = |change: Value| claims(change).unwrap().check("us", DAY, now).err();
        for (exp_from_now, iat_from_now, refused) in [
            (DAY.as_secs(), None, false),
            (DAY.as_secs() + leeway, None, false),
            (DAY.as_secs() + leeway + 1, None, true),
            (3600, Some(-82_800), false),
            (3600, Some(-82_800 - i64::try_from(leeway).unwrap()), false),
            // The last hour of a token of 25 hours.
            (3600, Some(-86_400), true),
            // A time of issue in the future does not lengthen the life.
            (DAY.as_secs() + leeway + 1, Some(3600), true),
        ] {
            let mut change = json!({ "exp": 1_000_000_000 + exp_from_now });
            if let Some(iat) = iat_from_now {
                change["iat"] = json!(1_000_000_000 + iat);
            }
            let expected = refused.then_some(TokenRefusal::MaxLife);
            assert_eq!(check(change.clone()), expected, "{change}");
        }
        assert_eq!(check(json!({"iat": -1})), Some(TokenRefusal::Malformed));
    }

    #[test]
    fn the_audience_is_one_text_or_a_list_and_contains_ours_exactly() {
        for (aud, accepted) in [
            (json!("us"), true),
            (json!(["them", "us"]), true),
            (json!("them"), false),
            (json!(["them"]), false),
            (json!([]), false),
            (json!("US"), false),
            (json!("us2"), false),
            (json!("us them"), false),
        ] {
            let checked = claims(json!({ "aud": aud }))
                .unwrap()
                .check("us", Duration::MAX, at(1));
            assert_eq!(
                checked.err(),
                (!accepted).then_some(TokenRefusal::Audience),
                "{aud}"
            );
        }
        let without: Claims = serde_json::from_value(json!({"iss": "i", "sub": "s", "exp": EXP})).unwrap();
        assert_eq!(
            without.check("us", Duration::MAX, at(1)),
            Err(TokenRefusal::Audience)
        );
    }

    #[test]
    fn times_that_are_no_numeric_dates_are_refused() {
        for exp in [json!(-1), json!(1e300)] {
            let checked = claims(json!({ "exp": exp }))
                .unwrap()
                .check("us", Duration::MAX, at(1));
            assert_eq!(checked, Err(TokenRefusal::Malformed), "{exp}");
        }
        for change in [
            json!({"exp": "2000000000"}),
            json!({"exp": null}),
            json!({"nbf": null}),
            json!({"nbf": "1"}),
            json!({"iat": null}),
            json!({"iat": "1"}),
            json!({"aud": 1}),
            json!({"sub": null}),
            json!({"iss": ["i"]}),
        ] {
            assert!(claims(change.clone()).is_err(), "{change}");
        }
        let fraction = claims(json!({"exp": 1.5})).unwrap();
        assert!(
            fraction.check("us", Duration::MAX, at(1)).is_ok()
                && fraction.check("us", Duration::MAX, at(2)).is_err()
        );
    }
}

//! Checks the claims of an issuer's tokens (RFC 7519 section 4.1, RFC 8725 sections 3.8 and 3.9).

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::error::{InvalidReason, TokenError};
use super::{Claims, Requirement};
use crate::clock::UnixTime;

/// 9999-12-31T23:59:59Z in seconds. A later date is a mistake, mostly milliseconds; such a token would never expire.
pub(crate) const LATEST_DATE: u64 = 253_402_300_799;

/// The most names in one `aud`; a token with more is rejected as an attack.
const MAX_AUDIENCES: usize = 100;

/// The requirements of one issuer on claims other than `iss`.
#[derive(Debug)]
pub(crate) struct Expectations {
    /// Empty only with `require`.
    pub(crate) audience: Vec<String>,
    pub(crate) require: Option<Arc<dyn Requirement>>,
    pub(crate) leeway: Duration,
    pub(crate) max_lifetime: Option<Duration>,
}

/// Acceptable claims, with the values read from them.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) claims: Map<String, Value>,
    pub(crate) subject: Option<String>,
    /// `exp` plus the leeway: the first second at which the token is rejected.
    pub(crate) expires_at: UnixTime,
}

impl Expectations {
    /// Checks the claims of a token, whose signature may not be verified yet. Returns [`TokenError::Expired`] only if
    /// no other claim is wrong.
    pub(crate) fn check(&self, claims: Map<String, Value>, now: UnixTime) -> Result<Accepted, TokenError> {
        self.check_audience(&claims)?;
        let subject = subject(&claims)?;
        let expires = date(&claims, "exp", f64::floor, InvalidReason::Expiry)?.ok_or(InvalidReason::Expiry)?;
        let latest_start = now.saturating_add(self.leeway);
        if date(&claims, "nbf", f64::ceil, InvalidReason::NotBefore)?.is_some_and(|start| start > latest_start) {
            return Err(InvalidReason::NotBefore.into());
        }
        let issued = date(&claims, "iat", f64::ceil, InvalidReason::IssuedAt)?;
        if issued.is_some_and(|issued| issued > latest_start) {
            return Err(InvalidReason::IssuedAt.into());
        }
        self.check_lifetime(issued, expires)?;
        self.check_requirement(&claims)?;
        let expires_at = expires.saturating_add(self.leeway);
        if now >= expires_at {
            return Err(TokenError::Expired);
        }
        Ok(Accepted { claims, subject, expires_at })
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), InvalidReason> {
        if self.audience.is_empty() {
            return Ok(());
        }
        let names = match claims.get("aud") {
            Some(Value::String(name)) => vec![name.as_str()],
            Some(Value::Array(names)) if names.len() <= MAX_AUDIENCES => {
                let names = names.iter().map(Value::as_str).collect::<Option<Vec<_>>>();
                names.ok_or(InvalidReason::Audience)?
            }
            _ => return Err(InvalidReason::Audience),
        };
        let ours = names.iter().any(|name| self.audience.iter().any(|accepted| accepted == name));
        if ours { Ok(()) } else { Err(InvalidReason::Audience) }
    }

    fn check_requirement(&self, claims: &Map<String, Value>) -> Result<(), InvalidReason> {
        match &self.require {
            Some(require) if !require.holds(&Claims::new(claims.clone())) => Err(InvalidReason::Require),
            _ => Ok(()),
        }
    }

    fn check_lifetime(&self, issued: Option<UnixTime>, expires: UnixTime) -> Result<(), InvalidReason> {
        let Some(max) = self.max_lifetime else { return Ok(()) };
        let issued = issued.ok_or(InvalidReason::Lifetime)?;
        if expires.saturating_since(issued) > max { Err(InvalidReason::Lifetime) } else { Ok(()) }
    }
}

fn subject(claims: &Map<String, Value>) -> Result<Option<String>, InvalidReason> {
    match claims.get("sub") {
        None => Ok(None),
        Some(Value::String(subject)) if !subject.is_empty() => Ok(Some(subject.clone())),
        Some(_) => Err(InvalidReason::Subject),
    }
}

/// Reads a NumericDate: seconds from 0 to [`LATEST_DATE`]. A number with a fraction or an exponent (RFC 7519 section 2)
/// is rounded by `round`.
fn date(
    claims: &Map<String, Value>,
    name: &str,
    round: fn(f64) -> f64,
    wrong: InvalidReason,
) -> Result<Option<UnixTime>, InvalidReason> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_u64().or_else(|| whole_seconds(value.as_f64()?, round));
    let seconds = seconds.filter(|seconds| *seconds <= LATEST_DATE).ok_or(wrong)?;
    Ok(Some(UnixTime::from_secs(seconds)))
}

/// Rounds to a whole number of seconds; `None` before 1970 and after [`LATEST_DATE`].
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)] // `f64` is exact here
fn whole_seconds(seconds: f64, round: fn(f64) -> f64) -> Option<u64> {
    (0.0..=LATEST_DATE as f64).contains(&seconds).then(|| round(seconds) as u64)
}

#[cfg(test)]
mod tests {
    use cel::common::types::{CelMap, CelMapKey};
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn expectations(leeway: u64, max_lifetime: Option<u64>) -> Expectations {
        Expectations {
            audience: vec!["app".to_owned(), "https://app.example.com".to_owned()],
            require: None,
            leeway: Duration::from_secs(leeway),
            max_lifetime: max_lifetime.map(Duration::from_secs),
        }
    }

    fn check_at(expectations: &Expectations, changes: &Value, now: u64) -> Result<UnixTime, TokenError> {
        let mut claims = json!({ "aud": "app", "exp": NOW + 100 });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let claims = claims.as_object().unwrap().clone();
        expectations.check(claims, UnixTime::from_secs(now)).map(|accepted| accepted.expires_at)
    }

    fn check(changes: &Value) -> Result<UnixTime, TokenError> {
        check_at(&expectations(0, None), changes, NOW)
    }

    #[test]
    fn a_plain_token_is_valid_until_exp() {
        assert_eq!(check(&json!({})), Ok(UnixTime::from_secs(NOW + 100)));
        assert!(check(&json!({ "nbf": NOW, "iat": NOW, "sub": "u" })).is_ok());
    }

    #[test]
    fn t12_dates_of_another_type_are_rejected() {
        let wrong = [
            json!("1800000100"),
            json!(1e18),
            json!(u64::MAX),
            json!(LATEST_DATE + 1),
            json!(-1),
            json!(-0.5),
            json!(LATEST_DATE as f64 + 0.5),
            json!(1.8e12),
            json!(null),
            json!(true),
            json!([NOW + 100]),
            json!({ "a": 1 }),
        ];
        for value in wrong {
            for (name, reason) in
                [("exp", InvalidReason::Expiry), ("nbf", InvalidReason::NotBefore), ("iat", InvalidReason::IssuedAt)]
            {
                assert_eq!(check(&json!({ name: value.clone() })), Err(reason.into()), "{name} {value}");
            }
        }
        assert!(check(&json!({ "exp": LATEST_DATE })).is_ok());
        assert_eq!(check(&json!({ "exp": 0 })), Err(TokenError::Expired));
    }

    #[test]
    fn t12_a_fraction_never_lengthens_the_life_of_a_token() {
        let at = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        for (exp, until) in [("1800000100.0", 100), ("1800000100.9", 100), ("1.8000001e9", 100), ("18000001E2", 100)] {
            assert_eq!(check(&json!({ "exp": at(exp) })), Ok(UnixTime::from_secs(NOW + until)), "{exp}");
        }
        for (name, reason) in [("nbf", InvalidReason::NotBefore), ("iat", InvalidReason::IssuedAt)] {
            for now in ["1800000000.0", "1799999999.1", "1.8e9", "0", "0.0"] {
                assert!(check(&json!({ name: at(now) })).is_ok(), "{name} {now}");
            }
            assert_eq!(check(&json!({ name: at("1800000000.1") })), Err(reason.into()), "{name}");
        }
        // `max_lifetime` compares the rounded dates.
        let bounded = expectations(0, Some(100));
        assert!(check_at(&bounded, &json!({ "exp": at("1800000100.9"), "iat": at("1799999999.5") }), NOW).is_ok());
        assert!(check_at(&bounded, &json!({ "exp": at("1800000101.0"), "iat": at("1799999999.5") }), NOW).is_err());
    }

    #[test]
    fn t12_a_token_without_exp_is_rejected() {
        let claims = json!({ "aud": "app" }).as_object().unwrap().clone();
        let result = expectations(0, None).check(claims, UnixTime::from_secs(NOW));
        assert_eq!(result.unwrap_err(), InvalidReason::Expiry.into());
    }

    #[test]
    fn t12_a_token_from_the_future_is_rejected() {
        assert_eq!(check(&json!({ "nbf": NOW + 1 })), Err(InvalidReason::NotBefore.into()));
        assert_eq!(check(&json!({ "iat": NOW + 1 })), Err(InvalidReason::IssuedAt.into()));
    }

    #[test]
    fn t12_a_lifetime_is_bounded_and_needs_iat() {
        let bounded = expectations(0, Some(300));
        assert!(check_at(&bounded, &json!({ "iat": NOW - 200 }), NOW).is_ok());
        for changes in [json!({ "iat": NOW - 201 }), json!({})] {
            assert_eq!(check_at(&bounded, &changes, NOW), Err(InvalidReason::Lifetime.into()), "{changes}");
        }
    }

    #[test]
    fn t13_leeway_shifts_every_bound_by_whole_seconds() {
        let lenient = expectations(60, None);
        let exp = NOW + 100;
        for (now, holds) in [(exp - 1, true), (exp, true), (exp + 59, true), (exp + 60, false), (exp + 61, false)] {
            assert_eq!(check_at(&lenient, &json!({}), now).is_ok(), holds, "{now}");
        }
        let strict = expectations(0, None);
        for (now, holds) in [(exp - 1, true), (exp, false), (exp + 1, false)] {
            assert_eq!(check_at(&strict, &json!({}), now).is_ok(), holds, "{now}");
        }
        assert!(check_at(&lenient, &json!({ "nbf": NOW + 60, "iat": NOW + 60 }), NOW).is_ok());
        assert!(check_at(&lenient, &json!({ "nbf": NOW + 61 }), NOW).is_err());
        assert!(check_at(&lenient, &json!({ "iat": NOW + 61 }), NOW).is_err());
    }

    #[test]
    fn t13_a_leeway_longer_than_the_time_since_1970_does_not_underflow() {
        assert!(check_at(&expectations(60, None), &json!({ "exp": 5, "nbf": 0, "iat": 0 }), 10).is_ok());
    }

    #[test]
    fn t14_an_audience_is_a_name_or_a_list_of_names() {
        for aud in [json!("app"), json!(["x", "app"]), json!(["app"]), json!("https://app.example.com")] {
            assert!(check(&json!({ "aud": aud.clone() })).is_ok(), "{aud}");
        }
        let huge = vec!["app"; 10_000];
        for aud in [
            json!("App"),
            json!("ap"),
            json!("app2"),
            json!("https://app.example.com/"),
            json!(""),
            json!([]),
            json!(["x"]),
            json!(["app", 1]),
            json!(["app", null]),
            json!([["app"]]),
            json!({ "app": 1 }),
            json!(1),
            json!(null),
            json!(huge),
        ] {
            assert_eq!(check(&json!({ "aud": aud.clone() })), Err(InvalidReason::Audience.into()), "{aud}");
        }
    }

    #[test]
    fn t14_a_condition_is_checked_beside_the_audience_or_instead_of_it() {
        #[derive(Debug)]
        struct HasAzp;
        impl Requirement for HasAzp {
            fn holds(&self, claims: &Claims) -> bool {
                let claims = claims.cel().downcast_ref::<CelMap<'_>>().unwrap();
                claims.inner().contains_key::<CelMapKey<'_>>(&"azp".to_owned().into())
            }
            fn operands(&self, _claims: &Claims) -> Vec<String> {
                Vec::new()
            }
            fn source(&self) -> &str {
                "has(claims.azp)"
            }
        }
        let both = Expectations { require: Some(Arc::new(HasAzp)), ..expectations(0, None) };
        let alone = Expectations { audience: Vec::new(), require: Some(Arc::new(HasAzp)), ..expectations(0, None) };
        for expected in [&both, &alone] {
            assert!(check_at(expected, &json!({ "azp": "a" }), NOW).is_ok());
            assert_eq!(check_at(expected, &json!({}), NOW), Err(InvalidReason::Require.into()));
            // Expired is reported only if nothing else is wrong.
            assert_eq!(check_at(expected, &json!({ "exp": 1 }), NOW), Err(InvalidReason::Require.into()));
        }
        let other = json!({ "azp": "a", "aud": "other" });
        assert_eq!(check_at(&both, &other, NOW), Err(InvalidReason::Audience.into()));
        assert!(check_at(&alone, &other, NOW).is_ok());
    }

    #[test]
    fn a_subject_that_is_empty_or_not_a_string_is_rejected() {
        for sub in [json!(""), json!(1), json!(null), json!(["u"])] {
            assert_eq!(check(&json!({ "sub": sub.clone() })), Err(InvalidReason::Subject.into()), "{sub}");
        }
    }

    #[test]
    fn expired_is_reported_only_if_nothing_else_is_wrong() {
        assert_eq!(check(&json!({ "exp": 1 })), Err(TokenError::Expired));
        assert_eq!(check(&json!({ "exp": 1, "aud": "x" })), Err(InvalidReason::Audience.into()));
        assert_eq!(check(&json!({ "exp": 1, "nbf": NOW + 1 })), Err(InvalidReason::NotBefore.into()));
        assert_eq!(check(&json!({ "exp": 1, "sub": 1 })), Err(InvalidReason::Subject.into()));
    }
}

//! A list of revoked tokens, sessions and subjects: its JSON form, and the index that tokens are looked up in.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::marks::TokenMarks;
use crate::clock::UnixTime;
use crate::json;

/// The most bytes of a list; a longer one is rejected.
pub(crate) const MAX_LIST_BYTES: usize = 16 << 20;

/// One revocation. It may revoke tokens of any issuer, unless it names one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revocation {
    of: Kind,
    value: Box<str>,
    condition: Condition,
}

/// The claim that a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One token.
    Jti,
    /// The tokens of one session.
    Sid,
    /// The tokens of one user.
    Sub,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    issuer: Option<Box<str>>,
    /// Only tokens issued before this time are revoked.
    not_before: Option<UnixTime>,
    /// The revocation ends at this time.
    until: Option<UnixTime>,
}

/// Why a text is not a list of revocations.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// An entry cannot be understood. Holds its position, from 0, and what is wrong.
    #[error("revocations[{0}]: {1}")]
    Entry(usize, &'static str),
    /// It is not an object with a list `revocations`.
    #[error("not {{\"revocations\": […]}}")]
    Malformed,
    /// It has more than 16 MiB.
    #[error("more than 16 MiB")]
    TooLarge,
}

/// Parses `{"revocations": […]}`. One entry that cannot be understood makes the whole list invalid, so that none is
/// overlooked.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<Revocation>, ListError> {
    if bytes.len() > MAX_LIST_BYTES {
        return Err(ListError::TooLarge);
    }
    let document = json::parse_object(bytes).map_err(|_| ListError::Malformed)?;
    let listed = document.get("revocations").and_then(Value::as_array).ok_or(ListError::Malformed)?;
    let entries = listed.iter().enumerate();
    entries.map(|(index, entry)| Revocation::read(entry).map_err(|why| ListError::Entry(index, why))).collect()
}

impl Revocation {
    fn read(entry: &Value) -> Result<Self, &'static str> {
        let entry = entry.as_object().ok_or("not an object")?;
        let named = [("jti", Kind::Jti), ("sid", Kind::Sid), ("sub", Kind::Sub)];
        let mut named = named.into_iter().filter_map(|(name, of)| Some((of, entry.get(name)?)));
        let (Some((of, value)), None) = (named.next(), named.next()) else {
            return Err("must have exactly one of jti, sid and sub");
        };
        let value =
            value.as_str().filter(|value| !value.is_empty()).ok_or("jti, sid and sub are strings, not empty")?;
        let not_before = time(entry, "not_before")?;
        if not_before.is_some() && of != Kind::Sub {
            return Err("not_before is only for sub");
        }
        let issuer = match entry.get("iss") {
            None => None,
            Some(issuer) => Some(issuer.as_str().ok_or("iss is a string")?.into()),
        };
        let condition = Condition { issuer, not_before, until: time(entry, "until")? };
        Ok(Self { of, value: value.into(), condition })
    }

    /// Whether it is over at `now`.
    pub(super) fn is_over(&self, now: UnixTime) -> bool {
        self.condition.until.is_some_and(|until| until <= now)
    }

    /// Whether it revokes at least what `other` does.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        let what = |of: &Self| (of.of, of.value.clone(), of.condition.issuer.clone(), of.condition.not_before);
        let longer = match (self.condition.until, other.condition.until) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(other)) => own >= other,
        };
        longer && what(self) == what(other)
    }

    /// Ends it at `until`, unless it ends earlier.
    pub(super) fn ends(&mut self, until: UnixTime) {
        let earlier = self.condition.until.filter(|own| *own < until);
        self.condition.until = Some(earlier.unwrap_or(until));
    }
}

fn time(entry: &Map<String, Value>, name: &str) -> Result<Option<UnixTime>, &'static str> {
    match entry.get(name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(seconds) => Ok(Some(UnixTime::from_secs(seconds))),
            None => Err("not_before and until are seconds since 1970"),
        },
    }
}

/// Finds the revocations of a token.
#[derive(Debug, Default)]
pub(super) struct Index {
    jti: HashMap<Box<str>, Vec<Condition>>,
    sid: HashMap<Box<str>, Vec<Condition>>,
    sub: HashMap<Box<str>, Vec<Condition>>,
    len: usize,
}

impl Index {
    pub(super) fn of(revocations: impl IntoIterator<Item = Revocation>) -> Self {
        let mut index = Self::default();
        for Revocation { of, value, condition } in revocations {
            let map = match of {
                Kind::Jti => &mut index.jti,
                Kind::Sid => &mut index.sid,
                Kind::Sub => &mut index.sub,
            };
            map.entry(value).or_default().push(condition);
            index.len += 1;
        }
        index
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Whether a token with these marks is revoked.
    pub(super) fn revokes(&self, marks: &TokenMarks, now: UnixTime) -> bool {
        let TokenMarks { jti, sid, sub, .. } = marks;
        [(&self.jti, jti), (&self.sid, sid), (&self.sub, sub)].into_iter().any(|(map, value)| {
            let conditions = value.as_ref().and_then(|value| map.get(value));
            conditions.into_iter().flatten().any(|condition| condition.covers(marks, now))
        })
    }
}

impl Condition {
    fn covers(&self, marks: &TokenMarks, now: UnixTime) -> bool {
        self.issuer.as_ref().is_none_or(|issuer| *issuer == marks.issuer)
            && self.until.is_none_or(|until| now < until)
            // A token that does not say when it was issued may be an old one.
            && self.not_before.is_none_or(|start| marks.issued.is_none_or(|issued| issued < start))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn marks(claims: &Value) -> TokenMarks {
        TokenMarks::of("https://a", claims.as_object().unwrap())
    }

    fn revokes(entry: &Value, claims: &Value) -> bool {
        let list = json!({ "revocations": [entry] }).to_string();
        Index::of(parse(list.as_bytes()).unwrap()).revokes(&marks(claims), UnixTime::from_secs(NOW))
    }

    #[test]
    fn exactly_the_named_tokens_are_revoked() {
        let token = json!({ "jti": "t1", "sid": "s1", "sub": "u1", "iat": NOW - 100 });
        for (entry, expected) in [
            (json!({ "jti": "t1" }), true),
            (json!({ "jti": "t2" }), false),
            (json!({ "jti": "s1" }), false),
            (json!({ "sid": "s1" }), true),
            (json!({ "sid": "u1" }), false),
            (json!({ "sub": "u1" }), true),
            (json!({ "sub": "U1" }), false),
            (json!({ "sub": "u1", "not_before": NOW - 99 }), true),
            (json!({ "sub": "u1", "not_before": NOW - 100 }), false),
            (json!({ "sub": "u1", "not_before": NOW - 101 }), false),
            (json!({ "sid": "s1", "iss": "https://a" }), true),
            (json!({ "sid": "s1", "iss": "https://b" }), false),
            (json!({ "sid": "s1", "until": NOW + 1 }), true),
            (json!({ "sid": "s1", "until": NOW }), false),
            (json!({ "sid": "s1", "reason": "lost phone" }), true),
        ] {
            assert_eq!(revokes(&entry, &token), expected, "{entry}");
        }
        assert!(revokes(&json!({ "sub": "u1", "not_before": 1 }), &json!({ "sub": "u1" })), "no iat");
        assert!(revokes(&json!({ "sub": "u1", "not_before": NOW }), &json!({ "sub": "u1", "iat": NOW as f64 - 0.5 })));
        assert!(revokes(&json!({ "jti": "7" }), &json!({ "jti": 7 })));
        assert!(!revokes(&json!({ "sid": "s1" }), &json!({})));
    }

    #[test]
    fn a_list_with_an_entry_that_cannot_be_understood_is_rejected() {
        for (text, expected) in [
            ("", "not {\"revocations\": […]}"),
            ("[]", "not {\"revocations\": […]}"),
            (r#"{"revoked":[]}"#, "not {\"revocations\": […]}"),
            (r#"{"revocations":[],"revocations":[]}"#, "not {\"revocations\": […]}"),
            (r#"{"revocations":["t1"]}"#, "revocations[0]: not an object"),
            (r#"{"revocations":[{"sid":"a"},{}]}"#, "revocations[1]: must have exactly one of jti, sid and sub"),
            (r#"{"revocations":[{"sid":"a","jti":"b"}]}"#, "revocations[0]: must have exactly one of jti, sid and sub"),
            (r#"{"revocations":[{"sid":7}]}"#, "revocations[0]: jti, sid and sub are strings, not empty"),
            (r#"{"revocations":[{"sub":""}]}"#, "revocations[0]: jti, sid and sub are strings, not empty"),
            (r#"{"revocations":[{"sid":"a","not_before":1}]}"#, "revocations[0]: not_before is only for sub"),
            (r#"{"revocations":[{"sid":"a","iss":1}]}"#, "revocations[0]: iss is a string"),
            (
                r#"{"revocations":[{"sub":"a","not_before":"2026-01-01"}]}"#,
                "revocations[0]: not_before and until are seconds since 1970",
            ),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), expected, "{text}");
        }
        assert_eq!(parse(br#"{"revocations":[]}"#).unwrap(), []);
        assert_eq!(parse(&vec![b' '; MAX_LIST_BYTES + 1]), Err(ListError::TooLarge));
    }
}

//! A list of revoked tokens, sessions and subjects: its JSON form, and the index that tokens are looked up in.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::marks::TokenMarks;
use crate::clock::UnixTime;
use crate::digest::sha256;
use crate::json;

/// The most bytes of a list; a longer one is rejected.
pub(crate) const MAX_LIST_BYTES: usize = 16 << 20;

/// A list as it was read: its index, and the digest that tells whether another text is the same list.
#[derive(Default)]
pub struct List {
    pub(super) index: Index,
    digest: [u8; 32],
}

/// The tokens that a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    of: Kind,
    value: Box<str>,
    condition: Condition,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Condition {
    /// Only tokens of this issuer are revoked.
    issuer: Option<Box<str>>,
    /// Only tokens issued before this time are revoked.
    not_before: Option<UnixTime>,
}

/// One revocation: what it revokes, and when it ends, if it does.
pub(super) type Revocation = (Target, Option<UnixTime>);

/// The claim that a revocation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// One token.
    Jti,
    /// The tokens of one session.
    Sid,
    /// The tokens of one user.
    Sub,
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

impl List {
    /// Parses a list.
    ///
    /// # Errors
    /// Why the bytes are not one.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        Ok(Self { index: Index::of(parse(bytes)?), digest: sha256(bytes) })
    }

    /// Reads a list from a file. Blocks.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, String> {
        Self::parse(&read_file(path)?).map_err(|error| error.to_string())
    }

    /// Whether it was parsed from these bytes.
    pub(super) fn is(&self, bytes: &[u8]) -> bool {
        self.digest == sha256(bytes)
    }
}

impl PartialEq for List {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for List {}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "List({})", self.index.len())
    }
}

/// Reads the bytes of a list, or so much of a longer file that it is too long. Blocks.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_LIST_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|cause| format!("cannot be read: {cause}"))
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
    entries.map(|(index, entry)| read(entry).map_err(|why| ListError::Entry(index, why))).collect()
}

/// Writes a list that [`parse`] reads.
pub(super) fn to_json<'a>(revocations: impl Iterator<Item = (&'a Target, &'a Option<UnixTime>)>) -> Vec<u8> {
    let entries: Vec<_> = revocations.map(|(target, until)| target.to_json(*until)).collect();
    json!({ "revocations": entries }).to_string().into_bytes()
}

fn read(entry: &Value) -> Result<Revocation, &'static str> {
    let entry = entry.as_object().ok_or("not an object")?;
    let mut named = Kind::ALL.into_iter().filter_map(|of| Some((of, entry.get(of.claim())?)));
    let (Some((of, value)), None) = (named.next(), named.next()) else {
        return Err("must have exactly one of jti, sid and sub");
    };
    let value = value.as_str().filter(|value| !value.is_empty()).ok_or("jti, sid and sub are strings, not empty")?;
    let not_before = time(entry, "not_before")?;
    if not_before.is_some() && of != Kind::Sub {
        return Err("not_before is only for sub");
    }
    let issuer = match entry.get("iss") {
        None => None,
        Some(issuer) => Some(issuer.as_str().ok_or("iss is a string")?.into()),
    };
    let target = Target { of, value: value.into(), condition: Condition { issuer, not_before } };
    Ok((target, time(entry, "until")?))
}

impl Target {
    fn to_json(&self, until: Option<UnixTime>) -> Value {
        let mut entry = json!({ self.of.claim(): self.value });
        let Condition { issuer, not_before } = &self.condition;
        if let Some(issuer) = issuer {
            entry["iss"] = (&**issuer).into();
        }
        for (name, time) in [("not_before", *not_before), ("until", until)] {
            if let Some(time) = time {
                entry[name] = time.as_secs().into();
            }
        }
        entry
    }
}

impl Kind {
    const ALL: [Self; 3] = [Self::Jti, Self::Sid, Self::Sub];

    const fn claim(self) -> &'static str {
        match self {
            Self::Jti => "jti",
            Self::Sid => "sid",
            Self::Sub => "sub",
        }
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
#[derive(Default)]
pub(super) struct Index {
    jti: Conditions,
    sid: Conditions,
    sub: Conditions,
    len: usize,
}

/// The conditions of the revocations that name a value, and when they end.
type Conditions = HashMap<Box<str>, Vec<(Condition, Option<UnixTime>)>>;

impl Index {
    pub(super) fn of(revocations: impl IntoIterator<Item = Revocation>) -> Self {
        let mut index = Self::default();
        for (Target { of, value, condition }, until) in revocations {
            let map = match of {
                Kind::Jti => &mut index.jti,
                Kind::Sid => &mut index.sid,
                Kind::Sub => &mut index.sub,
            };
            map.entry(value).or_default().push((condition, until));
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
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|(condition, until)| is_in_force(*until, now) && condition.covers(marks))
        })
    }
}

/// Whether a revocation that ends at `until` has not ended.
pub(super) fn is_in_force(until: Option<UnixTime>, now: UnixTime) -> bool {
    until.is_none_or(|until| now < until)
}

impl Condition {
    fn covers(&self, marks: &TokenMarks) -> bool {
        self.issuer.as_ref().is_none_or(|issuer| *issuer == marks.issuer)
            // A token that does not say when it was issued may be an old one.
            && self.not_before.is_none_or(|start| marks.issued.is_none_or(|issued| issued < start))
    }
}

#[cfg(test)]
mod tests {
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
        assert!(parse(br#"{"revocations":[]}"#).unwrap().is_empty());
        assert_eq!(parse(&vec![b' '; MAX_LIST_BYTES + 1]), Err(ListError::TooLarge));
    }

    #[test]
    fn a_written_list_is_read_as_the_same() {
        let list = json!({ "revocations": [
            { "jti": "t", "iss": "https://a", "until": NOW }, { "sid": "\"" }, { "sub": "u", "not_before": NOW - 1 },
        ] });
        let read = parse(list.to_string().as_bytes()).unwrap();
        assert_eq!(parse(&to_json(read.iter().map(|(target, until)| (target, until)))), Ok(read));
    }
}

//! Answers of a service, parsed strictly.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use cel::common::types::{CelList, CelString};
use cel::common::value::Val;
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::auth::{FetchError, cel_value};
use crate::json;

/// What a service has answered, or why there is no answer.
#[derive(Debug)]
pub struct Answer {
    /// The answer itself.
    pub verdict: Result<Verdict, Failure>,
    /// How long the service took.
    pub took: Duration,
    /// When the service has to be asked again.
    pub until: Instant,
}

/// What a service decided.
pub enum Verdict {
    /// `decision` is true. Holds the `context` as a CEL map, if there is one.
    Allow(Option<Box<dyn Val>>),
    /// `decision` is false.
    Deny,
    /// The ids that a search found, as a sorted CEL list of different strings.
    Found(Box<dyn Val>),
    /// A search found more ids than allowed.
    TooMany,
}

/// Why a service gave no answer. No variant shows a part of a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The exchange failed, or the response has another status than 200.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The response is not what the API defines.
    #[error("the response {0}")]
    Malformed(&'static str),
    /// Too many questions wait for the service.
    #[error("too many requests wait for it")]
    Overloaded,
}

impl Answer {
    /// Whether it allows the request.
    pub fn allows(&self) -> bool {
        self.verdict.as_ref().is_ok_and(|verdict| !verdict.denies())
    }

    /// The name of the verdict or of the failure.
    pub fn as_str(&self) -> &'static str {
        self.verdict.as_ref().map_or_else(Failure::as_str, Verdict::as_str)
    }
}

impl Verdict {
    /// The name in metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Allow(_) => "allow",
            Self::Deny => "deny",
            Self::Found(_) => "found",
            Self::TooMany => "too_many",
        }
    }

    /// Whether it denies the request.
    pub const fn denies(&self) -> bool {
        matches!(self, Self::Deny | Self::TooMany)
    }
}

impl fmt::Debug for Verdict {
    // Ids and context are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Failure {
    /// The name in metrics and logs.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Fetch(FetchError::Status(_) | FetchError::Redirect(_)) => "status",
            Self::Fetch(FetchError::Timeout) => "timeout",
            Self::Fetch(FetchError::TooLarge) => "too_large",
            Self::Fetch(FetchError::Network(_)) => "unreachable",
            Self::Fetch(_) | Self::Malformed(_) => "malformed",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Every name of a verdict or of a failure.
pub(super) const OUTCOMES: [&str; 10] =
    ["allow", "deny", "found", "malformed", "overloaded", "status", "timeout", "too_large", "too_many", "unreachable"];

/// Parses the response to an evaluation. Only a literal `true` allows.
pub(super) fn evaluation(body: &[u8]) -> Result<Verdict, Failure> {
    let mut members = object(body)?;
    let context = match members.remove("context") {
        None | Some(Value::Null) => None,
        Some(context @ Value::Object(_)) => Some(cel_value(context)),
        Some(_) => return Err(Failure::Malformed("has a `context` that is not an object")),
    };
    match members.get("decision") {
        Some(Value::Bool(true)) => Ok(Verdict::Allow(context)),
        Some(Value::Bool(false)) => Ok(Verdict::Deny),
        _ => Err(Failure::Malformed("has no boolean `decision`")),
    }
}

/// The pages of a search, as they arrive.
pub(super) struct Pages<'a> {
    /// The resource type that was asked for.
    of: &'a str,
    /// The most ids that are allowed.
    most: usize,
    ids: BTreeSet<String>,
}

/// What follows a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There are no more pages, or too many ids.
    End,
    /// The page after this token.
    Page(String),
}

impl<'a> Pages<'a> {
    pub(super) const fn new(of: &'a str, most: usize) -> Self {
        Self { of, most, ids: BTreeSet::new() }
    }

    /// Adds a page.
    pub(super) fn add(&mut self, body: &[u8]) -> Result<Next, Failure> {
        let members = object(body)?;
        let Some(Value::Array(results)) = members.get("results") else {
            return Err(Failure::Malformed("has no list `results`"));
        };
        for result in results {
            self.ids.insert(self.id(result)?.to_owned());
        }
        if self.ids.len() > self.most {
            return Ok(Next::End);
        }
        next(members.get("page"))
    }

    /// Returns the id of a result. A result of another type than asked for would select other rows by chance.
    fn id<'b>(&self, result: &'b Value) -> Result<&'b str, Failure> {
        if result.get("type").and_then(Value::as_str) != Some(self.of) {
            return Err(Failure::Malformed("has a result of another type than asked for"));
        }
        // Electric cuts a string off at NUL.
        let id = result.get("id").and_then(Value::as_str).filter(|id| !id.is_empty() && !id.contains('\0'));
        id.ok_or(Failure::Malformed("has a result without a usable `id`"))
    }

    pub(super) fn verdict(self) -> Verdict {
        if self.ids.len() > self.most {
            return Verdict::TooMany;
        }
        let ids = self.ids.into_iter().map(|id| Box::new(CelString::from(id)) as Box<dyn Val>);
        Verdict::Found(Box::new(CelList::from(ids.collect::<Vec<_>>())))
    }
}

/// Reads the token of the next page. An empty token ends the search (AuthZEN section 8.2).
fn next(page: Option<&Value>) -> Result<Next, Failure> {
    match page.and_then(|page| page.get("next_token")) {
        None | Some(Value::Null) => Ok(Next::End),
        Some(Value::String(token)) if token.is_empty() => Ok(Next::End),
        Some(Value::String(token)) => Ok(Next::Page(token.clone())),
        Some(_) => Err(Failure::Malformed("has a `next_token` that is not a string")),
    }
}

/// Parses an object without duplicate members: `{"decision":false,"decision":true}` must not be read either way.
fn object(body: &[u8]) -> Result<Map<String, Value>, Failure> {
    json::parse_object(body).map_err(|_| Failure::Malformed("is not one JSON object without duplicate members"))
}

#[cfg(test)]
mod tests {
    use cel::common::types::CelMap;

    use super::*;

    fn label(result: &Result<Verdict, Failure>) -> &'static str {
        result.as_ref().map_or_else(Failure::as_str, Verdict::as_str)
    }

    #[test]
    fn only_the_boolean_true_allows() {
        for (body, expected) in [
            (r#"{"decision":true}"#, "allow"),
            (r#"{"decision":true,"context":{"a":[1]}}"#, "allow"),
            (r#"{"decision":true,"context":null,"extra":1}"#, "allow"),
            (r#"{"decision":false}"#, "deny"),
            (r#"{"decision":false,"context":{"reason":"no"}}"#, "deny"),
            (r#"{"decision":"true"}"#, "malformed"),
            (r#"{"decision":1}"#, "malformed"),
            (r#"{"decision":null}"#, "malformed"),
            (r#"{"Decision":true}"#, "malformed"),
            (r#"{"result":true}"#, "malformed"),
            (r#"{"decision":true,"context":[]}"#, "malformed"),
            (r#"{"decision":false,"decision":true}"#, "malformed"),
            (r#"{"decision":true,"decision":false}"#, "malformed"),
            (r#"[{"decision":true}]"#, "malformed"),
            (r#"{"decision":true}{"#, "malformed"),
            (r#"{"decision":true"#, "malformed"),
            ("true", "malformed"),
            ("", "malformed"),
        ] {
            assert_eq!(label(&evaluation(body.as_bytes())), expected, "{body}");
        }
    }

    #[test]
    fn the_context_is_kept_for_the_rule() {
        let Ok(Verdict::Allow(Some(context))) = evaluation(br#"{"decision":true,"context":{"region":"eu"}}"#) else {
            panic!("no context");
        };
        let region = context.downcast_ref::<CelMap<'_>>().unwrap().values().next().unwrap();
        assert_eq!(region.downcast_ref::<CelString<'_>>().unwrap().inner(), "eu");
    }

    fn ids(verdict: &Verdict) -> Vec<String> {
        let Verdict::Found(list) = verdict else { panic!("{verdict:?}") };
        let list = list.downcast_ref::<CelList<'_>>().unwrap();
        list.inner().iter().map(|id| id.downcast_ref::<CelString<'_>>().unwrap().inner().to_owned()).collect()
    }

    #[test]
    fn pages_add_up_to_sorted_ids() {
        let mut pages = Pages::new("doc", 3);
        let first = br#"{"results":[{"type":"doc","id":"b"},{"type":"doc","id":"a","x":1}],"page":{"next_token":"t"}}"#;
        assert_eq!(pages.add(first), Ok(Next::Page("t".to_owned())));
        let last = br#"{"results":[{"type":"doc","id":"c"},{"type":"doc","id":"a"}],"page":{"next_token":""}}"#;
        assert_eq!(pages.add(last), Ok(Next::End));
        assert_eq!(ids(&pages.verdict()), ["a", "b", "c"]);
        assert!(ids(&Pages::new("doc", 0).verdict()).is_empty());
    }

    #[test]
    fn one_id_more_than_allowed_is_too_many() {
        let mut pages = Pages::new("doc", 1);
        let two = br#"{"results":[{"type":"doc","id":"a"},{"type":"doc","id":"b"}],"page":{"next_token":"t"}}"#;
        assert_eq!(pages.add(two), Ok(Next::End), "no further page is asked for");
        assert_eq!(pages.verdict().as_str(), "too_many");
    }

    #[test]
    fn results_of_another_type_are_refused() {
        for results in [
            r#"[{"type":"doc","id":"a"},{"type":"folder","id":"b"}]"#,
            r#"[{"type":"Doc","id":"a"}]"#,
            r#"[{"id":"a"}]"#,
            r#"[{"type":["doc"],"id":"a"}]"#,
            r#"["a"]"#,
            r#"[{"type":"doc"}]"#,
            r#"[{"type":"doc","id":1}]"#,
            r#"[{"type":"doc","id":""}]"#,
            r#"[{"type":"doc","id":"a\u0000"}]"#,
            r#"[{"type":"folder","type":"doc","id":"a"}]"#,
            r#"{"type":"doc","id":"a"}"#,
            "null",
        ] {
            let page = format!(r#"{{"results":{results}}}"#);
            let added = Pages::new("doc", 10).add(page.as_bytes());
            assert_eq!(added.map_err(|failure| failure.as_str()), Err("malformed"), "{results}");
        }
        for page in [r#"{"decision":true}"#, r#"{"results":[],"page":{"next_token":7}}"#, "[]"] {
            assert!(Pages::new("doc", 10).add(page.as_bytes()).is_err(), "{page}");
        }
    }
}

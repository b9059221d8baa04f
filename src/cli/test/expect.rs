//! Compares a decision with what a case expects.

use serde::Deserialize;

use super::super::trial::{Allowed, Verdict};
use crate::nearest::nearest;
use crate::rejection::{Reason, Rejection};
use crate::rewrite::UpstreamRequest;
use crate::shape::Columns;

/// What a case expects.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    Allow(AllowLike),
    Deny(DenyLike),
}

/// `allow = true`, or `allow = { … }` with the parts of the request to Electric that matter.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "`allow` is true, or a table of rule, table, where, params, columns, upstream and subset"
)]
pub(super) enum Allow {
    Any(bool),
    Like(AllowLike),
}

/// `deny = true`, `deny = "REASON"` or `deny = { … }`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "`deny` is true, a reason, or a table of code, reason and rule")]
pub(super) enum Deny {
    Any(bool),
    Reason(String),
    Like(DenyLike),
}

/// The parts of the request to Electric that a case compares. Absent ones may be anything.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowLike {
    rule: Option<String>,
    table: Option<String>,
    /// `none` for a request without.
    #[serde(rename = "where")]
    predicate: Option<String>,
    params: Option<Vec<String>>,
    /// Empty for all columns.
    columns: Option<Vec<String>>,
    upstream: Option<String>,
    /// The body of the request, as JSON.
    subset: Option<serde_json::Value>,
}

/// The parts of a rejection that a case compares.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DenyLike {
    code: Option<String>,
    reason: Option<String>,
    rule: Option<String>,
}

/// A part of a decision that is not as expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

impl Difference {
    pub(super) fn of(what: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what, expected: expected.into(), found: found.into() }
    }
}

impl Allow {
    pub(super) fn like(&self) -> Result<AllowLike, String> {
        match self {
            Self::Any(true) => Ok(AllowLike::default()),
            Self::Any(false) => Err("allow = false: write deny = true, or a reason".to_owned()),
            Self::Like(like) => Ok(like.clone()),
        }
    }
}

impl Deny {
    pub(super) fn like(&self) -> Result<DenyLike, String> {
        let like = match self {
            Self::Any(true) => DenyLike::default(),
            Self::Any(false) => return Err("deny = false: write allow = true".to_owned()),
            Self::Reason(reason) => DenyLike { reason: Some(reason.clone()), ..DenyLike::default() },
            Self::Like(like) => like.clone(),
        };
        match &like.reason {
            Some(reason) if !Reason::all().any(|known| known.as_str() == reason) => {
                let near = nearest(reason, Reason::all().map(Reason::as_str));
                let hint = near.map_or_else(
                    || ": docs/reasons.md lists them".to_owned(),
                    |near| format!("; did you mean {near:?}?"),
                );
                Err(format!("no such reason {reason:?}{hint}"))
            }
            _ => Ok(like),
        }
    }
}

impl Expected {
    /// Expects this table too, unless the case names another one.
    pub(super) fn of_table(&self, table: Option<&str>) -> Self {
        match self {
            Self::Allow(like) => {
                let table = like.table.clone().or_else(|| table.map(str::to_owned));
                Self::Allow(AllowLike { table, ..like.clone() })
            }
            Self::Deny(like) => Self::Deny(like.clone()),
        }
    }
}

/// Lists how a decision differs from the expected one.
pub(super) fn differences(expected: &Expected, verdict: &Verdict) -> Vec<Difference> {
    match (expected, &verdict.decision) {
        (Expected::Allow(like), Ok(Allowed::Electric(upstream))) => like.differences(upstream),
        (Expected::Allow(_), Ok(Allowed::Own(_))) => Vec::new(),
        (Expected::Deny(like), Err(rejection)) => like.differences(rejection, verdict),
        (Expected::Allow(_), Err(rejection)) => {
            let tried: String = verdict.missed.iter().map(|missed| format!("\ntried {}", missed.words)).collect();
            vec![Difference::of("decision", "allow", format!("deny, {}{tried}", denied(rejection)))]
        }
        (Expected::Deny(_), Ok(allowed)) => {
            let found = match allowed {
                Allowed::Electric(upstream) => format!("allow by rule {}", upstream.rule().as_str()),
                Allowed::Own(outcome) => format!("allow, {outcome}"),
            };
            vec![Difference::of("decision", "deny", found)]
        }
    }
}

fn denied(rejection: &Rejection) -> String {
    format!("{}, {}", rejection.answer().1, rejection.reason().as_str())
}

impl AllowLike {
    fn differences(&self, upstream: &UpstreamRequest) -> Vec<Difference> {
        let pairs: Vec<_> = url::form_urlencoded::parse(upstream.query().as_bytes()).into_owned().collect();
        let value = |name: &str| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let params = pairs.iter().filter(|(name, _)| name.starts_with("params["));
        let params: Vec<_> = params.map(|(_, value)| value.clone()).collect();
        let columns =
            value("columns").and_then(Columns::parse).map(|columns| columns.names().to_vec()).unwrap_or_default();
        let subset = upstream.body().and_then(|body| serde_json::from_str::<serde_json::Value>(body).ok());
        let subset = subset.as_ref().map_or(&serde_json::Value::Null, |body| &body["subset"]);
        let mut compared = Compared(Vec::new());
        compared.text("rule", self.rule.as_deref(), upstream.rule().as_str());
        compared.text("table", self.table.as_deref(), value("table").unwrap_or_default());
        compared.text("where", self.predicate.as_deref(), value("where").unwrap_or("none"));
        compared.list("params", self.params.as_deref(), &params);
        compared.list("columns", self.columns.as_deref(), &columns);
        compared.text("upstream", self.upstream.as_deref(), upstream.upstream().as_str());
        compared.any("subset", self.subset.as_ref(), subset, ToString::to_string);
        compared.0
    }
}

impl DenyLike {
    fn differences(&self, rejection: &Rejection, verdict: &Verdict) -> Vec<Difference> {
        let mut compared = Compared(Vec::new());
        compared.text("code", self.code.as_deref(), rejection.answer().1);
        compared.text("reason", self.reason.as_deref(), rejection.reason().as_str());
        let rule = verdict.rule.as_ref().map_or("none", |rule| rule.as_str());
        compared.text("rule", self.rule.as_deref(), rule);
        compared.0
    }
}

/// The differences found so far. What a case does not name is not compared.
struct Compared(Vec<Difference>);

impl Compared {
    fn text(&mut self, what: &'static str, expected: Option<&str>, found: &str) {
        self.any(what, expected, found, |text| (*text).to_owned());
    }

    fn list(&mut self, what: &'static str, expected: Option<&[String]>, found: &[String]) {
        self.any(what, expected, found, |list| format!("{list:?}"));
    }

    fn any<T: PartialEq + Copy>(
        &mut self,
        what: &'static str,
        expected: Option<T>,
        found: T,
        shown: impl Fn(&T) -> String,
    ) {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            self.0.push(Difference::of(what, shown(&expected), shown(&found)));
        }
    }
}

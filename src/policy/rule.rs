//! A compiled rule.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::destination::Destination;
use super::expression::{Expression, Scope};
use super::source::{PredicateSource, RuleError, RuleSource};
use super::template::{Rendered, Template};
use crate::digest::sha256;
use crate::hex::hex;
use crate::shape::{Columns, Replica, SHAPE_PATH, TableName};

/// A rule's name in metrics, logs and `explain`: its path or table, with `#n` behind from the second one on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(Arc<str>);

impl RuleId {
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name; made from the configuration alone.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One compiled `[[shape]]`.
#[derive(Debug)]
pub struct Rule {
    pub(super) table: TableName,
    /// As the file writes it, and as Electric gets it.
    pub(super) table_text: Arc<str>,
    pub(super) path: Option<String>,
    pub(super) public: bool,
    pub(super) replica: Replica,
    /// The columns that are sent, and the only ones that a filter may name.
    pub(super) columns: Option<Columns>,
    pub(super) subset: bool,
    pub(super) client_where: bool,
    pub(super) upstream: Destination,
    /// What the file says of the rule, hashed.
    pub(super) fingerprint: Arc<str>,
    allow: Option<Expression>,
    predicate: Predicate,
}

#[derive(Debug)]
enum Predicate {
    Template(Template),
    Unfiltered,
}

impl Rule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// Everything that is wrong with it, by key.
    pub fn compile(source: RuleSource) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let fingerprint = fingerprint(&source);
        let table = TableName::parse(&source.table).map_err(|error| fail(&mut errors, "table", error.to_string())).ok();
        let allow = compile_allow(source.allow.as_deref(), &mut errors);
        let predicate = compile_predicate(&source.predicate, &mut errors);
        let columns = compile_columns(source.columns.as_deref(), &mut errors);
        let upstream = Destination::compile(&source.upstream);
        let upstream = upstream.map_err(|message| fail(&mut errors, "upstream", message)).ok();
        check_path(source.path.as_deref(), &mut errors);
        if source.public {
            check_public(allow.as_ref(), predicate.as_ref(), upstream.as_ref(), &mut errors);
        }
        match (table, predicate, upstream) {
            (Some(table), Some(predicate), Some(upstream)) if errors.is_empty() => Ok(Self {
                table,
                table_text: source.table.into(),
                path: source.path,
                public: source.public,
                replica: source.replica,
                columns,
                subset: source.subset,
                client_where: source.client_where,
                upstream,
                fingerprint,
                allow,
                predicate,
            }),
            _ => Err(errors),
        }
    }

    /// The SQL of its `where` with `$1`, `$2`, … in the places of values; `None` where it serves every row.
    pub fn sql(&self) -> Option<String> {
        match &self.predicate {
            Predicate::Template(template) => Some(template.sql()),
            Predicate::Unfiltered => None,
        }
    }

    /// The client parameters its expressions read.
    pub(super) fn parameters(&self) -> BTreeSet<&str> {
        self.allow.iter().chain(self.predicate.expressions()).flat_map(Expression::parameters).collect()
    }

    pub(super) fn allows(&self, scope: &Scope<'_>) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.holds(scope))
    }

    /// The `where` with its values; `None` denies.
    pub(super) fn render(&self, scope: &Scope<'_>) -> Option<Option<Rendered>> {
        match &self.predicate {
            Predicate::Template(template) => template.render(scope).map(Some),
            Predicate::Unfiltered => Some(None),
        }
    }
}

impl Predicate {
    fn expressions(&self) -> Box<dyn Iterator<Item = &Expression> + '_> {
        match self {
            Self::Template(template) => Box::new(template.expressions()),
            Self::Unfiltered => Box::new(std::iter::empty()),
        }
    }
}

/// The first 16 bytes, in hex, of the SHA-256 of all that the file says of a rule: `Debug` leaves no key out, so none
/// that is added later can be forgotten here.
fn fingerprint(source: &RuleSource) -> Arc<str> {
    hex(&sha256(format!("{source:?}"))[..16]).into()
}

fn fail(errors: &mut Vec<RuleError>, key: &'static str, message: String) {
    errors.push(RuleError { key, message });
}

fn compile_allow(source: Option<&str>, errors: &mut Vec<RuleError>) -> Option<Expression> {
    Expression::compile(source?).map_err(|message| fail(errors, "allow", message)).ok()
}

fn compile_predicate(source: &PredicateSource, errors: &mut Vec<RuleError>) -> Option<Predicate> {
    match source {
        PredicateSource::Unfiltered => Some(Predicate::Unfiltered),
        PredicateSource::Template(text) if text.trim().is_empty() => {
            // Electric takes an empty `where` for none at all (tests/electric/111).
            fail(errors, "where", "is empty; to serve every row, say where = \"none\"".to_owned());
            None
        }
        PredicateSource::Template(text) => {
            Template::compile(text).map(Predicate::Template).map_err(|message| fail(errors, "where", message)).ok()
        }
    }
}

fn compile_columns(columns: Option<&[String]>, errors: &mut Vec<RuleError>) -> Option<Columns> {
    Columns::exact(columns?).map_err(|error| fail(errors, "columns", error.to_string())).ok()
}

fn check_path(path: Option<&str>, errors: &mut Vec<RuleError>) {
    let Some(path) = path else { return };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    if !path.starts_with('/') || !path.chars().all(plain) || path.contains("//") || path.contains("/.") {
        fail(errors, "path", "write /segments of letters, digits, - . _ ~".to_owned());
    } else if path == SHAPE_PATH {
        fail(errors, "path", format!("{SHAPE_PATH} serves the rules without a path; leave it out or choose another"));
    }
}

/// A public request carries no token, so a rule that reads claims would deny every one.
fn check_public(
    allow: Option<&Expression>,
    predicate: Option<&Predicate>,
    upstream: Option<&Destination>,
    errors: &mut Vec<RuleError>,
) {
    let message = "reads claims, but the rule is public and a public request has none".to_owned();
    if allow.is_some_and(Expression::reads_claims) {
        fail(errors, "allow", message);
    } else if predicate.is_some_and(|predicate| predicate.expressions().any(Expression::reads_claims)) {
        fail(errors, "where", message);
    } else if upstream.is_some_and(Destination::reads_claims) {
        fail(errors, "upstream", message);
    }
}

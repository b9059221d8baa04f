//! Compiles a rule.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::destination::Destination;
use super::expression::{Expression, Scope};
use super::question::QuestionTemplates;
use super::source::{PredicateSource, RuleError, RuleSource};
use super::template::{Rendered, Template};
use crate::digest::sha256;
use crate::hex::hex;
use crate::shape::{Columns, Replica, SHAPE_PATH, TableName};

/// A rule's name in metrics, logs and `explain`: its path or table, followed by `#2`, `#3`, … if there are several.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleId(Arc<str>);

impl RuleId {
    pub(super) fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name. It depends on the configuration only, never on a request.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A compiled `[[shape]]`.
#[derive(Debug)]
pub struct Rule {
    pub(super) table: TableName,
    /// The table as written in the file and as sent to Electric.
    pub(super) table_text: Arc<str>,
    pub(super) path: Option<String>,
    pub(super) public: bool,
    pub(super) replica: Replica,
    /// The columns that are sent and that a filter may name; `None` for all.
    pub(super) columns: Option<Columns>,
    pub(super) subset: bool,
    pub(super) client_where: bool,
    pub(super) upstream: Destination,
    /// The hash of the rule's settings.
    pub(super) fingerprint: Arc<str>,
    /// What decision services are asked.
    pub(super) questions: QuestionTemplates,
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
    /// Every error in the rule, with its key.
    pub fn compile(source: RuleSource) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let fingerprint = fingerprint(&source);
        let table = TableName::parse(&source.table).map_err(|error| fail(&mut errors, "table", error.to_string())).ok();
        let allow = compile_allow(source.allow.as_deref(), &mut errors);
        let predicate = compile_predicate(&source.predicate, &mut errors);
        let columns = compile_columns(source.columns.as_deref(), &mut errors);
        let upstream = Destination::compile(&source.upstream);
        let upstream = upstream.map_err(|message| fail(&mut errors, "upstream", message)).ok();
        let questions = QuestionTemplates::compile(&source, &mut errors);
        check_path(source.path.as_deref(), &mut errors);
        check_decisions(&questions, allow.as_ref(), predicate.as_ref(), upstream.as_ref(), &mut errors);
        if source.public {
            check_public(allow.as_ref(), predicate.as_ref(), upstream.as_ref(), &questions, &mut errors);
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
                questions,
                allow,
                predicate,
            }),
            _ => Err(errors),
        }
    }

    /// Returns the SQL of its `where` with `$1`, `$2`, … for the values; `None` if the rule serves every row.
    pub fn sql(&self) -> Option<String> {
        match &self.predicate {
            Predicate::Template(template) => Some(template.sql()),
            Predicate::Unfiltered => None,
        }
    }

    /// Returns the client parameters that its expressions read.
    pub(super) fn parameters(&self) -> BTreeSet<&str> {
        let asked = self.questions.expressions().map(|(_, expression)| expression);
        self.allow.iter().chain(self.predicate.expressions()).chain(asked).flat_map(Expression::parameters).collect()
    }

    pub(super) fn allows(&self, scope: &Scope<'_>) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.holds(scope))
    }

    /// Renders the `where` with its values. The outer `None` denies; the inner one means every row.
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

/// Hashes all settings of a rule: the first 16 bytes of a SHA-256, in hex. It hashes the `Debug` output, which includes
/// keys that are added later.
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
            // Electric treats an empty `where` as absent (tests/electric/111).
            fail(errors, "where", "is empty; to serve every row, write where = \"none\"".to_owned());
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
        fail(errors, "path", "must be /segments of letters, digits, - . _ ~".to_owned());
    } else if path == SHAPE_PATH {
        fail(errors, "path", format!("{SHAPE_PATH} serves the rules without a path; leave it out or choose another"));
    }
}

/// Rejects a public rule that reads claims. A public request has no token, so the rule would deny every request.
fn check_public(
    allow: Option<&Expression>,
    predicate: Option<&Predicate>,
    upstream: Option<&Destination>,
    questions: &QuestionTemplates,
    errors: &mut Vec<RuleError>,
) {
    let message = "reads claims, but the rule is public and a public request has no token".to_owned();
    if allow.is_some_and(Expression::reads_claims) {
        fail(errors, "allow", message);
    } else if predicate.is_some_and(|predicate| predicate.expressions().any(Expression::reads_claims)) {
        fail(errors, "where", message);
    } else if upstream.is_some_and(Destination::reads_claims) {
        fail(errors, "upstream", message);
    } else if let Some((key, _)) = questions.expressions().find(|(_, expression)| expression.reads_claims()) {
        fail(errors, key, message);
    }
}

/// Checks that answers of decision services are read only where they are known, and that none is missing.
fn check_decisions(
    questions: &QuestionTemplates,
    allow: Option<&Expression>,
    predicate: Option<&Predicate>,
    upstream: Option<&Destination>,
    errors: &mut Vec<RuleError>,
) {
    const EARLY: &str = "reads `decision`, which is known only after `allow` is true: use it in `where`";
    if allow.is_some_and(Expression::reads_decision) {
        fail(errors, "allow", EARLY.to_owned());
    }
    if upstream.is_some_and(Destination::reads_decision) {
        fail(errors, "upstream", EARLY.to_owned());
    }
    // A question with an error of its own is not there.
    if let Some(predicate) = predicate.filter(|_| errors.is_empty())
        && let Some((key, message)) = questions.check_used(|reads| predicate.expressions().any(reads))
    {
        fail(errors, key, message.to_owned());
    }
}

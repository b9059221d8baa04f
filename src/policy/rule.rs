//! Compiles a rule.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::destination::Destination;
use super::expression::{Expression, Scope};
use super::fingerprint::fingerprint;
use super::lint;
use super::problem::{Problem, RuleError};
use super::question::QuestionTemplates;
use super::source::{PredicateSource, RuleSource};
use super::taint::Restricted;
use super::template::{Place, Rendered, Template};
use super::unmet::Unmet;
use crate::digest::sha256;
use crate::hex::hex;
use crate::shape::{Columns, Replica, SHAPE_PATH, TableName};

/// A rule's name in metrics, logs and `explain`: its `name`, else its path or table, followed by `#2`, `#3`, … for the
/// second and further rules of that path or table.
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
    /// The rule's own name; `None` derives one from its path or table.
    pub(super) name: Option<Arc<str>>,
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
    /// The hash of the settings that decide whether the rule applies, and with which rows.
    pub(super) condition: Arc<str>,
    /// The line of the rule in its file; 0 if unknown.
    pub(super) line: usize,
    /// What decision services are asked.
    pub(super) questions: QuestionTemplates,
    allow: Option<Expression>,
    predicate: Predicate,
    warnings: Vec<RuleError>,
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
        let (fingerprint, condition) = (fingerprint(&source), condition(&source));
        let table = TableName::parse(&source.table).map_err(|error| fail(&mut errors, "table", error.to_string())).ok();
        let allow = compile_allow(source.allow.as_deref(), &mut errors);
        let predicate = compile_predicate(&source.predicate, &mut errors);
        let columns = compile_columns(source.columns.as_deref(), &mut errors);
        let upstream = Destination::compile(&source.upstream);
        let upstream = upstream.map_err(|problem| errors.push(problem.of("upstream"))).ok();
        let questions = QuestionTemplates::compile(&source, &mut errors);
        check_path(source.path.as_deref(), &mut errors);
        check_name(source.name.as_deref(), &mut errors);
        let places = predicate.as_ref().map_or(&[][..], Predicate::places);
        check_places(allow.as_ref(), places, &mut errors);
        let restricted = Restricted::by(allow.as_ref().map(Expression::tree)).and_terms(questions.parameters());
        let chosen = check_chosen(&source, &restricted, places, &mut errors);
        let warnings = warnings(&source, &chosen, allow.as_ref());
        check_decisions(&questions, allow.as_ref(), predicate.as_ref(), upstream.as_ref(), &mut errors);
        if source.public {
            check_public(allow.as_ref(), predicate.as_ref(), upstream.as_ref(), &questions, &mut errors);
        }
        match (table, predicate, upstream) {
            (Some(table), Some(predicate), Some(upstream)) if errors.is_empty() => Ok(Self {
                name: source.name.map(Into::into),
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
                condition,
                line: 0,
                allow,
                predicate,
                warnings,
            }),
            _ => Err(errors),
        }
    }

    /// Whether both rules are of one table.
    pub fn is_of_table(&self, other: &Self) -> bool {
        self.table == other.table
    }

    /// Returns the SQL of its `where` with `$1`, `$2`, … for the values; `None` if the rule serves every row.
    pub fn sql(&self) -> Option<String> {
        match &self.predicate {
            Predicate::Template(template) => Some(template.sql()),
            Predicate::Unfiltered => None,
        }
    }

    /// Problems that do not prevent the rule's use.
    pub fn warnings(&self) -> &[RuleError] {
        &self.warnings
    }

    /// Returns where the template's own SQL, outside of its placeholders, has a word.
    pub fn find_in_sql(&self, word: &str) -> Option<Range<usize>> {
        match &self.predicate {
            Predicate::Template(template) => template.find(word),
            Predicate::Unfiltered => None,
        }
    }

    /// Returns the claims that each of its keys reads without asking whether they exist.
    pub fn claims(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let allow = self.allow.iter().map(|allow| ("allow", allow));
        let predicate = self.predicate.expressions().map(|expression| ("where", expression));
        let upstream = self.upstream.claim().map(|claim| ("upstream", claim));
        let read = allow.chain(predicate).chain(upstream);
        read.flat_map(|(key, expression)| expression.claims().map(move |name| (key, name)))
    }

    /// Whether every request that may ask the rule is allowed by its `allow`, and by no decision service.
    pub(super) fn allows_all(&self) -> bool {
        self.questions.is_empty() && self.allow.as_ref().is_none_or(|allow| lint::constant(allow) == Some(true))
    }

    /// Whether its rows are the same for every request.
    pub(super) fn is_constant(&self) -> bool {
        self.predicate.places().is_empty() && !self.upstream.reads_claims() && self.questions.is_empty()
    }

    /// Returns the client parameters that its expressions read.
    pub(super) fn parameters(&self) -> BTreeSet<&str> {
        let asked = self.questions.expressions().map(|(_, expression)| expression);
        self.allow.iter().chain(self.predicate.expressions()).chain(asked).flat_map(Expression::parameters).collect()
    }

    /// The table, as the rule writes it.
    pub fn table(&self) -> &str {
        &self.table_text
    }

    /// The line of the rule in its file; 0 if unknown.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Whether a request with a valid token can fail to meet the rule.
    pub fn can_deny(&self) -> bool {
        self.allow.is_some()
            || !self.questions.is_empty()
            || self.upstream.reads_claims()
            || self.values().next().is_some()
    }

    /// Returns the name `id` of this rule for people, with the table if the name is not enough.
    pub(super) fn label(&self, id: &RuleId) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.table_text),
            None => id.as_str().to_owned(),
        }
    }

    /// Notes the line of the rule in its file, for `explain`.
    #[must_use]
    pub fn at_line(self, line: usize) -> Self {
        Self { line, ..self }
    }

    /// Whether its `where` has values that the client chooses.
    pub(super) fn binds_client_values(&self) -> bool {
        self.predicate.expressions().any(|expression| expression.parameters().next().is_some())
    }

    pub(super) fn allows(&self, scope: &Scope<'_>) -> Result<(), Unmet> {
        self.allow.as_ref().map_or(Ok(()), |allow| allow.holds(scope))
    }

    pub(super) fn allow(&self) -> Option<&Expression> {
        self.allow.as_ref()
    }

    /// Returns the placeholders of its `where`.
    pub(super) fn values(&self) -> impl Iterator<Item = &Expression> {
        self.predicate.expressions()
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
    fn places(&self) -> &[Place] {
        match self {
            Self::Template(template) => template.places(),
            Self::Unfiltered => &[],
        }
    }

    fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.places().iter().map(|place| &place.expression)
    }
}

/// Hashes the settings that decide whether a rule applies, and with which rows.
fn condition(source: &RuleSource) -> Arc<str> {
    let RuleSource { allow, predicate, public, upstream, evaluate, search, .. } = source;
    hex(&sha256(format!("{allow:?} {predicate:?} {public} {upstream:?} {evaluate:?} {search:?}"))[..16]).into()
}

fn fail(errors: &mut Vec<RuleError>, key: &'static str, problem: impl Into<Problem>) {
    errors.push(problem.into().of(key));
}

fn compile_allow(source: Option<&str>, errors: &mut Vec<RuleError>) -> Option<Expression> {
    let allow = Expression::compile(source?).and_then(|allow| lint::allow(&allow).map(|()| allow));
    allow.map_err(|problem| errors.push(problem.of("allow"))).ok()
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
            Template::compile(text).map(Predicate::Template).map_err(|problem| errors.push(problem.of("where"))).ok()
        }
    }
}

fn compile_columns(columns: Option<&[String]>, errors: &mut Vec<RuleError>) -> Option<Columns> {
    lint::columns(columns?).map_err(|problem| errors.push(problem.of("columns"))).ok()?;
    Columns::exact(columns?).map_err(|error| fail(errors, "columns", error.to_string())).ok()
}

/// The most bytes of a rule's name.
const MAX_NAME: usize = 64;

/// The rule name, in logs and metrics, of requests that another issuer's shape token allows.
pub(super) const FOREIGN: &str = "shape_claim";

fn check_name(name: Option<&str>, errors: &mut Vec<RuleError>) {
    let Some(name) = name else { return };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.len() > MAX_NAME || !name.chars().all(plain) {
        let message = format!("must be 1 to {MAX_NAME} letters, digits, - _ or ., because logs and metrics show it");
        fail(errors, "name", message);
    } else if name == FOREIGN {
        fail(errors, "name", format!("{FOREIGN} is the name of requests with a shape token; choose another"));
    }
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

/// Rejects a value of a kind that its place in `where` does not take.
fn check_places(allow: Option<&Expression>, places: &[Place], errors: &mut Vec<RuleError>) {
    let lists = allow.map(|allow| lint::lists(allow.tree())).unwrap_or_default();
    for place in places {
        if let Err(problem) = lint::place(place, &lists) {
            errors.push(problem.within(place.part.clone()).of("where"));
        }
    }
}

/// Rejects a `where` with a value that the client chooses: one that `allow` does not restrict and `client_chosen` does
/// not name. Returns every such value.
fn check_chosen(
    source: &RuleSource,
    restricted: &Restricted,
    places: &[Place],
    errors: &mut Vec<RuleError>,
) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    // An `allow` that is not CEL says nothing, and has its own error.
    if errors.iter().any(|error| error.key == "allow") {
        return all;
    }
    for place in places {
        for parameter in restricted.chosen(place.expression.tree()) {
            all.insert(parameter.to_owned());
            if !source.client_chosen.iter().any(|name| name == parameter) {
                errors.push(chosen(parameter, source, restricted, places).within(place.part.clone()).of("where"));
            }
        }
    }
    all
}

fn warnings(source: &RuleSource, chosen: &BTreeSet<String>, allow: Option<&Expression>) -> Vec<RuleError> {
    let allow = allow.and_then(lint::constant).map(|value| match value {
        true => {
            Problem::from("is always true").help("leave it out if every valid token may read these rows").of("allow")
        }
        false => Problem::from("is never true: the rule denies every request")
            .help("correct it, or remove the rule")
            .of("allow"),
    });
    let table = lint::table(&source.table).map(|problem| problem.of("table"));
    let client_chosen = lint::client_chosen(&source.client_chosen, chosen);
    [allow, table, client_chosen].into_iter().flatten().collect()
}

fn chosen(parameter: &str, source: &RuleSource, restricted: &Restricted, places: &[Place]) -> Problem {
    let problem = Problem::from(format!(
        "the client chooses `query.{parameter}`, and `allow` does not restrict it to claims or constants: one tenant \
         could read the rows of another"
    ));
    let is_bound = |name: &str| places.iter().any(|place| place.expression.parameters().any(|bound| bound == name));
    let other = restricted.parameters().find(|other| *other != parameter && !is_bound(other));
    match (restricted.term_with(parameter), other) {
        (Some(term), _) => problem.help(format!("`allow` restricts `{term}`: bind {{{{ {term} }}}}")),
        (None, Some(other)) => {
            problem.help(format!("`allow` restricts `query.{other}`: bind that, or restrict `query.{parameter}` too"))
        }
        (None, None) => {
            // A public request has no claims.
            let (values, meaning) = match source.public {
                true => ("['…', '…']", "the values that everybody may read"),
                false => ("claims.…", "the claim that lists what a token may read"),
            };
            let condition = format!("query.{parameter} in {values}");
            let allow = if source.allow.is_some() {
                format!("add `&& {condition}` to `allow`")
            } else {
                format!("write allow = \"{condition}\"")
            };
            problem.help(format!(
                "{allow} with {meaning}, or danger_client_chosen = [{parameter:?}] if any client may read any of these \
                 rows"
            ))
        }
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

//! Finds rules that deny every request, that can never apply, or that do not say what they mean.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{Expr, operators};

use super::ast::{children, is_named, parameter};
use super::expression::{Expression, Scope};
use super::kind::Kind;
use super::problem::{Problem, RuleError};
use super::rule::Rule;
use super::template::{ListPlace, Place};
use crate::clock::UnixTime;

/// Checks that `allow` can be true.
pub(super) fn allow(allow: &Expression) -> Result<(), Problem> {
    conditions(allow.tree())
}

/// Checks each condition that `allow` combines.
fn conditions(node: &IdedExpr) -> Result<(), Problem> {
    if let Expr::Call(call) = &node.expr {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (
                operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT | operators::CONDITIONAL,
                parts,
            ) => {
                return parts.iter().try_for_each(conditions);
            }
            (operators::IN, [_, container]) if !may_contain(Kind::of(container)) => {
                let kind = Kind::of(container).words();
                return Err(Problem::from(format!("`in` needs a list, but {} is {kind}", described(container)))
                    .help("compare one value with =="));
            }
            _ => {}
        }
    }
    let kind = Kind::of(node);
    if kind.may_be_bool() {
        return Ok(());
    }
    let problem =
        Problem::from(format!("{} is {}, which is never true: every request is denied", described(node), kind.words()));
    Err(match parameter(node) {
        Some(name) => problem.help(format!("compare it, as in query.{name} in claims.ids")),
        None => problem.help("write a comparison, as in claims.role == \"admin\""),
    })
}

const fn may_contain(kind: Kind) -> bool {
    matches!(kind, Kind::List | Kind::Map | Kind::Unknown)
}

/// Names an expression in a message, if it is short.
fn described(node: &IdedExpr) -> String {
    match (&node.expr, parameter(node)) {
        (_, Some(name)) => format!("`query.{name}`"),
        (Expr::Select(select), _) if is_named(&select.operand, "claims") => format!("`claims.{}`", select.field),
        (Expr::Ident(name), _) => format!("`{name}`"),
        _ => "this".to_owned(),
    }
}

/// Returns whether `allow` has the same value for every request.
pub(super) fn constant(allow: &Expression) -> Option<bool> {
    let reads = allow.reads_claims() || allow.reads_now() || allow.parameters().next().is_some();
    (!reads).then(|| allow.holds(&Scope::new(None, &[], UnixTime::from_secs(0))).is_ok())
}

/// Checks that a placeholder has the kind of value that its place needs. `lists` are the claims that `allow` reads as
/// lists.
pub(super) fn place(place: &Place, lists: &BTreeSet<&str>) -> Result<(), Problem> {
    const ONE: &str = "write \"column\" IN ({{ … }}) for a list";
    let tree = place.expression.tree();
    let message = match Kind::of(tree) {
        Kind::List if place.list == ListPlace::Nowhere => {
            return Err(Problem::from("this is a list, but one value is needed here").help(ONE));
        }
        Kind::Float => "a float has no exact text",
        Kind::Map => "a map cannot be bound",
        Kind::Null => "null cannot be bound",
        Kind::Unknown => {
            let name = claim(tree).filter(|name| lists.contains(name) && place.list == ListPlace::Nowhere);
            let Some(name) = name else { return Ok(()) };
            let message = format!("`claims.{name}` is a list in `allow`, but one value is needed here");
            return Err(Problem::from(message).help(ONE));
        }
        Kind::Bool | Kind::List | Kind::Number | Kind::Text => return Ok(()),
    };
    Err(Problem::from(format!("{message}: every request is denied")).help("bind a text, an integer or a boolean"))
}

/// Returns the claims in which an expression looks for values: `x in claims.ids`, `claims.ids.exists(…)`.
pub(super) fn lists(node: &IdedExpr) -> BTreeSet<&str> {
    let container = match &node.expr {
        Expr::Call(call) if call.func_name == operators::IN => call.args.get(1),
        Expr::Comprehension(inner) => Some(&inner.iter_range),
        _ => None,
    };
    let nested = children(&node.expr).into_iter().flat_map(lists);
    container.and_then(claim).into_iter().chain(nested).collect()
}

/// Returns the name in `claims.name`.
fn claim(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Select(select) if !select.test && is_named(&select.operand, "claims") => Some(&select.field),
        _ => None,
    }
}

/// Checks that no name in `columns` is a list of names.
pub(super) fn columns(columns: &[String]) -> Result<(), Problem> {
    let plain = |name: &str| name.chars().all(|c| c.is_alphanumeric() || "_ \"".contains(c)) && !name.trim().is_empty();
    let Some(list) = columns.iter().find(|name| name.contains(',') && name.split(',').all(plain)) else {
        return Ok(());
    };
    let names: Vec<_> = list.split(',').map(|name| format!("{:?}", name.trim())).collect();
    Err(Problem::from(format!("{list:?} is one column name with a comma"))
        .help(format!("write [{}]", names.join(", "))))
}

/// Warns about a table name that Postgres folds to lower case.
pub(super) fn table(text: &str) -> Option<Problem> {
    let quoted: Vec<_> =
        text.split('.').map(|part| if is_mixed(part) { format!("\"{part}\"") } else { part.to_owned() }).collect();
    let quoted = quoted.join(".");
    (quoted != text && !text.contains('"')).then(|| {
        let folded = text.to_ascii_lowercase();
        Problem::from(format!("without quotes, Postgres reads {text} as {folded}"))
            .help(format!("write {folded:?}, or '{quoted}' if the name has capitals"))
    })
}

/// Whether a word has capitals and other letters: `userId`, but not `ITEMS`.
fn is_mixed(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_uppercase()) && word.contains(|c: char| c.is_ascii_lowercase())
}

/// Why a rule is never or rarely asked. The worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shadow {
    /// An earlier rule without `allow` decides for every token that has the claims of its `where`.
    Mostly,
    /// An earlier rule allows the same requests, or all of them.
    Always(&'static str),
}

/// Returns why `later` is not asked, if `earlier` comes before it in the file.
pub fn shadow(earlier: &Rule, later: &Rule) -> Option<Shadow> {
    let same_place = match (&earlier.path, &later.path) {
        (None, None) => earlier.table == later.table,
        (one, other) => one == other,
    };
    if !same_place || (later.public && !earlier.public) {
        return None;
    }
    if earlier.condition == later.condition {
        return Some(Shadow::Always("allows the same requests with the same rows"));
    }
    if !earlier.allows_all() {
        return None;
    }
    let mut reads_query = earlier.parameters().into_iter();
    match (earlier.is_constant(), reads_query.next()) {
        (true, _) => Some(Shadow::Always("has no `allow` and decides first")),
        (false, None) => Some(Shadow::Mostly),
        (false, Some(_)) => None,
    }
}

/// Warns about names in `danger_client_chosen` that have no effect.
pub(super) fn client_chosen(names: &[String], chosen: &BTreeSet<String>) -> Option<RuleError> {
    let unused = names.iter().find(|name| !chosen.contains(*name))?;
    let problem =
        Problem::from(format!("{unused:?} has no effect, because `where` does not read it or `allow` restricts it"));
    Some(problem.help("remove it").of("danger_client_chosen"))
}

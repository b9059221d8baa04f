//! Proves that a client cannot choose what a rule binds.
//!
//! A client's own parameter may reach `where` only if `allow` restricts it: whenever `allow` is true, the parameter was
//! equal to, or was found in, something that the client has no say in, which is a claim or a constant. The proof follows
//! CEL's evaluation (`cel` 0.15, `Value::resolve_val`): for each node it computes which terms are restricted if the node
//! is true, and which if it is false. What it does not understand restricts nothing, so it never accepts too much.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{ComprehensionExpr, Expr, LiteralValue, operators};

use super::ast::{self, Element, children, is_from_client, is_named};

/// The client's values, as CEL terms in one spelling, that are restricted under some condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Restricted {
    /// The condition never arises, so anything follows from it.
    Everything,
    Terms(BTreeSet<String>),
}

/// What is restricted if an expression is true, and if it is false.
struct Outcomes {
    when_true: Restricted,
    when_false: Restricted,
}

impl Restricted {
    /// What `allow` restricts; without it, nothing.
    pub(super) fn by(allow: Option<&IdedExpr>) -> Self {
        allow.map_or_else(Self::nothing, |allow| outcomes(allow, &mut Vec::new()).when_true)
    }

    /// Also restricts these parameters.
    pub(super) fn and_terms<'a>(self, parameters: impl Iterator<Item = &'a str>) -> Self {
        self.and(Self::Terms(parameters.map(spelled).collect()))
    }

    /// Returns the parameters that reach the value of `node` although they are not restricted.
    pub(super) fn chosen<'a>(&self, node: &'a IdedExpr) -> BTreeSet<&'a str> {
        let mut chosen = BTreeSet::new();
        self.collect(node, &mut Vec::new(), &mut chosen);
        chosen
    }

    /// Returns the function of a parameter that is restricted instead of the parameter itself, as in `int(query.id)`.
    pub(super) fn term_with(&self, parameter: &str) -> Option<String> {
        let inside = format!("({})", spelled(parameter));
        let functions = self.terms().filter_map(|term| term.strip_suffix(&inside));
        let function = functions.into_iter().find(|name| name.chars().all(|c| c.is_ascii_alphabetic()))?;
        Some(format!("{function}(query.{parameter})"))
    }

    /// Returns the restricted parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.terms().filter_map(|term| term.strip_prefix("query[\"")?.strip_suffix("\"]"))
    }

    fn terms(&self) -> impl Iterator<Item = &str> {
        let terms = match self {
            Self::Terms(terms) => Some(terms),
            Self::Everything => None,
        };
        terms.into_iter().flatten().map(String::as_str)
    }

    fn collect<'a>(&self, node: &'a IdedExpr, bound: &mut Vec<Element>, chosen: &mut BTreeSet<&'a str>) {
        if is_pick(node, bound) || self.holds(node, bound) {
            return;
        }
        if let Some(parameter) = ast::parameter(node) {
            chosen.insert(parameter);
            return;
        }
        let depth = bound.len();
        if let Expr::Comprehension(inner) = &node.expr {
            bound.extend(elements(inner, true));
        }
        children(&node.expr).into_iter().for_each(|child| self.collect(child, bound, chosen));
        bound.truncate(depth);
    }

    fn holds(&self, node: &IdedExpr, bound: &[Element]) -> bool {
        match self {
            Self::Everything => true,
            Self::Terms(terms) => term(node, bound).is_some_and(|term| terms.contains(&term)),
        }
    }

    const fn nothing() -> Self {
        Self::Terms(BTreeSet::new())
    }

    /// Both conditions hold.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Terms(mut terms), Self::Terms(others)) => {
                terms.extend(others);
                Self::Terms(terms)
            }
            _ => Self::Everything,
        }
    }

    /// One of the conditions holds.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Everything, one) | (one, Self::Everything) => one,
            (Self::Terms(terms), Self::Terms(others)) => Self::Terms(terms.intersection(&others).cloned().collect()),
        }
    }
}

impl Outcomes {
    fn not(self) -> Self {
        Self { when_true: self.when_false, when_false: self.when_true }
    }

    fn both(value: Restricted) -> Self {
        Self { when_true: value.clone(), when_false: value }
    }
}

fn outcomes(node: &IdedExpr, bound: &mut Vec<Element>) -> Outcomes {
    match &node.expr {
        Expr::Literal(LiteralValue::Boolean(value)) => {
            let literal = Outcomes { when_true: Restricted::nothing(), when_false: Restricted::Everything };
            if *value.inner() { literal } else { literal.not() }
        }
        Expr::Call(call) if call.target.is_none() => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_NOT, [inner]) => outcomes(inner, bound).not(),
            (operators::LOGICAL_AND, [left, right]) => {
                let (left, right) = (outcomes(left, bound), outcomes(right, bound));
                Outcomes {
                    when_true: left.when_true.and(right.when_true),
                    when_false: left.when_false.or(right.when_false),
                }
            }
            // `a || b` is `!(!a && !b)`: an error on one side does not matter if the other side decides.
            (operators::LOGICAL_OR, [left, right]) => {
                let (left, right) = (outcomes(left, bound), outcomes(right, bound));
                Outcomes {
                    when_true: left.when_true.or(right.when_true),
                    when_false: left.when_false.and(right.when_false),
                }
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let (condition, yes, no) = (outcomes(condition, bound), outcomes(yes, bound), outcomes(no, bound));
                let (if_yes, if_no) = (condition.when_true, condition.when_false);
                Outcomes {
                    when_true: if_yes.clone().and(yes.when_true).or(if_no.clone().and(no.when_true)),
                    when_false: if_yes.and(yes.when_false).or(if_no.and(no.when_false)),
                }
            }
            (operators::EQUALS, [left, right]) => compared(node, equal(left, right, bound), bound),
            (operators::NOT_EQUALS, [left, right]) => compared(node, equal(left, right, bound), bound).not(),
            (operators::IN, [item, container]) => compared(node, member(item, container, bound), bound),
            _ => Outcomes::both(evaluated(node, bound)),
        },
        Expr::Comprehension(inner) => {
            Outcomes { when_true: found(inner, bound), ..Outcomes::both(Restricted::nothing()) }
        }
        _ => Outcomes::both(evaluated(node, bound)),
    }
}

/// The outcomes of a comparison that restricts `restricted` if it is true.
fn compared(node: &IdedExpr, restricted: Restricted, bound: &mut Vec<Element>) -> Outcomes {
    let evaluated = evaluated(node, bound);
    Outcomes { when_true: evaluated.clone().and(restricted), when_false: evaluated }
}

/// What is restricted if `left == right`.
fn equal(left: &IdedExpr, right: &IdedExpr, bound: &[Element]) -> Restricted {
    let one = |term_of: &IdedExpr, other: &IdedExpr| {
        term(term_of, bound).filter(|_| is_from_client(term_of, bound) && !is_from_client(other, bound))
    };
    Restricted::Terms(one(left, right).or_else(|| one(right, left)).into_iter().collect())
}

/// What is restricted if `item in container`.
fn member(item: &IdedExpr, container: &IdedExpr, bound: &[Element]) -> Restricted {
    Restricted::Terms(term(item, bound).filter(|_| is_collection(container, bound)).into_iter().collect())
}

/// What is restricted if `range.exists(x, predicate)` or `exists_one` is true: the predicate was true for some element.
/// An `all` is true for an empty list, so it restricts nothing.
fn found(inner: &ComprehensionExpr, bound: &mut Vec<Element>) -> Restricted {
    let Some(predicate) = predicate(inner) else { return Restricted::nothing() };
    let depth = bound.len();
    let from_client = !is_collection(&inner.iter_range, bound);
    bound.extend(elements(inner, from_client));
    let restricted = outcomes(predicate, bound).when_true;
    bound.truncate(depth);
    restricted
}

/// Returns the predicate of an expanded `exists` (`@result || predicate`) or `exists_one` (`predicate ? @result + 1 :
/// @result`).
fn predicate(inner: &ComprehensionExpr) -> Option<&IdedExpr> {
    let Expr::Call(step) = &inner.loop_step.expr else { return None };
    let accumulated = |node: &IdedExpr| is_named(node, &inner.accu_var);
    let starts = |literal: LiteralValue| inner.accu_init.expr == Expr::Literal(literal);
    match (step.func_name.as_str(), step.args.as_slice()) {
        (operators::LOGICAL_OR, [before, predicate])
            if accumulated(before) && accumulated(&inner.result) && starts(LiteralValue::Boolean(false.into())) =>
        {
            Some(predicate)
        }
        (operators::CONDITIONAL, [predicate, _, before])
            if accumulated(before) && !accumulated(&inner.result) && starts(LiteralValue::Int(0.into())) =>
        {
            Some(predicate)
        }
        _ => None,
    }
}

fn elements(inner: &ComprehensionExpr, from_client: bool) -> impl Iterator<Item = Element> {
    let names = [Some(&inner.iter_var), inner.iter_var2.as_ref(), Some(&inner.accu_var)];
    let names: Vec<_> = names.into_iter().flatten().cloned().collect();
    names.into_iter().map(move |name| Element { name, from_client })
}

/// What is restricted if a node has a value at all, whatever it is: looking a text up in a map fails if the map has no
/// such key.
fn evaluated(node: &IdedExpr, bound: &mut Vec<Element>) -> Restricted {
    match &node.expr {
        Expr::Select(select) if !select.test => evaluated(&select.operand, bound),
        Expr::Call(call) => match (call.func_name.as_str(), call.args.as_slice()) {
            (operators::LOGICAL_AND | operators::LOGICAL_OR, _) => {
                let of = outcomes(node, bound);
                of.when_true.or(of.when_false)
            }
            (operators::CONDITIONAL, [condition, yes, no]) => {
                let condition = outcomes(condition, bound);
                let yes = condition.when_true.and(evaluated(yes, bound));
                yes.or(condition.when_false.and(evaluated(no, bound)))
            }
            (operators::NOT_STRICTLY_FALSE | operators::OPT_INDEX | operators::OPT_SELECT, _) => Restricted::nothing(),
            (name, args) => {
                let parts = call.target.as_deref().into_iter().chain(args);
                let parts = parts.fold(Restricted::nothing(), |all, part| all.and(evaluated(part, bound)));
                match args {
                    [of, key] if name == operators::INDEX => parts.and(looked_up(of, key, bound)),
                    _ => parts,
                }
            }
        },
        _ => Restricted::nothing(),
    }
}

/// What is restricted if `of[key]` has a value. Only for a parameter, which is a text: a number could be any place in a
/// list.
fn looked_up(of: &IdedExpr, key: &IdedExpr, bound: &[Element]) -> Restricted {
    let key = ast::parameter(key).and_then(|_| term(key, bound));
    Restricted::Terms(key.filter(|_| is_collection(of, bound)).into_iter().collect())
}

/// Returns whether a node picks an element of something that the client has no say in: `claims.projects[query.id]`.
fn is_pick(node: &IdedExpr, bound: &[Element]) -> bool {
    match &node.expr {
        Expr::Call(call) if call.func_name == operators::INDEX => {
            call.args.first().is_some_and(|of| is_collection(of, bound))
        }
        _ => false,
    }
}

/// Returns whether the client has no say in what a list or map contains. The claims as a whole do not count: who may
/// pick any claim may pick one with a meaning of its own.
fn is_collection(node: &IdedExpr, bound: &[Element]) -> bool {
    !is_from_client(node, bound) && !is_named(node, "claims")
}

/// Writes a term over the variables in one spelling; `None` if it names an element of a list, or is not a plain term.
fn term(node: &IdedExpr, bound: &[Element]) -> Option<String> {
    if let (Some(name), false) = (ast::parameter(node), is_test(node)) {
        return Some(spelled(name));
    }
    match &node.expr {
        Expr::Ident(name) if bound.iter().all(|element| element.name != *name) => Some(name.clone()),
        Expr::Literal(literal) => Some(format!("{literal:?}")),
        Expr::Select(select) if !select.test => Some(format!("{}.{}", term(&select.operand, bound)?, select.field)),
        Expr::Call(call) => {
            let args: Option<Vec<_>> = call.args.iter().map(|arg| term(arg, bound)).collect();
            let target = call.target.as_deref().map(|target| term(target, bound));
            let target = target.map_or(Some(String::new()), |target| Some(format!("{}.", target?)))?;
            Some(format!("{target}{}({})", call.func_name, args?.join(",")))
        }
        _ => None,
    }
}

/// Writes a parameter so that no other term is written like it.
fn spelled(parameter: &str) -> String {
    format!("query[{parameter:?}]")
}

fn is_test(node: &IdedExpr) -> bool {
    matches!(&node.expr, Expr::Select(select) if select.test)
}

#[cfg(test)]
mod tests;

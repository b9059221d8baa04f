//! Compiles, checks and evaluates CEL expressions over `claims`, `query` and `now`.

use std::collections::{BTreeSet, HashMap};
use std::sync::{LazyLock, OnceLock};

use cel::common::ast::{Expr, SelectExpr, operators};
use cel::common::types::{CelBool, CelInt, CelList, CelMap, CelMapKey, CelString, CelUInt};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, IdedExpr, Program, Value};

use super::ast::{self, Element, children, is_from_client, is_named};
use super::problem::Problem;
use super::syntax;
use super::unmet::Unmet;
use crate::clock::UnixTime;
use crate::decisions::Answers;
use crate::shape::protocol;

/// The CEL context with every function. Building it takes 20 µs, so it is shared; the inner scope of each
/// request costs almost nothing.
static BASE: LazyLock<Context<'static, 'static>> = LazyLock::new(super::functions::context);

/// The variables of one request that an expression can read.
#[derive(Debug)]
pub struct Scope<'a> {
    claims: Option<&'a (dyn Val + 'static)>,
    parameters: &'a [(String, String)],
    /// The values of `parameters`, and all of them as a map.
    values: OnceLock<Vec<CelString<'a>>>,
    query: OnceLock<CelMap<'a>>,
    now: CelInt,
    answers: Option<Answers>,
}

impl<'a> Scope<'a> {
    /// Creates a scope from the `claims` of a verified token (`None` without a token), the client's parameters and the
    /// current time.
    pub fn new(claims: Option<&'a (dyn Val + 'static)>, parameters: &'a [(String, String)], now: UnixTime) -> Self {
        let now = CelInt::from(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        Self { claims, parameters, values: OnceLock::new(), query: OnceLock::new(), now, answers: None }
    }

    /// Runs `read` on the scope with the answers of decision services.
    pub(super) fn with_answers<R>(&mut self, answers: Answers, read: impl FnOnce(&Self) -> R) -> R {
        self.answers = Some(answers);
        let result = read(self);
        self.answers = None;
        result
    }

    /// Returns a claim or a parameter, by its variable and its name.
    fn member(&self, (variable, name): (&str, &str)) -> Option<&(dyn Val + '_)> {
        match variable {
            "claims" => {
                let claims = self.claims?.downcast_ref::<CelMap<'_>>()?;
                claims.get(&CelMapKey::String(CelString::from(name.to_owned()))).map(AsRef::as_ref)
            }
            "query" => {
                let at = self.parameters.iter().rposition(|(known, _)| known == name)?;
                let value = |(_, value): &'a (String, String)| CelString::from(value.as_str());
                Some(&self.values.get_or_init(|| self.parameters.iter().map(value).collect())[at])
            }
            _ => None,
        }
    }

    fn query(&self) -> &CelMap<'a> {
        self.query.get_or_init(|| {
            let entries = self.parameters.iter().map(|(name, value)| {
                let value: Box<dyn Val + 'a> = Box::new(CelString::from(value.as_str()));
                (CelMapKey::String(CelString::from(name.as_str())), value)
            });
            CelMap::from(entries.collect::<HashMap<_, _>>())
        })
    }
}

impl VariableResolver for Scope<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "claims" => self.claims.map(CowVal::Borrowed as fn(_) -> _),
            "now" => Some(CowVal::Borrowed(&self.now)),
            "query" => Some(CowVal::Borrowed(self.query())),
            DECISION_IDS => self.answers.as_ref()?.ids().map(CowVal::Borrowed as fn(_) -> _),
            DECISION_CONTEXT => self.answers.as_ref()?.context().map(CowVal::Borrowed as fn(_) -> _),
            // The interpreter asks for the whole of `claims.name` first. A claim that is absent is then looked up again,
            // and is an error there.
            _ => self.member(variable.split_once('.')?).map(CowVal::Borrowed as fn(_) -> _),
        }
    }
}

/// A compiled expression. Every variable and function that it names exists.
#[derive(Debug)]
pub(super) struct Expression {
    program: Program,
    reads: Reads,
}

/// The variables that an expression reads.
#[derive(Debug, Default)]
struct Reads {
    claims: bool,
    now: bool,
    ids: bool,
    context: bool,
    parameters: BTreeSet<String>,
    /// The names in `claims.name`.
    names: BTreeSet<String>,
    /// The names in `has(claims.name)`.
    optional: BTreeSet<String>,
}

impl Expression {
    /// Compiles `source`. The error says what to write instead.
    pub(super) fn compile(source: &str) -> Result<Self, Problem> {
        let program = Program::compile(source).map_err(|errors| syntax::problem(source, &errors))?;
        let mut reads = Reads::default();
        reads.visit(program.expression(), &mut Vec::new()).map_err(|problem| format!("`{source}`: {problem}"))?;
        Ok(Self { program, reads })
    }

    /// The syntax tree.
    pub(super) fn tree(&self) -> &IdedExpr {
        self.program.expression()
    }

    /// Returns the client parameters that the expression reads.
    pub(super) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.reads.parameters.iter().map(String::as_str)
    }

    pub(super) fn reads_claims(&self) -> bool {
        self.reads.claims
    }

    /// Returns the claims that the expression reads, except those that it asks for with `has`.
    pub(super) fn claims(&self) -> impl Iterator<Item = &str> {
        self.reads.names.difference(&self.reads.optional).map(String::as_str)
    }

    pub(super) fn reads_now(&self) -> bool {
        self.reads.now
    }

    /// Whether it reads the ids of a search.
    pub(super) fn reads_ids(&self) -> bool {
        self.reads.ids
    }

    /// Whether it reads the context of an evaluation.
    pub(super) fn reads_context(&self) -> bool {
        self.reads.context
    }

    /// Whether it reads an answer of a decision service.
    pub(super) fn reads_decision(&self) -> bool {
        self.reads.ids || self.reads.context
    }

    /// Checks that the result is `true`. An error (a missing claim, a wrong type) and any other value deny.
    pub(super) fn holds(&self, scope: &Scope<'_>) -> Result<(), Unmet> {
        match self.evaluate(scope, |value| value.downcast_ref::<CelBool>().map(|bool| *bool.inner())).flatten() {
            Some(true) => Ok(()),
            Some(false) => Err(Unmet::AllowFalse),
            None => Err(Unmet::AllowError),
        }
    }

    /// Evaluates to strings for parameters; `None` if there is no value or it cannot be bound.
    pub(super) fn bind(&self, scope: &Scope<'_>) -> Option<Bound> {
        self.evaluate(scope, Bound::from_val)?
    }

    /// Evaluates and passes the result to `read`, if it is a string.
    pub(super) fn with_text<R>(&self, scope: &Scope<'_>, read: impl FnOnce(&str) -> R) -> Option<R> {
        self.evaluate(scope, |value| value.downcast_ref::<CelString<'_>>().map(|text| read(text.inner())))?
    }

    /// Evaluates and passes the result to `read`.
    pub(super) fn evaluate<R>(&self, scope: &Scope<'_>, read: impl FnOnce(&dyn Val) -> R) -> Option<R> {
        evaluate(self.tree(), scope, read)
    }
}

/// Evaluates a part of an expression; `None` if that fails.
pub(super) fn resolve(node: &IdedExpr, scope: &Scope<'_>) -> Option<Value> {
    evaluate(node, scope, |value| Value::try_from(value).ok())?
}

fn evaluate<R>(node: &IdedExpr, scope: &Scope<'_>, read: impl FnOnce(&dyn Val) -> R) -> Option<R> {
    // Most placeholders are one claim or parameter. The interpreter would first look for a variable of the whole name.
    if let Some(member @ ("claims" | "query", _)) = ast::member(node) {
        return scope.member(member).map(read);
    }
    let base: &Context<'_, '_> = &BASE;
    let mut context = base.new_inner_scope();
    context.set_variable_resolver(scope);
    let value = Value::resolve_val(node, &context).ok()?;
    Some(read(value.as_ref()))
}

/// The value of an expression, converted to strings for parameters.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// A list, sorted and without duplicates, so that users with the same set share a shape. May be empty.
    Many(Vec<String>),
    One(String),
}

impl Bound {
    fn from_val(value: &dyn Val) -> Option<Self> {
        let Some(list) = value.downcast_ref::<CelList<'_>>() else {
            return text(value).map(Self::One);
        };
        let mut texts = list.inner().iter().map(|item| text(item.as_ref())).collect::<Option<Vec<_>>>()?;
        texts.sort_unstable();
        texts.dedup();
        Some(Self::Many(texts))
    }
}

/// Converts a string, integer or boolean. Other types have no single exact form (docs/security.md, Q9). Empty strings
/// are rejected, and so is NUL, because Electric cuts a string off there.
fn text(value: &dyn Val) -> Option<String> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        let text = text.inner();
        return (!text.is_empty() && !text.contains('\0')).then(|| text.to_owned());
    }
    if let Some(int) = value.downcast_ref::<CelInt>() {
        return Some(int.inner().to_string());
    }
    if let Some(uint) = value.downcast_ref::<CelUInt>() {
        return Some(uint.inner().to_string());
    }
    value.downcast_ref::<CelBool>().map(|bool| bool.inner().to_string())
}

impl Reads {
    /// Checks every name and every pattern below `node`. `bound` holds the elements that macros such as `map` introduce.
    fn visit(&mut self, node: &IdedExpr, bound: &mut Vec<Element>) -> Result<(), String> {
        if let Some(name) = ast::parameter(node) {
            return self.parameter(name);
        }
        match &node.expr {
            Expr::Ident(name) => return self.variable(name, bound),
            Expr::Select(select) if is_named(&select.operand, "decision") => return self.answer(select),
            Expr::Select(select) if is_named(&select.operand, "claims") => {
                let names = if select.test { &mut self.optional } else { &mut self.names };
                names.insert(select.field.clone());
            }
            Expr::Call(call)
                if call.func_name == operators::INDEX && call.args.first().is_some_and(|of| is_named(of, "query")) =>
            {
                return Err("`query[…]`: write the parameter's name as a literal".to_owned());
            }
            Expr::Call(call) => {
                check_function(&call.func_name)?;
                if call.func_name == MATCHES && call.args.last().is_some_and(|pattern| is_from_client(pattern, bound)) {
                    return Err(CLIENT_PATTERN.to_owned());
                }
            }
            _ => {}
        }
        let depth = bound.len();
        if let Expr::Comprehension(comprehension) = &node.expr {
            let from_client = is_from_client(&comprehension.iter_range, bound);
            let names =
                [Some(&comprehension.iter_var), comprehension.iter_var2.as_ref(), Some(&comprehension.accu_var)];
            for name in names.into_iter().flatten() {
                if VARIABLES.contains(&name.as_str()) {
                    return Err(format!("`{name}` is the name of a variable; give the element another name"));
                }
                bound.push(Element { name: name.clone(), from_client });
            }
        }
        let result = children(&node.expr).into_iter().try_for_each(|child| self.visit(child, bound));
        bound.truncate(depth);
        result
    }

    fn variable(&mut self, name: &str, bound: &[Element]) -> Result<(), String> {
        match name {
            _ if bound.iter().any(|element| element.name == name) => {}
            "claims" => self.claims = true,
            "now" => self.now = true,
            "query" => return Err("write query.name: a rule must name each parameter that it reads".to_owned()),
            "decision" => return Err(DECISION.to_owned()),
            _ if TYPES.contains(&name) => {}
            _ => return Err(format!("unknown variable `{name}`; available: claims, query, now")),
        }
        Ok(())
    }

    fn answer(&mut self, select: &SelectExpr) -> Result<(), String> {
        match select.field.as_str() {
            "ids" if !select.test => self.ids = true,
            "context" if !select.test => self.context = true,
            _ => return Err(DECISION.to_owned()),
        }
        Ok(())
    }

    fn parameter(&mut self, name: &str) -> Result<(), String> {
        if protocol::classify(name) != protocol::Name::Custom {
            return Err(format!("`query.{name}` belongs to Electric; give the client's parameter another name"));
        }
        self.parameters.insert(name.to_owned());
        Ok(())
    }
}

fn check_function(name: &str) -> Result<(), String> {
    let operator = !name.starts_with(|c: char| c.is_ascii_alphabetic());
    if operator || FUNCTIONS.contains(&name) {
        return Ok(());
    }
    Err(format!("unknown function `{name}`; available: {}", FUNCTIONS.join(", ")))
}

const MATCHES: &str = "matches";
const CLIENT_PATTERN: &str = "`matches` must not take its pattern from `query`: a client could send one that takes long \
    to try; write the pattern as a literal, or compare with ==, startsWith, endsWith or contains";
const DECISION: &str =
    "write decision.ids for the ids of `search`, decision.context.name for the context of `evaluate`";
/// The names under which the interpreter looks up the values of `decision`: it tries the longest qualified name first.
const DECISION_IDS: &str = "decision.ids";
const DECISION_CONTEXT: &str = "decision.context";
const VARIABLES: [&str; 4] = ["claims", "decision", "now", "query"];
const TYPES: [&str; 9] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "uint"];
const FUNCTIONS: [&str; 22] = [
    "all",
    "bool",
    "contains",
    "double",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "filter",
    "has",
    "hasScope",
    "int",
    "lowerAscii",
    "map",
    MATCHES,
    "size",
    "split",
    "startsWith",
    "string",
    "trim",
    "uint",
    "upperAscii",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: serde_json::Value) -> Box<dyn Val> {
        cel::to_value(json).unwrap().try_into().unwrap()
    }

    fn holds(source: &str, json: serde_json::Value, query: &[(&str, &str)]) -> bool {
        let claims = claims(json);
        let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Expression::compile(source)
            .unwrap()
            .holds(&Scope::new(Some(claims.as_ref()), &query, UnixTime::from_secs(100)))
            .is_ok()
    }

    fn bind(json: serde_json::Value) -> Option<Bound> {
        let claims = claims(json);
        Expression::compile("claims.x").unwrap().bind(&Scope::new(Some(claims.as_ref()), &[], UnixTime::from_secs(0)))
    }

    #[test]
    fn only_members_of_a_list_are_allowed() {
        let rule = "query.organizationId in claims.organizationIds";
        let org = serde_json::json!({"organizationIds": ["org-1", "org-2"]});
        assert!(holds(rule, org.clone(), &[("organizationId", "org-1")]));
        assert!(!holds(rule, org.clone(), &[("organizationId", "org-3")]));
        assert!(!holds(rule, org, &[]));
        assert!(!holds(rule, serde_json::json!({}), &[("organizationId", "org-1")]));
        // `in` on a string would be a substring test.
        assert!(!holds(rule, serde_json::json!({"organizationIds": "org-1,org-2"}), &[("organizationId", "org-1")]));
    }

    #[test]
    fn only_the_value_true_allows() {
        assert!(holds("claims.admin", serde_json::json!({"admin": true}), &[]));
        for not_true in
            [serde_json::json!("true"), serde_json::json!(1), serde_json::json!(null), serde_json::json!([])]
        {
            assert!(!holds("claims.admin", serde_json::json!({"admin": not_true}), &[]));
        }
        assert!(holds("claims.until > now", serde_json::json!({"until": 101}), &[]));
        assert!(!holds("claims.until > now", serde_json::json!({"until": 100}), &[]));
    }

    #[test]
    fn values_are_bound_exactly_or_not_at_all() {
        use serde_json::json;
        let one = |text: &str| Some(Bound::One(text.to_owned()));
        let many = |texts: &[&str]| Some(Bound::Many(texts.iter().map(|text| (*text).to_owned()).collect()));
        assert_eq!(bind(json!({"x": "a'b"})), one("a'b"));
        assert_eq!(bind(json!({"x": 9_007_199_254_740_993_i64})), one("9007199254740993"));
        assert_eq!(bind(json!({"x": u64::MAX})), one("18446744073709551615"));
        assert_eq!(bind(json!({"x": i64::MIN})), one("-9223372036854775808"));
        assert_eq!(bind(json!({"x": true})), one("true"));
        assert_eq!(bind(json!({"x": ["b", "a", "b"]})), many(&["a", "b"]));
        assert_eq!(bind(json!({"x": []})), many(&[]));
        for rejected in [
            json!({}),
            json!({"x": null}),
            json!({"x": 1.5}),
            json!({"x": 1.0}),
            json!({"x": ""}),
            json!({"x": "a\0b"}),
            json!({"x": {"a": 1}}),
            json!({"x": [["a"]]}),
            json!({"x": ["a", null]}),
            json!({"x": ["a", ""]}),
        ] {
            assert_eq!(bind(rejected.clone()), None, "{rejected}");
        }
    }

    #[test]
    fn expressions_that_cannot_work_are_rejected_at_load() {
        for (source, hint) in [
            ("claim.x", "unknown variable `claim`"),
            ("claims.", "not a CEL expression"),
            ("siz(claims.x) > 1", "unknown function `siz`"),
            ("query == claims", "query.name"),
            ("query[claims.x] == 'a'", "as a literal"),
            ("query.where == 'a'", "belongs to Electric"),
            ("query.offset == 'a'", "belongs to Electric"),
            ("claims.x.exists(query, query == 'a')", "name of a variable"),
        ] {
            let error = Expression::compile(source).unwrap_err().to_string();
            assert!(error.contains(hint), "{source}: {error}");
        }
    }

    #[test]
    fn a_pattern_from_the_client_is_refused_at_load() {
        for (pattern_of_client, twin) in [
            ("claims.name.matches(query.p)", "query.p.matches(claims.name)"),
            ("matches(claims.name, query.p)", "matches(query.p, '^a+$')"),
            ("claims.name.matches(query['p'])", "claims.name.matches('p')"),
            ("claims.name.matches('^' + query.p)", "claims.name.matches('^' + claims.prefix)"),
            ("claims.name.matches(string(query.p))", "claims.name == query.p"),
            ("claims.name.matches(query.p == 'a' ? query.p : 'b')", "claims.name.startsWith(query.p)"),
            ("[query.p].exists(p, claims.name.matches(p))", "['^a'].exists(p, query.p.matches(p))"),
            (
                "claims.list.map(x, x + query.p).exists(p, claims.name.matches(p))",
                "claims.list.exists(p, query.p.matches(p))",
            ),
            (
                "[[query.p]].exists(a, a.exists(b, claims.name.matches(b)))",
                "[query.p].exists(p, claims.list.exists(p, claims.name.matches(p)))",
            ),
            ("claims.x && has(query.p) && (claims.list.all(x, x.matches(query.p)))", "claims.x && has(query.p)"),
        ] {
            let error = Expression::compile(pattern_of_client).unwrap_err().to_string();
            assert!(error.contains("write the pattern as a literal"), "{pattern_of_client}: {error}");
            Expression::compile(twin).unwrap_or_else(|error| panic!("{twin}: {error}"));
        }
    }

    #[test]
    fn an_expression_lists_the_parameters_it_reads() {
        let expression = Expression::compile("has(query.b) && query['a'] in claims.x.map(o, o + query.c)").unwrap();
        assert_eq!(expression.parameters().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert!(expression.reads_claims() && !expression.reads_now());
    }
}

//! Finds the operands that decided the value of an expression, for people who ask why a rule does not hold.

use cel::common::ast::{Expr, LiteralValue, operators};
use cel::{IdedExpr, Value};

use super::ast::children;
use super::expression::{Expression, Scope, resolve};

/// Lists the claims and parameters that decided the value, as `query.org = "org-3"` or `claims.org is missing`.
///
/// Of `a && b` and `a || b` it lists only the sides that decided: of a false `&&`, those that are not true.
pub(super) fn operands(expression: &Expression, scope: &Scope<'_>) -> Vec<String> {
    let mut deciding = Vec::new();
    decide(expression.tree(), scope, &mut deciding);
    let mut found = Vec::new();
    for node in deciding {
        reads(node, scope, &mut found);
    }
    found
}

/// Collects the parts without logical operators that decided the value of `node`.
fn decide<'a>(node: &'a IdedExpr, scope: &Scope<'_>, deciding: &mut Vec<&'a IdedExpr>) {
    let holds = |node| resolve(node, scope) == Some(Value::Bool(true));
    match &node.expr {
        Expr::Call(call) if matches!(call.func_name.as_str(), operators::LOGICAL_AND | operators::LOGICAL_OR) => {
            let all = holds(node) == (call.func_name == operators::LOGICAL_AND);
            let decided = call.args.iter().filter(|side| all || holds(side) == holds(node));
            decided.for_each(|side| decide(side, scope, deciding));
        }
        Expr::Call(call) if call.func_name == operators::LOGICAL_NOT => {
            call.args.iter().for_each(|inner| decide(inner, scope, deciding));
        }
        Expr::Call(call) if call.func_name == operators::CONDITIONAL && call.args.len() == 3 => {
            let taken = if holds(&call.args[0]) { &call.args[1] } else { &call.args[2] };
            decide(&call.args[0], scope, deciding);
            decide(taken, scope, deciding);
        }
        _ => deciding.push(node),
    }
}

/// Lists the variables below `node` with their values, each once.
fn reads(node: &IdedExpr, scope: &Scope<'_>, found: &mut Vec<String>) {
    let Some(path) = path(node) else {
        return children(&node.expr).into_iter().for_each(|child| reads(child, scope, found));
    };
    // `has(claims.x)` has the value true or false; the claim itself says more.
    let read = match &node.expr {
        Expr::Select(select) if select.test => {
            let mut read = select.clone();
            read.test = false;
            resolve(&IdedExpr { id: node.id, expr: Expr::Select(read) }, scope)
        }
        _ => resolve(node, scope),
    };
    let words = match read {
        Some(value) => format!("{path} = {}", shortened(shown(&value))),
        None => format!("{path} is missing"),
    };
    if !found.contains(&words) {
        found.push(words);
    }
}

/// Returns how a rule writes a variable or a member of one: `claims.org.ids[0]`. `None` for everything else.
fn path(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Ident(name) => matches!(name.as_str(), "claims" | "now" | "query").then(|| name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand)?, select.field)),
        Expr::Call(call) if call.func_name == operators::INDEX => {
            let [of, index] = &call.args[..] else { return None };
            match &index.expr {
                Expr::Literal(LiteralValue::String(name)) => Some(format!("{}[{:?}]", path(of)?, name.inner())),
                Expr::Literal(LiteralValue::Int(index)) => Some(format!("{}[{}]", path(of)?, index.inner())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Writes a value as in a rule or in JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Value::Map(map) => {
            let mut members: Vec<_> = map.map.iter().map(|(key, value)| format!("{key}: {}", shown(value))).collect();
            members.sort_unstable();
            format!("{{{}}}", members.join(", "))
        }
        Value::Int(value) => value.to_string(),
        Value::UInt(value) => value.to_string(),
        Value::Float(value) => format!("{value:?}"),
        // As JSON, which escapes control characters.
        Value::String(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Null => "null".to_owned(),
        other => format!("a {}", other.type_of()),
    }
}

fn shortened(mut text: String) -> String {
    const MOST: usize = 200;
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::Claims;
    use crate::clock::UnixTime;

    fn explained(source: &str, claims: &serde_json::Value, query: &[(&str, &str)]) -> String {
        let claims = Claims::sample(&claims.to_string()).unwrap();
        let query: Vec<_> = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let scope = Scope::new(Some(claims.cel()), &query, UnixTime::from_secs(100));
        operands(&Expression::compile(source).unwrap(), &scope).join(", ")
    }

    #[test]
    fn operands_are_listed_with_their_values() {
        let claims = json!({ "ids": ["org-1"], "n": 1.5, "deep": { "a": [null, true] }, "text": "a\nb" });
        for (source, expected) in [
            ("query.org in claims.ids", r#"query.org = "org-3", claims.ids = ["org-1"]"#),
            ("claims.other == 'a'", "claims.other is missing"),
            ("has(claims.other)", "claims.other is missing"),
            ("!has(claims.n)", "claims.n = 1.5"),
            ("claims.deep.a[1] == claims['text']", r#"claims.deep.a[1] = true, claims["text"] = "a\nb""#),
            ("claims.deep == query.x", "claims.deep = {a: [null, true]}, query.x is missing"),
            ("claims.n > double(now)", "claims.n = 1.5, now = 100"),
            ("claims.ids.exists(id, id == query.org)", r#"claims.ids = ["org-1"], query.org = "org-3""#),
            ("query.org == 'a' || query.org == 'b'", r#"query.org = "org-3""#),
        ] {
            assert_eq!(explained(source, &claims, &[("org", "org-3")]), expected, "{source}");
        }
    }

    #[test]
    fn only_the_sides_that_decided_are_listed() {
        let claims = json!({ "a": true, "b": false, "c": true });
        for (source, expected) in [
            ("claims.a && claims.b", "claims.b = false"),
            ("claims.a && claims.b && claims.d", "claims.b = false, claims.d is missing"),
            ("claims.b || claims.d", "claims.b = false, claims.d is missing"),
            ("!(claims.a || claims.b)", "claims.a = true"),
            ("!(claims.a && claims.c)", "claims.a = true, claims.c = true"),
            ("claims.a ? claims.b : claims.c", "claims.a = true, claims.b = false"),
        ] {
            assert_eq!(explained(source, &claims, &[]), expected, "{source}");
        }
    }

    #[test]
    fn a_long_value_is_shortened() {
        let words = explained("claims.x == 'a'", &json!({ "x": "é".repeat(300) }), &[]);
        assert!(words.ends_with("é…") && words.chars().count() < 220, "{words}");
    }
}

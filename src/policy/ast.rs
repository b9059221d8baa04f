//! Walks CEL's syntax tree.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};

/// What a macro such as `map` names.
pub(super) struct Element {
    pub(super) name: String,
    /// Whether the client says what is in the list.
    pub(super) from_client: bool,
}

/// Returns the direct children of a node.
pub(super) fn children(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(inner) => {
            vec![&inner.iter_range, &inner.accu_init, &inner.loop_cond, &inner.loop_step, &inner.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Struct(inner) => inner.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        EntryExpr::StructField(field) => vec![&field.value],
    }
}

/// Returns the name in `query.name`, `has(query.name)` and `query["name"]`.
pub(super) fn parameter(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Select(select) if is_named(&select.operand, "query") => Some(&select.field),
        Expr::Call(call) if call.func_name == operators::INDEX => match call.args.as_slice() {
            [of, index] if is_named(of, "query") => text(index),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the names in `variable.name`.
pub(super) fn member(node: &IdedExpr) -> Option<(&str, &str)> {
    match &node.expr {
        Expr::Select(select) if !select.test => match &select.operand.expr {
            Expr::Ident(variable) => Some((variable, &select.field)),
            _ => None,
        },
        _ => None,
    }
}

/// Returns the content of a text literal.
pub(super) fn text(node: &IdedExpr) -> Option<&str> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

/// Returns whether a node is the variable `name`.
pub(super) fn is_named(node: &IdedExpr, name: &str) -> bool {
    matches!(&node.expr, Expr::Ident(found) if found == name)
}

/// Returns whether the client has a say in what `node` is.
pub(super) fn is_from_client(node: &IdedExpr, bound: &[Element]) -> bool {
    match &node.expr {
        Expr::Ident(name) => {
            let element = bound.iter().rev().find(|element| element.name == *name);
            element.map_or(name == "query", |element| element.from_client)
        }
        expr => children(expr).into_iter().any(|child| is_from_client(child, bound)),
    }
}

//! Values and three-valued logic.

use std::cmp::Ordering;

use super::{Expr, Kind, Operator, Row, Value};

/// Returns the value of `expr` on `row`.
pub(super) fn evaluate(expr: &Expr, row: &Row) -> Value {
    match expr {
        Expr::Literal(value, _) => value.clone(),
        Expr::Column(name, kind) => column(name, kind, row),
        Expr::Array(items) => Value::Array(items.iter().map(|item| evaluate(item, row)).collect()),
        Expr::Not(inner) => match evaluate(inner, row) {
            Value::Bool(value) => Value::Bool(!value),
            _ => Value::Null,
        },
        Expr::And(left, right) => both(&evaluate(left, row), &evaluate(right, row), false),
        Expr::Or(left, right) => both(&evaluate(left, row), &evaluate(right, row), true),
        Expr::Compare(left, operator, right) => compare(&evaluate(left, row), *operator, &evaluate(right, row)),
        Expr::In(value, list) => {
            let value = evaluate(value, row);
            any(list.iter().map(|item| compare(&value, Operator::Equal, &evaluate(item, row))))
        }
        Expr::Any(value, operator, array) => match (evaluate(value, row), evaluate(array, row)) {
            (value, Value::Array(items)) => any(items.iter().map(|item| compare(&value, *operator, item))),
            _ => Value::Null,
        },
        Expr::Contains(whole, part) => match (evaluate(whole, row), evaluate(part, row)) {
            (Value::Array(whole), Value::Array(part)) => Value::Bool(part.iter().all(|item| whole.contains(item))),
            _ => Value::Null,
        },
        Expr::Fold { inner, upper } => match evaluate(inner, row) {
            Value::Text(text) => Value::Text(if *upper { text.to_uppercase() } else { text.to_lowercase() }),
            _ => Value::Null,
        },
        Expr::IsNull(inner) => Value::Bool(evaluate(inner, row) == Value::Null),
        Expr::Like { value, pattern, ignore_case } => match (evaluate(value, row), evaluate(pattern, row)) {
            (Value::Text(value), Value::Text(pattern)) => Value::Bool(like(&value, &pattern, *ignore_case)),
            _ => Value::Null,
        },
    }
}

/// Returns the value of a column. Rows hold text; a text that is not of the column's kind reads as NULL.
pub(super) fn column(name: &str, kind: &Kind, row: &Row) -> Value {
    let text = row.text(name);
    text.and_then(|text| value(text, kind)).unwrap_or(Value::Null)
}

/// Parses a text as a value of `kind`; `None` if it is not one.
pub(super) fn value(text: &str, kind: &Kind) -> Option<Value> {
    match kind {
        Kind::Text | Kind::Unknown => Some(Value::Text(text.to_owned())),
        Kind::Bool => match text.trim().to_ascii_lowercase().as_str() {
            "t" | "true" | "yes" | "on" | "1" => Some(Value::Bool(true)),
            "f" | "false" | "no" | "off" | "0" => Some(Value::Bool(false)),
            _ => None,
        },
        Kind::Number => {
            let text = text.trim();
            let float = || text.parse().ok().map(Value::Float);
            text.parse().ok().map(Value::Integer).or_else(float)
        }
        Kind::Uuid => uuid(text).map(Value::Text),
        Kind::Array(element) => array(text, element),
    }
}

fn uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let valid = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
    valid.then(|| digits.to_ascii_lowercase())
}

/// Parses a Postgres array literal of one dimension, `{a,"b, c",NULL}`.
fn array(text: &str, element: &Kind) -> Option<Value> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut items = Vec::new();
    let mut rest = inner.chars().peekable();
    while rest.peek().is_some() {
        let (mut item, mut quoted, mut inside) = (String::new(), false, false);
        while let Some(next) = rest.next() {
            match next {
                '"' => (quoted, inside) = (true, !inside),
                '\\' => item.extend(rest.next()),
                ',' if !inside => break,
                _ => item.push(next),
            }
        }
        let null = !quoted && item.eq_ignore_ascii_case("null");
        items.push(if null { Value::Null } else { value(&item, element)? });
    }
    Some(Value::Array(items))
}

/// Evaluates AND (`decisive` false) or OR (`decisive` true): a decisive side decides, whatever the other one is.
fn both(left: &Value, right: &Value, decisive: bool) -> Value {
    if *left == Value::Bool(decisive) || *right == Value::Bool(decisive) {
        return Value::Bool(decisive);
    }
    if *left == Value::Null || *right == Value::Null { Value::Null } else { Value::Bool(!decisive) }
}

fn any(results: impl Iterator<Item = Value>) -> Value {
    results.fold(Value::Bool(false), |before, next| both(&before, &next, true))
}

fn compare(left: &Value, operator: Operator, right: &Value) -> Value {
    order(left, right).map_or(Value::Null, |ordering| Value::Bool(operator.holds(ordering)))
}

/// Compares two values of one kind; `None` if one is NULL.
pub(super) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(right)),
        (Value::Integer(left), Value::Float(right)) => (*left as f64).partial_cmp(right),
        (Value::Float(left), Value::Integer(right)) => left.partial_cmp(&(*right as f64)),
        (Value::Float(left), Value::Float(right)) => left.partial_cmp(right),
        (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        (Value::Array(left), Value::Array(right)) => {
            let pairs = left.iter().zip(right).map(|(left, right)| order(left, right));
            let decided = pairs.take_while(Option::is_some).flatten().find(|ordering| ordering.is_ne());
            Some(decided.unwrap_or_else(|| left.len().cmp(&right.len())))
        }
        _ => None,
    }
}

/// Evaluates LIKE: `%` is any run, `_` any one character, a backslash takes the next one literally.
fn like(value: &str, pattern: &str, ignore_case: bool) -> bool {
    let fold = |text: &str| {
        if ignore_case { text.to_lowercase() } else { text.to_owned() }
    };
    let value: Vec<char> = fold(value).chars().collect();
    let pattern: Vec<char> = fold(pattern).chars().collect();
    // `reached[i]`: the pattern so far matches the first i characters. Linear in both lengths, for any pattern.
    let mut reached = vec![false; value.len() + 1];
    reached[0] = true;
    let mut symbols = pattern.into_iter();
    while let Some(symbol) = symbols.next() {
        if symbol == '%' {
            let first = reached.iter().position(|is| *is).unwrap_or(reached.len());
            reached[first..].fill(true);
            continue;
        }
        let wanted = match symbol {
            '_' => None,
            '\\' => symbols.next(),
            _ => Some(symbol),
        };
        for at in (1..reached.len()).rev() {
            reached[at] = reached[at - 1] && wanted.is_none_or(|wanted| wanted == value[at - 1]);
        }
        reached[0] = false;
    }
    reached[value.len()]
}

//! The allow-list: converts sqlparser's tree to ours. Everything that is not named here is rejected.

use std::collections::BTreeMap;

use sqlparser::ast::{
    Array, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectNamePart, UnaryOperator, Value,
};

use super::syntax::{NO_FUNCTION, TOO_DEEP, parameter};
use super::tree::{Condition, Dimension, Operand, Operator};
use super::{FilterError, rows};

/// The most conditions and values of one filter.
const MAX_NODES: usize = 256;

/// The deepest nesting of conditions and values. It is low enough that a printed filter is within the bounds of
/// `syntax`.
const MAX_DEPTH: usize = 12;

/// The most LIKE patterns of one filter.
const MAX_PATTERNS: usize = 8;

/// The most bytes of all LIKE patterns of one filter together. Matching takes up to this many steps per byte of a text:
/// 0.9 s on 1 MB.
const MAX_PATTERN_BYTES: usize = 256;

/// The most bytes of a name. Postgres truncates a longer one, which could then name another column.
const MAX_NAME_BYTES: usize = 63;

/// The allowed types: as sqlparser writes them, and as they are printed. None has a modifier, and none is a float,
/// since Postgres would cast a numeric column to it, which fails on large values.
pub(super) const TYPES: [(&str, &str); 20] = [
    ("BIGINT", "int8"),
    ("BOOL", "bool"),
    ("BOOLEAN", "bool"),
    ("CHARACTER VARYING", "varchar"),
    ("DATE", "date"),
    ("DECIMAL", "numeric"),
    ("INT", "int4"),
    ("INT2", "int2"),
    ("INT4", "int4"),
    ("INT8", "int8"),
    ("INTEGER", "int4"),
    ("NUMERIC", "numeric"),
    ("SMALLINT", "int2"),
    ("TEXT", "text"),
    ("TIMESTAMP", "timestamp"),
    ("TIMESTAMP WITH TIME ZONE", "timestamptz"),
    ("TIMESTAMP WITHOUT TIME ZONE", "timestamp"),
    ("TIMESTAMPTZ", "timestamptz"),
    ("UUID", "uuid"),
    ("VARCHAR", "varchar"),
];

/// The allowed functions. Each takes one text, is known to Electric and cannot fail.
pub(super) const FUNCTIONS: [&str; 2] = ["lower", "upper"];

/// The state of the conversion of one filter.
pub(super) struct Admission<'a> {
    given: &'a BTreeMap<u32, String>,
    columns: Option<&'a [String]>,
    /// The numbers of the parameters that are used, in the order of first use.
    used: Vec<u32>,
    nodes: usize,
    depth: usize,
    patterns: usize,
    pattern_bytes: usize,
}

impl<'a> Admission<'a> {
    pub(super) const fn new(given: &'a BTreeMap<u32, String>, columns: Option<&'a [String]>) -> Self {
        Self { given, columns, used: Vec::new(), nodes: 0, depth: 0, patterns: 0, pattern_bytes: 0 }
    }

    /// Returns the values that are used, in the order in which the tree numbers them.
    pub(super) fn into_values(self) -> Vec<String> {
        self.used.iter().filter_map(|number| self.given.get(number).cloned()).collect()
    }

    /// Converts `expr` to a condition.
    pub(super) fn condition(&mut self, expr: &Expr) -> Result<Condition, FilterError> {
        self.deeper(|admission| admission.bare_condition(bare(expr)).and_then(rows::leaf))
    }

    fn bare_condition(&mut self, expr: &Expr) -> Result<Condition, FilterError> {
        Ok(match expr {
            Expr::BinaryOp { op: BinaryOperator::And, .. } => {
                Condition::And(self.conditions(expr, &BinaryOperator::And)?)
            }
            Expr::BinaryOp { op: BinaryOperator::Or, .. } => Condition::Or(self.conditions(expr, &BinaryOperator::Or)?),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Condition::Not(self.condition(expr)?.into()),
            Expr::BinaryOp { left, op, right } => {
                let operator = any_operator(op)?;
                Condition::Compare(self.operand(left)?, operator, self.operand(right)?)
            }
            Expr::AnyOp { left, compare_op, right, is_some: false } => {
                let operator = comparison(compare_op).ok_or(NOT_ALLOWED)?;
                Condition::CompareAny(self.operand(left)?, operator, self.operand(right)?)
            }
            Expr::InList { expr, list, negated } => {
                let value = self.operand(expr)?;
                Condition::In { value, negated: *negated, list: self.operands(list)? }
            }
            Expr::Between { expr, negated, low, high } => {
                let value = self.operand(expr)?;
                Condition::Between { value, negated: *negated, low: self.operand(low)?, high: self.operand(high)? }
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(expr, pattern, *negated, false)?
            }
            Expr::ILike { negated, any: false, expr, pattern, escape_char: None } => {
                self.like(expr, pattern, *negated, true)?
            }
            Expr::IsNull(value) => Condition::IsNull { value: self.operand(value)?, negated: false },
            Expr::IsNotNull(value) => Condition::IsNull { value: self.operand(value)?, negated: true },
            Expr::IsTrue(inner) => self.is(inner, false, true)?,
            Expr::IsNotTrue(inner) => self.is(inner, true, true)?,
            Expr::IsFalse(inner) => self.is(inner, false, false)?,
            Expr::IsNotFalse(inner) => self.is(inner, true, false)?,
            _ => match self.bare_operand(expr)? {
                value @ (Operand::Column(_) | Operand::Boolean(_)) => Condition::Value(value),
                _ => return Err(FilterError::new("contains a value in place of a condition")),
            },
        })
    }

    /// Returns the parts of a chain of ANDs or of ORs. The depth of its tree equals its length, so this does not
    /// recurse.
    fn conditions(&mut self, expr: &Expr, operator: &BinaryOperator) -> Result<Vec<Condition>, FilterError> {
        let mut parts = Vec::new();
        let mut rest = vec![expr];
        while let Some(next) = rest.pop() {
            match bare(next) {
                Expr::BinaryOp { left, op, right } if op == operator => rest.extend([&**right, &**left]),
                part => parts.push(self.condition(part)?),
            }
        }
        Ok(parts)
    }

    /// Converts `IS [NOT] TRUE` and `IS [NOT] FALSE` of one comparison. Electric prints a condition again before it
    /// asks Postgres, and some versions lose the parentheses of `(a OR b) IS TRUE` (libpg_query issue 206). After a
    /// rule's condition, `b` would then add rows.
    fn is(&mut self, inner: &Expr, negated: bool, wanted: bool) -> Result<Condition, FilterError> {
        match self.condition(inner)? {
            Condition::And(_)
            | Condition::Or(_)
            | Condition::Not(_)
            | Condition::Is { .. }
            | Condition::IsNull { .. } => {
                Err(FilterError::new("IS TRUE and IS FALSE are allowed after one comparison only"))
            }
            condition => Ok(Condition::Is { condition: condition.into(), negated, wanted }),
        }
    }

    fn like(
        &mut self,
        value: &Expr,
        pattern: &Expr,
        negated: bool,
        ignore_case: bool,
    ) -> Result<Condition, FilterError> {
        let value = self.operand(value)?;
        let pattern = self.operand(pattern)?;
        let text = match &pattern {
            Operand::Text(text) => text,
            Operand::Param(index) => {
                self.used.get(*index).and_then(|number| self.given.get(number)).ok_or(NOT_GIVEN)?
            }
            _ => return Err(FilterError::new("a LIKE pattern must be a text or $n")),
        };
        rows::pattern(text)?;
        self.patterns += 1;
        self.pattern_bytes += text.len();
        if self.patterns > MAX_PATTERNS || self.pattern_bytes > MAX_PATTERN_BYTES {
            return Err(FilterError::new("at most 8 LIKE patterns with at most 256 bytes in total are allowed"));
        }
        Ok(Condition::Like { value, negated, ignore_case, pattern })
    }

    fn operand(&mut self, expr: &Expr) -> Result<Operand, FilterError> {
        self.deeper(|admission| admission.bare_operand(bare(expr)))
    }

    fn operands(&mut self, list: &[Expr]) -> Result<Vec<Operand>, FilterError> {
        if list.is_empty() {
            return Err(FilterError::new("an empty list is not allowed"));
        }
        list.iter().map(|item| self.operand(item)).collect()
    }

    fn bare_operand(&mut self, expr: &Expr) -> Result<Operand, FilterError> {
        match expr {
            Expr::Identifier(name) => column(name, self.columns).map(Operand::Column),
            Expr::Value(value) => self.value(&value.value),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match bare(expr) {
                Expr::Value(value) => match self.value(&value.value)? {
                    Operand::Number { negative: false, digits } => Ok(Operand::Number { negative: true, digits }),
                    _ => Err(NO_ARITHMETIC),
                },
                _ => Err(NO_ARITHMETIC),
            },
            Expr::Array(Array { elem, named: true }) => self.operands(elem).and_then(rows::array),
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                self.cast(expr, data_type)
            }
            Expr::Function(function) => {
                let (name, argument) = text_function(function).ok_or(NO_FUNCTION)?;
                rows::function(name, self.operand(argument)?)
            }
            _ => Err(refusal(expr)),
        }
    }

    fn value(&mut self, value: &Value) -> Result<Operand, FilterError> {
        match value {
            Value::Number(digits, false) => Ok(Operand::Number { negative: false, digits: digits.clone() }),
            Value::SingleQuotedString(text) => Ok(Operand::Text(text.clone())),
            Value::Boolean(value) => Ok(Operand::Boolean(*value)),
            Value::Placeholder(name) => self.param(name).map(Operand::Param),
            Value::Null => Err(FilterError::new("NULL is not allowed as a value: write IS NULL or IS NOT NULL")),
            _ => Err(NOT_ALLOWED),
        }
    }

    fn param(&mut self, name: &str) -> Result<usize, FilterError> {
        let number = parameter(name).ok_or(NOT_ALLOWED)?;
        if !self.given.contains_key(&number) {
            return Err(NOT_GIVEN);
        }
        let known = self.used.iter().position(|used| *used == number);
        Ok(known.unwrap_or_else(|| {
            self.used.push(number);
            self.used.len() - 1
        }))
    }

    fn cast(&mut self, inner: &Expr, data_type: &DataType) -> Result<Operand, FilterError> {
        let inner = self.operand(inner)?;
        let (name, dimension) = type_name(data_type).ok_or(FilterError::new("a cast to this type is not allowed"))?;
        rows::cast(inner, name, dimension)
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, FilterError>) -> Result<T, FilterError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(FilterError::new("must not have more than 256 conditions and values"));
        }
        if self.depth == MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }
}

const NOT_ALLOWED: FilterError = FilterError::new("contains an expression that is not allowed");
const NOT_GIVEN: FilterError = FilterError::new("a parameter has no value in params");
const NO_ARITHMETIC: FilterError = FilterError::new("arithmetic is not allowed");
const NO_SUBQUERY: FilterError = FilterError::new("subqueries are not allowed");

/// Returns the name of a column, folded as Postgres does if it is unquoted. It must be in `columns`, if given.
pub(super) fn column(name: &Ident, columns: Option<&[String]>) -> Result<String, FilterError> {
    let folded = match name.quote_style {
        None => name.value.to_ascii_lowercase(),
        Some(_) => name.value.clone(),
    };
    if folded.is_empty() || folded.len() > MAX_NAME_BYTES {
        return Err(FilterError::new("a column's name must have 1 to 63 bytes"));
    }
    if columns.is_some_and(|columns| !columns.contains(&folded)) {
        return Err(FilterError::new("contains a column that may not be queried"));
    }
    Ok(folded)
}

/// Returns the allowed type that `data_type` names, and whether it is an array.
fn type_name(data_type: &DataType) -> Option<(&'static str, Dimension)> {
    let written = data_type.to_string().to_ascii_uppercase();
    let (name, dimension) = match written.strip_suffix("[]") {
        Some(element) => (element, Dimension::List),
        None => (written.as_str(), Dimension::One),
    };
    TYPES.iter().find(|(spelling, _)| *spelling == name).map(|(_, name)| (*name, dimension))
}

/// Returns `expr` without the parentheses around it.
pub(super) fn bare(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

const fn comparison(operator: &BinaryOperator) -> Option<Operator> {
    Some(match operator {
        BinaryOperator::Eq => Operator::Equal,
        BinaryOperator::NotEq => Operator::NotEqual,
        BinaryOperator::Lt => Operator::Less,
        BinaryOperator::LtEq => Operator::LessOrEqual,
        BinaryOperator::Gt => Operator::Greater,
        BinaryOperator::GtEq => Operator::GreaterOrEqual,
        _ => return None,
    })
}

fn any_operator(operator: &BinaryOperator) -> Result<Operator, FilterError> {
    match operator {
        BinaryOperator::AtArrow => Ok(Operator::Contains),
        BinaryOperator::ArrowAt => Ok(Operator::ContainedBy),
        BinaryOperator::PGOverlap => Ok(Operator::Overlaps),
        BinaryOperator::Minus => Err(NO_ARITHMETIC),
        _ => comparison(operator).ok_or(NOT_ALLOWED),
    }
}

/// Returns the name and the argument of a plain call of an allowed function.
fn text_function(function: &Function) -> Option<(&'static str, &Expr)> {
    let Function {
        name,
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }),
        within_group,
        filter: None,
        null_treatment: None,
        over: None,
    } = function
    else {
        return None;
    };
    let ([ObjectNamePart::Identifier(name)], [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))]) =
        (name.0.as_slice(), args.as_slice())
    else {
        return None;
    };
    let known = FUNCTIONS.iter().find(|known| name.quote_style.is_none() && name.value.eq_ignore_ascii_case(known))?;
    (clauses.is_empty() && within_group.is_empty()).then_some((*known, argument))
}

fn refusal(expr: &Expr) -> FilterError {
    match expr {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => NO_SUBQUERY,
        Expr::BinaryOp { op: BinaryOperator::Minus, .. } => NO_ARITHMETIC,
        Expr::Case { .. } => FilterError::new("CASE is not allowed"),
        Expr::Collate { .. } => FilterError::new("COLLATE is not allowed"),
        Expr::Like { .. } | Expr::ILike { .. } => FilterError::new("LIKE with ESCAPE or ANY is not allowed"),
        _ => NOT_ALLOWED,
    }
}

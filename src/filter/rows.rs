//! Rejects expressions that can fail on some rows and not on others.
//!
//! An error before the first row is read (a text that is not a UUID, an operator that does not exist) reveals nothing
//! about rows. So expressions that can only fail this way are allowed.
//!
//! | rejected | reason |
//! |---|---|
//! | a cast of a cast, a function or an array | Postgres evaluates it once per row: `'no date'::text::date` |
//! | a cast of a column, except to `text` | fails on the values that do not fit |
//! | a cast to a float | Postgres casts a numeric column to compare it, and large values do not fit |
//! | two columns in one comparison, a column in a list | columns may have different collations, and elements of arrays no operator (`json[]`); both fail at the first row that is evaluated |
//! | a list of several types, a date or time with a cast in `IN` | Postgres casts the items to one type, once per row if that depends on the time zone |
//! | a `LIKE` pattern that is not constant, or ends in a lone backslash | fails on rows that match the part before the backslash |

use super::FilterError;
use super::tree::{Condition, Dimension, Operand};

/// The most `%` and `_` in one LIKE pattern.
const MAX_WILDCARDS: usize = 8;

/// The types whose casts to one another depend on the session's time zone.
const TEMPORAL: [&str; 3] = ["date", "timestamp", "timestamptz"];

const COLUMN_IN_LIST: FilterError = FilterError::new("a list cannot contain a column: compare with = and OR");
const TWO_COLUMNS: FilterError = FilterError::new("two columns cannot be compared: compare a column with a value");

/// Casts a plain value to any type, or a column to `text`. The latter cannot fail for the types that Electric knows.
pub(super) fn cast(inner: Operand, name: &'static str, dimension: Dimension) -> Result<Operand, FilterError> {
    match inner {
        Operand::Text(_) | Operand::Number { .. } | Operand::Boolean(_) | Operand::Param(_) => {}
        Operand::Column(_) if (name, dimension) == ("text", Dimension::One) => {}
        Operand::Column(_) => {
            return Err(FilterError::new("a column can be cast to text only: cast the other side"));
        }
        Operand::Array(_) => {
            return Err(FilterError::new("an array cannot be cast: cast its items, as in ARRAY[$1::uuid]"));
        }
        Operand::Cast(..) | Operand::Function(..) => {
            return Err(FilterError::new("the result of a cast or a function cannot be cast"));
        }
    }
    Ok(Operand::Cast(inner.into(), name, dimension))
}

/// Applies a function to one text.
pub(super) fn function(name: &'static str, argument: Operand) -> Result<Operand, FilterError> {
    match argument {
        Operand::Function(..) | Operand::Array(_) => {
            Err(FilterError::new("a function cannot take a function or an array"))
        }
        _ => Ok(Operand::Function(name, argument.into())),
    }
}

/// Makes an array of constants.
pub(super) fn array(items: Vec<Operand>) -> Result<Operand, FilterError> {
    let nested = |item: &Operand| matches!(item, Operand::Array(_) | Operand::Cast(_, _, Dimension::List));
    if items.iter().any(nested) {
        return Err(FilterError::new("an array of arrays is not allowed"));
    }
    check_list(&items)?;
    Ok(Operand::Array(items))
}

/// Checks a condition, without the conditions inside it.
pub(super) fn leaf(condition: Condition) -> Result<Condition, FilterError> {
    match &condition {
        Condition::Compare(left, _, right) | Condition::CompareAny(left, _, right) => check_columns(&[left, right])?,
        Condition::Between { value, low, high, .. } => check_columns(&[value, low, high])?,
        Condition::In { list, .. } => {
            check_list(list)?;
            if list.iter().any(|item| matches!(item, Operand::Cast(_, name, _) if TEMPORAL.contains(name))) {
                return Err(FilterError::new("a date or a time in IN cannot be cast: leave the cast out"));
            }
        }
        Condition::And(_)
        | Condition::Or(_)
        | Condition::Not(_)
        | Condition::Value(_)
        | Condition::Like { .. }
        | Condition::IsNull { .. }
        | Condition::Is { .. } => {}
    }
    Ok(condition)
}

/// Checks that a LIKE pattern is complete and has few wildcards.
pub(super) fn pattern(text: &str) -> Result<(), FilterError> {
    let backslashes = text.bytes().rev().take_while(|byte| *byte == b'\\').count();
    if backslashes % 2 == 1 {
        return Err(FilterError::new("a LIKE pattern must not end in a lone backslash"));
    }
    if text.bytes().filter(|byte| matches!(byte, b'%' | b'_')).count() > MAX_WILDCARDS {
        return Err(FilterError::new("a LIKE pattern can have at most 8 wildcards"));
    }
    Ok(())
}

fn check_columns(operands: &[&Operand]) -> Result<(), FilterError> {
    let columns = operands.iter().filter(|operand| reads_row(operand)).count();
    if columns > 1 { Err(TWO_COLUMNS) } else { Ok(()) }
}

/// Checks that a list contains only constants, all of one type or of a type that depends on the other side.
fn check_list(items: &[Operand]) -> Result<(), FilterError> {
    if items.iter().any(reads_row) {
        return Err(COLUMN_IN_LIST);
    }
    let mut types = items.iter().filter_map(own_type);
    let first = types.next();
    if types.any(|other| Some(other) != first) {
        return Err(FilterError::new("a list cannot have several types: write the same cast for each item, or none"));
    }
    Ok(())
}

fn reads_row(operand: &Operand) -> bool {
    match operand {
        Operand::Column(_) => true,
        Operand::Text(_) | Operand::Number { .. } | Operand::Boolean(_) | Operand::Param(_) => false,
        Operand::Array(items) => items.iter().any(reads_row),
        Operand::Cast(inner, ..) | Operand::Function(_, inner) => reads_row(inner),
    }
}

/// Returns the type of a constant; `None` if Postgres takes it from the other side, as for a text or a parameter.
const fn own_type(operand: &Operand) -> Option<&'static str> {
    match operand {
        Operand::Column(_) | Operand::Text(_) | Operand::Param(_) | Operand::Array(_) => None,
        Operand::Number { .. } => Some("number"),
        Operand::Boolean(_) => Some("bool"),
        Operand::Function(..) => Some("text"),
        Operand::Cast(_, name, _) => Some(name),
    }
}

//! The tree of a client's condition, and its printer.
//!
//! The printer puts parentheses around every condition and quotes around every column, so that neither
//! operator precedence nor keywords can change its meaning when Electric or Postgres parses it.

use std::fmt::{self, Display, Formatter};

/// A condition on one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// Two or more conditions, none of them `And`.
    And(Vec<Self>),
    /// Two or more conditions, none of them `Or`.
    Or(Vec<Self>),
    Not(Box<Self>),
    /// A boolean column or constant.
    Value(Operand),
    Compare(Operand, Operator, Operand),
    /// `left operator ANY (array)`.
    CompareAny(Operand, Operator, Operand),
    In {
        value: Operand,
        negated: bool,
        list: Vec<Operand>,
    },
    Between {
        value: Operand,
        negated: bool,
        low: Operand,
        high: Operand,
    },
    Like {
        value: Operand,
        negated: bool,
        ignore_case: bool,
        pattern: Operand,
    },
    IsNull {
        value: Operand,
        negated: bool,
    },
    /// `IS [NOT] TRUE`, `IS [NOT] FALSE`.
    Is {
        condition: Box<Self>,
        negated: bool,
        wanted: bool,
    },
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The name as Postgres stores it, folded and without quotes.
    Column(String),
    Text(String),
    /// Digits with at most one point, as written.
    Number {
        negative: bool,
        digits: String,
    },
    Boolean(bool),
    /// The index of a value in the filter's list.
    Param(usize),
    Array(Vec<Self>),
    /// A cast to a type that [`super::admit`] lists.
    Cast(Box<Self>, &'static str, Dimension),
    /// A call of a function that [`super::admit`] lists.
    Function(&'static str, Box<Self>),
}

/// Whether a type is a single value or an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dimension {
    One,
    List,
}

/// A comparison operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Contains,
    ContainedBy,
    Overlaps,
}

impl Operator {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Contains => "@>",
            Self::ContainedBy => "<@",
            Self::Overlaps => "&&",
        }
    }
}

impl Condition {
    /// Returns the SQL, with parameters numbered from `offset + 1`.
    pub(super) fn print(&self, offset: usize) -> String {
        Printed { node: self, offset }.to_string()
    }
}

/// A node to print, with the number of parameters before the filter's own.
struct Printed<'a, T: ?Sized> {
    node: &'a T,
    offset: usize,
}

impl<T: ?Sized> Printed<'_, T> {
    const fn of<'a, U: ?Sized>(&self, node: &'a U) -> Printed<'a, U> {
        Printed { node, offset: self.offset }
    }
}

impl Display for Printed<'_, Condition> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let not = |negated: bool| if negated { "NOT " } else { "" };
        match self.node {
            Condition::And(all) => write!(f, "({})", Joined(all, " AND ", self.offset)),
            Condition::Or(any) => write!(f, "({})", Joined(any, " OR ", self.offset)),
            Condition::Not(inner) => write!(f, "(NOT {})", self.of(&**inner)),
            Condition::Value(value) => write!(f, "({})", self.of(value)),
            Condition::Compare(left, operator, right) => {
                write!(f, "({} {} {})", self.of(left), operator.as_str(), self.of(right))
            }
            Condition::CompareAny(left, operator, right) => {
                write!(f, "({} {} ANY ({}))", self.of(left), operator.as_str(), self.of(right))
            }
            Condition::In { value, negated, list } => {
                write!(f, "({} {}IN ({}))", self.of(value), not(*negated), Joined(list, ", ", self.offset))
            }
            Condition::Between { value, negated, low, high } => {
                let (value, low, high) = (self.of(value), self.of(low), self.of(high));
                write!(f, "({value} {}BETWEEN {low} AND {high})", not(*negated))
            }
            Condition::Like { value, negated, ignore_case, pattern } => {
                let like = if *ignore_case { "ILIKE" } else { "LIKE" };
                write!(f, "({} {}{like} {})", self.of(value), not(*negated), self.of(pattern))
            }
            Condition::IsNull { value, negated } => write!(f, "({} IS {}NULL)", self.of(value), not(*negated)),
            Condition::Is { condition, negated, wanted } => {
                let wanted = if *wanted { "TRUE" } else { "FALSE" };
                write!(f, "({} IS {}{wanted})", self.of(&**condition), not(*negated))
            }
        }
    }
}

impl Display for Printed<'_, Operand> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.node {
            Operand::Column(name) => QuotedName(name).fmt(f),
            Operand::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            // In parentheses, since a cast binds more tightly than the minus, and two minus signs begin a comment.
            Operand::Number { negative: true, digits } => write!(f, "(-{digits})"),
            Operand::Number { negative: false, digits } => f.write_str(digits),
            Operand::Boolean(true) => f.write_str("TRUE"),
            Operand::Boolean(false) => f.write_str("FALSE"),
            Operand::Param(index) => write!(f, "${}", self.offset + index + 1),
            Operand::Array(items) => write!(f, "ARRAY[{}]", Joined(items, ", ", self.offset)),
            Operand::Cast(inner, name, Dimension::One) => write!(f, "{}::{name}", self.of(&**inner)),
            Operand::Cast(inner, name, Dimension::List) => write!(f, "{}::{name}[]", self.of(&**inner)),
            Operand::Function(name, argument) => write!(f, "{name}({})", self.of(&**argument)),
        }
    }
}

/// Nodes to print, their separator, and the number of parameters before the filter's own.
struct Joined<'a, T>(&'a [T], &'static str, usize);

impl<T> Display for Joined<'_, T>
where
    for<'b> Printed<'b, T>: Display,
{
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(nodes, between, offset) = *self;
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 {
                f.write_str(between)?;
            }
            Printed { node, offset }.fmt(f)?;
        }
        Ok(())
    }
}

/// Prints a column in double quotes.
pub(super) struct QuotedName<'a>(pub(super) &'a str);

impl Display for QuotedName<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.replace('"', "\"\""))
    }
}

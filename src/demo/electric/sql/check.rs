//! Checks a parsed tree: resolves names, fills in parameters, and gives both operands of an operator the same kind.

use super::parser::{Node, NodeKind};
use super::{Expr, Kind, Scope, SqlError, Value, eval, visible};

pub(super) struct Checker<'a> {
    scope: &'a Scope,
}

impl<'a> Checker<'a> {
    pub(super) const fn new(scope: &'a Scope) -> Self {
        Self { scope }
    }

    /// Returns `node` as a boolean.
    pub(super) fn condition(&self, node: Node) -> Result<Expr, SqlError> {
        let location = node.location;
        let expr = self.coerced(node, &Kind::Bool)?;
        match kind(&expr) {
            Kind::Bool => Ok(expr),
            _ => Err(SqlError::at(location, "expression is not a boolean")),
        }
    }

    fn expr(&self, node: Node) -> Result<Expr, SqlError> {
        let location = node.location;
        Ok(match node.kind {
            NodeKind::Bool(value) => Expr::Literal(Value::Bool(value), Kind::Bool),
            NodeKind::Null => Expr::Literal(Value::Null, Kind::Unknown),
            NodeKind::Text(text) => Expr::Literal(Value::Text(text), Kind::Unknown),
            NodeKind::Number(number) => Expr::Literal(self.literal(&number, &Kind::Number, location)?, Kind::Number),
            NodeKind::Param(number) => self.param(number, location)?,
            NodeKind::Name(name) => match self.scope.columns.get(&name) {
                Some(kind) => Expr::Column(name, kind.clone()),
                None => return Err(SqlError::at(location, format!("unknown reference {name}"))),
            },
            NodeKind::Array(items) => self.array(items)?,
            NodeKind::Cast(inner, pg_type) => self.coerced(*inner, &Kind::of(&pg_type))?,
            NodeKind::Not(inner) => Expr::Not(self.condition(*inner)?.into()),
            NodeKind::And(left, right) => Expr::And(self.condition(*left)?.into(), self.condition(*right)?.into()),
            NodeKind::Or(left, right) => Expr::Or(self.condition(*left)?.into(), self.condition(*right)?.into()),
            NodeKind::Compare(left, operator, right) => {
                let (left, right) = self.pair(*left, *right, location)?;
                Expr::Compare(left.into(), operator, right.into())
            }
            NodeKind::In(value, list) => {
                let value = self.expr(*value)?;
                let list = list.into_iter().map(|item| self.coerced(item, &kind(&value)));
                let list = list.collect::<Result<_, _>>()?;
                Expr::In(value.into(), list)
            }
            NodeKind::Any(value, operator, array) => {
                let value = self.expr(*value)?;
                let array = self.coerced(*array, &Kind::Array(kind(&value).into()))?;
                Expr::Any(value.into(), operator, array.into())
            }
            NodeKind::Contains(left, right) => {
                let (left, right) = self.pair(*left, *right, location)?;
                Expr::Contains(left.into(), right.into())
            }
            NodeKind::Fold { inner, upper } => Expr::Fold { inner: self.coerced(*inner, &Kind::Text)?.into(), upper },
            NodeKind::IsNull(inner) => Expr::IsNull(self.expr(*inner)?.into()),
            NodeKind::Like { value, pattern, ignore_case } => {
                let value = self.coerced(*value, &Kind::Text)?.into();
                Expr::Like { value, pattern: self.coerced(*pattern, &Kind::Text)?.into(), ignore_case }
            }
        })
    }

    fn param(&self, number: u32, location: usize) -> Result<Expr, SqlError> {
        match self.scope.params.get(&number) {
            // A NUL ends a parameter too.
            Some(text) => Ok(Expr::Literal(Value::Text(visible(text).to_owned()), Kind::Unknown)),
            None => Err(SqlError::at(location, format!("parameter ${number} was not provided"))),
        }
    }

    fn array(&self, items: Vec<Node>) -> Result<Expr, SqlError> {
        let items: Vec<Expr> = items.into_iter().map(|item| self.expr(item)).collect::<Result<_, _>>()?;
        Ok(Expr::Array(items))
    }

    /// Checks both sides. An untyped one takes the kind of the other.
    fn pair(&self, left: Node, right: Node, location: usize) -> Result<(Expr, Expr), SqlError> {
        let (left_at, right_at) = (left.location, right.location);
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        let (left_kind, right_kind) = (kind(&left), kind(&right));
        let left = self.fit(left, &right_kind, left_at)?;
        let right = self.fit(right, &left_kind, right_at)?;
        let (left_kind, right_kind) = (kind(&left), kind(&right));
        if left_kind == right_kind || left_kind == Kind::Unknown || right_kind == Kind::Unknown {
            return Ok((left, right));
        }
        Err(SqlError::at(location, "could not select an operator overload"))
    }

    fn coerced(&self, node: Node, wanted: &Kind) -> Result<Expr, SqlError> {
        let location = node.location;
        let expr = self.expr(node)?;
        self.fit(expr, wanted, location)
    }

    /// Gives an untyped literal the wanted kind, and leaves everything else.
    fn fit(&self, expr: Expr, wanted: &Kind, location: usize) -> Result<Expr, SqlError> {
        match (expr, wanted) {
            (expr, Kind::Unknown) => Ok(expr),
            (Expr::Literal(Value::Text(text), Kind::Unknown), wanted) => {
                Ok(Expr::Literal(self.literal(&text, wanted, location)?, wanted.clone()))
            }
            (Expr::Literal(Value::Null, _), wanted) => Ok(Expr::Literal(Value::Null, wanted.clone())),
            (Expr::Array(items), Kind::Array(element)) => {
                let items = items.into_iter().map(|item| self.fit(item, element, location));
                Ok(Expr::Array(items.collect::<Result<_, _>>()?))
            }
            (expr, _) => Ok(expr),
        }
    }

    fn literal(&self, text: &str, kind: &Kind, location: usize) -> Result<Value, SqlError> {
        eval::value(text, kind).ok_or_else(|| {
            let name = format!("{kind:?}").to_lowercase();
            SqlError::at(location, format!("invalid syntax for type {name}: {text}"))
        })
    }
}

fn kind(expr: &Expr) -> Kind {
    match expr {
        Expr::Literal(_, kind) | Expr::Column(_, kind) => kind.clone(),
        Expr::Array(items) => {
            let kinds = items.iter().map(kind).find(|kind| *kind != Kind::Unknown);
            Kind::Array(kinds.unwrap_or(Kind::Unknown).into())
        }
        Expr::Fold { .. } => Kind::Text,
        Expr::Not(_) | Expr::And(..) | Expr::Or(..) | Expr::Compare(..) | Expr::In(..) => Kind::Bool,
        Expr::Any(..) | Expr::Contains(..) | Expr::IsNull(_) | Expr::Like { .. } => Kind::Bool,
    }
}

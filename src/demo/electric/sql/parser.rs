//! Parses tokens into a tree, by precedence climbing. Names and types are not checked yet.

use super::lexer::{Token, TokenKind, tokens};
use super::{Operator, SqlError};

/// The deepest nesting. Deeper texts are rejected, before they overflow the stack.
const DEPTH: usize = 100;

/// A tree as written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) location: usize,
}

#[derive(Clone, Debug)]
pub(super) enum NodeKind {
    Bool(bool),
    Null,
    Text(String),
    Number(String),
    Param(u32),
    Name(String),
    Array(Vec<Node>),
    Cast(Box<Node>, String),
    Not(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Compare(Box<Node>, Operator, Box<Node>),
    In(Box<Node>, Vec<Node>),
    Any(Box<Node>, Operator, Box<Node>),
    Contains(Box<Node>, Box<Node>),
    IsNull(Box<Node>),
    /// `lower` or `upper`.
    Fold {
        inner: Box<Node>,
        upper: bool,
    },
    Like {
        value: Box<Node>,
        pattern: Box<Node>,
        ignore_case: bool,
    },
}

/// One term of an `order_by` as written.
pub(super) struct OrderTerm {
    pub(super) column: String,
    pub(super) location: usize,
    pub(super) descending: bool,
    pub(super) nulls_first: bool,
}

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    end: usize,
}

impl Parser {
    pub(super) fn new(text: &str) -> Result<Self, SqlError> {
        Ok(Self { tokens: tokens(text)?, at: 0, depth: 0, end: text.len() })
    }

    /// Parses the whole text as a condition.
    pub(super) fn condition(mut self) -> Result<Node, SqlError> {
        let node = self.or()?;
        match self.peek() {
            None => Ok(node),
            // Electric puts the text after `SELECT 1 WHERE`, and reads only the condition of the parsed statement.
            Some(TokenKind::Word(word)) if matches!(word.as_str(), "limit" | "offset" | "order" | "group") => Ok(node),
            Some(TokenKind::Word(word)) if matches!(word.as_str(), "union" | "intersect" | "except") => {
                Err(SqlError::Crash)
            }
            Some(_) => Err(self.unexpected()),
        }
    }

    /// Parses the whole text as an `order_by`.
    pub(super) fn order_by(mut self) -> Result<Vec<OrderTerm>, SqlError> {
        let mut terms = Vec::new();
        loop {
            let location = self.location();
            let column = self.name()?;
            let descending = !self.word("asc") && self.word("desc");
            let nulls_first = if self.word("nulls") { self.nulls_first()? } else { descending };
            terms.push(OrderTerm { column, location, descending, nulls_first });
            if !self.mark(',') {
                break;
            }
        }
        if self.peek().is_some() { Err(self.unexpected()) } else { Ok(terms) }
    }

    fn nulls_first(&mut self) -> Result<bool, SqlError> {
        let first = self.word("first");
        if first || self.word("last") { Ok(first) } else { Err(self.unexpected()) }
    }

    fn or(&mut self) -> Result<Node, SqlError> {
        let mut left = self.and()?;
        while self.word("or") {
            let right = self.and()?;
            left = node(left.location, NodeKind::Or(left.into(), right.into()));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Node, SqlError> {
        let mut left = self.not()?;
        while self.word("and") {
            let right = self.not()?;
            left = node(left.location, NodeKind::And(left.into(), right.into()));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Node, SqlError> {
        let location = self.location();
        if !self.word("not") {
            return self.predicate();
        }
        self.deeper(|parser| Ok(node(location, NodeKind::Not(parser.not()?.into()))))
    }

    /// Parses an operand with its suffixes, such as `IN` or `IS NULL`.
    fn predicate(&mut self) -> Result<Node, SqlError> {
        let mut left = self.operand()?;
        loop {
            let location = left.location;
            if let Some(TokenKind::Operator(_)) = self.peek() {
                left = self.comparison(left)?;
            } else if self.word("is") {
                let negated = self.word("not");
                left = negate(negated, self.is(left)?);
            } else if self.begins_predicate() {
                let negated = self.word("not");
                left = negate(negated, self.keyword_predicate(left)?);
            } else {
                return Ok(left);
            }
            left.location = location;
        }
    }

    fn begins_predicate(&self) -> bool {
        let word = |at: usize| match self.tokens.get(at).map(|token| &token.kind) {
            Some(TokenKind::Word(word)) => word.as_str(),
            _ => "",
        };
        let next = if word(self.at) == "not" { word(self.at + 1) } else { word(self.at) };
        matches!(next, "in" | "like" | "ilike" | "between")
    }

    fn comparison(&mut self, left: Node) -> Result<Node, SqlError> {
        let location = self.location();
        let Some(TokenKind::Operator(written)) = self.next() else {
            return Err(self.unexpected());
        };
        let operator = match written.as_str() {
            "=" => Operator::Equal,
            "<>" | "!=" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            "@>" => return Ok(node(location, NodeKind::Contains(left.into(), self.operand()?.into()))),
            "<@" => return Ok(node(location, NodeKind::Contains(self.operand()?.into(), left.into()))),
            "~~" => return self.like(left, false),
            "~~*" => return self.like(left, true),
            _ => return Err(SqlError::at(location, format!("unknown binary operator \"{written}\""))),
        };
        if self.word("any") {
            self.expect('(')?;
            let array = self.or()?;
            self.expect(')')?;
            return Ok(node(location, NodeKind::Any(left.into(), operator, array.into())));
        }
        Ok(node(location, NodeKind::Compare(left.into(), operator, self.operand()?.into())))
    }

    fn is(&mut self, left: Node) -> Result<Node, SqlError> {
        let location = left.location;
        if self.word("null") || self.word("unknown") {
            return Ok(node(location, NodeKind::IsNull(left.into())));
        }
        let wanted = self.word("true");
        if !wanted && !self.word("false") {
            return Err(self.unexpected());
        }
        // `x IS TRUE` is never NULL: x = TRUE AND x IS NOT NULL.
        let null = node(location, NodeKind::IsNull(left.clone().into()));
        let known = node(location, NodeKind::Not(null.into()));
        let constant = node(location, NodeKind::Bool(wanted));
        let equal = node(location, NodeKind::Compare(left.into(), Operator::Equal, constant.into()));
        Ok(node(location, NodeKind::And(known.into(), equal.into())))
    }

    fn keyword_predicate(&mut self, left: Node) -> Result<Node, SqlError> {
        let location = left.location;
        if self.word("in") {
            self.expect('(')?;
            let list = self.list(')')?;
            return Ok(node(location, NodeKind::In(left.into(), list)));
        }
        if self.word("between") {
            let low = self.operand()?;
            if !self.word("and") {
                return Err(self.unexpected());
            }
            let high = self.operand()?;
            let from = NodeKind::Compare(left.clone().into(), Operator::GreaterOrEqual, low.into());
            let to = NodeKind::Compare(left.into(), Operator::LessOrEqual, high.into());
            return Ok(node(location, NodeKind::And(node(location, from).into(), node(location, to).into())));
        }
        let ignore_case = self.word("ilike");
        if !ignore_case && !self.word("like") {
            return Err(self.unexpected());
        }
        self.like(left, ignore_case)
    }

    fn like(&mut self, left: Node, ignore_case: bool) -> Result<Node, SqlError> {
        let pattern = self.operand()?.into();
        Ok(node(left.location, NodeKind::Like { value: left.into(), pattern, ignore_case }))
    }

    fn operand(&mut self) -> Result<Node, SqlError> {
        let mut operand = self.deeper(Self::primary)?;
        while self.mark(':') {
            let mut pg_type = self.name()?;
            if self.mark('[') {
                self.expect(']')?;
                pg_type.push_str("[]");
            }
            operand = node(operand.location, NodeKind::Cast(operand.into(), pg_type));
        }
        Ok(operand)
    }

    fn primary(&mut self) -> Result<Node, SqlError> {
        let location = self.location();
        let kind = match self.peek().cloned() {
            Some(TokenKind::Mark('(')) => {
                self.at += 1;
                let inner = self.or()?;
                self.expect(')')?;
                return Ok(inner);
            }
            Some(TokenKind::Operator(sign)) if sign == "-" => {
                self.at += 1;
                let Some(TokenKind::Number(number)) = self.next() else {
                    return Err(self.unexpected());
                };
                return Ok(node(location, NodeKind::Number(format!("-{number}"))));
            }
            Some(TokenKind::Text(text)) => NodeKind::Text(text),
            Some(TokenKind::Number(number)) => NodeKind::Number(number),
            Some(TokenKind::Param(number)) => NodeKind::Param(number),
            Some(TokenKind::Word(word)) => match word.as_str() {
                "true" => NodeKind::Bool(true),
                "false" => NodeKind::Bool(false),
                "null" => NodeKind::Null,
                "array" => return self.array(),
                "lower" | "upper" if self.calls() => {
                    self.at += 2;
                    let inner = self.or()?;
                    self.expect(')')?;
                    return Ok(node(location, NodeKind::Fold { inner: inner.into(), upper: word == "upper" }));
                }
                "select" | "exists" | "case" => return Err(self.unexpected()),
                _ => return Ok(node(location, NodeKind::Name(self.name()?))),
            },
            Some(TokenKind::Quoted(_)) => return Ok(node(location, NodeKind::Name(self.name()?))),
            _ => return Err(self.unexpected()),
        };
        self.at += 1;
        Ok(node(location, kind))
    }

    /// Whether the next word is the name of a function.
    fn calls(&self) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|token| token.kind == TokenKind::Mark('('))
    }

    fn array(&mut self) -> Result<Node, SqlError> {
        let location = self.location();
        self.at += 1;
        self.expect('[')?;
        let items = if self.mark(']') { Vec::new() } else { self.list(']')? };
        Ok(node(location, NodeKind::Array(items)))
    }

    fn list(&mut self, close: char) -> Result<Vec<Node>, SqlError> {
        let mut items = vec![self.or()?];
        while self.mark(',') {
            items.push(self.or()?);
        }
        self.expect(close)?;
        Ok(items)
    }

    fn name(&mut self) -> Result<String, SqlError> {
        match self.next() {
            Some(TokenKind::Word(name) | TokenKind::Quoted(name)) => Ok(name),
            _ => {
                self.at = self.at.saturating_sub(1);
                Err(self.unexpected())
            }
        }
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Result<Node, SqlError>) -> Result<Node, SqlError> {
        if self.depth == DEPTH {
            return Err(SqlError::at(self.location(), "expression nests too deeply"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn peek(&self) -> Option<&TokenKind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn next(&mut self) -> Option<TokenKind> {
        let token = self.peek().cloned();
        self.at += 1;
        token
    }

    fn word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Some(TokenKind::Word(next)) if next == word);
        self.at += usize::from(found);
        found
    }

    fn mark(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(&TokenKind::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, mark: char) -> Result<(), SqlError> {
        if self.mark(mark) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn location(&self) -> usize {
        self.tokens.get(self.at).map_or(self.end, |token| token.location)
    }

    fn unexpected(&self) -> SqlError {
        match self.peek() {
            None => SqlError::at(self.end, "syntax error at end of input"),
            Some(_) => SqlError::at(self.location(), "syntax error"),
        }
    }
}

const fn node(location: usize, kind: NodeKind) -> Node {
    Node { kind, location }
}

fn negate(negated: bool, inner: Node) -> Node {
    if negated { node(inner.location, NodeKind::Not(inner.into())) } else { inner }
}

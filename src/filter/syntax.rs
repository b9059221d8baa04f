//! Parses text to sqlparser's tree. Bounds are checked before the parser runs.

use sqlparser::ast::{Expr, OrderByExpr};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace, Word};

use super::FilterError;

/// The most bytes of a `where` or an `order_by`.
const MAX_BYTES: usize = 4 * 1024;

/// The deepest nesting of brackets.
const MAX_NESTING: usize = 24;

/// The deepest recursion of the parser's expression rule. A bracket, a NOT and the right side of an operator are one
/// call each. A call takes up to 25 KiB of stack, 50 KiB if it is not optimized. If little of a worker's 2 MiB is left,
/// the parser continues on another stack (its feature `recursive-protection`).
const MAX_RECURSION: usize = 40;

/// Parses a whole text as one expression.
pub(super) fn condition(text: &str) -> Result<Expr, FilterError> {
    parse(text, |parser| parser.parse_expr())
}

/// Parses a whole text as the terms of an `order_by`.
pub(super) fn order_by(text: &str) -> Result<Vec<OrderByExpr>, FilterError> {
    parse(text, |parser| parser.parse_comma_separated(Parser::parse_order_by_expr))
}

/// Returns the tokens of a rule's own text, which may use all of Postgres's syntax.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let unreadable = || FilterError::new("contains an unclosed quote or an unknown character");
    Tokenizer::new(&PostgreSqlDialect {}, text).tokenize().map_err(|_| unreadable())
}

/// Parses the tokens of a rule's own text as one expression.
pub(super) fn rule(tokens: Vec<Token>) -> Result<Expr, FilterError> {
    whole(tokens, |parser| parser.parse_expr())
}

fn parse<T>(text: &str, rule: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>) -> Result<T, FilterError> {
    check_text(text)?;
    let tokens = tokens(text)?;
    let mut nesting = 0_usize;
    let mut word = None;
    for token in &tokens {
        check_token(token)?;
        if *token == Token::LParen && word.is_some_and(|word| !may_open(word)) {
            return Err(NO_FUNCTION);
        }
        word = match token {
            Token::Word(word) => Some(word),
            Token::Whitespace(_) => word,
            _ => None,
        };
        nesting = match token {
            Token::LParen | Token::LBracket => nesting + 1,
            Token::RParen | Token::RBracket => nesting.saturating_sub(1),
            _ => nesting,
        };
        if nesting > MAX_NESTING {
            return Err(TOO_DEEP);
        }
    }
    whole(tokens, rule)
}

/// Parses all of the tokens with `rule`.
fn whole<T>(
    tokens: Vec<Token>,
    rule: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
) -> Result<T, FilterError> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_RECURSION).with_tokens(tokens);
    let tree = rule(&mut parser).map_err(|error| match error {
        ParserError::RecursionLimitExceeded => TOO_DEEP,
        ParserError::TokenizerError(_) | ParserError::ParserError(_) => FilterError::new("is not a valid expression"),
    })?;
    if parser.peek_token_ref().token != Token::EOF {
        return Err(FilterError::new("text after the expression is not allowed"));
    }
    Ok(tree)
}

/// Whether a bracket may follow a word. sqlparser parses some other words (`position`) twice, as a special form and as
/// a function, so the time doubles with each level of nesting.
fn may_open(word: &Word) -> bool {
    word.quote_style.is_some() || BEFORE_BRACKET.iter().any(|known| word.value.eq_ignore_ascii_case(known))
}

/// The allowed words before a bracket, and words that are rejected later with a better message.
const BEFORE_BRACKET: [&str; 17] = [
    "all", "and", "any", "between", "cast", "exists", "extract", "ilike", "in", "like", "lower", "not", "or", "some",
    "upper", "values", "varchar",
];

pub(super) const NO_FUNCTION: FilterError =
    FilterError::new("only the functions lower(text) and upper(text) are allowed");
pub(super) const TOO_DEEP: FilterError = FilterError::new("is nested too deeply");

fn check_text(text: &str) -> Result<(), FilterError> {
    if text.len() > MAX_BYTES {
        return Err(FilterError::new("must not be longer than 4 KiB"));
    }
    if text.trim().is_empty() {
        return Err(FilterError::new("must not be empty"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err(FilterError::new("control characters are not allowed"));
    }
    Ok(())
}

/// Checks that a token is allowed, before the parser sees it.
fn check_token(token: &Token) -> Result<(), FilterError> {
    let reason = match token {
        Token::Word(word) => return check_word(word),
        Token::SingleQuotedString(text) if text.contains('\\') => {
            "a backslash is not allowed in a text: send the text in params, as the value of $n"
        }
        Token::Number(digits, long) if *long || !is_decimal(digits) => {
            "a number must consist of digits and at most one point"
        }
        Token::Placeholder(name) if parameter(name).is_none() => "placeholders must be $1 to $9999",
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
            "comments are not allowed"
        }
        Token::SemiColon => "semicolons are not allowed",
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => return Ok(()),
        Token::Whitespace(Whitespace::Space | Whitespace::Newline | Whitespace::Tab) => return Ok(()),
        Token::Comma | Token::LParen | Token::RParen | Token::LBracket | Token::RBracket => return Ok(()),
        Token::Eq | Token::Neq | Token::Lt | Token::LtEq | Token::Gt | Token::GtEq => return Ok(()),
        Token::AtArrow | Token::ArrowAt | Token::Overlap | Token::DoubleColon | Token::Minus => return Ok(()),
        Token::Period => "columns must be named without their table",
        _ => "contains a character or an operator that is not allowed",
    };
    Err(FilterError::new(reason))
}

/// Checks a word. Without quotes it must be ASCII, since Postgres folds other letters depending on its locale.
fn check_word(word: &Word) -> Result<(), FilterError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let fits = match word.quote_style {
        None => word.value.chars().all(plain),
        Some(quote) => quote == '"',
    };
    if fits { Ok(()) } else { Err(FilterError::new("this name needs double quotes")) }
}

fn is_decimal(digits: &str) -> bool {
    let all = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    digits.split_once('.').map_or_else(|| all(digits), |(whole, fraction)| all(whole) && all(fraction))
}

/// Returns the number of a parameter `$1` to `$9999` that is written without leading zeros.
pub(super) fn parameter(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('$')?;
    let plain = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (plain && !digits.starts_with('0')).then(|| digits.parse().ok())?
}

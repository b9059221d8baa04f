//! Splits SQL text into tokens.

use super::SqlError;

/// A token and where it begins.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) location: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind {
    /// An unquoted word, in lower case: a keyword or a name.
    Word(String),
    Quoted(String),
    Text(String),
    Number(String),
    Param(u32),
    Operator(String),
    /// One of `( ) [ ] , . ;` or `::` (as `:`).
    Mark(char),
}

const OPERATOR: &str = "+-*/<>=~!@#%^&|`?";

/// Splits `text` into tokens. Comments are dropped, as in Postgres.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, SqlError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    while let Some(token) = lexer.token()? {
        tokens.push(token);
    }
    Ok(tokens)
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn token(&mut self) -> Result<Option<Token>, SqlError> {
        self.skip()?;
        let location = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(None);
        };
        let kind = match first {
            '\'' => TokenKind::Text(self.quoted('\'')?),
            '"' => TokenKind::Quoted(self.quoted('"')?),
            '$' => self.param()?,
            '0'..='9' => TokenKind::Number(self.take(|c| c.is_ascii_digit() || c == '.').to_owned()),
            '(' | ')' | '[' | ']' | ',' | '.' | ';' => TokenKind::Mark(self.one(first)),
            ':' if self.rest().starts_with("::") => {
                self.at += 1;
                TokenKind::Mark(self.one(':'))
            }
            _ if first.is_alphabetic() || first == '_' => {
                let word = self.take(|c| c.is_alphanumeric() || c == '_' || c == '$');
                TokenKind::Word(word.to_lowercase())
            }
            _ if OPERATOR.contains(first) => TokenKind::Operator(self.operator().to_owned()),
            _ => return Err(SqlError::at(location, format!("syntax error at or near \"{first}\""))),
        };
        Ok(Some(Token { kind, location }))
    }

    fn one(&mut self, mark: char) -> char {
        self.at += mark.len_utf8();
        mark
    }

    fn take(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Skips space, `--` to the end of the line, and nested `/* */`.
    fn skip(&mut self) -> Result<(), SqlError> {
        loop {
            self.take(char::is_whitespace);
            if self.rest().starts_with("--") {
                self.take(|c| c != '\n');
            } else if self.rest().starts_with("/*") {
                self.block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), SqlError> {
        let start = self.at;
        let mut depth = 0;
        while let Some(next) = self.rest().chars().next() {
            if self.rest().starts_with("/*") {
                (depth, self.at) = (depth + 1, self.at + 2);
            } else if self.rest().starts_with("*/") {
                (depth, self.at) = (depth - 1, self.at + 2);
            } else {
                self.at += next.len_utf8();
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(SqlError::at(start, "unterminated /* comment"))
    }

    /// Reads a quoted text. A doubled quote is a literal one.
    fn quoted(&mut self, quote: char) -> Result<String, SqlError> {
        let start = self.at;
        let mut content = String::new();
        self.at += 1;
        loop {
            content.push_str(self.take(|c| c != quote));
            if self.rest().is_empty() {
                return Err(SqlError::at(start, "unterminated quoted string"));
            }
            self.at += 1;
            if !self.rest().starts_with(quote) {
                return Ok(content);
            }
            content.push(self.one(quote));
        }
    }

    fn param(&mut self) -> Result<TokenKind, SqlError> {
        let start = self.at;
        self.at += 1;
        let number = self.take(|c| c.is_ascii_digit()).parse();
        number.map(TokenKind::Param).map_err(|_| SqlError::at(start, "syntax error at or near \"$\""))
    }

    /// Reads the longest run of operator characters that does not begin a comment.
    fn operator(&mut self) -> &'a str {
        let run = self.take(|c| OPERATOR.contains(c));
        let end = [run.find("--"), run.find("/*")].into_iter().flatten().min().unwrap_or(run.len());
        let mut operator = &run[..end];
        // Postgres: a run may end in + or - only if it contains one of these, so that `1=-1` is `= -1`.
        while operator.len() > 1
            && operator.ends_with(['+', '-'])
            && !operator.contains(['~', '!', '@', '#', '%', '^', '&', '|', '`', '?'])
        {
            operator = &operator[..operator.len() - 1];
        }
        self.at -= run.len() - operator.len();
        operator
    }
}

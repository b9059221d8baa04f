//! What is wrong in a rule, where, and what to write instead.

use std::fmt;
use std::ops::Range;

/// A problem in the text of one key. It cannot show a secret, because rules have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to write instead, if the message does not say it.
    pub help: Option<String>,
    /// The bytes of the key's text that are wrong; `None` for all of it.
    pub part: Option<Range<usize>>,
}

/// A problem of one key of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The key of the `[[shape]]` table, as in `where`.
    pub key: &'static str,
    /// The problem of its value.
    pub problem: Problem,
}

impl Problem {
    /// Adds what to write instead.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Names the wrong bytes, unless they are known more exactly.
    #[must_use]
    pub(super) fn within(self, part: Range<usize>) -> Self {
        Self { part: self.part.or(Some(part)), ..self }
    }

    /// Moves the wrong bytes: the text that was checked begins at `offset` of the key's text.
    #[must_use]
    pub(super) fn moved(self, offset: usize) -> Self {
        Self { part: self.part.map(|part| part.start + offset..part.end + offset), ..self }
    }

    /// Names the key.
    pub(super) const fn of(self, key: &'static str) -> RuleError {
        RuleError { key, problem: self }
    }
}

impl<T: Into<String>> From<T> for Problem {
    fn from(message: T) -> Self {
        Self { message: message.into(), help: None, part: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, ": {help}"))
    }
}

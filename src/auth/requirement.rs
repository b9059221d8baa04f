//! A condition on the claims of an issuer's tokens: `require` of an `[[issuer]]`.

use std::fmt;

use super::Claims;

/// A condition that every token of an issuer must fulfil. `policy` compiles one from CEL.
///
/// It must depend on the claims only, because a verified token is not checked again while it is cached.
pub trait Requirement: fmt::Debug + Send + Sync {
    /// Whether the claims fulfil it. An error inside the condition counts as no.
    fn holds(&self, claims: &Claims) -> bool;

    /// Lists the claims that decide whether it holds, with their values: for people, not for logs.
    fn operands(&self, claims: &Claims) -> Vec<String>;

    /// The text that it was compiled from. Two conditions with the same text are equal.
    fn source(&self) -> &str;
}

/// Whether both are the same condition, or both are absent.
pub(super) fn same(a: Option<&dyn Requirement>, b: Option<&dyn Requirement>) -> bool {
    a.map(Requirement::source) == b.map(Requirement::source)
}

//! The policy: which rows of which table a principal may see.
//!
//! A rule is compiled once, at load. [`PolicySet::authorize`] takes the first rule of the requested table (or path)
//! whose `allow` holds and renders its `where` into a [`Permit`]; whatever fails on the way is a [`Denial`].

mod decision;
mod destination;
mod expression;
mod rule;
mod source;
mod template;

pub use decision::{Denial, Permit, PolicySet, UnknownPath};
pub use expression::Scope;
pub use rule::{Rule, RuleId};
pub use source::{PredicateSource, RuleError, RuleSource, UpstreamSource};

//! The policy: decides which rows of which table a principal may read.
//!
//! Rules are compiled once, when the configuration is loaded. [`PolicySet::authorize`] takes the first rule of the
//! requested table or path whose `allow` is true and whose `where` can be rendered, and returns a [`Permit`]. Without
//! such a rule it returns a [`Denial`].

mod ast;
mod decision;
mod destination;
mod explain;
mod expression;
mod fingerprint;
mod functions;
mod kind;
mod lint;
mod permit;
mod problem;
mod question;
mod requirement;
mod rule;
mod source;
mod syntax;
mod taint;
mod template;
mod unmet;

pub use decision::{Denial, PolicySet, Progress, Step, UnknownPath};
pub use expression::Scope;
pub use lint::{Shadow, shadow};
pub use permit::Permit;
pub use problem::{Problem, RuleError};
pub use requirement::ClaimRequirement;
pub use rule::{Rule, RuleId};
pub use source::{EntitySource, PredicateSource, QuestionSource, RuleSource, UpstreamSource};
pub use unmet::{Miss, Unmet};

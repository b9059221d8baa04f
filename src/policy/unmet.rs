//! Says why a rule does not allow a request.

use super::explain;
use super::expression::Scope;
use super::rule::{Rule, RuleId};

/// Why a rule does not allow a request: part of the closed list of [`crate::rejection::Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unmet {
    /// `allow` fails: it reads a claim or parameter that is missing or of another type, or its value is not a boolean.
    AllowError,
    /// `allow` is false.
    AllowFalse,
    /// A decision service denies the request.
    DecisionDenied,
    /// A value that a decision service must know is missing, or cannot be sent.
    QuestionUnbound,
    /// The rule that the shape token was minted under has changed.
    RuleChanged,
    /// The request does not repeat the shape of its token.
    ShapeDiffers,
    /// A token for one shape asks for a token for another one.
    ShapeToken,
    /// The claim that picks the upstream is missing, not a string, or not in the map.
    UpstreamUnbound,
    /// A value of `where` is missing or cannot be bound.
    ValueUnbound,
}

impl Unmet {
    /// Every variant.
    pub const ALL: [Self; 9] = [
        Self::AllowError,
        Self::AllowFalse,
        Self::DecisionDenied,
        Self::QuestionUnbound,
        Self::RuleChanged,
        Self::ShapeDiffers,
        Self::ShapeToken,
        Self::UpstreamUnbound,
        Self::ValueUnbound,
    ];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllowError => "allow_error",
            Self::AllowFalse => "allow_false",
            Self::DecisionDenied => "decision_denied",
            Self::QuestionUnbound => "question_unbound",
            Self::RuleChanged => "rule_changed",
            Self::ShapeDiffers => "shape_differs",
            Self::ShapeToken => "shape_token",
            Self::UpstreamUnbound => "upstream_unbound",
            Self::ValueUnbound => "value_unbound",
        }
    }

    /// What it says about a rule, in words.
    const fn words(self) -> &'static str {
        match self {
            Self::AllowError => "allow fails",
            Self::AllowFalse => "allow is false",
            Self::DecisionDenied => "a decision service denies the request",
            Self::QuestionUnbound => "a value of evaluate or search cannot be sent",
            Self::RuleChanged => "the rule has changed since the token was minted",
            Self::ShapeDiffers => "the request does not repeat the shape of its token",
            Self::ShapeToken => "a token for one shape gives no other token",
            Self::UpstreamUnbound => "the claim of upstream picks none of its map",
            Self::ValueUnbound => "a value of where cannot be bound",
        }
    }
}

/// A rule that was tried for a request and does not allow it.
#[derive(Debug)]
pub struct Miss<'a, 's> {
    /// The rule.
    pub rule: &'a RuleId,
    /// Why it does not allow the request.
    pub unmet: Unmet,
    pub(super) tried: &'a Rule,
    pub(super) scope: &'a Scope<'s>,
}

impl Miss<'_, '_> {
    /// The line of the rule in its file; 0 if unknown.
    pub fn line(&self) -> usize {
        self.tried.line
    }

    /// The rule's name for people, with its table if the name is not enough.
    pub fn label(&self) -> String {
        self.tried.label(self.rule)
    }

    /// The table, as the rule writes it.
    pub fn table(&self) -> &str {
        self.tried.table()
    }

    /// Describes the miss with the values that decided it, which may be personal data: for `explain`, not for logs.
    pub fn words(&self) -> String {
        let values = self.values(self.scope);
        let separator = if values.is_empty() { "" } else { ": " };
        format!("{}{separator}{}", self.unmet.words(), values.join(", "))
    }

    fn values(&self, scope: &Scope<'_>) -> Vec<String> {
        match self.unmet {
            Unmet::AllowError | Unmet::AllowFalse => {
                self.tried.allow().map_or_else(Vec::new, |allow| explain::operands(allow, scope))
            }
            Unmet::UpstreamUnbound => {
                self.tried.upstream.claim().map_or_else(Vec::new, |claim| explain::operands(claim, scope))
            }
            Unmet::ValueUnbound => {
                let all: Vec<_> = self.tried.values().collect();
                let unbound: Vec<_> = all.iter().copied().filter(|value| value.bind(scope).is_none()).collect();
                // If each can be bound, one is a list where no list may be.
                let values = if unbound.is_empty() { all } else { unbound };
                values.into_iter().flat_map(|value| explain::operands(value, scope)).collect()
            }
            Unmet::QuestionUnbound => {
                let asked = self.tried.questions.expressions().map(|(_, expression)| expression);
                let unbound = asked.filter(|expression| expression.bind(scope).is_none());
                unbound.flat_map(|expression| explain::operands(expression, scope)).collect()
            }
            Unmet::DecisionDenied | Unmet::RuleChanged | Unmet::ShapeDiffers | Unmet::ShapeToken => Vec::new(),
        }
    }
}

//! The metrics of a rule that nearly every request updates.
//!
//! `prometheus` looks a metric up by its labels, under a lock whose state all threads write to. So these are looked up
//! when the rule is loaded.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use prometheus::IntCounter;

use super::flights::Flights;
use super::requests::Requests;

/// The metrics of the current rules, by rule.
#[derive(Debug, Default)]
pub(super) struct Rules(ArcSwap<HashMap<Box<str>, Rule>>);

/// The metrics of one rule.
#[derive(Debug)]
pub(super) struct Rule {
    /// Responses of Electric with status 200.
    pub(super) served: IntCounter,
    pub(super) body_bytes: IntCounter,
    joins: [IntCounter; JOINS.len()],
}

/// How a request gets its response.
pub(super) const JOINS: [&str; 4] = ["first", "open", "fresh", "stale"];

/// The outcome of a request that Electric answered.
pub const SERVED: &str = "served";

impl Rules {
    /// Replaces the rules.
    pub(super) fn load<'a>(&self, rules: impl Iterator<Item = &'a str>, requests: &Requests, flights: &Flights) {
        let rules = rules.map(|rule| {
            let served = requests.answers.with_label_values(&[rule, SERVED, "200"]);
            let body_bytes = requests.body_bytes.with_label_values(&[rule]);
            let joins = JOINS.map(|how| flights.joins.with_label_values(&[rule, how]));
            (rule.into(), Rule { served, body_bytes, joins })
        });
        self.0.store(Arc::new(rules.collect()));
    }

    /// Borrows the current rules for a short time.
    pub(super) fn now(&self) -> Guard<Arc<HashMap<Box<str>, Rule>>> {
        self.0.load()
    }
}

impl Rule {
    /// Returns the counter of requests that get their response this way.
    pub(super) fn joined(&self, how: &str) -> Option<&IntCounter> {
        JOINS.iter().position(|known| *known == how).map(|at| &self.joins[at])
    }
}

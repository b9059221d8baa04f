//! Asks external services for decisions: OpenID AuthZEN Authorization API 1.0.
//!
//! A rule may ask a service for an evaluation, which must answer `true`, and for a resource search, whose ids fill an
//! `IN (…)` list. The policy renders the [`Questions`] of a rule; a [`Service`] answers each from its cache, or sends it.
//! One request is in flight for each question, however many clients wait for its [`Answer`].
//!
//! Everything fails closed: an answer that is late, too long, malformed or about another type is no answer
//! ([`Failure`]), and a client that needs it gets 503.

mod answer;
mod asking;
mod cache;
mod client;
mod metadata;
mod question;
mod service;
mod settings;

pub use answer::{Answer, Failure, Verdict};
pub use asking::{Answers, Asked, Outcome, Questions};
pub use question::{Kind, Question};
pub use service::{Consulted, Service, Services};
pub use settings::ServiceSettings;

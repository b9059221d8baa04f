//! The questions of one rule about one request, and their answers.

use std::sync::Arc;
use std::time::Instant;

use cel::common::value::Val;

use super::answer::{Answer, Verdict};
use super::question::Question;
use super::service::{Consulted, Service};

/// A question, and the service that answers it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who is asked.
    pub service: Arc<Service>,
    /// What is asked.
    pub question: Question,
}

/// The questions of one rule about one request; none for most rules.
#[derive(Clone, Debug, Default)]
pub struct Questions {
    /// Whether the request is allowed.
    pub evaluation: Option<Asked>,
    /// The ids that it may read.
    pub search: Option<Asked>,
}

/// The answers to [`Questions`].
#[derive(Clone, Debug)]
pub struct Answers {
    evaluation: Option<Arc<Answer>>,
    search: Option<Arc<Answer>>,
    /// What each service said, in the order of the questions.
    pub consulted: Vec<Consulted>,
}

/// What answers mean for the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every service allows it.
    Allowed,
    /// A service denies it.
    Denied,
    /// A service gave no answer.
    Unavailable,
}

impl Questions {
    /// Returns the answers if all of them are cached.
    pub fn cached(&self) -> Option<Answers> {
        let find = |asked: &Option<Asked>| match asked {
            None => Some(None),
            Some(asked) => asked.service.find(&asked.question).map(Some),
        };
        Some(self.answered(find(&self.evaluation)?, find(&self.search)?, true))
    }

    /// Asks the services at the same time, unless an answer is cached.
    pub async fn ask(&self) -> Answers {
        let ask = async |asked: &Option<Asked>| match asked {
            None => None,
            Some(asked) => Some(asked.service.ask(&asked.question).await),
        };
        let (evaluation, search) = tokio::join!(ask(&self.evaluation), ask(&self.search));
        self.answered(evaluation, search, false)
    }

    fn answered(&self, evaluation: Option<Arc<Answer>>, search: Option<Arc<Answer>>, cached: bool) -> Answers {
        let pairs = [(&self.evaluation, &evaluation), (&self.search, &search)];
        let consulted = pairs.into_iter().filter_map(|(asked, answer)| {
            let (asked, answer) = (asked.as_ref()?, answer.as_ref()?);
            Some(asked.service.consulted(answer, cached))
        });
        Answers { consulted: consulted.collect(), evaluation, search }
    }
}

impl Answers {
    /// Returns what the answers mean. If one service denies, it does not matter whether another one answers.
    pub fn outcome(&self) -> Outcome {
        let verdicts = || self.all().map(|answer| answer.verdict.as_ref());
        if verdicts().any(|verdict| verdict.is_ok_and(Verdict::denies)) {
            Outcome::Denied
        } else if verdicts().any(|verdict| verdict.is_err()) {
            Outcome::Unavailable
        } else {
            Outcome::Allowed
        }
    }

    /// Returns when a service has to be asked again; `None` if none was asked.
    pub fn until(&self) -> Option<Instant> {
        self.all().map(|answer| answer.until.into_std()).min()
    }

    /// Returns the `context` of the evaluation.
    pub fn context(&self) -> Option<&(dyn Val + 'static)> {
        match self.evaluation.as_ref()?.verdict.as_ref() {
            Ok(Verdict::Allow(context)) => context.as_deref(),
            _ => None,
        }
    }

    /// Returns the ids that the search found.
    pub fn ids(&self) -> Option<&(dyn Val + 'static)> {
        match self.search.as_ref()?.verdict.as_ref() {
            Ok(Verdict::Found(ids)) => Some(&**ids),
            _ => None,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Answer> {
        [&self.evaluation, &self.search].into_iter().flatten().map(|answer| &**answer)
    }
}

//! Caches the answers of one service, and asks each question only once at a time.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::answer::Answer;
use super::question::Question;
use crate::expiring::{Expiring, find_or_make};

/// The answers by question, bounded in bytes; the least used is evicted first. A question holds everything that was sent,
/// so no two different requests share an answer.
#[derive(Debug)]
pub(super) struct AnswerCache {
    cache: Cache<Question, Entry, Weight>,
}

#[derive(Clone, Debug)]
struct Entry {
    answer: Arc<Answer>,
    /// The bytes of the answer.
    bytes: u64,
}

impl Expiring for Entry {
    fn until(&self) -> Instant {
        self.answer.until
    }
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Question, Entry> for Weight {
    fn weight(&self, question: &Question, entry: &Entry) -> u64 {
        question.body.len() as u64 + entry.bytes + OVERHEAD
    }
}

/// What an entry takes beside the bytes of question and answer.
const OVERHEAD: u64 = 256;

/// What most entries take; used to size the cache's tables.
const USUAL: usize = 1024;

impl AnswerCache {
    /// Creates a cache of at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self { cache: Cache::with_weighter(bytes / USUAL, bytes as u64, Weight) }
    }

    /// Returns the cached answer, if it is still valid.
    pub(super) fn find(&self, question: &Question) -> Option<Arc<Answer>> {
        self.cache.get(question).filter(Entry::is_valid).map(|entry| entry.answer)
    }

    /// Returns the cached answer, or the one that `ask` gets. While it asks, others with the same question wait for
    /// its answer; if it is dropped, the next of them asks. `ask` returns the answer and its size in bytes.
    pub(super) async fn find_or_ask(
        &self,
        question: &Question,
        ask: impl Future<Output = (Answer, usize)>,
    ) -> Arc<Answer> {
        let asked = async {
            let (answer, bytes) = ask.await;
            Entry { answer: Arc::new(answer), bytes: bytes as u64 }
        };
        find_or_make(&self.cache, question, asked).await.answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::answer::Verdict;
    use super::super::question::Kind;
    use super::*;

    fn question(body: &str) -> Question {
        Question { kind: Kind::Evaluation, body: body.as_bytes().to_vec() }
    }

    fn answer(valid: Duration) -> Answer {
        Answer { verdict: Ok(Verdict::Deny), took: Duration::ZERO, until: Instant::now() + valid }
    }

    const PERIOD: Duration = Duration::from_secs(30);

    /// Asks `asked` times at once.
    async fn ask_many(answers: &Arc<AnswerCache>, asked: usize, count: &Arc<AtomicUsize>) {
        let (gate, open) = tokio::sync::watch::channel(false);
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..asked {
            let (answers, count, mut open) = (Arc::clone(answers), Arc::clone(count), open.clone());
            waiting.spawn(async move {
                let ask = async {
                    count.fetch_add(1, Ordering::SeqCst);
                    open.wait_for(|open| *open).await.unwrap();
                    (answer(PERIOD), 10)
                };
                answers.find_or_ask(&question("a"), ask).await
            });
        }
        tokio::task::yield_now().await;
        gate.send(true).unwrap();
        assert_eq!(waiting.join_all().await.len(), asked);
    }

    #[tokio::test(start_paused = true)]
    async fn equal_questions_are_asked_once_in_each_period() {
        let (answers, count) = (Arc::new(AnswerCache::new(1 << 20)), Arc::new(AtomicUsize::new(0)));
        ask_many(&answers, 100, &count).await;
        ask_many(&answers, 100, &count).await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
        tokio::time::advance(PERIOD).await;
        assert!(answers.find(&question("a")).is_none(), "expired");
        ask_many(&answers, 100, &count).await;
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_question_whose_asker_leaves_is_asked_by_the_next() {
        let answers = Arc::new(AnswerCache::new(1 << 20));
        let question = question("a");
        let mut first = Box::pin(answers.find_or_ask(&question, std::future::pending()));
        assert!(tokio::time::timeout(Duration::ZERO, &mut first).await.is_err());
        let mut second = Box::pin(answers.find_or_ask(&question, async { (answer(PERIOD), 1) }));
        assert!(tokio::time::timeout(Duration::ZERO, &mut second).await.is_err(), "waits for the first");
        drop(first);
        second.await;
        assert!(answers.find(&question).is_some());
    }

    #[tokio::test]
    async fn an_answer_larger_than_the_cache_still_reaches_everyone_who_waits() {
        let answers = AnswerCache::new(1024);
        let question = question("a");
        answers.find_or_ask(&question, async { (answer(PERIOD), 1 << 20) }).await;
        assert!(answers.find(&question).is_none());
    }

    #[tokio::test]
    async fn the_cache_holds_no_more_than_its_bytes() {
        let answers = AnswerCache::new(64 * 1024);
        for number in 0..1000 {
            let question = question(&number.to_string());
            answers.find_or_ask(&question, async { (answer(PERIOD), 1000) }).await;
        }
        assert!((1..=64 * 1024).contains(&answers.cache.weight()), "{}", answers.cache.weight());
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![Just(Kind::Evaluation), "[ab]{0,2}".prop_map(|of| Kind::Search(of.into()))]
    }

    proptest! {
        #[test]
        fn a_cached_answer_is_found_only_by_an_equal_question(
            kinds in (kinds(), kinds()),
            bodies in ("[ab]{0,2}", "[ab]{0,2}"),
        ) {
            let asked = Question { kind: kinds.0, body: bodies.0.into_bytes() };
            let other = Question { kind: kinds.1, body: bodies.1.into_bytes() };
            let answers = AnswerCache::new(1 << 20);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(answers.find_or_ask(&asked, async { (answer(PERIOD), 1) }));
            prop_assert!(answers.find(&asked).is_some());
            prop_assert_eq!(answers.find(&other).is_some(), asked == other);
        }
    }
}

//! What Electric's responses have shown about each shape: where its log ends, and which handles have ended.
//!
//! Electric's `cache-control` allows a cached response for minutes, although another response may have shown later
//! changes since, or that its handle is no longer valid (docs/electric.md, "Freshness").

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::flight::Flight;
use super::offset::Offset;

/// The shapes that a flight or a cached response belongs to. No other shape needs to be known.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<HashMap<ShapeId, Weak<Tail>>>);

/// An Electric, and a shape there (see `UpstreamRequest::shape`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeId {
    pub(super) electric: Arc<str>,
    pub(super) shape: Arc<str>,
}

/// What is known about one shape. Its flights share it, and it lasts as long as one of them.
#[derive(Debug)]
pub(super) struct Tail {
    id: ShapeId,
    tails: Weak<Tails>,
    known: Mutex<Known>,
    /// How many events there were. It changes with `known`, whose lock is held then.
    events: AtomicU64,
}

/// The order of two events at one shape. A response is only outdated by what was shown after its request was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

#[derive(Debug, Default)]
struct Known {
    now: Moment,
    handles: Vec<Handle>,
}

/// A handle that Electric has given to the shape, or that a client has named.
#[derive(Debug)]
struct Handle {
    name: Box<str>,
    /// When Electric gave it.
    given: Option<Moment>,
    /// When a 409 said that it is not valid.
    ended: Option<Moment>,
    /// The end of the log, and when it was shown first.
    end: Option<(Offset, Moment)>,
    /// When a change was shown whose position is unknown.
    moved: Option<Moment>,
    /// The latest streams of events, the newest last.
    streams: Vec<Weak<Flight>>,
}

/// The most handles of one shape. A shape has one valid handle, or two if it moves between servers; the others have
/// ended, or are inventions of a client.
const HANDLES: usize = 8;

/// The most streams of one handle that are remembered.
const STREAMS: usize = 4;

impl Tails {
    /// Returns what is known about a shape.
    pub(super) fn of(self: &Arc<Self>, id: ShapeId) -> Arc<Tail> {
        let mut tails = self.0.lock();
        if let Some(known) = tails.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        let tail = Arc::new(Tail {
            id: id.clone(),
            tails: Arc::downgrade(self),
            known: Mutex::default(),
            events: AtomicU64::new(0),
        });
        tails.insert(id, Arc::downgrade(&tail));
        tail
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let Some(tails) = self.tails.upgrade() else { return };
        let mut tails = tails.0.lock();
        // Another one may have taken its place.
        if tails.get(&self.id).is_some_and(|tail| tail.strong_count() == 0) {
            tails.remove(&self.id);
        }
    }
}

impl Tail {
    /// Returns the shape's name.
    pub(super) fn shape(&self) -> &str {
        &self.id.shape
    }

    /// Returns the present, for a flight that is opened.
    pub(super) fn now(&self) -> Moment {
        self.tick(&mut self.known.lock())
    }

    /// Returns how many events there were. As long as it is the same, no other method returns something else.
    pub(super) fn events(&self) -> u64 {
        self.events.load(Ordering::Acquire)
    }

    fn tick(&self, known: &mut Known) -> Moment {
        known.now.0 += 1;
        self.events.store(known.now.0, Ordering::Release);
        known.now
    }

    /// Records a response with this handle to a request sent at `asked`, and the end of the log if it shows one.
    pub(super) fn shown(&self, handle: &str, end: Option<Offset>, asked: Moment) {
        let mut known = self.known.lock();
        let now = self.tick(&mut known);
        let handle = known.handle(handle);
        if handle.ended.is_some_and(|ended| ended > asked) {
            return;
        }
        let again = handle.ended.take().is_some();
        if again || handle.given.is_none() {
            handle.given = Some(now);
        }
        if let Some(end) = end.filter(|end| handle.end.is_none_or(|(known, _)| known < *end)) {
            handle.end = Some((end, now));
        }
    }

    /// Records a change whose position is not known.
    pub(super) fn moved(&self, handle: &str) {
        let mut known = self.known.lock();
        let now = self.tick(&mut known);
        known.handle(handle).moved = Some(now);
    }

    /// Records a 409 to a request for the handle `ended` sent at `asked`, and the handle that is valid instead.
    pub(super) fn ended(&self, ended: &str, valid: Option<&str>, asked: Moment) {
        let mut known = self.known.lock();
        let now = self.tick(&mut known);
        let handle = known.handle(ended);
        if handle.given.is_none_or(|given| given < asked) {
            (handle.given, handle.ended) = (None, Some(now));
        }
        drop(known);
        if let Some(valid) = valid {
            self.shown(valid, None, asked);
        }
    }

    /// Whether a 409 after `since` said that the handle is not valid.
    pub(super) fn has_ended(&self, handle: &str, since: Moment) -> bool {
        self.known.lock().find(handle).is_some_and(|handle| handle.ended.is_some_and(|ended| ended > since))
    }

    /// Whether Electric gave the handle after `since`.
    pub(super) fn was_given(&self, handle: &str, since: Moment) -> bool {
        self.known.lock().find(handle).is_some_and(|handle| handle.given.is_some_and(|given| given > since))
    }

    /// Whether a change behind `end` was shown after `since`. Without a handle, of any handle.
    pub(super) fn has_passed(&self, handle: Option<&str>, end: Option<Offset>, since: Moment) -> bool {
        let known = self.known.lock();
        let mut handles = known.handles.iter().filter(|known| handle.is_none_or(|handle| *known.name == *handle));
        handles.any(|known| {
            known.moved.is_some_and(|moved| moved > since)
                || known.end.is_some_and(|(last, shown)| shown > since && end.is_none_or(|end| end < last))
        })
    }

    /// Returns the last change that was shown.
    pub(super) fn end(&self, handle: &str) -> Option<Offset> {
        self.known.lock().find(handle)?.end.map(|(end, _)| end)
    }

    /// Adds a stream of events, which later clients may join.
    pub(super) fn add_stream(&self, handle: &str, stream: &Arc<Flight>) {
        let mut known = self.known.lock();
        let streams = &mut known.handle(handle).streams;
        streams.retain(|stream| stream.strong_count() > 0);
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(Arc::downgrade(stream));
    }

    /// Returns the latest streams of events, the newest first.
    pub(super) fn streams(&self, handle: &str) -> Vec<Arc<Flight>> {
        let known = self.known.lock();
        let streams = known.find(handle).map(|handle| handle.streams.iter().rev());
        streams.into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

impl Known {
    fn find(&self, name: &str) -> Option<&Handle> {
        self.handles.iter().find(|handle| *handle.name == *name)
    }

    /// Returns the handle of this name, and adds it if it is unknown. The one that ended first is forgotten first.
    fn handle(&mut self, name: &str) -> &mut Handle {
        let at = self.handles.iter().position(|handle| *handle.name == *name).unwrap_or_else(|| {
            if self.handles.len() == HANDLES {
                let order = |handle: &Handle| (handle.given.is_some(), handle.ended, handle.given);
                let first = (0..HANDLES).min_by_key(|at| order(&self.handles[*at])).unwrap_or_default();
                self.handles.swap_remove(first);
            }
            self.handles.push(Handle {
                name: name.into(),
                given: None,
                ended: None,
                end: None,
                moved: None,
                streams: Vec::new(),
            });
            self.handles.len() - 1
        });
        &mut self.handles[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> Arc<Tail> {
        Arc::new(Tails::default()).of(ShapeId { electric: "e".into(), shape: "s".into() })
    }

    fn at(transaction: u64) -> Option<Offset> {
        Some(Offset { transaction, operation: 0 })
    }

    #[test]
    fn a_response_is_passed_by_later_changes_that_were_shown_after_it_was_asked_for() {
        let tail = tail();
        let early = tail.now();
        tail.shown("1-1", at(5), early);
        assert!(tail.has_passed(Some("1-1"), at(4), early));
        assert!(tail.has_passed(Some("1-1"), None, early) && tail.has_passed(None, at(4), early));
        assert!(!tail.has_passed(Some("1-1"), at(5), early), "it shows the last change");
        assert!(!tail.has_passed(Some("1-1"), at(4), tail.now()), "Electric was asked after that, and must know");
        assert!(!tail.has_passed(Some("2-2"), at(4), early), "another handle");
        let later = tail.now();
        tail.shown("1-1", at(3), later);
        assert!(!tail.has_passed(Some("1-1"), at(4), later), "the end of the log never moves back");
        tail.moved("1-1");
        assert!(tail.has_passed(Some("1-1"), at(99), later) && !tail.has_passed(Some("1-1"), at(99), tail.now()));
    }

    #[test]
    fn a_handle_ends_with_a_409_until_electric_gives_it_again() {
        let tail = tail();
        let early = tail.now();
        tail.shown("1-1", at(5), early);
        let asked = tail.now();
        tail.ended("1-1", Some("2-2"), asked);
        assert!(tail.has_ended("1-1", early) && tail.has_ended("1-1", asked) && !tail.has_ended("1-1", tail.now()));
        assert!(tail.was_given("2-2", asked) && !tail.was_given("1-1", Moment::default()));
        tail.shown("1-1", at(9), asked);
        assert!(tail.has_ended("1-1", early), "a response to an earlier request changes nothing");
        let late = tail.now();
        tail.shown("1-1", at(9), late);
        assert!(!tail.has_ended("1-1", early) && tail.was_given("1-1", late));
        tail.ended("1-1", None, late);
        assert!(!tail.has_ended("1-1", early), "nor does a 409 to an earlier request");
    }

    #[test]
    fn number_of_events_changes_with_everything_that_is_known() {
        let tail = tail();
        let mut seen = vec![tail.events()];
        let early = tail.now();
        seen.push(tail.events());
        tail.shown("1-1", at(5), early);
        seen.push(tail.events());
        tail.moved("1-1");
        seen.push(tail.events());
        tail.ended("1-1", None, tail.now());
        seen.push(tail.events());
        assert!(seen.is_sorted_by(|before, after| before < after), "{seen:?}");
        assert!(tail.has_ended("1-1", early) && tail.has_passed(Some("1-1"), None, early));
        assert_eq!(Some(&tail.events()), seen.last(), "reading changes nothing");
    }

    #[test]
    fn invented_handles_do_not_push_out_a_valid_one() {
        let tail = tail();
        let early = tail.now();
        tail.shown("1-1", at(5), early);
        for number in 0..100 {
            tail.ended(&format!("9-{number}"), Some("1-1"), tail.now());
        }
        assert!(tail.has_passed(Some("1-1"), at(4), early));
        assert_eq!(tail.known.lock().handles.len(), HANDLES);
    }

    #[test]
    fn a_shape_is_forgotten_with_its_last_flight() {
        let tails = Arc::new(Tails::default());
        let id = |shape: &str| ShapeId { electric: "e".into(), shape: shape.into() };
        let (one, same, other) = (tails.of(id("a")), tails.of(id("a")), tails.of(id("b")));
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        drop(one);
        assert_eq!(tails.0.lock().len(), 2);
        drop((same, other));
        assert_eq!(tails.0.lock().len(), 0);
    }
}

//! Reads positions from a stream of events, so that later clients can join it where their own log ends.

use serde::Deserialize;

use super::offset::Offset;

/// Reads one stream.
#[derive(Debug)]
pub(super) struct Events {
    /// The start of an event that is not complete.
    unread: Vec<u8>,
    /// The last change; at first, the offset at which the stream starts. `None` if it is unknown.
    last: Option<Offset>,
    /// The last transaction that is included as a whole; `None` within a transaction.
    whole: Option<Offset>,
}

/// A place in a stream, between two transactions. It continues the log of a client that has everything up to `last`,
/// and nothing after `whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    last: Offset,
    whole: Offset,
}

impl Mark {
    /// Whether the stream continues from here for a client that is up to date at `offset`.
    ///
    /// Such a client has the whole transaction: after a stream it names `<lsn>_0`, whatever the last operation was
    /// (docs/electric.md, "Event streams").
    pub(super) fn continues(&self, offset: Offset) -> bool {
        let has = if offset.transaction == 0 { offset } else { Offset::end_of(offset.transaction) };
        self.last <= has && offset <= self.whole
    }

    /// Returns the last change before it.
    pub(super) const fn last(&self) -> Offset {
        self.last
    }
}

/// What a part of a stream has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    /// Changes up to this position.
    Changes(Offset),
    /// A change without a position.
    Unknown,
}

#[derive(Deserialize)]
struct Event {
    headers: Headers,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Headers {
    control: Option<String>,
    global_last_seen_lsn: Option<String>,
    lsn: Option<String>,
    op_position: Option<u64>,
}

impl Events {
    pub(super) const fn new(start: Option<Offset>) -> Self {
        Self { unread: Vec::new(), last: start, whole: None }
    }

    /// Reads the next part of the stream.
    pub(super) fn read(&mut self, part: &[u8]) -> Shown {
        let mut text = std::mem::take(&mut self.unread);
        // The rest of the last part has no end of an event.
        let mut unsearched = text.len().saturating_sub(1);
        text.extend_from_slice(part);
        let (mut shown, mut start) = (Shown::Nothing, 0);
        while let Some(length) = text[unsearched..].windows(2).position(|end| end == b"\n\n") {
            let end = unsearched + length;
            let of_event = text[start..end].strip_prefix(b"data:").map_or(Shown::Nothing, |data| self.event(data));
            if of_event != Shown::Nothing {
                shown = of_event;
            }
            (start, unsearched) = (end + 2, end + 2);
        }
        text.drain(..start);
        self.unread = text;
        shown
    }

    /// Returns where the stream is, if that is between two transactions.
    pub(super) fn mark(&self) -> Option<Mark> {
        Some(Mark { last: self.last?, whole: self.whole? }).filter(|_| self.unread.is_empty())
    }

    fn event(&mut self, data: &[u8]) -> Shown {
        let headers = serde_json::from_slice::<Event>(data).map(|event| event.headers).unwrap_or_default();
        if headers.control.as_deref() == Some("up-to-date") {
            let seen = headers.global_last_seen_lsn.and_then(|lsn| lsn.parse().ok());
            self.whole = seen.map(Offset::end_of);
            return Shown::Nothing;
        }
        self.whole = None;
        let position = headers.lsn.and_then(|lsn| Some((lsn.parse().ok()?, headers.op_position?)));
        let Some((transaction, operation)) = position else {
            self.last = None;
            return Shown::Unknown;
        };
        let offset = Offset { transaction, operation };
        self.last = self.last.map(|last| last.max(offset));
        Shown::Changes(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &str = "data: {\"value\":{\"id\":\"1\",\"title\":\"a\\n\\nb\"},\"key\":\"k\",\"headers\":{\"last\":true,\
        \"operation\":\"insert\",\"lsn\":\"27750744\",\"txids\":[758],\"op_position\":2}}\n\n";
    const UP_TO_DATE: &str =
        "data: {\"headers\":{\"control\":\"up-to-date\",\"global_last_seen_lsn\":\"27750800\"}}\n\n";

    fn offset(text: &str) -> Offset {
        Offset::parse(text).unwrap()
    }

    #[test]
    fn a_stream_can_be_joined_after_each_transaction_wherever_it_is_cut() {
        // tests/electric/15
        let stream = format!("{CHANGE}{UP_TO_DATE}: keep-alive\n\n");
        for cut in 0..stream.len() {
            let mut events = Events::new(Offset::parse("0_inf"));
            let shown = [&stream[..cut], &stream[cut..]].map(|part| events.read(part.as_bytes()));
            assert!(shown.contains(&Shown::Changes(offset("27750744_2"))), "{cut}: {shown:?}");
            let mark = events.mark().unwrap();
            for (at, continues) in [
                ("0_inf", false),
                ("27750743_9", false),
                ("27750744_0", true),
                ("27750744_2", true),
                ("27750800_0", true),
                ("27750801_0", false),
            ] {
                assert_eq!(mark.continues(offset(at)), continues, "{at}");
            }
        }
    }

    #[test]
    fn a_stream_cannot_be_joined_within_a_transaction_or_at_an_unknown_position() {
        let mut events = Events::new(Offset::parse("0_inf"));
        assert_eq!(events.mark(), None, "before the first event");
        events.read(UP_TO_DATE.as_bytes());
        assert!(events.mark().unwrap().continues(offset("0_inf")));
        events.read(&UP_TO_DATE.as_bytes()[..20]);
        assert_eq!(events.mark(), None, "within an event");
        events.read(&UP_TO_DATE.as_bytes()[20..]);
        events.read(CHANGE.as_bytes());
        assert_eq!(events.mark(), None, "within a transaction");
        events.read(UP_TO_DATE.as_bytes());
        assert!(events.mark().is_some());
        assert_eq!(events.read(b"data: {\"headers\":{\"event\":\"move-out\"}}\n\n"), Shown::Unknown);
        events.read(UP_TO_DATE.as_bytes());
        assert_eq!(events.mark(), None, "after a change without a position");
        assert_eq!(events.read(b"data: x\n\n"), Shown::Unknown);
    }
}

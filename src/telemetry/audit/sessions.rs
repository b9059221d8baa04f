//! Holds the open sessions. Their number is bounded: a session is written when it is idle or the oldest of too many.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::super::text::sanitized;
use super::{Matter, Reading};
use crate::auth::SubjectKey;
use crate::clock::UnixTime;
use crate::hex::hex;

/// A subject, and what its session is about. Rejections also have a rule.
type Key = (Option<SubjectKey>, Matter, Option<Box<str>>);

#[derive(Debug)]
pub(super) struct Sessions {
    capacity: usize,
    idle: Duration,
    open: HashMap<Key, Session>,
    /// Each open session once, with the time of its last response when it was queued. This way a request changes only
    /// one map entry and no list. A session is checked `idle` after that time and queued again if it had another
    /// response, so it is written after `idle` and before twice that.
    due: VecDeque<(UnixTime, Key)>,
}

/// Records what one subject has read of one shape, or how often it was rejected for one reason.
#[derive(Debug)]
pub(super) struct Session {
    issuer: Option<Box<str>>,
    subject: Option<Box<str>>,
    token: Option<Box<str>>,
    rule: Option<Box<str>>,
    matter: Matter,
    first: UnixTime,
    last: UnixTime,
    answers: u64,
    bytes: u64,
}

impl Sessions {
    pub(super) fn new(capacity: usize, idle: Duration) -> Self {
        Self { capacity, idle, open: HashMap::new(), due: VecDeque::new() }
    }

    /// Counts a response; returns the session that had to make room, if any.
    pub(super) fn record(&mut self, reading: Reading, bytes: u64, now: UnixTime) -> Option<Session> {
        let subject = reading.principal.as_ref().map(|principal| principal.subject_key().clone());
        let rule = reading.rule.clone().filter(|_| matches!(reading.matter, Matter::Denied(_)));
        let key = (subject, reading.matter, rule);
        if let Some(session) = self.open.get_mut(&key) {
            session.count(bytes, now);
            return None;
        }
        let displaced = if self.open.len() < self.capacity { None } else { self.take_oldest() };
        let mut session = Session::new(reading, now);
        session.count(bytes, now);
        self.due.push_back((now, key.clone()));
        self.open.insert(key, session);
        displaced
    }

    /// Checks up to `most` sessions that may have ended; returns those that have, and how many it checked.
    pub(super) fn sweep(&mut self, now: UnixTime, most: usize) -> (Vec<Session>, usize) {
        let mut ended = Vec::new();
        for looked_at in 0..most {
            let due = self.due.pop_front_if(|(seen, _)| now.saturating_since(*seen) >= self.idle);
            let Some((_, key)) = due else {
                return (ended, looked_at);
            };
            match self.open.get(&key).map(|session| session.last) {
                Some(last) if now.saturating_since(last) < self.idle => self.due.push_back((last, key)),
                _ => ended.extend(self.open.remove(&key)),
            }
        }
        (ended, most)
    }

    /// Ends every session.
    pub(super) fn drain(&mut self) -> Vec<Session> {
        let order = std::mem::take(&mut self.due);
        order.into_iter().filter_map(|(_, key)| self.open.remove(&key)).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    fn take_oldest(&mut self) -> Option<Session> {
        let (_, key) = self.due.pop_front()?;
        self.open.remove(&key)
    }
}

impl Session {
    fn new(reading: Reading, now: UnixTime) -> Self {
        let Reading { principal, rule, matter } = reading;
        let principal = principal.as_deref();
        let subject = principal.and_then(|principal| principal.subject());
        Self {
            issuer: principal.map(|principal| principal.issuer().into()),
            subject: subject.map(|subject| sanitized(subject, MOST)),
            // Without a subject the token is the identity.
            token: principal.filter(|_| subject.is_none()).map(|principal| principal.token_hash().into()),
            rule,
            matter,
            first: now,
            last: now,
            answers: 0,
            bytes: 0,
        }
    }

    fn count(&mut self, bytes: u64, now: UnixTime) {
        self.answers += 1;
        self.bytes += bytes;
        self.last = self.last.max(now);
    }

    /// Returns the session as one line of JSON.
    pub(super) fn line(&self) -> Box<[u8]> {
        let (shape, reason) = match self.matter {
            Matter::Shape(digest) => (Some(hex(&digest)), None),
            Matter::Denied(reason) => (None, Some(reason.as_str())),
        };
        let line = Line {
            target: TARGET,
            issuer: self.issuer.as_deref(),
            subject: self.subject.as_deref(),
            token: self.token.as_deref(),
            rule: self.rule.as_deref(),
            shape,
            reason,
            first: rfc3339(self.first),
            last: rfc3339(self.last),
            answers: self.answers,
            bytes: self.bytes,
        };
        // Strings and numbers can always be serialized.
        let mut line = serde_json::to_vec(&line).unwrap_or_default();
        line.push(b'\n');
        line.into()
    }
}

/// Distinguishes these lines from others in the same stream.
const TARGET: &str = "shapegate::audit";

#[derive(Serialize)]
struct Line<'a> {
    target: &'static str,
    issuer: Option<&'a str>,
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    first: String,
    last: String,
    answers: u64,
    bytes: u64,
}

fn rfc3339(time: UnixTime) -> String {
    // The last second that the format can express.
    const END: u64 = 253_402_300_799;
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs().min(END))).to_string()
}

/// The most characters of a subject.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::Unmet;
    use crate::rejection::Reason;

    fn reading(shape: u8) -> Reading {
        Reading { principal: None, rule: Some("tasks".into()), matter: Matter::Shape([shape; 32]) }
    }

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(secs)
    }

    fn shapes(ended: impl IntoIterator<Item = Session>) -> Vec<(u8, u64)> {
        let first = |session: &Session| match session.matter {
            Matter::Shape(digest) => digest[0],
            Matter::Denied(_) => 0,
        };
        ended.into_iter().map(|session| (first(&session), session.answers)).collect()
    }

    #[test]
    fn an_idle_session_is_written() {
        let mut sessions = Sessions::new(10, Duration::from_secs(60));
        assert!(sessions.record(reading(1), 5, at(0)).is_none());
        sessions.record(reading(2), 5, at(10));
        sessions.record(reading(1), 7, at(50));
        assert_eq!(shapes(sessions.sweep(at(59), 9).0), []);
        assert_eq!(shapes(sessions.sweep(at(70), 9).0), [(2, 1)]);
        assert_eq!(shapes(sessions.sweep(at(109), 9).0), []);
        assert_eq!(shapes(sessions.sweep(at(110), 9).0), [(1, 2)]);
        assert_eq!((sessions.len(), sessions.due.len()), (0, 0));
    }

    #[test]
    fn a_sweep_checks_no_more_sessions_than_allowed() {
        let mut sessions = Sessions::new(10, Duration::from_secs(60));
        (0..5).for_each(|shape| drop(sessions.record(reading(shape), 0, at(0))));
        assert_eq!(shapes(sessions.sweep(at(60), 3).0), [(0, 1), (1, 1), (2, 1)]);
        let (ended, looked_at) = sessions.sweep(at(60), 3);
        assert_eq!((shapes(ended), looked_at), (vec![(3, 1), (4, 1)], 2));
    }

    #[test]
    fn the_oldest_session_makes_room() {
        let mut sessions = Sessions::new(2, Duration::from_secs(60));
        sessions.record(reading(1), 0, at(0));
        sessions.record(reading(2), 0, at(1));
        assert_eq!(shapes(sessions.record(reading(3), 0, at(2))), [(1, 1)]);
        assert_eq!(sessions.len(), 2);
        assert_eq!(shapes(sessions.drain()), [(2, 1), (3, 1)]);
        assert_eq!((sessions.len(), sessions.due.len()), (0, 0));
    }

    #[test]
    fn a_line_holds_subject_shape_and_times() {
        let mut sessions = Sessions::new(2, Duration::from_secs(60));
        sessions.record(reading(0xab), 5, at(1_700_000_000));
        sessions.record(reading(0xab), 7, at(1_700_000_060));
        let line = sessions.drain()[0].line();
        assert!(line.ends_with(b"\n"));
        assert_eq!(
            serde_json::from_slice::<Value>(&line).unwrap(),
            json!({
                "target": "shapegate::audit", "issuer": null, "subject": null, "rule": "tasks",
                "shape": "ab".repeat(32), "first": "2023-11-14T22:13:20Z", "last": "2023-11-14T22:14:20Z",
                "answers": 2, "bytes": 12,
            })
        );
        assert_eq!(rfc3339(at(u64::MAX)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn rejections_are_counted_by_rule_and_reason() {
        let denied = |rule: &str, unmet| Reading {
            principal: None,
            rule: Some(rule.into()),
            matter: Matter::Denied(Reason::Rule(unmet)),
        };
        let mut sessions = Sessions::new(10, Duration::from_secs(60));
        for (rule, unmet) in
            [("a", Unmet::AllowFalse), ("b", Unmet::AllowFalse), ("a", Unmet::ValueUnbound), ("a", Unmet::AllowFalse)]
        {
            sessions.record(denied(rule, unmet), 0, at(0));
        }
        let lines: Vec<Value> =
            sessions.drain().iter().map(|session| serde_json::from_slice(&session.line()).unwrap()).collect();
        let found: Vec<_> = lines.iter().map(|line| (&line["rule"], &line["reason"], &line["answers"])).collect();
        let expected = [
            (json!("a"), json!("allow_false"), json!(2)),
            (json!("b"), json!("allow_false"), json!(1)),
            (json!("a"), json!("value_unbound"), json!(1)),
        ];
        assert_eq!(found, expected.each_ref().map(|(rule, reason, count)| (rule, reason, count)));
        assert!(lines.iter().all(|line| line.get("shape").is_none()), "{lines:?}");
    }
}

//! `electric-cursor`: keeps HTTP caches from giving a client the same live response twice (docs/electric.md, "The
//! cursor").

use std::time::Duration;

use crate::clock::UnixTime;

/// 2024-10-09T00:00Z, the start of Electric's count.
const EPOCH: UnixTime = UnixTime::from_secs(1_728_432_000);

/// The interval of Electric's cursors.
pub(crate) const INTERVAL: Duration = Duration::from_secs(20);

/// The largest number that is added for a client that is not behind.
const MAX_JUMP: u64 = 3600;

/// Returns the cursor of a response at `now` to a request with the cursor `sent`. It is never equal to `sent`.
///
/// It is the end of the current `interval`. A client that has this cursor or a later one gets its own plus a random
/// number.
pub(crate) fn next(now: UnixTime, interval: Duration, sent: Option<u64>) -> u64 {
    let interval = interval.as_secs().max(1);
    let end = now.saturating_since(EPOCH).as_secs().div_ceil(interval) * interval;
    match sent {
        // A cursor that no server has sent may be too large to add to.
        Some(sent) if sent >= end => sent.checked_add(rand::random_range(1..=MAX_JUMP)).unwrap_or(end),
        Some(_) | None => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64, sent: Option<u64>) -> u64 {
        next(UnixTime::from_secs(EPOCH.as_secs() + secs), INTERVAL, sent)
    }

    #[test]
    fn cursor_is_the_end_of_the_interval() {
        assert_eq!(at(0, None), 0);
        assert_eq!(at(1, None), 20);
        assert_eq!(at(20, None), 20);
        assert_eq!(at(21, Some(20)), 40);
    }

    #[test]
    fn cursor_jumps_for_a_client_that_is_not_behind() {
        assert!((41..=40 + MAX_JUMP).contains(&at(21, Some(40))));
        assert!((1000..=999 + MAX_JUMP).contains(&at(21, Some(999))));
        assert_eq!(at(21, Some(u64::MAX)), 40);
    }
}

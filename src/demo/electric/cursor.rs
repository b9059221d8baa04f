//! `electric-cursor`: keeps a client from getting the same cached live response twice.

use std::time::Duration;

use crate::clock::UnixTime;

/// 2024-10-09T00:00Z, the start of Electric's count.
const EPOCH: UnixTime = UnixTime::from_secs(1_728_432_000);

/// Returns the cursor of a response at `now` to a request with the cursor `requested`.
///
/// It is the end of the current `interval`. A client that has this cursor or a later one gets its own plus `jump`.
pub(super) fn next(now: UnixTime, interval: Duration, requested: Option<&str>, jump: u64) -> u64 {
    let interval = interval.as_secs().max(1);
    let end = now.saturating_since(EPOCH).as_secs().div_ceil(interval) * interval;
    match requested.and_then(|cursor| cursor.parse::<u64>().ok()) {
        Some(requested) if requested >= end => requested.saturating_add(jump),
        Some(_) | None => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(20);

    fn at(secs: u64, requested: Option<&str>) -> u64 {
        next(UnixTime::from_secs(EPOCH.as_secs() + secs), INTERVAL, requested, 7)
    }

    #[test]
    fn cursor_is_the_end_of_the_interval() {
        assert_eq!(at(0, None), 0);
        assert_eq!(at(1, None), 20);
        assert_eq!(at(20, None), 20);
        assert_eq!(at(21, Some("20")), 40);
        assert_eq!(at(21, Some("nonsense")), 40);
    }

    #[test]
    fn cursor_jumps_for_a_client_that_is_not_behind() {
        assert_eq!(at(21, Some("40")), 47);
        assert_eq!(at(21, Some("999")), 1006);
    }
}

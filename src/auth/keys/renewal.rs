//! Decides when a key set is fetched again. The decision is one pure function that takes ages, not a clock.

use std::time::Duration;

/// The lower bound for an endpoint's `max-age` (docs/security.md, J12).
const SHORTEST_MAX_AGE: Duration = Duration::from_secs(30);
/// The upper bound for an endpoint's `max-age` (docs/security.md, J12).
const LONGEST_MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// The wait after the first failure; it doubles with each further failure.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// The settings that decide when one endpoint's set is renewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RenewalPolicy {
    /// The longest time between two renewals.
    pub(crate) refresh: Duration,
    /// The shortest time between two renewals because of unknown keys.
    pub(crate) cooldown: Duration,
    /// The factor by which a wait is shortened, above 0 and at most 1. Below 1 the set is renewed before it expires; a
    /// random value per process keeps a fleet from fetching at the same time.
    pub(crate) spread: f64,
}

/// Why a renewal is considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The refresh interval or a backoff may have passed.
    Schedule,
    /// A token names a key that no set has.
    UnknownKey,
}

/// The time since each event; `None` if it never happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Age {
    /// Since the last fetch that succeeded.
    pub(crate) success: Option<Duration>,
    /// Since the last fetch that failed.
    pub(crate) failure: Option<Duration>,
    /// Since the last fetch because of an unknown key.
    pub(crate) demand: Option<Duration>,
    /// Failures since the last success.
    pub(crate) failures: u32,
    /// The endpoint's `max-age`.
    pub(crate) max_age: Option<Duration>,
}

/// The decision about a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// Fetch now.
    Fetch,
    /// Fetch once this time has passed.
    Wait(Duration),
}

impl RenewalPolicy {
    /// Decides whether to fetch now.
    pub(crate) fn decide(&self, age: Age, cause: Cause) -> Renewal {
        match cause {
            Cause::Schedule if age.failures > 0 => Renewal::after(self.backoff(age.failures), age.failure),
            Cause::Schedule => Renewal::after(self.lifetime(age.max_age), age.success),
            // Failures start the cool-down too. Scheduled renewals do not: otherwise a key published right after one
            // would stay unknown for a whole cool-down.
            Cause::UnknownKey => {
                let failed = age.failure.filter(|_| age.failures > 0);
                let latest = age.demand.into_iter().chain(failed).min();
                Renewal::after(self.cooldown, latest)
            }
        }
    }

    fn lifetime(&self, max_age: Option<Duration>) -> Duration {
        let asked = max_age.map_or(self.refresh, |asked| asked.clamp(SHORTEST_MAX_AGE, LONGEST_MAX_AGE));
        asked.min(self.refresh).mul_f64(self.spread)
    }

    fn backoff(&self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        FIRST_BACKOFF.saturating_mul(1 << doublings).min(LONGEST_BACKOFF).mul_f64(self.spread)
    }
}

impl Renewal {
    fn after(wait: Duration, passed: Option<Duration>) -> Self {
        match passed {
            Some(passed) if passed < wait => Self::Wait(wait.saturating_sub(passed)),
            _ => Self::Fetch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RenewalPolicy =
        RenewalPolicy { refresh: Duration::from_secs(600), cooldown: Duration::from_secs(30), spread: 1.0 };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ago(seconds: u64) -> Option<Duration> {
        Some(secs(seconds))
    }

    #[test]
    fn the_schedule_follows_max_age_within_its_bounds() {
        use Renewal::{Fetch, Wait};
        for (success, max_age, expected) in [
            (None, None, Fetch),
            (ago(0), None, Wait(secs(600))),
            (ago(599), None, Wait(secs(1))),
            (ago(600), None, Fetch),
            (ago(0), ago(120), Wait(secs(120))),
            (ago(0), ago(0), Wait(SHORTEST_MAX_AGE)),
            (ago(0), ago(7200), Wait(secs(600))), // never later than `refresh`
        ] {
            let age = Age { success, max_age, ..Age::default() };
            assert_eq!(POLICY.decide(age, Cause::Schedule), expected, "{age:?}");
        }
        let patient = RenewalPolicy { refresh: secs(86_400), ..POLICY };
        let age = Age { success: ago(0), max_age: ago(86_400), ..Age::default() };
        assert_eq!(patient.decide(age, Cause::Schedule), Wait(LONGEST_MAX_AGE));
    }

    #[test]
    fn failures_double_the_wait_up_to_a_minute() {
        for (failures, wait) in [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (u32::MAX, 60)] {
            let age = Age { success: ago(5), failure: ago(0), failures, ..Age::default() };
            assert_eq!(POLICY.decide(age, Cause::Schedule), Renewal::Wait(secs(wait)), "{failures}");
            let later = Age { failure: ago(wait), ..age };
            assert_eq!(POLICY.decide(later, Cause::Schedule), Renewal::Fetch, "{failures}");
        }
    }

    #[test]
    fn t6_an_unknown_key_causes_one_fetch_per_cooldown() {
        use Renewal::{Fetch, Wait};
        for (success, failure, failures, demand, expected) in [
            (None, None, 0, None, Fetch),
            (ago(0), None, 0, None, Fetch),
            (ago(0), None, 0, ago(0), Wait(secs(30))),
            (ago(0), None, 0, ago(29), Wait(secs(1))),
            (ago(0), None, 0, ago(30), Fetch),
            (None, ago(10), 1, None, Wait(secs(20))), // failures count too
            (None, ago(10), 1, ago(5), Wait(secs(25))),
            (ago(1), ago(10), 0, None, Fetch), // but not failures before a success
            (None, ago(30), 9, ago(31), Fetch),
        ] {
            let age = Age { success, failure, demand, failures, max_age: None };
            assert_eq!(POLICY.decide(age, Cause::UnknownKey), expected, "{age:?}");
        }
    }

    #[test]
    fn a_spread_below_1_renews_before_expiry() {
        let early = RenewalPolicy { spread: 0.75, ..POLICY };
        let age = Age { success: ago(0), ..Age::default() };
        assert_eq!(early.decide(age, Cause::Schedule), Renewal::Wait(secs(450)));
    }
}

//! How long a response is cached, and for whom (RFC 9111 section 5.2, RFC 5861 section 3).

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// The directives of `cache-control` that are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `s-maxage`: for shared caches, and this is one.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate`.
    pub stale_while_revalidate: Option<Duration>,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `no-store`, `no-cache` or `private`: the response is not cached.
    pub unshared: bool,
}

impl CacheControl {
    pub(super) fn parse(headers: &HeaderMap) -> Self {
        let mut parsed = Self::default();
        let values = headers.get_all(CACHE_CONTROL).iter();
        let directives = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        for directive in directives.map(str::trim) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let seconds = value.parse().ok().map(Duration::from_secs);
            let is = |known: &str| name.eq_ignore_ascii_case(known);
            if is("max-age") {
                parsed.max_age = seconds;
            } else if is("s-maxage") {
                parsed.s_maxage = seconds;
            } else if is("stale-while-revalidate") {
                parsed.stale_while_revalidate = seconds;
            } else if is("must-revalidate") {
                parsed.must_revalidate = true;
            } else if is("no-store") || is("no-cache") || is("private") {
                parsed.unshared = true;
            }
        }
        parsed
    }
}

/// How long a response is served from the cache, counted from its end (a response that took long is not old when it
/// ends).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// How long it is fresh.
    pub(super) fresh: Duration,
    /// How long after that it is served while a new one is fetched.
    pub(super) stale: Duration,
}

/// The longest that a stale response is served. Electric asks for a month on a snapshot.
const MAX_STALE: Duration = Duration::from_secs(300);

/// The longest that a rejection is served, since its cause may end at any time.
const REFUSAL: Duration = Duration::from_secs(1);

impl Lifetime {
    /// Returns the lifetime of a 200, at most `max_age` in all; `None` if it is not cached. A live response is never served stale: to fetch its
    /// successor would be a long poll without a client.
    pub(super) fn of_shape(control: &CacheControl, live: bool, max_age: Duration) -> Option<Self> {
        let fresh = control.s_maxage.or(control.max_age)?.min(max_age);
        let stale = match control.stale_while_revalidate {
            Some(stale) if !live && !control.must_revalidate => stale.min(MAX_STALE).min(max_age.saturating_sub(fresh)),
            _ => Duration::ZERO,
        };
        (!control.unshared && !(fresh + stale).is_zero()).then_some(Self { fresh, stale })
    }

    /// Returns the lifetime of an error that stays the same for `lasts`.
    pub(super) const fn of_fault(lasts: Duration) -> Self {
        Self { fresh: lasts, stale: Duration::ZERO }
    }

    /// Returns the lifetime of a 409, or of a rejection that names a time to retry after; `None` if it is not cached.
    pub(super) fn of_refusal(after: Option<Duration>) -> Option<Self> {
        let fresh = after?.min(REFUSAL);
        (!fresh.is_zero()).then_some(Self { fresh, stale: Duration::ZERO })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(text: &'static str) -> CacheControl {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(text));
        CacheControl::parse(&headers)
    }

    fn kept(text: &'static str, live: bool) -> Option<(u64, u64)> {
        let lifetime = Lifetime::of_shape(&parse(text), live, Duration::from_secs(4000));
        lifetime.map(|lifetime| (lifetime.fresh.as_secs(), lifetime.stale.as_secs()))
    }

    #[test]
    fn lifetimes_follow_electric_s_cache_control() {
        // docs/electric.md, "Responses"
        let snapshot = "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746";
        assert_eq!(kept(snapshot, false), Some((3600, 300)));
        assert_eq!(kept("public, max-age=60, stale-while-revalidate=300", false), Some((60, 300)));
        assert_eq!(kept("public, max-age=5, stale-while-revalidate=5", true), Some((5, 0)));
        for refused in ["no-store", "no-cache", "max-age=0, private, must-revalidate", "", "public", "max-age=x"] {
            assert_eq!(kept(refused, false), None, "{refused}");
        }
    }

    #[test]
    fn max_age_of_the_configuration_bounds_freshness_and_staleness() {
        let kept = |text, max_age| {
            let lifetime = Lifetime::of_shape(&parse(text), false, Duration::from_secs(max_age));
            lifetime.map(|lifetime| (lifetime.fresh.as_secs(), lifetime.stale.as_secs()))
        };
        let catch_up = "max-age=60, stale-while-revalidate=300";
        assert_eq!(kept("max-age=604800", 60), Some((60, 0)));
        assert_eq!(kept(catch_up, 60), Some((60, 0)));
        assert_eq!(kept(catch_up, 100), Some((60, 40)));
        assert_eq!(kept(catch_up, 1000), Some((60, 300)));
        assert_eq!(kept(catch_up, 0), None);
    }

    #[test]
    fn a_rejection_is_cached_for_a_second_at_most() {
        let kept = |after| Lifetime::of_refusal(after).map(|lifetime| lifetime.fresh);
        assert_eq!(kept(Some(Duration::from_secs(60))), Some(Duration::from_secs(1)));
        assert_eq!(kept(Some(Duration::from_millis(200))), Some(Duration::from_millis(200)));
        assert_eq!((kept(None), kept(Some(Duration::ZERO))), (None, None));
    }
}

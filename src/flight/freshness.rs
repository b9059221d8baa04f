//! How long an answer is kept and for whom (RFC 9111 section 5.2, RFC 5861 section 3).

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;

/// The directives of `cache-control` that are heeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheControl {
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `s-maxage`: for caches that many share, as we are one.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate`.
    pub stale_while_revalidate: Option<Duration>,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `no-store`, `no-cache` or `private`: nothing is kept here.
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
            match name.to_ascii_lowercase().as_str() {
                "max-age" => parsed.max_age = seconds,
                "s-maxage" => parsed.s_maxage = seconds,
                "stale-while-revalidate" => parsed.stale_while_revalidate = seconds,
                "must-revalidate" => parsed.must_revalidate = true,
                "no-store" | "no-cache" | "private" => parsed.unshared = true,
                _ => {}
            }
        }
        parsed
    }
}

/// How long an answer serves after its end (an answer that took long is not old at birth).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// So long it is as good as new.
    pub(super) fresh: Duration,
    /// So long after that it still serves, while a new one is fetched.
    pub(super) stale: Duration,
}

/// The longest that an answer serves while its successor is on its way; Electric asks for a month on a snapshot.
const MAX_STALE: Duration = Duration::from_secs(300);

/// A refusal serves no longer: it may be over at any time.
const REFUSAL: Duration = Duration::from_secs(1);

impl Lifetime {
    /// Of an answer with status 200; `None` where it is not kept. A live answer is never served stale: fetching its
    /// successor would be a long poll that nobody waits for.
    pub(super) fn of_shape(control: &CacheControl, live: bool, max_age: Duration) -> Option<Self> {
        let fresh = control.s_maxage.or(control.max_age)?.min(max_age);
        let stale = match control.stale_while_revalidate {
            Some(stale) if !live && !control.must_revalidate => stale.min(MAX_STALE),
            _ => Duration::ZERO,
        };
        (!control.unshared && !(fresh + stale).is_zero()).then_some(Self { fresh, stale })
    }

    /// Of a 409, or of a refusal that names when to come again.
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
        let lifetime = Lifetime::of_shape(&parse(text), live, Duration::from_secs(3600));
        lifetime.map(|lifetime| (lifetime.fresh.as_secs(), lifetime.stale.as_secs()))
    }

    #[test]
    fn electric_s_own_rules() {
        // docs/electric.md, "Answers"
        let snapshot = "public, max-age=604800, s-maxage=3600, stale-while-revalidate=2629746";
        assert_eq!(kept(snapshot, false), Some((3600, 300)));
        assert_eq!(kept("public, max-age=60, stale-while-revalidate=300", false), Some((60, 300)));
        assert_eq!(kept("public, max-age=5, stale-while-revalidate=5", true), Some((5, 0)));
        for refused in ["no-store", "no-cache", "max-age=0, private, must-revalidate", "", "public", "max-age=x"] {
            assert_eq!(kept(refused, false), None, "{refused}");
        }
    }

    #[test]
    fn the_configured_age_is_the_longest() {
        let lifetime = Lifetime::of_shape(&parse("max-age=604800"), false, Duration::from_secs(60));
        assert_eq!(lifetime.map(|lifetime| lifetime.fresh), Some(Duration::from_secs(60)));
        assert_eq!(Lifetime::of_shape(&parse("max-age=60"), false, Duration::ZERO), None);
    }

    #[test]
    fn a_refusal_is_kept_for_a_second_at_most() {
        let kept = |after| Lifetime::of_refusal(after).map(|lifetime| lifetime.fresh);
        assert_eq!(kept(Some(Duration::from_secs(60))), Some(Duration::from_secs(1)));
        assert_eq!(kept(Some(Duration::from_millis(200))), Some(Duration::from_millis(200)));
        assert_eq!((kept(None), kept(Some(Duration::ZERO))), (None, None));
    }
}

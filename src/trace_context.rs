//! Reads and writes the `traceparent` header of W3C Trace Context, which names the trace of a request.

use http::{HeaderMap, HeaderName};

/// A valid `traceparent`: the ids and the sampled flag. Nothing else that the client sent is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(Box<str>);

/// The header's name.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The bytes of version 00: `00-`, 32 hex digits, `-`, 16 hex digits, `-`, 2 hex digits.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads the request's header if there is exactly one and it is valid (Trace Context section 3.2.2). For an unknown
    /// version, it reads the fields of version 00 (section 3.2.4).
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next().filter(|_| values.next().is_none())?;
        Self::parse(value.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LENGTH)?;
        let mut fields = known.split('-');
        let [version, trace, parent, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        let valid = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        let zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        let more = &text[LENGTH..];
        let version_holds = match version {
            "00" => more.is_empty(),
            "ff" => false,
            _ => more.is_empty() || more.starts_with('-'),
        };
        // We send version 00, whose only flag is `sampled`.
        let sampled = flags.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']);
        (valid && version_holds && !zero(trace) && !zero(parent))
            .then(|| Self(format!("00-{trace}-{parent}-0{}", u8::from(sampled)).into()))
    }

    /// The header's value, in version 00.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trace id: 32 hex digits.
    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }
}

/// Conversions to and from the ids of our own spans.
#[cfg(feature = "otel")]
impl TraceParent {
    /// Creates the header for a recorded span of shapegate.
    pub(super) fn recorded(trace: u128, span: u64) -> Self {
        Self(format!("00-{trace:032x}-{span:016x}-01").into())
    }

    /// The trace id as a number; never 0.
    pub(super) fn trace(&self) -> u128 {
        u128::from_str_radix(self.trace_id(), 16).unwrap_or(1)
    }

    /// The id of the parent span as a number; never 0.
    pub(super) fn span(&self) -> u64 {
        u64::from_str_radix(&self.0[36..52], 16).unwrap_or(1)
    }

    /// Whether the sender records the trace.
    pub(super) fn is_sampled(&self) -> bool {
        self.0.ends_with('1')
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_header_is_read() {
        let trace = TraceParent::parse(VALID).unwrap();
        assert_eq!((trace.as_str(), trace.trace_id()), (VALID, "4bf92f3577b34da6a3ce929d0e0e4736"));
        for (text, flags) in [
            (VALID.replace("-01", "-00"), "-00"),
            (VALID.replace("-01", "-fe"), "-00"),
            (VALID.replace("-01", "-ff"), "-01"),
            (VALID.replacen("00-", "cc-", 1), "-01"),
            (VALID.replacen("00-", "cc-", 1) + "-what-comes-later", "-01"),
        ] {
            let trace = TraceParent::parse(&text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(trace.as_str(), VALID.replace("-01", flags), "{text}");
        }
    }

    #[cfg(feature = "otel")]
    #[test]
    fn ids_are_read_and_written_as_numbers() {
        let trace = TraceParent::parse(VALID).unwrap();
        assert_eq!((trace.trace(), trace.span()), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
        assert!(trace.is_sampled() && !TraceParent::parse(&VALID.replace("-01", "-00")).unwrap().is_sampled());
        assert_eq!(TraceParent::recorded(trace.trace(), trace.span()), trace);
        let small = TraceParent::recorded(1, 2);
        assert_eq!(TraceParent::parse(small.as_str()), Some(small));
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        for text in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-"),
            &format!("{VALID}0"),
            &VALID.replacen("00-", "ff-", 1),
            &VALID.replacen("00-", "cc-", 1).replace("-01", "-01x"),
            &VALID.replace('b', "B"),
            &VALID.replace('4', "g"),
            &VALID.replace('-', "_"),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &format!(" {VALID}"),
            &VALID.replace("4b", "é"),
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(VALID));
        assert!(TraceParent::from_headers(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(VALID));
        assert!(TraceParent::from_headers(&headers).is_none());
    }
}

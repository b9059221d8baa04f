//! Reads the bearer token of a request (RFC 6750 section 2.1, RFC 9110 section 11.4), or one in a cookie (RFC 6265
//! section 4.2).

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};
use percent_encoding::percent_decode_str;

use super::error::BearerError;
use crate::digest::sha256;
use crate::hex::hex;

const SCHEME: &str = "Bearer";

/// A well-formed bearer token that is not verified yet.
#[derive(Clone)]
pub struct BearerToken {
    text: Box<str>,
    digest: TokenDigest,
    /// The name of the cookie that it came in; `None` for the `Authorization` header.
    cookie: Option<Arc<str>>,
}

/// The SHA-256 of a whole token, signature included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenDigest([u8; 32]);

impl BearerToken {
    /// Reads the token from the only `Authorization` header.
    ///
    /// The scheme is case-insensitive, exactly one space follows it, and the token is a token68 of at most `max_bytes`
    /// bytes (RFC 9110 section 11.2). No other header and no parameter is read.
    ///
    /// # Errors
    /// There is no token, it is longer than `max_bytes`, or the header is malformed or given more than once.
    pub fn from_headers(headers: &HeaderMap, max_bytes: usize) -> Result<Self, BearerError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let value = values.next().ok_or(BearerError::Missing)?;
        if values.next().is_some() {
            return Err(BearerError::Malformed);
        }
        let credentials = str::from_utf8(value.as_bytes()).map_err(|_| BearerError::Malformed)?;
        if credentials.trim_ascii().is_empty() {
            return Err(BearerError::Missing);
        }
        let (scheme, token) = credentials.split_once(' ').unwrap_or((credentials, ""));
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(BearerError::Malformed);
        }
        if token.len() > max_bytes {
            return Err(BearerError::TooLong);
        }
        Self::new(token)
    }

    /// Reads the token from the `Authorization` header or, if there is none, from one of these cookies.
    ///
    /// # Errors
    /// As [`from_headers`](Self::from_headers); or [`BearerError::Conflict`] if a cookie differs from the header or from
    /// another one.
    pub fn from_request(headers: &HeaderMap, cookies: &[Arc<str>], max_bytes: usize) -> Result<Self, BearerError> {
        let token = match Self::from_headers(headers, max_bytes) {
            Err(error) if error != BearerError::Missing => return Err(error),
            token => token,
        };
        let mut found = cookies_named(headers, cookies);
        let Some((name, text)) = found.next() else { return token };
        if found.any(|(other, value)| other != name || value != text)
            || token.as_ref().is_ok_and(|token| *token.text != *text)
        {
            return Err(BearerError::Conflict);
        }
        match token {
            Ok(token) => Ok(token),
            Err(_) if text.len() > max_bytes => Err(BearerError::TooLong),
            Err(_) => Ok(Self { cookie: Some(Arc::clone(name)), ..Self::new(&text)? }),
        }
    }

    /// Checks that a text is a token68.
    ///
    /// # Errors
    /// [`BearerError::Missing`] if the text is empty, [`BearerError::Malformed`] if it is not a token68.
    pub fn new(text: &str) -> Result<Self, BearerError> {
        if text.is_empty() {
            return Err(BearerError::Missing);
        }
        if !is_token68(text) {
            return Err(BearerError::Malformed);
        }
        Ok(Self { text: text.into(), digest: TokenDigest(sha256(text)), cookie: None })
    }

    /// The first 8 bytes of the token's SHA-256, in hex. Logs show this instead of the token.
    pub fn hash(&self) -> String {
        hex(&self.digest.0[..8])
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the cookie that it came in; `None` for the `Authorization` header.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    pub(crate) const fn digest(&self) -> TokenDigest {
        self.digest
    }
}

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({}…)", self.hash())
    }
}

impl TokenDigest {
    pub(super) const fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl std::hash::Hash for TokenDigest {
    // SHA-256 is evenly distributed, so eight of its bytes suffice as a hash.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Returns the cookies with these names that are not empty, percent-decoded, since servers encode what a cookie may not
/// have. Over HTTP/2 there may be several headers (RFC 9113 section 8.2.3).
fn cookies_named<'a>(headers: &'a HeaderMap, names: &'a [Arc<str>]) -> impl Iterator<Item = (&'a Arc<str>, String)> {
    let values = headers.get_all(COOKIE).iter().filter(|_| !names.is_empty());
    let pairs = values.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    pairs.filter_map(|pair| {
        let (name, value) = pair.trim_ascii().split_once('=')?;
        let name = names.iter().find(|known| ***known == *name)?;
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        (!value.is_empty()).then_some((name, value))
    })
}

fn is_token68(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    // Without early exit or branch the compiler can vectorize this, which matters because every request runs it.
    !body.is_empty() && body.bytes().fold(true, |so_far, byte| so_far & is_token68_byte(byte))
}

const fn is_token68_byte(byte: u8) -> bool {
    let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
    let digit = byte.wrapping_sub(b'0') < 10;
    let mark = (byte == b'-') | (byte == b'.') | (byte == b'_') | (byte == b'~') | (byte == b'+') | (byte == b'/');
    letter | digit | mark
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(values: &[&[u8]]) -> Result<BearerToken, BearerError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        BearerToken::from_headers(&headers, 16)
    }

    #[test]
    fn one_well_formed_token_is_read() {
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER a.b.c"] {
            assert_eq!(parse(&[value.as_bytes()]).unwrap().as_str(), "a.b.c");
        }
        assert!(parse(&[b"Bearer aB0-._~+/=="]).is_ok());
    }

    #[test]
    fn an_absent_or_empty_token_is_missing() {
        let values: [&[&[u8]]; 5] = [&[], &[b""], &[b" \t"], &[b"Bearer"], &[b"Bearer "]];
        for value in values {
            assert_eq!(parse(value).unwrap_err(), BearerError::Missing, "{value:?}");
        }
    }

    #[test]
    fn t15_other_spellings_are_malformed() {
        let values: [&[u8]; 13] = [
            b" Bearer a.b",
            b"Bearer  a.b",
            b"Bearer\ta.b",
            b"Bearer a.b ",
            b"Bearer a.b\t",
            b"Bearer a b",
            b"Bearer a,Bearer b",
            b"Bearer a, Bearer b",
            b"Bearer =",
            b"Bearer a=b",
            b"Bearer \xff",
            b"Basic YTpi",
            b"Bearera.b.c",
        ];
        for value in values {
            assert_eq!(parse(&[value]).unwrap_err(), BearerError::Malformed, "{value:?}");
        }
    }

    #[test]
    fn exactly_the_characters_of_token68_are_allowed() {
        let allowed = (0..=u8::MAX).filter(|byte| is_token68_byte(*byte)).map(char::from).collect::<String>();
        assert_eq!(allowed, "+-./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~");
    }

    #[test]
    fn t15_a_long_token_is_rejected_before_it_is_parsed() {
        assert!(parse(&[b"Bearer 0123456789abcdef"]).is_ok());
        assert_eq!(parse(&[b"Bearer 0123456789abcdef!"]).unwrap_err(), BearerError::TooLong);
    }

    #[test]
    fn t16_two_headers_are_malformed_even_if_one_is_empty() {
        let values: [&[&[u8]]; 3] = [&[b"Bearer a", b"Bearer a"], &[b"Bearer a", b""], &[b"", b"Bearer a"]];
        for value in values {
            assert_eq!(parse(value).unwrap_err(), BearerError::Malformed, "{value:?}");
        }
    }

    #[test]
    fn t16_no_other_header_is_read() {
        let mut headers = HeaderMap::new();
        for name in ["proxy-authorization", "cookie", "x-authorization"] {
            headers.insert(name, HeaderValue::from_static("Bearer a.b.c"));
        }
        assert_eq!(BearerToken::from_headers(&headers, 16).unwrap_err(), BearerError::Missing);
    }

    fn with_cookies(authorization: Option<&str>, cookies: &[&str]) -> Result<BearerToken, BearerError> {
        let mut headers = HeaderMap::new();
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        }
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().unwrap());
        }
        BearerToken::from_request(&headers, &["__session".into(), "other".into()], 16)
    }

    #[test]
    fn a_token_in_a_configured_cookie_is_read_if_the_header_has_none() {
        for authorization in [None, Some(""), Some("Bearer ")] {
            for cookies in [&["a=1; __session=a.b.c; b=2"][..], &["a=1", "__session=a.b.c"], &["__session=a%2Eb.c"]] {
                let token = with_cookies(authorization, cookies).unwrap();
                assert_eq!((token.as_str(), token.cookie()), ("a.b.c", Some("__session")), "{cookies:?}");
            }
            for cookies in [&[][..], &["__session="], &["__Session=a.b.c"], &["x__session=a"], &["__session"]] {
                assert_eq!(with_cookies(authorization, cookies).unwrap_err(), BearerError::Missing, "{cookies:?}");
            }
        }
        assert_eq!(with_cookies(None, &["other=a.b.c"]).unwrap().cookie(), Some("other"));
    }

    #[test]
    fn t16_a_header_and_a_cookie_must_not_differ() {
        let same = with_cookies(Some("Bearer a.b.c"), &["__session=a.b.c; __session=a.b.c"]).unwrap();
        assert_eq!((same.as_str(), same.cookie()), ("a.b.c", None));
        for (authorization, cookies) in [
            (Some("Bearer a.b.c"), &["__session=a.b.d"][..]),
            (Some("Bearer a.b.c"), &["__session=a.b.c; other=a.b.d"]),
            (None, &["__session=a.b.c; __session=a.b.d"]),
            (None, &["__session=a.b.c", "__session=a.b.d"]),
            (None, &["__session=a.b.c; other=a.b.c"]),
            (Some("Bearer a.b.c"), &["__session=%"]),
        ] {
            assert_eq!(with_cookies(authorization, cookies).unwrap_err(), BearerError::Conflict, "{cookies:?}");
        }
        assert_eq!(with_cookies(Some("Basic YTpi"), &["__session=a.b.c"]).unwrap_err(), BearerError::Malformed);
    }

    #[test]
    fn t15_a_malformed_or_long_cookie_is_rejected() {
        for value in ["a b", "\"a.b.c\"", "a,b", "a%00b", "a%ff", "a=b=c"] {
            let found = with_cookies(None, &[&format!("__session={value}")]);
            assert_eq!(found.unwrap_err(), BearerError::Malformed, "{value}");
        }
        assert_eq!(with_cookies(None, &["__session=0123456789abcdefg"]).unwrap_err(), BearerError::TooLong);
    }

    #[test]
    fn debug_output_of_a_token_is_a_short_hash() {
        let token = BearerToken::new("abc").unwrap();
        assert_eq!(token.hash(), "ba7816bf8f01cfea"); // SHA-256("abc") from FIPS 180-4
        assert_eq!(format!("{token:?}"), "BearerToken(ba7816bf8f01cfea…)");
    }
}

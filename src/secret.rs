//! Secrets that must not appear in logs.

use std::fmt;

use crate::digest::sha256;

/// A secret string. Its `Debug` output is redacted, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a string that must not be shown.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Whether `text` is the secret. Takes the same time for every text of the same length (docs/security.md, T20).
    pub fn is(&self, text: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&sha256(self.expose()), &sha256(text)).is_ok()
    }

    /// Marks random text as a key for development, so that a configuration with it is recognized.
    pub fn development(random: &str) -> Self {
        Self::new(format!("{DEVELOPMENT}{random}"))
    }

    /// Whether this is a key for development, as `shapegate token` makes them.
    pub fn is_development(&self) -> bool {
        self.0.starts_with(DEVELOPMENT)
    }

    /// Returns the secret string. Use it only to send a request, to sign and to verify.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The start of a key for development.
const DEVELOPMENT: &str = "shapegate-development-key-";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Replaces secrets in a text from elsewhere that may quote what was sent there. Each character of a secret may be
/// percent-encoded (RFC 3986 section 2.1).
pub fn redact<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    let mut secrets: Vec<_> = secrets.map(|secret| secret.expose().as_bytes()).filter(|s| !s.is_empty()).collect();
    // One secret may begin with another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    let (mut redacted, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let found = secrets.iter().find_map(|secret| quoted(rest.as_bytes(), secret));
        match found.and_then(|length| rest.get(length..)) {
            Some(behind) => {
                redacted.push('…');
                rest = behind;
            }
            None => {
                redacted.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    redacted
}

/// Returns the length of `secret` at the start of `text`, whichever of its bytes are percent-encoded.
fn quoted(text: &[u8], secret: &[u8]) -> Option<usize> {
    let mut at = 0;
    for expected in secret {
        let encoded = text.get(at..at + 3).filter(|encoded| encoded[0] == b'%').and_then(|encoded| {
            let digits = std::str::from_utf8(&encoded[1..]).ok()?;
            u8::from_str_radix(digits, 16).ok()
        });
        match encoded {
            Some(byte) if byte == *expected => at += 3,
            _ if text.get(at) == Some(expected) => at += 1,
            _ => return None,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted_in_every_form() {
        let secrets = [Secret::new("a/b"), Secret::new("a/b+c")];
        let redacted = |text| redact(text, secrets.iter());
        assert_eq!(redacted("secret=a/b+c&x=a/b"), "secret=…&x=…");
        assert_eq!(redacted("secret=a%2Fb%2Bc or a%2fb%2bc or a%2fb"), "secret=… or … or …");
        assert_eq!(redacted("%61%2fb%2B%63 and ä%zz"), "… and ä%zz");
        assert_eq!(redacted("a/c is another text"), "a/c is another text");
    }
}

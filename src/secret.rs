//! Secrets that must not appear in logs.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// A secret string. Its `Debug` output is redacted, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a string that must not be shown.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Returns the secret string. Use it only to send a request, to sign and to verify.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Replaces secrets in a text from another system, which may quote what it was sent. Finds them plain and
/// percent-encoded, with upper or lower case digits.
pub fn redact<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    let mut forms: Vec<String> = secrets.flat_map(|secret| forms(secret.expose())).collect();
    // Longer ones first, because one secret may be the beginning of another.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut text = text.to_owned();
    for form in forms.iter().filter(|form| !form.is_empty()) {
        text = text.replace(form, "…");
    }
    text
}

/// Returns a secret plain, and percent-encoded with lower and with upper case digits.
fn forms(secret: &str) -> [String; 3] {
    let upper = utf8_percent_encode(secret, RESERVED).to_string();
    let lower = upper.split('%').enumerate().map(|(at, part)| {
        // Every part but the first starts with two hex digits.
        let (digits, rest) = part.split_at(if at > 0 { 2 } else { 0 });
        format!("{}{rest}", digits.to_lowercase())
    });
    [secret.to_owned(), lower.collect::<Vec<_>>().join("%"), upper]
}

/// All except the unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_redacted_in_every_form() {
        let secrets = [Secret::new("a/b"), Secret::new("a/b+c")];
        let redacted = |text| redact(text, secrets.iter());
        assert_eq!(redacted("secret=a/b+c&x=a/b"), "secret=…&x=…");
        assert_eq!(redacted("secret=a%2Fb%2Bc or a%2fb%2bc or a%2fb"), "secret=… or … or …");
        assert_eq!(redacted("a/c is another text"), "a/c is another text");
    }
}

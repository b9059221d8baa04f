//! Values that must not be shown.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// A secret text: its `Debug` is redacted and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a text that must not be shown.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself: for the wire and for the verifier, nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Cuts secrets out of a text that came from elsewhere and may quote what was sent there: as they are, and
/// percent-encoded in either case.
pub fn redact<'a>(text: &str, secrets: impl Iterator<Item = &'a Secret>) -> String {
    let mut forms: Vec<String> = secrets.flat_map(|secret| forms(secret.expose())).collect();
    // One may begin as another does.
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
    let mut text = text.to_owned();
    for form in forms.iter().filter(|form| !form.is_empty()) {
        text = text.replace(form, "…");
    }
    text
}

/// A secret as it is, and as a query has it, with upper or lower case digits.
fn forms(secret: &str) -> [String; 3] {
    let upper = utf8_percent_encode(secret, RESERVED).to_string();
    let lower = upper.split('%').enumerate().map(|(at, part)| {
        // Behind each `%` are two digits.
        let (digits, rest) = part.split_at(if at > 0 { 2 } else { 0 });
        format!("{}{rest}", digits.to_lowercase())
    });
    [secret.to_owned(), lower.collect::<Vec<_>>().join("%"), upper]
}

/// All but the unreserved characters (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_secrets_are_cut_out_in_every_form() {
        let secrets = [Secret::new("a/b"), Secret::new("a/b+c")];
        let redacted = |text| redact(text, secrets.iter());
        assert_eq!(redacted("secret=a/b+c&x=a/b"), "secret=…&x=…");
        assert_eq!(redacted("secret=a%2Fb%2Bc or a%2fb%2bc or a%2fb"), "secret=… or … or …");
        assert_eq!(redacted("a/c is another text"), "a/c is another text");
    }
}

//! Bounds and cleans text of clients before it is logged.

/// Replaces control characters and direction marks, and truncates to `most` characters (docs/security.md, C14).
pub(super) fn sanitized(text: &str, most: usize) -> Box<str> {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut clean: String = text.chars().take(most).map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(most).is_some() {
        clean.push('…');
    }
    clean.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_sanitized_and_shortened() {
        assert_eq!(&*sanitized("user\r\n\u{1b}[31m\u{202e}é", 99), "user\u{fffd}\u{fffd}\u{fffd}[31m\u{fffd}é");
        assert_eq!(sanitized(&"é".repeat(256), 256).chars().count(), 256);
        assert_eq!(sanitized(&"é".repeat(257), 256).chars().last(), Some('…'));
    }
}

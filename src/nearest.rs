//! Guesses which word was meant.

/// Returns the known word that was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (steps, near) = known.map(|known| (strsim::levenshtein(known, word), known)).min()?;
    (steps <= 2 && 2 * steps <= near.len()).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_a_near_word_is_guessed() {
        let guess = |word| nearest(word, ["where", "url", "urls"].into_iter());
        assert_eq!(
            (guess("were"), guess("wher"), guess("ulr"), guess("urlss")),
            (Some("where"), Some("where"), None, Some("urls"))
        );
        assert_eq!((guess("x"), guess("columns"), guess("")), (None, None, None));
    }
}

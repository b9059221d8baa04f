//! Parses SQL identifiers like Postgres.

/// Reads the identifier at the start of `text`, and returns it with the rest of the text.
///
/// An identifier without quotes ends at `separator` and is folded to lower case. In double quotes the name is exact,
/// and a doubled quote stands for one quote. `None` if there is no identifier, or it needs quotes and has none.
pub(crate) fn first(text: &str, separator: char) -> Option<(String, &str)> {
    match text.strip_prefix('"') {
        Some(quoted) => up_to_quote(quoted),
        None => {
            let (name, rest) = text.split_at(text.find(separator).unwrap_or(text.len()));
            let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$');
            plain.then(|| (name.to_ascii_lowercase(), rest))
        }
    }
}

fn up_to_quote(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(next) => {
                name.push('"');
                rest = next;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_names_are_exact_and_others_are_folded() {
        for (text, name, rest) in [
            ("Items", "items", ""),
            ("_a$1.b", "_a$1", ".b"),
            ("\"Items\".b", "Items", ".b"),
            ("\"a\"\"b.c\"d", "a\"b.c", "d"),
            ("\"\"", "", ""),
        ] {
            assert_eq!(first(text, '.'), Some((name.to_owned(), rest)), "{text}");
        }
        for text in ["", ".a", "1a", "a b", "a-b", "ä", "\"a", "\"a\"\""] {
            assert_eq!(first(text, '.'), None, "{text}");
        }
    }
}

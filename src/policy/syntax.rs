//! Explains why a text is not CEL, for those who know SQL or Python better.

use std::ops::Range;

use cel::ParseErrors;

use super::problem::Problem;

/// Words and signs of other languages, and CEL's.
const OTHERS: [(&str, &str); 8] =
    [("AND", "&&"), ("OR", "||"), ("NOT", "!"), ("and", "&&"), ("or", "||"), ("not", "!"), ("=", "=="), ("<>", "!=")];

/// Describes why `source` cannot be parsed.
pub(super) fn problem(source: &str, errors: &ParseErrors) -> Problem {
    if let Some((part, word, instead)) = foreign(source) {
        let problem = Problem::from(format!("`{source}` is not a CEL expression: `{word}` is not part of CEL"));
        return problem.help(format!("write `{instead}`")).within(part);
    }
    let Some(first) = errors.errors.first() else {
        return format!("`{source}` is not a CEL expression").into();
    };
    let message = first.msg.trim_start_matches("Syntax error: ").split(" expecting ").next().unwrap_or_default();
    let message = if message.contains("<EOF>") { "it ends too early" } else { message };
    let problem = Problem::from(format!("`{source}` is not a CEL expression: {message}"));
    let found = position(source, first.pos).and_then(|at| Some(at..at + source[at..].chars().next()?.len_utf8()));
    found.map_or(problem.clone(), |part| problem.within(part))
}

/// Finds the first word or sign outside of quotes that only another language has.
fn foreign(source: &str) -> Option<(Range<usize>, &'static str, &'static str)> {
    let mut rest = 0..source.len();
    while let Some(c) = source[rest.clone()].chars().next() {
        let text = &source[rest.clone()];
        let length = match c {
            '"' | '\'' => quoted(text, c),
            _ if c.is_alphanumeric() || c == '_' => {
                text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
            }
            _ if c.is_ascii_punctuation() && "=<>!&|".contains(c) => {
                text.find(|c: char| !"=<>!&|".contains(c)).unwrap_or(text.len())
            }
            _ => c.len_utf8(),
        };
        // A name after a point is a field: `claims.and`.
        let is_field = source[..rest.start].trim_end().ends_with('.');
        if let Some((word, instead)) = OTHERS.into_iter().find(|(word, _)| *word == &text[..length] && !is_field) {
            return Some((rest.start..rest.start + length, word, instead));
        }
        rest.start += length;
    }
    None
}

/// Returns the length of a quoted text.
fn quoted(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the byte offset of a line and column, both counted from 1, if a character is there.
fn position(source: &str, (line, column): (isize, isize)) -> Option<usize> {
    let (line, column) = (usize::try_from(line).ok()?, usize::try_from(column).ok()?);
    let before: usize = source.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum();
    let at = before + column.checked_sub(1)?;
    source.is_char_boundary(at).then_some(at).filter(|at| *at < source.len())
}

#[cfg(test)]
mod tests {
    use cel::Program;

    use super::*;

    fn described(source: &str) -> (String, Option<&str>) {
        let problem = problem(source, &Program::compile(source).unwrap_err());
        (problem.to_string(), problem.part.map(|part| &source[part]))
    }

    #[test]
    fn words_of_other_languages_are_named() {
        for (source, word, instead) in [
            ("query.a = claims.a", "=", "=="),
            ("claims.a and claims.b", "and", "&&"),
            ("claims.a OR claims.b", "OR", "||"),
            ("claims.a && not claims.b", "not", "!"),
            ("query.a <> 'x = y'", "<>", "!="),
            ("claims.and == 'a and b' = claims.c", "=", "=="),
        ] {
            let (shown, part) = described(source);
            assert!(shown.ends_with(&format!("`{word}` is not part of CEL: write `{instead}`")), "{shown}");
            assert_eq!(part, Some(word), "{source}");
        }
    }

    #[test]
    fn other_errors_are_shown_where_the_parser_stops() {
        for source in ["claims.", "claims.a == ", "(claims.a", "'a", "claims.a claims.b", "ü.", "", "a\n  ^ b"] {
            let (shown, _) = described(source);
            assert!(shown.contains("is not a CEL expression: "), "{shown}");
        }
        assert_eq!(described("claims.a ^ claims.b").1, Some("^"));
    }
}

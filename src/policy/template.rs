//! Compiles and renders `where` templates: SQL in which every `{{ CEL }}` placeholder becomes a bound `$n` parameter.

use std::ops::Range;

use super::expression::{Bound, Expression, Scope};
use super::problem::Problem;

/// A compiled template. Its SQL comes only from the configuration; values are sent only as parameters.
#[derive(Debug)]
pub(super) struct Template {
    /// The SQL before each placeholder and after the last one: one more part than there are placeholders.
    sql: Vec<String>,
    places: Vec<Place>,
    /// Where the SQL after each placeholder begins in the template.
    starts: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) expression: Expression,
    /// The bytes of the expression in the template.
    pub(super) part: Range<usize>,
    pub(super) list: ListPlace,
}

/// Whether the value of a placeholder may be a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListPlace {
    /// A list is allowed, directly inside `ARRAY[…]`; an empty list denies.
    Array,
    /// A list is allowed, directly inside `IN (…)`; an empty list selects no rows.
    In,
    /// Anywhere else a list denies.
    Nowhere,
}

/// A rendered `where` and the values of its `$1`, `$2`, ….
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) sql: String,
    pub(super) params: Vec<String>,
}

impl Template {
    /// Compiles `text`. The error says what to write instead.
    pub(super) fn compile(text: &str) -> Result<Self, Problem> {
        let mut scanner = Scanner::default();
        let (mut sql, mut places, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        loop {
            let rest = &text[at..];
            let end = scanner.scan(rest).map_err(|problem| problem.moved(at))?;
            sql.push(rest[..end].to_owned());
            if end == rest.len() {
                break;
            }
            let list = scanner.list_place();
            if scanner.last == "IN" {
                let bare = Problem::from("IN without brackets: write IN ({{ … }})");
                return Err(bare.within(at + end..at + end + 2));
            }
            let start = at + end + 2;
            let length = expression_end(&text[start..]).ok_or_else(|| Problem::from("`{{` without `}}`"))?;
            places.push(Place::compile(text, start..start + length, list)?);
            scanner.place();
            at = start + length + 2;
            starts.push(at);
        }
        scanner.finish()?;
        Ok(Self { sql, places, starts })
    }

    /// The placeholders.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Returns where the SQL outside of the placeholders has a word.
    pub(super) fn find(&self, word: &str) -> Option<Range<usize>> {
        let mut start = 0;
        for (index, sql) in self.sql.iter().enumerate() {
            if let Some(at) = sql.find(word) {
                return Some(start + at..start + at + word.len());
            }
            start = self.starts.get(index).copied()?;
        }
        None
    }

    /// Returns the SQL with one `$n` for each placeholder, as if no value were a list.
    pub(super) fn sql(&self) -> String {
        let mut sql = String::new();
        for (index, part) in self.sql.iter().enumerate() {
            if index > 0 {
                push_placeholder(&mut sql, index);
            }
            sql.push_str(part);
        }
        sql
    }

    /// Renders the SQL and its parameters; `None` if a value is missing or cannot be bound.
    pub(super) fn render(&self, scope: &Scope<'_>) -> Option<Rendered> {
        let mut params = Vec::new();
        let (first, others) = self.sql.split_first()?;
        let mut sql = first.clone();
        for (place, following) in self.places.iter().zip(others) {
            match place.expression.bind(scope)? {
                Bound::One(value) => {
                    params.push(value);
                    push_placeholder(&mut sql, params.len());
                }
                Bound::Many(values) if place.list == ListPlace::Nowhere || values.len() > MAX_LIST => return None,
                // `x IN (NULL)` and `x NOT IN (NULL)` are never true, but `NOT (x && ARRAY[NULL])` is.
                Bound::Many(values) if values.is_empty() && place.list == ListPlace::Array => return None,
                Bound::Many(values) if values.is_empty() => sql.push_str("NULL"),
                Bound::Many(values) => {
                    for (index, value) in values.into_iter().enumerate() {
                        if index > 0 {
                            sql.push(',');
                        }
                        params.push(value);
                        push_placeholder(&mut sql, params.len());
                    }
                }
            }
            sql.push_str(following);
        }
        Some(Rendered { sql, params })
    }
}

/// The most values in one list; a longer list denies. Electric accepts at most 10,000 bytes of request line
/// (docs/electric.md, "Size limits").
const MAX_LIST: usize = 1_000;

fn push_placeholder(sql: &mut String, number: usize) {
    sql.push('$');
    sql.push_str(&number.to_string());
}

impl Place {
    fn compile(text: &str, inside: Range<usize>, list: ListPlace) -> Result<Self, Problem> {
        let source = text[inside.clone()].trim();
        let start = inside.start + (text[inside.clone()].len() - text[inside.clone()].trim_start().len());
        let part = start..start + source.len();
        let expression = Expression::compile(source)
            .map_err(|problem| problem.moved(start).within(inside.start - 2..inside.end + 2))?;
        if expression.reads_now() {
            let now = Problem::from("`now` in `where` would make a new shape every second; use it in `allow`");
            return Err(now.within(part));
        }
        Ok(Self { expression, part, list })
    }
}

/// Finds the `}}` that ends an expression. Skips braces of CEL maps and inside CEL strings.
pub(super) fn expression_end(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}

/// Scans the SQL just enough to know that a placeholder is outside quotes and comments, and whether it may be a list.
#[derive(Debug, Default)]
struct Scanner {
    /// For each open bracket, the closing one and whether a list may be inside.
    open: Vec<(char, ListPlace)>,
    /// The last word or sign before the current position, in upper case.
    last: String,
}

impl Scanner {
    /// Scans up to the next `{{` or the end, and returns that position.
    fn scan(&mut self, sql: &str) -> Result<usize, Problem> {
        let joins = |c: char| c.is_alphanumeric() || "_$\"'{".contains(c);
        if self.last == "$" && sql.starts_with(joins) {
            return Err(Problem::from("text directly after {{ … }}: put a space between them").within(0..1));
        }
        let mut at = 0;
        while let Some(c) = sql[at..].chars().next() {
            if sql[at..].starts_with("{{") {
                break;
            }
            let length = self.token(&sql[at..], c);
            at += length.map_err(|problem| problem.within(0..c.len_utf8()).moved(at))?;
        }
        Ok(at)
    }

    /// Reads one token, which begins with `c`, and returns its length.
    fn token(&mut self, rest: &str, c: char) -> Result<usize, Problem> {
        match c {
            _ if rest.starts_with("--") || rest.starts_with("/*") => {
                Err(Problem::from("a comment in `where`: remove it").within(0..2))
            }
            '\'' => self.text(rest),
            '"' => self.identifier(rest),
            '$' => Err("`$` in `where`: parameters are numbered automatically, write {{ … }}".into()),
            ';' | '\\' | '\0' => Err(format!("{c:?} in `where` is not allowed").into()),
            '(' | '[' => Ok(self.bracket(c)),
            ')' | ']' => self.close(c),
            c if c.is_alphabetic() || c == '_' => Ok(self.word(rest)),
            c => {
                if !c.is_whitespace() {
                    self.last = c.to_string();
                }
                Ok(c.len_utf8())
            }
        }
    }

    fn text(&mut self, rest: &str) -> Result<usize, Problem> {
        if matches!(self.last.as_str(), "E" | "U" | "B" | "X") {
            return Err("a string with a prefix (E'…', U&'…', B'…', X'…') in `where` is not allowed".into());
        }
        self.quoted(rest, '\'')
    }

    fn identifier(&mut self, rest: &str) -> Result<usize, Problem> {
        self.quoted(rest, '"')
    }

    /// Returns the length of a quoted part. A doubled quote reads as two parts in a row, which has the same effect.
    fn quoted(&mut self, rest: &str, quote: char) -> Result<usize, Problem> {
        let end = rest[1..].find(quote).ok_or_else(|| format!("unbalanced {quote} in `where`"))? + 2;
        if rest[..end].contains("{{") {
            let inside = format!(
                "{{{{ … }}}} inside {quote}…{quote}: write it without quotes; the value is sent as a parameter"
            );
            return Err(Problem::from(inside).within(0..end));
        }
        self.last = quote.to_string();
        Ok(end)
    }

    fn word(&mut self, rest: &str) -> usize {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.last = rest[..end].to_uppercase();
        end
    }

    fn bracket(&mut self, c: char) -> usize {
        let (closing, list) = match (c, self.last.as_str()) {
            ('(', "IN") => (')', ListPlace::In),
            ('(', _) => (')', ListPlace::Nowhere),
            (_, "ARRAY") => (']', ListPlace::Array),
            (_, _) => (']', ListPlace::Nowhere),
        };
        self.open.push((closing, list));
        self.last = c.to_string();
        1
    }

    fn close(&mut self, c: char) -> Result<usize, Problem> {
        match self.open.pop() {
            Some((closing, _)) if closing == c => {
                self.last = c.to_string();
                Ok(1)
            }
            _ => Err(format!("unbalanced {c} in `where`").into()),
        }
    }

    fn list_place(&self) -> ListPlace {
        match self.open.last() {
            Some((_, list)) if matches!(self.last.as_str(), "(" | "[" | ",") => *list,
            _ => ListPlace::Nowhere,
        }
    }

    fn place(&mut self) {
        self.last = "$".to_owned();
    }

    fn finish(&self) -> Result<(), Problem> {
        self.open.last().map_or(Ok(()), |(closing, _)| Err(format!("a {closing} is missing in `where`").into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixTime;

    fn render(template: &str, claims: serde_json::Value) -> Option<Rendered> {
        let claims: Box<dyn cel::common::value::Val> = cel::to_value(claims).unwrap().try_into().unwrap();
        let scope = Scope::new(Some(claims.as_ref()), &[], UnixTime::from_secs(0));
        Template::compile(template).unwrap().render(&scope)
    }

    fn rendered(sql: &str, params: &[&str]) -> Option<Rendered> {
        Some(Rendered { sql: sql.to_owned(), params: params.iter().map(|param| (*param).to_owned()).collect() })
    }

    #[test]
    fn values_become_parameters() {
        use serde_json::json;
        let claims = json!({"org": "o'1", "ids": ["c", "a", "b", "a"], "n": 7, "none": []});
        assert_eq!(render("\"o\" = {{ claims.org }}", claims.clone()), rendered("\"o\" = $1", &["o'1"]));
        assert_eq!(
            render("id IN ({{claims.ids}}) AND n < {{claims.n}}", claims.clone()),
            rendered("id IN ($1,$2,$3) AND n < $4", &["a", "b", "c", "7"])
        );
        assert_eq!(render("id IN ({{ claims.none }})", claims.clone()), rendered("id IN (NULL)", &[]));
        assert_eq!(
            render("ids @> ARRAY[{{ claims.org }}::uuid]", claims.clone()),
            rendered("ids @> ARRAY[$1::uuid]", &["o'1"])
        );
        assert_eq!(
            render("a = 'it''s' AND b = {{ {'x}}': claims.n}['x}}'] }}", claims),
            rendered("a = 'it''s' AND b = $1", &["7"])
        );
    }

    #[test]
    fn a_value_that_cannot_be_bound_denies() {
        use serde_json::json;
        assert_eq!(render("a = {{ claims.x }}", json!({})), None);
        assert_eq!(render("a = {{ claims.x }}", json!({"x": ["a"]})), None);
        assert_eq!(render("NOT (a && ARRAY[{{ claims.x }}])", json!({"x": []})), None);
        assert_eq!(render("a IS DISTINCT FROM {{ claims.x }}", json!({"x": []})), None);
        assert_eq!(render("a IN (lower({{ claims.x }}))", json!({"x": ["a"]})), None);
        let many: Vec<_> = (0..=MAX_LIST).collect();
        assert_eq!(render("a IN ({{ claims.x }})", json!({"x": many})), None);
        assert!(render("a IN ({{ claims.x }})", json!({"x": many[1..]})).is_some());
    }

    #[test]
    fn templates_that_could_change_the_sql_are_rejected_at_load() {
        for (template, hint) in [
            ("a = '{{ claims.x }}'", "without quotes"),
            ("\"{{ claims.x }}\" = 1", "without quotes"),
            ("a = {{ claims.x", "without `}}`"),
            ("a = $1", "numbered automatically"),
            ("a = $$x$$", "numbered automatically"),
            ("a = 1 -- b", "comment"),
            ("a = 1 /* b */", "comment"),
            ("a = 1; b", "not allowed"),
            ("a = E'\\''", "a string with a prefix"),
            ("(a = 1", "a ) is missing"),
            ("a = 1)", "unbalanced )"),
            ("a = ARRAY[1)", "unbalanced )"),
            ("a = 'x", "unbalanced '"),
            ("a = {{ claims.x }}5", "put a space"),
            ("a = {{ claims.x }}{{ claims.x }}", "put a space"),
            ("a IN {{ claims.x }}", "write IN ({{ … }})"),
            ("a = {{ now }}", "every second"),
            ("a = {{ claim.x }}", "unknown variable"),
        ] {
            let error = Template::compile(template).unwrap_err().to_string();
            assert!(error.contains(hint), "{template}: {error}");
        }
    }
}

//! Recognizes common mistakes in a text that is not TOML.

/// What to write instead of a line that is not TOML.
pub(super) struct Hint {
    pub(super) text: String,
    /// Whether the whole file is in another format, so that every further line has the same mistake.
    pub(super) of_whole_file: bool,
}

/// Returns a hint for the line with a byte offset.
pub(super) fn of(text: &str, at: usize) -> Option<Hint> {
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next().unwrap_or_default().trim();
    let whole = |text: &str| Some(Hint { text: text.to_owned(), of_whole_file: true });
    let line_only = |text: &str| Some(Hint { text: text.to_owned(), of_whole_file: false });
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    match () {
        () if text.trim_start().starts_with('{') => {
            whole("this is JSON: write TOML, as in conf/shapegate.minimal.toml")
        }
        () if is_yaml(line) => {
            whole(r#"this is YAML: write TOML, as in [server] and listen = "0.0.0.0:8080" on lines of their own"#)
        }
        () if value.starts_with("{{") => {
            line_only("write quotes around the whole text: where = '\"column\" = {{ … }}'")
        }
        () if value.starts_with("\"\"") && !value.starts_with("\"\"\"") => {
            line_only("a text that contains double quotes stands in single quotes: where = '\"column\" = {{ … }}'")
        }
        () if matches!(value, "True" | "False" | "yes" | "no") => line_only("write true or false"),
        () => None,
    }
}

/// Whether a line is `key: value`, `key:` or `- value`.
fn is_yaml(line: &str) -> bool {
    let word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    let is_entry =
        line.split_once(':').is_some_and(|(key, rest)| word(key) && (rest.is_empty() || rest.starts_with(' ')));
    is_entry || line.starts_with("- ") || line == "---"
}

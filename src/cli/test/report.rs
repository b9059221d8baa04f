//! Prints the results of cases, for people and as JUnit XML.

use std::fmt::Write;

use super::Outcome;
use super::expect::Difference;
use crate::cli::say;

/// Prints every case that failed, and the numbers.
pub(super) fn print(outcomes: &[Outcome]) -> std::io::Result<()> {
    let failed: Vec<_> = outcomes.iter().filter(|outcome| !outcome.differences.is_empty()).collect();
    for Outcome { case, differences } in &failed {
        say(format_args!("FAIL {}: {}", case.place, case.name))?;
        for difference in differences {
            say(format_args!("{}", described(difference)))?;
        }
    }
    say(format_args!("{} passed, {} failed", outcomes.len() - failed.len(), failed.len()))
}

/// Describes a difference in two lines. Further lines of a text are indented like the first.
fn described(difference: &Difference) -> String {
    let indented = |text: &str| text.replace('\n', "\n                        ");
    let Difference { what, expected, found } = difference;
    format!("  {what:<10}  expected  {}\n              found     {}", indented(expected), indented(found))
}

/// Formats the results as JUnit XML, with one suite for each file.
pub(super) fn junit(outcomes: &[Outcome]) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for suite in outcomes.chunk_by(|a, b| a.case.file == b.case.file) {
        let failures = suite.iter().filter(|outcome| !outcome.differences.is_empty()).count();
        let name = escaped(suite.first().map_or("", |outcome| &outcome.case.file));
        // Writing to a string cannot fail.
        let _ = writeln!(xml, "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\">", suite.len());
        for Outcome { case, differences } in suite {
            let _ = write!(xml, "    <testcase name=\"{}\" classname=\"{name}\"", escaped(&case.name));
            if differences.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            let words: Vec<_> = differences.iter().map(described).collect();
            let (place, words) = (escaped(&case.place), escaped(&words.join("\n")));
            let _ = writeln!(xml, ">\n      <failure message=\"{place}\">{words}</failure>\n    </testcase>");
        }
        xml.push_str("  </testsuite>\n");
    }
    xml + "</testsuites>\n"
}

/// Escapes text for XML. Control characters, which XML cannot contain, are replaced.
fn escaped(text: &str) -> String {
    let mut xml = String::new();
    for c in text.chars() {
        match c {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            c if c.is_control() && c != '\n' => xml.push('\u{fffd}'),
            c => xml.push(c),
        }
    }
    xml
}

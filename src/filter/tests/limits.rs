//! Limits: no text takes long or overflows the stack.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sqlparser::keywords::ALL_KEYWORDS;

use super::{parse, printed, rejected};
use crate::filter::syntax::NO_FUNCTION;
use crate::filter::{ClientFilter, MAX_PARAMS, OrderBy};

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}true{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(printed(&nested(24)), "(TRUE)");
    assert_eq!(rejected(&nested(25)), "is nested too deeply");
    assert_eq!(rejected(&nested(1_000)), "is nested too deeply");
    assert_eq!(rejected(&nested(10_000)), "must not be longer than 4 KiB");
    assert_eq!(rejected(&"(".repeat(2_000)), "is nested too deeply");
    printed(&format!("{}done", "NOT ".repeat(11)));
    for repeated in ["NOT ", "- ", "lower(", "ARRAY[", "id IN (", "NOT (", "CASE WHEN ", "id = ANY(", "CAST("] {
        assert!(parse(&repeated.repeat(4_000 / repeated.len())).is_err(), "{repeated}");
    }
}

/// Printed SQL has more brackets than the parsed text, and must be within the limits too.
#[test]
fn deepest_accepted_filters_can_be_parsed_again_when_printed() {
    for (open, middle, close) in [
        ("(done OR (done AND ", "done", "))"),
        ("done OR (done AND (", "done", "))"),
        ("NOT ", "done", ""),
        ("NOT (done OR ", "done", ")"),
        ("((done AND ", "(id IN (1)) IS NOT TRUE", ") OR done)"),
    ] {
        let nested = |depth: usize| format!("{}{middle}{}", open.repeat(depth), close.repeat(depth));
        let accepted: Vec<_> = (0..20).map(nested).filter_map(|text| parse(&text).ok()).collect();
        assert!((4..19).contains(&accepted.len()), "{open}: {}", accepted.len());
        for filter in accepted {
            assert_eq!(parse(&filter.render(0).0), Ok(filter), "{open}");
        }
    }
}

#[test]
fn long_chains_are_counted_without_recursion() {
    let chain = |count: usize, word: &str| vec!["id=1"; count].join(word);
    printed(&chain(80, " AND "));
    printed(&chain(80, " OR "));
    assert_eq!(rejected(&chain(400, " AND ")), "must not have more than 256 conditions and values");
    assert_eq!(
        rejected(&format!("id IN ({})", vec!["1"; 300].join(","))),
        "must not have more than 256 conditions and values"
    );
    printed(&format!("id IN ({})", vec!["1"; 250].join(",")));
}

#[test]
fn lengths_of_text_and_names_are_limited() {
    let text = |length: usize| format!("name = '{}'", "x".repeat(length - "name = ''".len()));
    printed(&text(4_096));
    assert_eq!(rejected(&text(4_097)), "must not be longer than 4 KiB");
    assert_eq!(rejected(&format!("\"{}\" = 1", "x".repeat(64))), "a column's name must have 1 to 63 bytes");
    rejected("\"\" = 1");
}

#[test]
fn number_of_params_is_limited_and_they_contain_no_nul() {
    let parse = |params: &BTreeMap<u32, String>| ClientFilter::parse("name = $1", params, None).map_err(|e| e.as_str());
    let one = |value: String| BTreeMap::from([(1, value)]);
    assert!(parse(&one(String::new())).is_ok());
    // An array of 5,000 UUIDs is one value, and one node of the condition.
    let keys = vec!["00000000-0000-0000-0000-000000000000"; 5_000].join(",");
    let keys = BTreeMap::from([(1, format!("{{{keys}}}"))]);
    assert!(ClientFilter::parse("id = ANY($1)", &keys, None).is_ok());
    assert_eq!(parse(&one("user_1\0x".to_owned())), Err("a value in params contains a NUL"));
    let many = |count: usize| (1..).zip(vec!["x".to_owned(); count]).collect();
    assert!(parse(&many(MAX_PARAMS)).is_ok());
    assert_eq!(parse(&many(MAX_PARAMS + 1)), Err("must not have more than 64 params"));
    assert_eq!(parse(&BTreeMap::new()), Err("a parameter has no value in params"));
}

#[test]
fn like_patterns_are_complete_and_limited() {
    let like = |patterns: &[&str]| {
        let params = (1..).zip(patterns.iter().map(|&pattern| pattern.to_owned())).collect();
        let text = (1..=patterns.len()).map(|number| format!("name LIKE ${number}")).collect::<Vec<_>>().join(" OR ");
        ClientFilter::parse(&text, &params, None).map_err(|e| e.as_str())
    };
    for pattern in ["", "a\\\\", "a\\%", "%%%%%%%%", "%_%_%_%_", &"a".repeat(256)] {
        assert!(like(&[pattern]).is_ok(), "{pattern}");
    }
    for pattern in ["\\", "a\\", "a\\\\\\"] {
        assert_eq!(like(&[pattern]), Err("a LIKE pattern must not end in a lone backslash"), "{pattern}");
    }
    for pattern in ["%%%%%%%%%", "_________", "%a_%a_%a_%a_%"] {
        assert_eq!(like(&[pattern]), Err("a LIKE pattern can have at most 8 wildcards"), "{pattern}");
    }
    let too_much = "at most 8 LIKE patterns with at most 256 bytes in total are allowed";
    assert_eq!(like(&[&"a".repeat(257)]), Err(too_much));
    assert!(like(&["a".repeat(32).as_str(); 8]).is_ok());
    assert_eq!(like(&[&"a".repeat(128), &"a".repeat(129)]), Err(too_much));
    assert_eq!(like(&["%a%"; 9]), Err(too_much));
    // A value that is used several times counts each time.
    assert_eq!(rejected(&["name ILIKE $4"; 9].join(" AND ")), too_much);
    printed(&["name ILIKE $4"; 8].join(" AND "));
}

/// Repeats every word that sqlparser knows up to 400 bytes, on half of a worker's stack. That is more than its
/// recursion limit of the frames that recurse.
#[test]
fn no_word_of_sql_overflows_the_stack_or_takes_long() {
    std::thread::Builder::new().stack_size(STACK).spawn(repeat_every_word).unwrap().join().unwrap();
}

const STACK: usize = 1024 * 1024;

/// Far more than any text takes, and far less than one whose cost grows exponentially.
const SHORT: Duration = Duration::from_secs(1);

/// The CPU time of this thread, which a busy machine does not prolong.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

fn repeat_every_word() {
    let frames = ["@ ", "(@ ", "id @ ", "@(@", "$1::@<", "$1::@(", "-@ ", "@ 'x' "];
    let words = ALL_KEYWORDS.iter().copied().chain(["id", "'x'", "1", "$1", "", "=", "[", "]"]);
    for word in words {
        for frame in frames {
            let frame = frame.replace('@', word);
            let text = frame.repeat(400 / frame.len().max(1)) + "!";
            let start = cpu_time();
            let _ = parse(&text[..text.len() - 1]);
            let _ = OrderBy::parse(&text[..text.len() - 1], None);
            assert!(cpu_time() - start < SHORT, "{frame}: {:?}", cpu_time() - start);
        }
    }
}

/// The nesting is within its limit, so the parser sees the brackets (`position(position(…` took half a minute).
#[test]
fn no_word_before_a_bracket_takes_long() {
    let words = ALL_KEYWORDS.iter().copied().chain(["id", "\"position\""]);
    for word in words {
        for (open, close) in [("@(", ")"), ("@ (", " in id)"), ("NOT @(", ")"), ("id IN (@ ", ")"), ("ARRAY[@(", ")]")]
        {
            let open = open.replace('@', word);
            for middle in ["id", "id id", ""] {
                let text = format!("{}{middle}{}", open.repeat(24), close.repeat(24));
                let start = cpu_time();
                let parsed = parse(&text);
                let _ = OrderBy::parse(&text, None);
                assert!(cpu_time() - start < SHORT, "{text}: {:?}", cpu_time() - start);
                if parsed.is_err_and(|error| error == NO_FUNCTION) {
                    // The parser does not see it, whatever is in the brackets.
                    break;
                }
            }
        }
    }
}

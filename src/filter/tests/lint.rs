//! The lint: each form that it reports, with the one to write instead.

use crate::filter::lint::{Severity, predicate};

#[track_caller]
fn clean(sql: &str) {
    assert_eq!(predicate(sql), [], "{sql}");
}

#[track_caller]
fn found(sql: &str, severity: Severity, hint: &str) {
    let findings = predicate(sql);
    assert!(
        matches!(&findings[..], [only] if only.severity == severity && only.message.contains(hint)),
        "{sql}: {findings:?}"
    );
}

#[test]
fn sql_that_electric_rejects_is_an_error() {
    for (bad, hint, good) in [
        (r#""metadata"::jsonb->>'organizationId' = $1"#, "::jsonb->>", r#""organization_id" = $1"#),
        (r#"("metadata"::json -> 'a') IS NULL"#, "::jsonb->>", r#""a" = $1"#),
        ("true UNION SELECT 1", "UNION", "\"name\" = 'UNION'"),
        ("\"a\" = $1 LIMIT 1", "LIMIT", "\"limit\" = $1"),
    ] {
        found(bad, Severity::Error, hint);
        clean(good);
    }
}

#[test]
fn arrays_that_electric_accepts_are_clean() {
    // docs/electric.md, "Predicates Electric accepts"
    for array in
        ["ARRAY[$1]::text[]", "ARRAY[$1]::uuid[]", "ARRAY[$1]::int[]", "(ARRAY[$1, $2])::int4[]", "ARRAY[$1::uuid]"]
    {
        clean(&format!(r#""a" @> {array}"#));
        for operator in ["&&", "<@"] {
            clean(&format!(r#""org" = $3 AND "a" {operator} {array}"#));
        }
    }
}

#[test]
fn slow_or_doubtful_sql_is_a_warning() {
    for (bad, hint, good) in [
        ("$1 = ANY(\"organization_ids\")", "@> ARRAY", "\"organization_ids\" @> ARRAY[$1::uuid]"),
        ("$1::uuid = ANY(\"ids\")", "@> ARRAY", "\"id\" = ANY($1::uuid[])"),
        ("\"status\" = $1::task_status", "::text", "\"status\"::text = $1"),
        ("\"metadata\" LIKE '%\"organizationId\":\"' || $1 || '\"%'", "LIKE '%", "\"organization_id\" = $1"),
        ("\"a\" = $1 AND \"b\" ILIKE '%x'", "LIKE '%", "\"a\" = $1 AND \"b\" ILIKE 'x%'"),
        (
            "\"a\" IN (SELECT a FROM t WHERE u = $1) OR \"b\" IN (SELECT b FROM t WHERE u = $1)",
            "two subqueries",
            "\"a\" IN (SELECT a FROM t WHERE u = $1)",
        ),
        ("\"name\" LIKE 'a%'", "indexes", "\"name\" LIKE 'a%' AND \"org\" = $1"),
        ("\"done\"", "indexes", "\"done\" = true"),
        ("\"a\" = $1 OR \"b\" > $2", "indexes", "\"a\" = $1 OR \"b\" = $2"),
        ("NOT \"a\" = $1", "indexes", "($1 = \"a\")"),
        ("\"a\" NOT IN ($1)", "indexes", "\"a\" IN ($1)"),
        ("\"a\" = \"b\"", "indexes", "\"a\" = 'b'"),
    ] {
        found(bad, Severity::Warning, hint);
        clean(good);
    }
}

#[test]
fn sql_that_cannot_be_parsed_is_a_warning() {
    for sql in ["\"a\" =", "\"a\" = 'x", "\"a\" === $1", "$1 AND", "\"a\" = $1 ORDER BY 1", &"(".repeat(10_000)] {
        found(sql, Severity::Warning, "--probe");
    }
}

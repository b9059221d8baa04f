//! Every way around a guard (docs/security.md, F1, F3, F5; docs/electric.md, "Composing a where"), each beside a twin
//! that is allowed.

use super::{parse, printed, refused};

#[test]
fn attacks_and_their_twins() {
    let place = "a sign that has no place here";
    let expression = "this is not an expression";
    let follows = "something follows the expression";
    let unclosed = "a quote is not closed, or a sign is not known";
    let function = "a function other than lower(text) and upper(text)";
    let cast = "a cast to a type that is not on the list";
    let placeholder = "a placeholder other than $1 to $9999";
    for (attack, reason, twin) in [
        // Out of the guard's brackets.
        ("1=1) OR (1=1", follows, "(1=1) OR (1=1)"),
        ("true) OR (true", follows, "(true) OR (true)"),
        ("true) --", "a comment", "(true)"),
        ("(true) -- )", "a comment", "name = '(true) -- )'"),
        ("id - -1 = 1", "arithmetic", "id = -1"),
        ("id = 1--1", "a comment", "id = -1"),
        ("true /* x */", "a comment", "name = '/* x */'"),
        ("tr/**/ue", "a comment", "true"),
        ("true /* /* */ ) OR true */", "a comment", "name = '/* /* */ ) OR true */'"),
        ("true /*", unclosed, "name = '/*'"),
        ("(true)\0", "a control character", "(true)"),
        ("name = 'a\0'", "a control character", "name = 'a'"),
        ("name = 'a\u{7f}'", "a control character", "name = 'a\n'"),
        ("name =\u{85}'a'", "a control character", "name =\n'a'"),
        ("(true", expression, "(true)"),
        ("true)", follows, "(true)"),
        ("", "empty", "true"),
        (" \n", "empty", " \ntrue"),
        // More than one expression.
        ("true;", "a semicolon", "name = ';'"),
        ("true; DROP TABLE tasks", "a semicolon", "true"),
        ("true UNION SELECT 1", follows, "name = 'UNION'"),
        ("true LIMIT 1", follows, "true"),
        ("true ORDER BY id", follows, "true"),
        ("true, true", follows, "id IN (1, 2)"),
        ("id = 1 id", follows, "id = 1"),
        ("name 'a'", follows, "name = 'a'"),
        // Other rows, other tables.
        ("id IN (SELECT id FROM secrets)", "a subquery", "id IN (1)"),
        ("id IN (((SELECT 1)))", "a subquery", "id IN ((1))"),
        ("id = (SELECT 1)", "a subquery", "id = (1)"),
        ("id = ANY(SELECT 1)", "a subquery", "id = ANY($3)"),
        ("id = ANY((SELECT 1))", "a subquery", "id = ANY(($3))"),
        ("EXISTS (SELECT 1)", "a subquery", "done"),
        ("NOT EXISTS (SELECT 1)", "a subquery", "NOT done"),
        ("id IN (VALUES (1))", "a subquery", "id IN (1)"),
        ("id = ANY(VALUES (1))", function, "id = ANY(ARRAY[1])"),
        ("id = (TABLE secrets)", expression, "id = 1"),
        ("id = ARRAY(SELECT 1)", function, "id = ANY(ARRAY[1])"),
        ("tasks.id = 1", "a point: columns are named without their table", "id = 1.0"),
        ("(tasks).id = 1", "a point: columns are named without their table", "(id) = 1"),
        ("public.lower(name) = 'a'", "a point: columns are named without their table", "lower(name) = 'a'"),
        ("id.* IS NULL", "a point: columns are named without their table", "id IS NULL"),
        ("* IS NULL", place, "id IS NULL"),
        ("(id, name) = (1, 'a')", "this is not allowed in a filter", "id = 1 AND name = 'a'"),
        ("ROW(id) = ROW(1)", function, "id = 1"),
        // Functions and the like.
        ("pg_sleep(1)", function, "lower(name) = 'pg_sleep(1)'"),
        ("pg_sleep(1) IS NULL", function, "lower(name) IS NULL"),
        ("current_setting('x') = 'y'", function, "lower('X') = 'x'"),
        ("name = current_user", function, "name = 'current_user'"),
        ("created_at < now()", function, "created_at < $2"),
        ("created_at < current_timestamp", function, "created_at < '2026-01-01'"),
        ("count(id) = 1", function, "id = 1"),
        ("lower(DISTINCT name) = 'a'", function, "lower(name) = 'a'"),
        ("lower(name, name) = 'a'", function, "lower(name) = 'a'"),
        ("lower() = 'a'", function, "lower(name) = 'a'"),
        ("lower(*) = 'a'", place, "lower(name) = 'a'"),
        ("lower(VARIADIC tags) = 'a'", expression, "lower(name) = 'a'"),
        ("lower(name) OVER () = 'a'", function, "lower(name) = 'a'"),
        ("lower(name) FILTER (WHERE true) = 'a'", function, "lower(name) = 'a'"),
        ("lower(name ORDER BY id) = 'a'", function, "lower(name) = 'a'"),
        ("\"lower\"(name) = 'a'", function, "lower(name) = 'a'"),
        ("coalesce(name, 'a') = 'a'", function, "name = 'a' OR name IS NULL"),
        ("CASE WHEN done THEN true ELSE false END", "CASE", "done"),
        ("name COLLATE \"C\" = 'a'", "COLLATE", "name = 'a'"),
        (
            "created_at AT TIME ZONE 'utc' = '2026-01-01'",
            "this is not allowed in a filter",
            "created_at = '2026-01-01'",
        ),
        ("created_at > DATE '2026-01-01'", "this is not allowed in a filter", "created_at > '2026-01-01'::date"),
        ("created_at > INTERVAL '1 day'", "this is not allowed in a filter", "created_at > '2026-01-01'"),
        ("EXTRACT(year FROM created_at) = 2026", "this is not allowed in a filter", "created_at > '2026-01-01'"),
        ("name IS DISTINCT FROM 'a'", "this is not allowed in a filter", "name <> 'a'"),
        ("name SIMILAR TO 'a'", "this is not allowed in a filter", "name LIKE 'a'"),
        ("name LIKE 'a' ESCAPE 'b'", "LIKE with ESCAPE or ANY", "name LIKE 'a'"),
        ("name ~ 'a'", place, "name LIKE 'a'"),
        ("name ~~ 'a'", place, "name LIKE 'a'"),
        ("name || 'a' = 'a'", place, "name = 'a'"),
        ("name OPERATOR(pg_catalog.=) 'a'", function, "name = 'a'"),
        ("tags[1] = 'a'", "this is not allowed in a filter", "tags = ARRAY['a']"),
        ("tags -> 'a' = 'b'", place, "tags @> ARRAY['a']"),
        ("id = 1 = true", "this is not allowed in a filter", "(id = 1) IS TRUE"),
        ("$1", "a value where a condition is needed", "\"Owner\" = $1"),
        ("'x'", "a value where a condition is needed", "name = 'x'"),
        ("1", "a value where a condition is needed", "id = 1"),
        ("id = NULL", "NULL as a value: write IS NULL or IS NOT NULL", "id IS NULL"),
        ("id IN ()", expression, "id IN (1)"),
        ("tags = ARRAY[]", "an empty list", "tags = '{}'"),
        ("tags = ARRAY[ARRAY['a']]", "an array of arrays", "tags = ARRAY['a']"),
        ("tags = ['a']", "this is not allowed in a filter", "tags = ARRAY['a']"),
        ("id = SOME($3)", "this is not allowed in a filter", "id = ANY($3)"),
        ("id = ALL($3)", "this is not allowed in a filter", "id = ANY($3)"),
        // Casts.
        ("name = 'pg_class'::regclass", cast, "name = 'pg_class'::text"),
        ("name::regclass IS NULL", cast, "name::text IS NULL"),
        ("name = 'a'::varchar(3)", cast, "name = 'a'::varchar"),
        ("name = 'a'::\"text\"", cast, "name = 'a'::text"),
        ("name = 'a'::xml", cast, "name = 'a'::text"),
        ("name = 'a'::jsonb", cast, "name = 'a'::text"),
        ("name = 'a'::text[][]", cast, "tags = '{a}'::text[]"),
        ("name = 'a'::text[3]", cast, "tags = '{a}'::text[]"),
        ("TRY_CAST(name AS text) = 'a'", "", "CAST(name AS text) = 'a'"),
        // Other ways to write a text, a name, a number.
        ("name = 'open", unclosed, "name = 'closed'"),
        ("\"name = 'a'", unclosed, "\"name\" = 'a'"),
        ("name = $$a$$", place, "name = 'a'"),
        ("name = $tag$a$tag$", place, "name = 'a'"),
        ("name = E'\\''", place, "name = ''''"),
        ("name = 'a\\'", "a backslash in a text: send it in params, as a value of $n", "name = $2"),
        ("name = U&'\\0041'", place, "name = 'A'"),
        ("U&\"n\\0061me\" = 'a'", place, "\"name\" = 'a'"),
        ("name = N'a'", place, "name = 'a'"),
        ("id = X'1F'", place, "id = 31"),
        ("id = B'1'", "", "id = 1"),
        ("name = `name`", "", "\"name\" = 'a'"),
        ("[name] = 'a'", "this is not allowed in a filter", "\"name\" = 'a'"),
        ("id = 1e400", "a number that is not digits with one point", "id = 100"),
        ("id = 0x1F", "", "id = 31"),
        ("id = 1_000", "", "id = 1000"),
        ("id = 1.", "a number that is not digits with one point", "id = 1.0"),
        ("id = +1", place, "id = 1"),
        ("id + 1 = 2", place, "id = 1"),
        ("id - 1 = 2", "arithmetic", "id = 3"),
        ("1 / id = 2", place, "id = 1"),
        ("-id = 1", "arithmetic", "id = -1"),
        ("n\u{430}me = 'a'", "a name that needs double quotes", "name = 'n\u{430}me'"),
        ("name\u{ff1d}'a'", "", "name='a'"),
        ("name = \u{2018}a\u{2019}", "", "name = 'a'"),
        ("\u{ff08}true)", "", "(true)"),
        // Parameters.
        ("name = $9", "a parameter that params lacks", "name = $2"),
        ("name = $0", placeholder, "name = $1"),
        ("name = $01", placeholder, "name = $1"),
        ("name = $1a", placeholder, "name = $1"),
        ("name = $99999999999", placeholder, "name = $1"),
        ("name = $", placeholder, "name = $1"),
        ("name = ?", place, "name = $1"),
        ("name = :name", place, "name = $1"),
        ("name = @name", place, "name = $1"),
        ("name = {{ claims.sub }}", place, "name = $1"),
    ] {
        // Where the reason is sqlparser's to change, that it is refused is enough.
        let found = refused(attack);
        assert!(reason.is_empty() || found == reason, "{attack}: {found}");
        printed(twin);
    }
}

#[test]
fn a_hidden_column_is_refused_wherever_it_stands() {
    for template in [
        "# = 'a'",
        "'a' = #",
        "$2 = #",
        "#",
        "NOT #",
        "done AND #",
        "done OR (done AND NOT (#))",
        "# IS NULL",
        "# IS NOT TRUE",
        "# IN ('a')",
        "name IN ('a', #)",
        "# BETWEEN 1 AND 2",
        "1 BETWEEN # AND 2",
        "1 BETWEEN 1 AND #",
        "# LIKE 'a%'",
        "name LIKE #",
        "name ILIKE #::text",
        "# = ANY($3)",
        "$2 = ANY(#)",
        "tags @> ARRAY[#]",
        "# && $3",
        "#::text = 'a'",
        "CAST(# AS text) = 'a'",
        "lower(#) = 'a'",
        "lower(#::text) = 'a'",
    ] {
        // A table's name would be the whole row.
        for hidden in ["secret", "\"secret\"", "SECRET", "owner", "\"ID\"", "tasks", "ctid", "tableoid"] {
            let found = parse(&template.replace('#', hidden));
            assert!(found.is_err(), "{template} with {hidden}: {found:?}");
        }
    }
}

/// Postgres may evaluate a client's condition before the rule's: an error must not depend on a row.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn nothing_fails_on_a_row() {
    let column = "a cast of a column to anything but text: cast the other side";
    let plain = "a cast of anything but a text, a number, a boolean or $n";
    let array = "a cast of an array: cast its items, as in ARRAY[$1::uuid]";
    let nested = "a function of a function or an array";
    let unknown = "a cast to a type that is not on the list";
    let columns = "two columns in one comparison: compare a column with a value";
    let in_list = "a column in a list: compare it with = and OR";
    let types = "a list of several types: write the same cast for each item, or none";
    let time = "a date or a time with a cast in IN: leave the cast out";
    let pattern = "a LIKE pattern that is neither a text nor $n";
    let is = "IS TRUE or IS FALSE of anything but one comparison";
    for (attack, reason, twin) in [
        // Casts of what a row holds.
        ("name::int4 > 0", column, "name > '0'"),
        ("name::uuid = $1", column, "\"Owner\" = $1::uuid"),
        ("name::varchar = 'a'", column, "name::text = 'a'"),
        ("done::int4 = 1", column, "done"),
        ("tags::int4[] = $3", column, "tags = $3"),
        ("tags::text[] = $3", column, "tags::text = '{x}'"),
        // Casts of what Postgres evaluates for each row, though it is the same on all of them.
        ("('0000-01-01T00:00:00'::text::timestamp) IS NULL", plain, "('2026-01-01'::timestamp) IS NULL"),
        ("created_at > CAST(CAST('0000' AS text) AS date)", plain, "created_at > CAST('2026-01-01' AS date)"),
        ("created_at > ($2::text)::timestamptz", plain, "created_at > ($2)::timestamptz"),
        ("created_at > $2::varchar::timestamptz", plain, "created_at > $2::timestamptz"),
        ("id = '1'::int4::int4", plain, "id = '1'::int4"),
        ("name::text::int4 = 1", plain, "name::text = '1'"),
        ("name::text::text = 'a'", plain, "name::text = 'a'"),
        ("created_at > lower('0000')::date", plain, "created_at > '2026-01-01'::date"),
        ("created_at > upper($2)::date", plain, "created_at > $2::date"),
        ("lower(name)::int4 > 0", plain, "lower(name) > '0'"),
        ("lower(name)::text = 'a'", plain, "lower(name) = 'a'"),
        ("(ARRAY['0000'::text])::timestamp[] IS NULL", array, "(ARRAY['2026-01-01'::timestamp]) IS NULL"),
        ("ARRAY['0000']::timestamp[] IS NULL", array, "'{2026-01-01}'::timestamp[] IS NULL"),
        ("ARRAY[lower('0000')]::date[] IS NULL", array, "ARRAY[lower('A')] IS NULL"),
        ("ARRAY[name]::int4[] = $3", in_list, "ARRAY[$2] = $3"),
        ("lower(upper(name)) = 'a'", nested, "lower(name::text) = 'a'"),
        ("lower(ARRAY['a']) = 'a'", nested, "lower('a'::text) = 'a'"),
        // Casts of a column that Postgres adds.
        ("id < '1'::float8", unknown, "id < '1'::numeric"),
        ("id < $2::real", unknown, "id < $2::decimal"),
        ("id = ANY('{1}'::float4[])", unknown, "id = ANY('{1}'::int8[])"),
        ("id < 1::double precision", unknown, "id < 1.5"),
        // Collations of columns may differ, and elements of arrays may have no operator: both are seen at the first row.
        ("name = \"we\"\"ird\"", columns, "name = 'weird'"),
        ("name = name", columns, "name = $2"),
        ("lower(name) <> upper(\"we\"\"ird\")", columns, "lower(name) <> upper('weird')"),
        ("name::text < \"we\"\"ird\"::text", columns, "name::text < 'weird'"),
        ("name BETWEEN 'a' AND \"we\"\"ird\"", columns, "name BETWEEN 'a' AND 'weird'"),
        ("'a' BETWEEN name AND \"we\"\"ird\"", columns, "'a' BETWEEN name AND 'weird'"),
        ("name = ANY(tags)", columns, "'a' = ANY(tags)"),
        ("name = ANY(ARRAY[\"we\"\"ird\"])", in_list, "name = ANY(ARRAY['weird'])"),
        ("tags = tags", columns, "tags = '{x}'"),
        ("tags && tags", columns, "tags && $3"),
        ("tags @> ARRAY['x', name]", in_list, "tags @> ARRAY['x', $2]"),
        ("tags @> ARRAY[name::text]", in_list, "tags @> ARRAY['x'::text]"),
        ("name IN ('a', \"we\"\"ird\")", in_list, "name IN ('a', 'weird')"),
        ("'a' IN (name)", in_list, "'a' = name"),
        ("'a' NOT IN (lower(name), 'b')", in_list, "'a' <> lower(name) AND 'a' <> 'b'"),
        // Postgres casts the items of a list to one type, for each row if the time zone decides.
        (
            "created_at = ANY(ARRAY['5874897-12-31'::date, $2::timestamptz])",
            types,
            "created_at = ANY(ARRAY[$1::date, $2::date])",
        ),
        ("created_at = ANY(ARRAY['x'::text, $2::timestamp])", types, "created_at = ANY(ARRAY['x', $2::timestamp])"),
        ("created_at IN ($1::timestamp, $2::timestamptz)", types, "created_at IN ($1, $2)"),
        (
            "created_at IN ('5874897-12-31'::date, '2026-01-01'::date)",
            time,
            "created_at IN ('5874897-12-31', '2026-01-01')",
        ),
        ("created_at NOT IN ($1::timestamp)", time, "created_at <> $1::timestamp"),
        ("created_at IN ($1::timestamptz, $2)", time, "\"Owner\" IN ($1::uuid, $2)"),
        ("tags = ARRAY['{a}'::text[], '{b}'::text[]]", "an array of arrays", "tags = ARRAY['a'::text, 'b'::text]"),
        // Matching fails where the text before a lone backslash matches.
        ("'a' LIKE name", pattern, "name LIKE 'a'"),
        ("name LIKE lower('A')", pattern, "name LIKE 'a'"),
        ("name LIKE $2::text", pattern, "name LIKE $2"),
        ("name ILIKE $5", "a LIKE pattern that ends in a lone backslash", "name ILIKE $6"),
        // Printed again without parentheses, the second half would hold beside the rule.
        ("(done OR id = 1) IS TRUE", is, "(id = 1) IS TRUE"),
        ("(done AND id = 1) IS NOT FALSE", is, "done IS NOT FALSE"),
        ("(NOT done) IS TRUE", is, "NOT (done IS TRUE)"),
        ("(done IS TRUE) IS FALSE", is, "done IS NOT TRUE"),
        ("(id IS NULL) IS TRUE", is, "id IS NULL"),
    ] {
        assert_eq!(refused(attack), reason, "{attack}");
        printed(twin);
    }
}

//! Known ways around a guard (docs/security.md, F1, F3, F5; docs/electric.md, "Composing a where"), each with a similar
//! filter that is allowed.

use super::{parse, printed, rejected};

#[test]
fn attacks_are_rejected_and_similar_filters_allowed() {
    let place = "contains a character or an operator that is not allowed";
    let expression = "is not a valid expression";
    let follows = "text after the expression is not allowed";
    let unclosed = "contains an unclosed quote or an unknown character";
    let function = "only the functions lower(text) and upper(text) are allowed";
    let cast = "a cast to this type is not allowed";
    let placeholder = "placeholders must be $1 to $9999";
    for (attack, reason, twin) in [
        // Leaves the guard's brackets.
        ("1=1) OR (1=1", follows, "(1=1) OR (1=1)"),
        ("true) OR (true", follows, "(true) OR (true)"),
        ("true) --", "comments are not allowed", "(true)"),
        ("(true) -- )", "comments are not allowed", "name = '(true) -- )'"),
        ("id - -1 = 1", "arithmetic is not allowed", "id = -1"),
        ("id = 1--1", "comments are not allowed", "id = -1"),
        ("true /* x */", "comments are not allowed", "name = '/* x */'"),
        ("tr/**/ue", "comments are not allowed", "true"),
        ("true /* /* */ ) OR true */", "comments are not allowed", "name = '/* /* */ ) OR true */'"),
        ("true /*", unclosed, "name = '/*'"),
        ("(true)\0", "control characters are not allowed", "(true)"),
        ("name = 'a\0'", "control characters are not allowed", "name = 'a'"),
        ("name = 'a\u{7f}'", "control characters are not allowed", "name = 'a\n'"),
        ("name =\u{85}'a'", "control characters are not allowed", "name =\n'a'"),
        ("(true", expression, "(true)"),
        ("true)", follows, "(true)"),
        ("", "must not be empty", "true"),
        (" \n", "must not be empty", " \ntrue"),
        // More than one expression.
        ("true;", "semicolons are not allowed", "name = ';'"),
        ("true; DROP TABLE tasks", "semicolons are not allowed", "true"),
        ("true UNION SELECT 1", follows, "name = 'UNION'"),
        ("true LIMIT 1", follows, "true"),
        ("true ORDER BY id", follows, "true"),
        ("true, true", follows, "id IN (1, 2)"),
        ("id = 1 id", follows, "id = 1"),
        ("name 'a'", follows, "name = 'a'"),
        // Other rows, other tables.
        ("id IN (SELECT id FROM secrets)", "subqueries are not allowed", "id IN (1)"),
        ("id IN (((SELECT 1)))", "subqueries are not allowed", "id IN ((1))"),
        ("id = (SELECT 1)", "subqueries are not allowed", "id = (1)"),
        ("id = ANY(SELECT 1)", "subqueries are not allowed", "id = ANY($3)"),
        ("id = ANY((SELECT 1))", "subqueries are not allowed", "id = ANY(($3))"),
        ("EXISTS (SELECT 1)", "subqueries are not allowed", "done"),
        ("NOT EXISTS (SELECT 1)", "subqueries are not allowed", "NOT done"),
        ("id IN (VALUES (1))", "subqueries are not allowed", "id IN (1)"),
        ("id = ANY(VALUES (1))", function, "id = ANY(ARRAY[1])"),
        ("id = (TABLE secrets)", expression, "id = 1"),
        ("id = ARRAY(SELECT 1)", function, "id = ANY(ARRAY[1])"),
        ("tasks.id = 1", "columns must be named without their table", "id = 1.0"),
        ("(tasks).id = 1", "columns must be named without their table", "(id) = 1"),
        ("public.lower(name) = 'a'", "columns must be named without their table", "lower(name) = 'a'"),
        ("id.* IS NULL", "columns must be named without their table", "id IS NULL"),
        ("* IS NULL", place, "id IS NULL"),
        ("(id, name) = (1, 'a')", "contains an expression that is not allowed", "id = 1 AND name = 'a'"),
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
        ("CASE WHEN done THEN true ELSE false END", "CASE is not allowed", "done"),
        ("name COLLATE \"C\" = 'a'", "COLLATE is not allowed", "name = 'a'"),
        (
            "created_at AT TIME ZONE 'utc' = '2026-01-01'",
            "contains an expression that is not allowed",
            "created_at = '2026-01-01'",
        ),
        (
            "created_at > DATE '2026-01-01'",
            "contains an expression that is not allowed",
            "created_at > '2026-01-01'::date",
        ),
        ("created_at > INTERVAL '1 day'", "contains an expression that is not allowed", "created_at > '2026-01-01'"),
        (
            "EXTRACT(year FROM created_at) = 2026",
            "contains an expression that is not allowed",
            "created_at > '2026-01-01'",
        ),
        ("name IS DISTINCT FROM 'a'", "contains an expression that is not allowed", "name <> 'a'"),
        ("name SIMILAR TO 'a'", "contains an expression that is not allowed", "name LIKE 'a'"),
        ("name LIKE 'a' ESCAPE 'b'", "LIKE with ESCAPE or ANY is not allowed", "name LIKE 'a'"),
        ("name ~ 'a'", place, "name LIKE 'a'"),
        ("name ~~ 'a'", place, "name LIKE 'a'"),
        ("name || 'a' = 'a'", place, "name = 'a'"),
        ("name OPERATOR(pg_catalog.=) 'a'", function, "name = 'a'"),
        ("tags[1] = 'a'", "contains an expression that is not allowed", "tags = ARRAY['a']"),
        ("tags -> 'a' = 'b'", place, "tags @> ARRAY['a']"),
        ("id = 1 = true", "contains an expression that is not allowed", "(id = 1) IS TRUE"),
        ("$1", "contains a value in place of a condition", "\"Owner\" = $1"),
        ("'x'", "contains a value in place of a condition", "name = 'x'"),
        ("1", "contains a value in place of a condition", "id = 1"),
        ("id = NULL", "NULL is not allowed as a value: write IS NULL or IS NOT NULL", "id IS NULL"),
        ("id IN ()", expression, "id IN (1)"),
        ("tags = ARRAY[]", "an empty list is not allowed", "tags = '{}'"),
        ("tags = ARRAY[ARRAY['a']]", "an array of arrays is not allowed", "tags = ARRAY['a']"),
        ("tags = ['a']", "contains an expression that is not allowed", "tags = ARRAY['a']"),
        ("id = SOME($3)", "contains an expression that is not allowed", "id = ANY($3)"),
        ("id = ALL($3)", "contains an expression that is not allowed", "id = ANY($3)"),
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
        (
            "name = 'a\\'",
            "a backslash is not allowed in a text: send the text in params, as the value of $n",
            "name = $2",
        ),
        ("name = U&'\\0041'", place, "name = 'A'"),
        ("U&\"n\\0061me\" = 'a'", place, "\"name\" = 'a'"),
        ("name = N'a'", place, "name = 'a'"),
        ("id = X'1F'", place, "id = 31"),
        ("id = B'1'", "", "id = 1"),
        ("name = `name`", "", "\"name\" = 'a'"),
        ("[name] = 'a'", "contains an expression that is not allowed", "\"name\" = 'a'"),
        ("id = 1e400", "a number must consist of digits and at most one point", "id = 100"),
        ("id = 0x1F", "", "id = 31"),
        ("id = 1_000", "", "id = 1000"),
        ("id = 1.", "a number must consist of digits and at most one point", "id = 1.0"),
        ("id = +1", place, "id = 1"),
        ("id + 1 = 2", place, "id = 1"),
        ("id - 1 = 2", "arithmetic is not allowed", "id = 3"),
        ("1 / id = 2", place, "id = 1"),
        ("-id = 1", "arithmetic is not allowed", "id = -1"),
        ("n\u{430}me = 'a'", "this name needs double quotes", "name = 'n\u{430}me'"),
        ("name\u{ff1d}'a'", "", "name='a'"),
        ("name = \u{2018}a\u{2019}", "", "name = 'a'"),
        ("\u{ff08}true)", "", "(true)"),
        // Parameters.
        ("name = $9", "a parameter has no value in params", "name = $2"),
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
        // An empty reason: the message depends on sqlparser, so any rejection is fine.
        let found = rejected(attack);
        assert!(reason.is_empty() || found == reason, "{attack}: {found}");
        printed(twin);
    }
}

#[test]
fn hidden_column_is_rejected_at_every_position() {
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
        // A table's name means the whole row.
        for hidden in ["secret", "\"secret\"", "SECRET", "owner", "\"ID\"", "tasks", "ctid", "tableoid"] {
            let found = parse(&template.replace('#', hidden));
            assert!(found.is_err(), "{template} with {hidden}: {found:?}");
        }
    }
}

/// Postgres may evaluate a client's condition before the rule's, so an error must not depend on a row.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn expressions_that_can_fail_on_a_row_are_rejected() {
    let column = "a column can be cast to text only: cast the other side";
    let plain = "the result of a cast or a function cannot be cast";
    let array = "an array cannot be cast: cast its items, as in ARRAY[$1::uuid]";
    let nested = "a function cannot take a function or an array";
    let unknown = "a cast to this type is not allowed";
    let columns = "two columns cannot be compared: compare a column with a value";
    let in_list = "a list cannot contain a column: compare with = and OR";
    let types = "a list cannot have several types: write the same cast for each item, or none";
    let time = "a date or a time in IN cannot be cast: leave the cast out";
    let pattern = "a LIKE pattern must be a text or $n";
    let is = "IS TRUE and IS FALSE are allowed after one comparison only";
    for (attack, reason, twin) in [
        // Casts of a row's values.
        ("name::int4 > 0", column, "name > '0'"),
        ("name::uuid = $1", column, "\"Owner\" = $1::uuid"),
        ("name::varchar = 'a'", column, "name::text = 'a'"),
        ("done::int4 = 1", column, "done"),
        ("tags::int4[] = $3", column, "tags = $3"),
        ("tags::text[] = $3", column, "tags::text = '{x}'"),
        // Casts that Postgres evaluates for each row, although the value is constant.
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
        // Comparisons for which Postgres casts a column.
        ("id < '1'::float8", unknown, "id < '1'::numeric"),
        ("id < $2::real", unknown, "id < $2::decimal"),
        ("id = ANY('{1}'::float4[])", unknown, "id = ANY('{1}'::int8[])"),
        ("id < 1::double precision", unknown, "id < 1.5"),
        // Columns may have different collations, and elements of arrays no operator: both fail at the first row.
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
        (
            "tags = ARRAY['{a}'::text[], '{b}'::text[]]",
            "an array of arrays is not allowed",
            "tags = ARRAY['a'::text, 'b'::text]",
        ),
        // Matching fails if the text before a lone backslash matches.
        ("'a' LIKE name", pattern, "name LIKE 'a'"),
        ("name LIKE lower('A')", pattern, "name LIKE 'a'"),
        ("name LIKE $2::text", pattern, "name LIKE $2"),
        ("name ILIKE $5", "a LIKE pattern must not end in a lone backslash", "name ILIKE $6"),
        // If Electric loses the parentheses, the second half escapes the rule.
        ("(done OR id = 1) IS TRUE", is, "(id = 1) IS TRUE"),
        ("(done AND id = 1) IS NOT FALSE", is, "done IS NOT FALSE"),
        ("(NOT done) IS TRUE", is, "NOT (done IS TRUE)"),
        ("(done IS TRUE) IS FALSE", is, "done IS NOT TRUE"),
        ("(id IS NULL) IS TRUE", is, "id IS NULL"),
    ] {
        assert_eq!(rejected(attack), reason, "{attack}");
        printed(twin);
    }
}

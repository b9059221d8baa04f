//! Runs accepted filters on a real Postgres: they never add a row to those of the rule, and no result depends on a
//! hidden row.
//!
//! Electric writes parameters into the SQL as text literals, so these tests do the same.

mod generate;
mod server;

use std::collections::BTreeMap;

use generate::{Construct, Filter, Generator, quoted};
use postgres::Client;
use server::Postgres;
use shapegate::filter::ClientFilter;

/// The number of accepted filters to try.
const FILTERS: usize = 20_000;

/// The number of filters in one query.
const BATCH: usize = 500;

/// Predicates of rules. Each selects the organizations `o1` to `o7`, which are all rows of `without_hidden`.
const RULES: [&str; 6] = [
    "organization_id IN ('o1', 'o2', 'o3', 'o4', 'o5', 'o6', 'o7')",
    "organization_id IN ('o1', 'o2', 'o3', 'o4', 'o5', 'o6', 'o7', 'o8')",
    "organization_id IN ('o1', 'o2', 'o3', 'o4', 'o5', 'o6', 'o7', 'o8', 'o9')",
    "organization_id = 'o1' OR organization_id = 'o2' OR (organization_id >= 'o3' AND organization_id <= 'o7')",
    "organization_id IN (SELECT organization FROM members WHERE member = 'ann')",
    "organization_id = ANY (ARRAY['o1', 'o2', 'o3', 'o4', 'o5', 'o6', 'o7'])",
];

/// Tables with the same visible rows: one without hidden rows, and two with different hidden rows.
const TABLES: [&str; 3] = ["without_hidden", "with_hidden", "with_other_hidden"];

/// Settings for different query plans. Without an index, Postgres evaluates all conditions on each row, the cheapest
/// first.
const PLANS: [&str; 4] = [
    "SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = on",
    "SET enable_hashjoin = off",
    "SET enable_seqscan = off; SET enable_indexscan = on; SET enable_bitmapscan = on; SET enable_hashjoin = on",
    "SET enable_bitmapscan = off",
];

/// The cost of a rule at which Postgres evaluates the client's condition before the rule.
const EXPENSIVE: u32 = 1_000_000;

/// The functions that evaluate the rules.
const PRICED: [&str; 4] = ["texteq", "text_ge", "text_le", "hashtext"];

const SCHEMA: &str = r#"
CREATE TYPE status AS ENUM ('new', 'done', 'old');
CREATE TABLE members (organization text, member text);
INSERT INTO members SELECT 'o' || n, 'ann' FROM generate_series(1, 7) AS n;
CREATE TABLE without_hidden (
    k int4 PRIMARY KEY, organization_id text NOT NULL, id int4, small int2, big int8, amount numeric, ratio float8,
    ratio4 float4, title text, title_c text COLLATE "C", title_icu text COLLATE "en-x-icu", "Code" varchar(40),
    status status, owner uuid, done bool, day date, at timestamp, at_tz timestamptz, tags text[], numbers int4[],
    amounts numeric[], days date[], stamps timestamptz[], doc json, docs json[]
);
INSERT INTO without_hidden SELECT n, 'o' || (n % 7 + 1), n % 8, n % 5, n * 1000000000000, n / 2.0, n / 3.0, n / 3.0,
    (ARRAY['ann', 'Acme', 'O''Neil', '', NULL])[n % 5 + 1], (ARRAY['ann', 'b', NULL])[n % 3 + 1],
    (ARRAY['a', 'ANN', NULL])[n % 3 + 1], (ARRAY['a', 'true', NULL])[n % 3 + 1],
    (ARRAY['new', 'done', NULL])[n % 3 + 1]::status,
    (ARRAY['6b1c0a52-7d2f-4c6e-9a51-0d3f5a3f9f10', NULL])[n % 2 + 1]::uuid, (ARRAY[true, false, NULL])[n % 3 + 1],
    date '2026-01-01' + n, timestamp '2026-01-01' + n * interval '1 day', timestamptz '2026-01-01' + n * interval '1 day',
    ARRAY['x', 'y z'], ARRAY[n, n + 1], ARRAY[n / 2.0], ARRAY[date '2026-01-01' + n], ARRAY[timestamptz '2026-01-01'],
    '{}', ARRAY['{}'::json]
FROM generate_series(1, 21) AS n;
INSERT INTO without_hidden (k, organization_id) VALUES (22, 'o1');
CREATE TABLE with_hidden (LIKE without_hidden INCLUDING ALL);
INSERT INTO with_hidden SELECT * FROM without_hidden;
INSERT INTO with_hidden SELECT 1000 + n, 'x' || n, -2147483648 + n, -32768, -9223372036854775808, amount, ratio, ratio4,
    title, title, title, left(title, 40), 'old', '00000000-0000-0000-0000-000000000000', true, day, at, at_tz,
    ARRAY[NULL, 'x'], ARRAY[NULL, 1], ARRAY[amount], ARRAY[day, NULL], ARRAY[at_tz], '[1]', ARRAY['1'::json, NULL]
FROM (VALUES
    (1, '1e400'::numeric, 'infinity'::float8, 'infinity'::float4, 'acquire', date '5874897-12-31',
        timestamp '294276-12-31 23:59:59.999', timestamptz '294276-12-31 23:59:59.999'),
    (2, 'NaN', 'NaN', 'NaN', 'abc\', date '4713-01-01 BC', '4713-01-01 BC', '4713-01-01 BC'),
    (3, '-1e400', 1e308, 3e38, repeat('acqu', 500), 'infinity', '-infinity', 'infinity')
) AS hostile (n, amount, ratio, ratio4, title, day, at, at_tz);
CREATE TABLE with_other_hidden (LIKE without_hidden INCLUDING ALL);
INSERT INTO with_other_hidden SELECT * FROM without_hidden;
INSERT INTO with_other_hidden (k, organization_id, title, title_c, title_icu, amount)
    SELECT 1000 + n, 'O1', '0000-01-01', NULL, 'x', n FROM generate_series(1, 40) AS n;
INSERT INTO with_other_hidden (k, organization_id) VALUES (2000, 'o10');
CREATE FUNCTION outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE keys text;
BEGIN
    EXECUTE query INTO keys;
    RETURN coalesce(keys, '');
EXCEPTION WHEN OTHERS THEN
    RETURN 'error ' || SQLSTATE;
END $$;
"#;

/// Starts a Postgres with the tables. If none is installed, it prints that the test is skipped.
fn start() -> Option<(Postgres, Client)> {
    let Some(mut postgres) = Postgres::start() else {
        eprintln!("SKIPPED: no Postgres in /usr/lib/postgresql; .ci/setup-test installs it");
        return None;
    };
    let mut client = postgres.connect();
    client.batch_execute(SCHEMA).unwrap();
    for table in TABLES {
        for column in ["organization_id", "title", "id", "at_tz", "amount"] {
            client.batch_execute(&format!("CREATE INDEX ON {table} ({column})")).unwrap();
        }
    }
    client.batch_execute("ANALYZE").unwrap();
    Some((postgres, client))
}

/// Sets the cost that Postgres assumes for rules.
fn price_rules(client: &mut Client, cost: u32) {
    for function in PRICED {
        let arguments = if function == "hashtext" { "text" } else { "text, text" };
        client.batch_execute(&format!("ALTER FUNCTION pg_catalog.{function}({arguments}) COST {cost}")).unwrap();
    }
}

/// Returns the result of each condition on each of the tables: the keys of the rows, or an error.
fn outcomes(client: &mut Client, conditions: &[String]) -> Vec<[String; 3]> {
    let queries = TABLES.map(|table| {
        let query = |condition| format!("SELECT string_agg(k::text, ',' ORDER BY k) FROM {table} WHERE {condition}");
        conditions.iter().map(query).collect::<Vec<_>>()
    });
    let rows = client
        .query(
            "SELECT outcome(a), outcome(b), outcome(c) FROM unnest($1::text[], $2::text[], $3::text[])
             WITH ORDINALITY AS t (a, b, c, n) ORDER BY n",
            &[&queries[0], &queries[1], &queries[2]],
        )
        .unwrap();
    rows.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect()
}

/// Replaces the parameters in `sql` by text literals, as Electric does.
fn bound(sql: &str, values: &[String]) -> String {
    let mut bound = String::new();
    let mut quote = None;
    let mut rest = sql.chars().peekable();
    while let Some(sign) = rest.next() {
        match (quote, sign) {
            (None, '$') => {
                let mut number = String::new();
                while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                    number.push(digit);
                }
                bound.push_str(&quoted(&values[number.parse::<usize>().unwrap() - 1]));
                continue;
            }
            (None, '\'' | '"') => quote = Some(sign),
            (Some(open), _) if open == sign => quote = None,
            _ => {}
        }
        bound.push(sign);
    }
    bound
}

/// Returns the SQL of the rule and the filter; `None` if the filter is rejected.
fn accepted(filter: &Filter, rule: &str) -> Option<String> {
    let parsed = ClientFilter::parse(&filter.text, &filter.params, None).ok()?;
    let (sql, values) = parsed.and_with(Some(rule), Vec::new());
    Some(bound(&sql, &values))
}

/// Counts of the results.
#[derive(Default)]
struct Seen {
    refused: usize,
    errors: usize,
    empty: usize,
    rows: usize,
    constructs: BTreeMap<Construct, usize>,
}

impl Seen {
    #[track_caller]
    fn check(&mut self, condition: &str, outcome: &[String; 3]) {
        let [without, with, other] = outcome;
        assert_eq!(without, with, "depends on hidden rows: {condition}");
        assert_eq!(without, other, "depends on hidden rows: {condition}");
        match without.as_str() {
            "" => self.empty += 1,
            error if error.starts_with("error") => self.errors += 1,
            _ => self.rows += 1,
        }
    }
}

#[test]
fn accepted_filters_add_no_row_and_reveal_no_hidden_row() {
    let Some((_postgres, mut client)) = start() else { return };
    let mut generator = Generator::new(0x5ee9);
    let mut seen = Seen::default();
    for batch in 0..FILTERS / BATCH {
        let mut conditions = Vec::new();
        while conditions.len() < BATCH {
            let filter = generator.filter();
            match accepted(&filter, RULES[conditions.len() % RULES.len()]) {
                None => seen.refused += 1,
                Some(condition) => {
                    conditions.push(condition);
                    for construct in filter.constructs {
                        *seen.constructs.entry(construct).or_default() += 1;
                    }
                }
            }
        }
        client.batch_execute(PLANS[batch % PLANS.len()]).unwrap();
        // Rules cost more than any filter; in every fourth batch they are also tried as cheap ones.
        for cost in if batch % 4 == 0 { &[EXPENSIVE, 1][..] } else { &[EXPENSIVE] } {
            price_rules(&mut client, *cost);
            for (condition, outcome) in conditions.iter().zip(outcomes(&mut client, &conditions)) {
                seen.check(condition, &outcome);
            }
        }
    }
    let Seen { refused, errors, empty, rows, constructs } = seen;
    eprintln!(
        "{FILTERS} accepted, {refused} rejected; {errors} errors, {empty} empty, {rows} with rows; {constructs:?}"
    );
    for construct in Construct::ALL {
        assert!(constructs.get(&construct).is_some_and(|count| *count >= 500), "{construct:?}: {constructs:?}");
    }
    assert!(rows > FILTERS / 2 && empty > FILTERS / 10, "{rows} with rows, {empty} empty");
}

/// Checks that this database reveals hidden rows if a filter is not rejected.
#[test]
fn conditions_that_fail_on_hidden_rows_are_detected_and_rejected() {
    let Some((_postgres, mut client)) = start() else { return };
    client.batch_execute(PLANS[0]).unwrap();
    price_rules(&mut client, EXPENSIVE);
    for failing in [
        "('0000-01-01T00:00:00'::text::timestamp) IS NULL",
        "(lower('NO DATE')::date) IS NULL",
        "(ARRAY['no date'::text])::timestamp[] IS NULL",
        "title_c = title_icu",
        "docs = docs",
        "amount < '1'::float8",
        "amount = ANY('{1}'::float8[])",
        "'2026-01-01'::timestamp = ANY(ARRAY[day, '2026-01-01'::timestamp])",
        "title LIKE $1",
    ] {
        let text = format!("(title LIKE 'acq%') IS NOT TRUE OR {failing}");
        let params = BTreeMap::from([(1, "acq\\".to_owned())]);
        assert!(ClientFilter::parse(&text, &params, None).is_err(), "{failing}");
        let condition = bound(&format!("({}) AND ({text})", RULES[0]), &[params[&1].clone()]);
        let [without, with, other] = &outcomes(&mut client, &[condition])[0];
        assert!(without.starts_with("1,"), "{failing}: {without}");
        assert!(with.starts_with("error"), "{failing}: {with}");
        assert_eq!(without, other, "{failing}");
    }
}

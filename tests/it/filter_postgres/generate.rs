//! Random filters from every construct of the allow-list, and from conditions that must be rejected.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// A filter as a client sends it.
pub(super) struct Filter {
    pub(super) text: String,
    pub(super) params: BTreeMap<u32, String>,
    pub(super) constructs: BTreeSet<Construct>,
}

/// The constructs of the allow-list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Construct {
    And,
    Any,
    Array,
    Between,
    Boolean,
    Cast,
    CastOfColumn,
    Compare,
    Contains,
    ILike,
    In,
    Is,
    IsNull,
    Like,
    Lower,
    Not,
    Or,
    Overlaps,
    Param,
    Upper,
}

impl Construct {
    pub(super) const ALL: [Self; 20] = [
        Self::And,
        Self::Any,
        Self::Array,
        Self::Between,
        Self::Boolean,
        Self::Cast,
        Self::CastOfColumn,
        Self::Compare,
        Self::Contains,
        Self::ILike,
        Self::In,
        Self::Is,
        Self::IsNull,
        Self::Like,
        Self::Lower,
        Self::Not,
        Self::Or,
        Self::Overlaps,
        Self::Param,
        Self::Upper,
    ];
}

/// A column, the types to which constants compared with it may be cast, and such constants.
type Column = (&'static str, &'static [&'static str], &'static [&'static str]);

const INTEGERS: &[&str] = &["0", "1", "7", "-3", "32767", "2147483648", "-9223372036854775808"];
const NUMBERS: &[&str] = &["0", "7", "-3", "2147483648", "1.5", "99999999999999999999.25", "NaN"];
const NUMERIC: &[&str] = &["int8", "numeric", "bigint", "decimal", "int4", "numeric", "float8"];
const TEXTS: &[&str] =
    &["", "ann", "Acquire", "acquisition", "0000-01-01", "O'Neil", "{x}", "a", "%", "true", "\u{e9}"];
const TEXTUAL: &[&str] = &["text", "varchar", "character varying"];
const TIMES: &[&str] = &[
    "2026-01-01",
    "5874897-12-31",
    "294276-12-31 23:59:59.999",
    "4713-01-01 BC",
    "infinity",
    "2026-06-30 12:00:00+14",
    "2026-06-30 12:00:00",
];
const TEMPORAL: &[&str] = &["date", "timestamp", "timestamptz", "timestamp with time zone"];

const SCALARS: &[Column] = &[
    ("id", NUMERIC, INTEGERS),
    ("small", NUMERIC, INTEGERS),
    ("big", NUMERIC, INTEGERS),
    ("amount", NUMERIC, NUMBERS),
    ("ratio", NUMERIC, NUMBERS),
    ("ratio4", NUMERIC, NUMBERS),
    ("title", TEXTUAL, TEXTS),
    ("title_c", TEXTUAL, TEXTS),
    ("title_icu", TEXTUAL, TEXTS),
    ("\"Code\"", TEXTUAL, TEXTS),
    ("status", &["text"], &["new", "done", "old"]),
    (
        "owner",
        &["uuid", "text"],
        &["6b1c0a52-7d2f-4c6e-9a51-0d3f5a3f9f10", "00000000-0000-0000-0000-000000000000", "no"],
    ),
    ("day", TEMPORAL, TIMES),
    ("at", TEMPORAL, TIMES),
    ("at_tz", TEMPORAL, TIMES),
];

const ARRAYS: &[Column] = &[
    ("tags", &["text[]", "varchar[]"], &["{x}", "{}", "{x,\"y z\"}", "{NULL}", "{{x},{y}}"]),
    ("numbers", &["int4[]", "int8[]", "numeric[]", "real[]"], &["{1}", "{1,NULL}", "{}", "{2147483648}"]),
    ("amounts", &["numeric[]", "float8[]"], &["{1}", "{1.5,NULL}", "{}"]),
    ("days", &["date[]", "timestamptz[]"], &["{2026-01-01}", "{5874897-12-31}", "{infinity}"]),
    ("stamps", &["timestamptz[]", "date[]"], &["{2026-01-01}", "{5874897-12-31}", "{infinity}"]),
];

/// Conditions that reveal a row if they are evaluated, each in a different way. All must be rejected.
const FAILING: &[&str] = &[
    "('0000-01-01T00:00:00'::text::timestamp) IS NULL",
    "CAST('0000-01-01T00:00:00'::varchar AS timestamptz) IS NULL",
    "(lower('NO DATE')::date) IS NULL",
    "(ARRAY['no date'::text])::timestamp[] IS NULL",
    "ARRAY[upper('x')]::date[] IS NULL",
    "title::int4 = 1",
    "lower(title)::date IS NULL",
    "title_c = title_icu",
    "lower(title_c) < title_icu",
    "title_c BETWEEN 'a' AND title_icu",
    "title_c = ANY(ARRAY[title_icu])",
    "title_c IN ('a', title_icu)",
    "docs = docs",
    "docs @> docs",
    "docs < docs",
    "amount < '1'::float8",
    "amount = ANY('{1}'::float8[])",
    "amount BETWEEN 0 AND '1'::real",
    "'2026-01-01'::timestamp = ANY(ARRAY[day, '2026-01-01'::timestamp])",
    "'2026-01-01'::timestamptz = ANY(ARRAY['5874897-12-31'::date, '2026-01-01'::timestamptz])",
    "at_tz IN ('5874897-12-31'::date, '2026-01-01'::date)",
    "at_tz NOT IN ('2026-01-01'::timestamptz, '5874897-12-31'::date)",
    "title LIKE title_c",
];

const OPERATORS: &[&str] = &["=", "<>", "!=", "<", "<=", ">", ">="];

/// Generates the same filters for the same seed.
pub(super) struct Generator {
    random: StdRng,
}

impl Generator {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    pub(super) fn filter(&mut self) -> Filter {
        let mut filter = Filter { text: String::new(), params: BTreeMap::new(), constructs: BTreeSet::new() };
        let depth = self.random.random_range(0..4);
        filter.text = self.condition(&mut filter, depth);
        filter
    }

    fn condition(&mut self, filter: &mut Filter, depth: u32) -> String {
        if depth == 0 || self.one_in(4) {
            return self.leaf(filter);
        }
        let left = self.condition(filter, depth - 1);
        match self.random.random_range(0..7) {
            0 => {
                filter.constructs.insert(Construct::Not);
                format!("NOT ({left})")
            }
            1..4 => {
                filter.constructs.insert(Construct::And);
                format!("({left}) AND ({})", self.condition(filter, depth - 1))
            }
            _ => {
                filter.constructs.insert(Construct::Or);
                format!("({left}) OR ({})", self.condition(filter, depth - 1))
            }
        }
    }

    fn leaf(&mut self, filter: &mut Filter) -> String {
        if self.one_in(25) {
            return self.pick(FAILING).to_owned();
        }
        let not = if self.one_in(3) { "NOT " } else { "" };
        match self.random.random_range(0..12) {
            0 => {
                filter.constructs.insert(Construct::IsNull);
                let columns = ["id", "title", "docs", "doc", "tags", "day", "status", "'x'", "ARRAY[1]"];
                format!("{} IS {not}NULL", self.pick(&columns))
            }
            1 => {
                filter.constructs.insert(Construct::Is);
                let inner = self.comparison(filter);
                format!("({inner}) IS {not}{}", self.pick(&["TRUE", "FALSE"]))
            }
            2 => {
                filter.constructs.insert(Construct::Boolean);
                self.pick(&["done", "true", "FALSE", "\"done\"", "done = true", "done <> FALSE"]).to_owned()
            }
            3 | 4 => self.like(filter, not),
            5 => self.contains(filter),
            _ => self.comparison(filter),
        }
    }

    fn comparison(&mut self, filter: &mut Filter) -> String {
        let column = *SCALARS.choose(&mut self.random).unwrap();
        let not = if self.one_in(3) { "NOT " } else { "" };
        match self.random.random_range(0..6) {
            0 => {
                filter.constructs.insert(Construct::In);
                let count = self.random.random_range(1..10);
                let list: Vec<_> = (0..count).map(|_| self.constant(filter, column, 12)).collect();
                format!("{} {not}IN ({})", column.0, list.join(", "))
            }
            1 => {
                filter.constructs.insert(Construct::Between);
                let (low, high) = (self.constant(filter, column, 3), self.constant(filter, column, 3));
                format!("{} {not}BETWEEN {low} AND {high}", column.0)
            }
            2 => {
                filter.constructs.insert(Construct::Any);
                format!("{} {} ANY({})", column.0, self.pick(OPERATORS), self.list(filter, column))
            }
            3 => {
                filter.constructs.insert(Construct::CastOfColumn);
                let constant = self.constant(filter, ("", &["text"], TEXTS), 6);
                let column = if self.one_in(5) { ARRAYS[0].0 } else { column.0 };
                format!("{column}::text {} {constant}", self.pick(OPERATORS))
            }
            _ => {
                filter.constructs.insert(Construct::Compare);
                let constant = self.constant(filter, column, 3);
                let operator = self.pick(OPERATORS);
                if self.one_in(4) {
                    format!("{constant} {operator} {}", column.0)
                } else {
                    format!("{} {operator} {constant}", column.0)
                }
            }
        }
    }

    fn like(&mut self, filter: &mut Filter, not: &str) -> String {
        let (construct, like) =
            *[(Construct::Like, "LIKE"), (Construct::ILike, "ILIKE")].choose(&mut self.random).unwrap();
        filter.constructs.insert(construct);
        let value = self.text(filter);
        let patterns = ["acq%", "%a_%", "", "%", "%\\%%", "abc\\\\", "abc\\", "a%b%c%d%e", "\\a\\c%", "_c_u%"];
        let pattern = self.pick(&patterns);
        let pattern =
            if pattern.contains('\\') || self.one_in(3) { self.param(filter, pattern) } else { format!("'{pattern}'") };
        format!("{value} {not}{like} {pattern}")
    }

    /// Generates a text expression: a column, sometimes with a function or a cast.
    fn text(&mut self, filter: &mut Filter) -> String {
        let column =
            self.pick(&["title", "title_c", "title_icu", "\"Code\"", "status::text", "id::text", "docs::text"]);
        match self.random.random_range(0..4) {
            0 => {
                filter.constructs.insert(Construct::Lower);
                format!("lower({column})")
            }
            1 => {
                filter.constructs.insert(Construct::Upper);
                format!("upper({column})")
            }
            _ => column.to_owned(),
        }
    }

    fn contains(&mut self, filter: &mut Filter) -> String {
        let column = *ARRAYS.choose(&mut self.random).unwrap();
        let constant = if self.one_in(3) {
            filter.constructs.insert(Construct::Array);
            let (name, types, _) = column;
            let items: &[&str] = match name {
                "tags" => TEXTS,
                "numbers" | "amounts" => NUMBERS,
                _ => TIMES,
            };
            let element = types[0].trim_end_matches("[]");
            let items: Vec<_> = (0..self.random.random_range(1..4)).map(|_| quoted(self.pick(items))).collect();
            format!("ARRAY[{}]", items.iter().map(|item| format!("{item}::{element}")).collect::<Vec<_>>().join(", "))
        } else {
            self.constant(filter, column, 2)
        };
        let (construct, operator) = *[
            (Construct::Contains, "@>"),
            (Construct::Contains, "<@"),
            (Construct::Overlaps, "&&"),
            (Construct::Compare, "="),
            (Construct::Compare, "<"),
        ]
        .choose(&mut self.random)
        .unwrap();
        filter.constructs.insert(construct);
        format!("{} {operator} {constant}", column.0)
    }

    /// Generates a list of constants for ANY.
    fn list(&mut self, filter: &mut Filter, (_, types, values): Column) -> String {
        filter.constructs.insert(Construct::Array);
        let name = self.pick(types);
        let values: Vec<_> = (0..self.random.random_range(1..4)).map(|_| self.pick(values)).collect();
        if self.one_in(2) {
            filter.constructs.insert(Construct::Cast);
            let items: Vec<_> = values.iter().map(|value| format!("{}::{name}", quoted(value))).collect();
            return format!("ARRAY[{}]", items.join(", "));
        }
        let items: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
        let whole = format!("{{{}}}", items.join(","));
        let whole = self.param(filter, &whole);
        if self.one_in(2) { whole } else { format!("{whole}::{name}[]") }
    }

    /// Generates a constant for a column, in one of `casts` cases with a cast.
    fn constant(&mut self, filter: &mut Filter, (_, types, values): Column, casts: u32) -> String {
        let value = if self.one_in(40) { "no such value" } else { self.pick(values) };
        let plain = match self.random.random_range(0..3) {
            0 => self.param(filter, value),
            1 if value.parse::<f64>().is_ok_and(f64::is_finite) => value.to_owned(),
            _ => quoted(value),
        };
        if self.one_in(casts) {
            filter.constructs.insert(Construct::Cast);
            let name = self.pick(types);
            return if self.one_in(2) { format!("({plain})::{name}") } else { format!("CAST({plain} AS {name})") };
        }
        plain
    }

    fn param(&mut self, filter: &mut Filter, value: &str) -> String {
        filter.constructs.insert(Construct::Param);
        let number = filter.params.len() as u32 + 1;
        filter.params.insert(number, value.to_owned());
        format!("${number}")
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.choose(&mut self.random).unwrap()
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.random_ratio(1, count)
    }
}

/// Quotes a text as an SQL literal.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

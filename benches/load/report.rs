//! The results of a run: medians over the rounds of each side, and the first side compared with the others.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// Named figures, in the order of the columns. A name ends with its unit.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// The result of one side in one round.
#[derive(Default)]
pub(crate) struct Round {
    pub figures: Figures,
    pub answers: Answers,
}

/// The responses by status, and what was wrong with them.
#[derive(Default)]
pub(crate) struct Answers {
    pub statuses: BTreeMap<u16, u64>,
    /// Missing responses, and those with another status than 200 or an unexpected body.
    pub wrong: u64,
    /// The first wrong one.
    pub example: Option<String>,
}

/// The results of one subcommand.
pub(crate) struct Report {
    command: &'static str,
    setting: Map<String, Value>,
    sides: Vec<(&'static str, Vec<Round>)>,
}

impl Answers {
    pub(crate) fn wrong(&mut self, example: impl FnOnce() -> String) {
        self.wrong += 1;
        self.example.get_or_insert_with(example);
    }

    pub(crate) fn add(&mut self, other: Self) {
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.wrong += other.wrong;
        self.example = self.example.take().or(other.example);
    }
}

impl Report {
    /// Starts an empty report about `command`; `setting` is a JSON object.
    pub(crate) fn new(command: &'static str, setting: Value) -> Self {
        let Value::Object(setting) = setting else { return Self::new(command, json!({ "setting": setting })) };
        Self { command, setting, sides: Vec::new() }
    }

    /// Adds a round of the side `name`. The sides are listed in the order of their first rounds.
    pub(crate) fn add(&mut self, name: &'static str, round: Round) {
        match self.sides.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rounds)) => rounds.push(round),
            None => self.sides.push((name, vec![round])),
        }
    }

    /// Returns how many responses of all sides were wrong.
    pub(crate) fn wrong(&self) -> u64 {
        self.sides.iter().flat_map(|(_, rounds)| rounds).map(|round| round.answers.wrong).sum()
    }

    /// Returns one JSON object.
    pub(crate) fn json(&self) -> Value {
        let object = |figures: Figures| {
            figures.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<String, Value>>()
        };
        let sides: Map<String, Value> = self
            .sides
            .iter()
            .map(|(name, rounds)| {
                let answers = sum(rounds);
                let statuses: Map<String, Value> =
                    answers.statuses.iter().map(|(status, count)| (status.to_string(), (*count).into())).collect();
                let mut side = object(medians(rounds));
                side.extend([
                    ("statuses".to_owned(), statuses.into()),
                    ("wrong".to_owned(), answers.wrong.into()),
                    ("rounds".to_owned(), rounds.iter().map(|round| object(round.figures.clone())).collect()),
                ]);
                ((*name).to_owned(), side.into())
            })
            .collect();
        let ratios: Map<String, Value> =
            self.ratios().into_iter().map(|(name, figures)| (name, object(figures).into())).collect();
        json!({ "command": self.command, "setting": self.setting, "sides": sides, "ratios": ratios, "wrong": self.wrong() })
    }

    /// Returns a table for people.
    pub(crate) fn table(&self) -> String {
        let medians: Vec<_> = self.sides.iter().map(|(name, rounds)| ((*name).to_owned(), medians(rounds))).collect();
        let ratios = self.ratios();
        let mut columns: Vec<&str> = Vec::new();
        for (column, _) in medians.iter().flat_map(|(_, figures)| figures) {
            if !columns.contains(column) {
                columns.push(column);
            }
        }
        let setting: Vec<_> = self.setting.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut lines = vec![format!("{}: {}", self.command, setting.join(", ")), String::new()];
        let width = medians.iter().chain(&ratios).map(|(name, _)| name.len()).max().unwrap_or(0);
        let headings: String = columns.iter().map(|column| cell(column, &column.replace('_', " "))).collect();
        lines.push(format!("{:width$}{headings}", ""));
        for (name, figures) in medians.iter().chain(&ratios) {
            let is_ratio = name.contains('/');
            let cells: String = columns
                .iter()
                .map(|column| {
                    let value = figures.iter().find(|(known, _)| known == column);
                    cell(column, &value.map_or("-".to_owned(), |(_, value)| written(*value, is_ratio)))
                })
                .collect();
            lines.push(format!("{name:width$}{cells}"));
        }
        lines.push(String::new());
        for (name, rounds) in &self.sides {
            let answers = sum(rounds);
            let statuses: Vec<_> =
                answers.statuses.iter().map(|(status, count)| format!("{status} × {count}")).collect();
            let wrong = match answers.example {
                Some(example) => format!("{} wrong, the first: {example}", answers.wrong),
                None => "all as expected".to_owned(),
            };
            lines.push(format!("{name}: {}; {wrong}", statuses.join(", ")));
        }
        lines.join("\n")
    }

    /// Returns the first side's figures divided by each other's.
    fn ratios(&self) -> Vec<(String, Figures)> {
        let Some(((first, rounds), others)) = self.sides.split_first() else { return Vec::new() };
        let dividends = medians(rounds);
        let against = |(name, rounds): &(&str, Vec<Round>)| {
            let divisors = medians(rounds);
            let ratio = |(name, dividend): &(&'static str, f64)| {
                let (_, divisor) = divisors.iter().find(|(known, value)| known == name && *value > 0.0)?;
                Some((*name, dividend / divisor))
            };
            (format!("{first} / {name}"), dividends.iter().filter_map(ratio).collect())
        };
        others.iter().map(against).collect()
    }
}

fn sum(rounds: &[Round]) -> Answers {
    let mut sum = Answers::default();
    for Round { answers, .. } in rounds {
        let example = answers.example.clone();
        sum.add(Answers { statuses: answers.statuses.clone(), wrong: answers.wrong, example });
    }
    sum
}

fn medians(rounds: &[Round]) -> Figures {
    let Some(first) = rounds.first() else { return Figures::new() };
    let median = |name: &str| {
        let figures = rounds.iter().flat_map(|round| &round.figures);
        let mut values: Vec<f64> = figures.filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        let half = values.len() / 2;
        if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
    };
    first.figures.iter().map(|(name, _)| (*name, median(name))).collect()
}

/// Returns the value at `permille` thousandths of `sorted`, by nearest rank.
pub(crate) fn quantile(sorted: &[Duration], permille: usize) -> Duration {
    let rank = (sorted.len() * permille).div_ceil(1000).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub(crate) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn cell(column: &str, text: &str) -> String {
    let width = column.len().max(9) + 2;
    format!("{text:>width$}")
}

fn written(value: f64, is_ratio: bool) -> String {
    match value {
        _ if is_ratio => format!("{value:.2}"),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        _ if value.abs() >= 100.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

//! Finds rules that no case allows, or none denies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::trial::{Allowed, Verdict};
use super::Courts;

/// A rule that a case has touched: its name, its table, and whether it allowed the request.
pub(super) struct Seen(String, String, bool);

/// For each rule of each configuration, whether a case allows and denies it.
pub(super) struct Coverage(BTreeMap<(PathBuf, usize, String, String), Covered>);

struct Covered {
    allowed: bool,
    denied: bool,
}

/// Returns the rules that a decision covers.
pub(super) fn seen(verdict: &Verdict) -> Vec<Seen> {
    let missed = verdict.missed.iter().map(|missed| Seen(missed.rule.as_str().to_owned(), missed.table.clone(), false));
    let mut seen: Vec<_> = missed.collect();
    if let Ok(Allowed::Electric(upstream)) = &verdict.decision {
        let mut pairs = url::form_urlencoded::parse(upstream.query().as_bytes());
        let table = pairs.find_map(|(name, value)| (name == "table").then(|| value.into_owned()));
        seen.push(Seen(upstream.rule().as_str().to_owned(), table.unwrap_or_default(), true));
    }
    seen
}

impl Coverage {
    /// Starts with the rules of every configuration. One that cannot deny counts as denied.
    pub(super) fn of(courts: &Courts) -> Self {
        let mut rules = BTreeMap::new();
        for ((config, _), court) in courts {
            for (id, rule) in court.rules().policy.rules() {
                let key = (config.clone(), rule.line(), id.as_str().to_owned(), rule.table().to_owned());
                rules.insert(key, Covered { allowed: false, denied: !rule.can_deny() });
            }
        }
        Self(rules)
    }

    pub(super) fn add(&mut self, config: &Path, seen: Vec<Seen>) {
        for Seen(id, table, allowed) in seen {
            let of = self.0.iter_mut().filter(|((file, _, rule, of), _)| file == config && *rule == id && *of == table);
            of.for_each(|(_, covered)| {
                covered.allowed |= allowed;
                covered.denied |= !allowed;
            });
        }
    }

    /// Lists what no case covers, in the order of the files.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for ((file, line, rule, table), covered) in &self.0 {
            let subject = if rule == table { rule.clone() } else { format!("{rule} ({table})") };
            let place = format!("{}:{line}: the rule {subject}", file.display());
            warnings.extend((!covered.allowed).then(|| format!("{place} allows no case")));
            warnings.extend((!covered.denied).then(|| format!("{place} denies no case")));
        }
        warnings
    }
}

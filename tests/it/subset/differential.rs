//! Random rules, claims and filters: a filtered result is never more than what the rule allows.

use std::collections::BTreeSet;

use serde_json::json;

use super::{encoded, rows};
use crate::harness::{Answer, Gate, Setup};
use crate::hostile::attack::Dice;

/// The predicates of rules for `items`, each on its own path.
const WHERES: [&str; 7] = [
    r#""user_id" = {{ claims.sub }}"#,
    r#""user_id" IN ({{ claims.team }})"#,
    r#""user_id" = {{ claims.sub }} OR "title" = {{ query.title }}"#,
    r#""title" LIKE {{ query.title }} AND NOT "user_id" = {{ claims.sub }}"#,
    r#""id" > 5 OR "user_id" = {{ claims.sub }}"#,
    r#"NOT ("user_id" = {{ claims.sub }})"#,
    "none",
];

const USERS: [&str; 4] = ["u0", "u1", "u2", "u'3"];
const TITLES: [&str; 4] = ["a", "ab", "b", ""];

/// Generates a condition as clients write them, with `$1` to `$3`. Some are malformed.
fn condition(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 || dice.one_in(3) {
        return dice
            .pick(&[
                "true",
                "false",
                "1=1",
                "id = $1",
                "id <> 3",
                "id IN (1, 2, $1)",
                "id BETWEEN 2 AND $1",
                "title = $2",
                "title LIKE 'a%'",
                "title NOT LIKE $2",
                "title IS NULL",
                "user_id = $3",
                "user_id <> 'u1'",
                "user_id = ANY(ARRAY['u0', $3])",
                "title = 'it''s' OR true",
                "true) OR (true",
                "true --",
                "organization_id = 'x'",
            ])
            .to_owned();
    }
    let left = condition(dice, depth - 1);
    match dice.below(4) {
        0 => format!("NOT ({left})"),
        1 => format!("({left}) IS NOT TRUE"),
        2 => format!("{left} OR {}", condition(dice, depth - 1)),
        _ => format!("({left}) AND {}", condition(dice, depth - 1)),
    }
}

fn snapshot(answer: &Answer) -> BTreeSet<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.rows("id").into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn client_filter_never_adds_a_row_to_its_rule() {
    let rule = |(number, predicate): (usize, &&str)| {
        let chosen = if predicate.contains("query.title") { "danger_client_chosen = ['title']\n" } else { "" };
        format!(
            "[[shape]]\npath = '/r/{number}'\ntable = 'items'\nwhere = '''{predicate}'''\n\
             subset = true\nclient_where = true\n{chosen}"
        )
    };
    let rules = WHERES.iter().enumerate().map(rule).collect();
    let gate = Gate::with(Setup { rules, ..Setup::default() }).await;
    for id in 0..16 {
        let (user, title) = (USERS[id % 4], TITLES[id / 4]);
        let title = if id == 7 { json!(null) } else { json!(title) };
        gate.electric.insert("items", json!({ "id": id, "user_id": user, "title": title })).unwrap();
    }
    let mut dice = Dice(0xd1ff);
    let (mut refused, mut narrowed, mut empty) = (0, 0, 0);
    for turn in 0..150 {
        let (sub, title) = (dice.pick(&USERS).to_owned(), dice.pick(&["a", "a%", "%", "$1"]).to_owned());
        let team = [dice.pick(&USERS), dice.pick(&USERS)];
        let token = gate.issuer.token(&json!({ "sub": sub, "team": team }));
        let target = format!("/r/{}?offset=-1&title={}", turn % WHERES.len(), encoded(&title));
        let whole = snapshot(&gate.get(&target, &token).await);
        let text = condition(&mut dice, 3);
        let values = [dice.below(16).to_string(), dice.pick(&TITLES).to_owned(), dice.pick(&USERS).to_owned()];
        let numbered: Vec<_> =
            (1..).zip(&values).map(|(n, value)| format!("&params[{n}]={}", encoded(value))).collect();
        let by_where = gate.get(&format!("{target}&where={}{}", encoded(&text), numbered.concat()), &token).await;
        let body = json!({ "where": text, "params": { "1": values[0], "2": values[1], "3": values[2] } });
        let by_subset = gate.post(&target, &token, &body.to_string()).await;
        assert_eq!(by_where.status, by_subset.status, "{text}: {} {}", by_where.text(), by_subset.text());
        if by_where.status == 400 {
            refused += 1;
            continue;
        }
        let by_where = snapshot(&by_where);
        assert!(by_where.is_subset(&whole), "{target} {text}: {by_where:?} of {whole:?}");
        let by_subset: BTreeSet<_> = rows(&by_subset, "id").into_iter().collect();
        assert_eq!(by_subset, by_where, "{target} {text}");
        narrowed += usize::from(by_where.len() < whole.len() && !by_where.is_empty());
        empty += usize::from(by_where.is_empty());
    }
    assert!(refused > 10 && narrowed > 20 && empty < 100, "{refused} {narrowed} {empty}");
}

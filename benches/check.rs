//! Time to read and check a configuration of 500 rules, as `shapegate check` and every start and reload do.

#![allow(clippy::unwrap_used, clippy::expect_used)] // clippy's exception for tests does not cover benches

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use shapegate::config::{Config, Environment};

/// Rules of all kinds for 250 tables, two for each.
fn configuration() -> String {
    let mut text =
        "[server]\nlisten = '127.0.0.1:0'\n[upstream]\nurl = 'http://127.0.0.1:3000'\ndanger_no_secret = true\n\
                    [[issuer]]\nissuer = 'https://a.example'\naudience = 'app'\nalgorithms = ['ES256']\n\
                    jwks = { url = 'https://a.example/jwks' }\n"
            .to_owned();
    for table in 0..250 {
        write!(
            text,
            "[[shape]]\ntable = 'table_{table}'\n\
             allow = \"claims.teams.exists(t, t.id == query.team && t.role in ['lead', 'member']) || query.team in claims.teams_{table}\"\n\
             where = '\"team_id\" = {{{{ query.team }}}} AND (\"archived\" = false OR \"owner\" = {{{{ claims.sub }}}})'\n\
             [[shape]]\ntable = 'table_{table}'\nname = 'own_{table}'\n\
             where = '\"owner\" = {{{{ claims.sub }}}}'\ncolumns = ['id', 'title', 'owner']\n"
        )
        .unwrap();
    }
    text
}

fn check(criterion: &mut Criterion) {
    let text = configuration();
    let parse = || Config::parse(&text, Path::new("bench.toml"), &Environment::from([])).unwrap();
    assert_eq!((parse().policy.rule_ids().count(), parse().warnings), (500, Vec::new()));
    criterion.bench_function("check/500 rules", |bencher| bencher.iter(|| black_box(parse())));
}

criterion_group!(benches, check);
criterion_main!(benches);

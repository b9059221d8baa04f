//! Parses any text as a client's `where` and `order_by`. It must not panic, and what it accepts must parse to the same
//! again after printing.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use shapegate::filter::{ClientFilter, OrderBy};

/// The parser rejects longer texts, but a printed text may be longer than its source.
const MAX_BYTES: usize = 4 * 1024;

fuzz_target!(|text: &str| {
    let params: BTreeMap<u32, String> = (1..=4).map(|number| (number, format!("value {number}"))).collect();
    if let Ok(filter) = ClientFilter::parse(text, &params, None) {
        let (sql, values) = filter.render(0);
        if sql.len() <= MAX_BYTES {
            assert_eq!(ClientFilter::parse(&sql, &(1..).zip(values).collect(), None), Ok(filter));
        }
    }
    if let Ok(order) = OrderBy::parse(text, None) {
        let sql = order.render();
        if sql.len() <= MAX_BYTES {
            assert_eq!(OrderBy::parse(&sql, None), Ok(order));
        }
    }
});

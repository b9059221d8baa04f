//! Positions in the log of a shape, as they can be compared.

use std::fmt;

/// A transaction and an operation in it. `0_inf` is the end of the snapshot: before every change, after every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Offset {
    pub(super) transaction: u64,
    pub(super) operation: u64,
}

impl Offset {
    /// Parses a value of `offset` or `electric-offset`; `None` for `-1` and `now`, which are no positions.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (transaction, operation) = text.split_once('_')?;
        let operation = if operation == "inf" { u64::MAX } else { operation.parse().ok()? };
        Some(Self { transaction: transaction.parse().ok()?, operation })
    }

    /// Returns the position after every operation of a transaction.
    pub(super) const fn end_of(transaction: u64) -> Self {
        Self { transaction, operation: u64::MAX }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            u64::MAX => write!(f, "{}_inf", self.transaction),
            operation => write!(f, "{}_{operation}", self.transaction),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_ordered_as_in_the_log() {
        let offsets = ["0_0", "0_1", "0_inf", "27744944_0", "27744944_4", "27750744_0"].map(Offset::parse);
        assert_eq!(offsets[2].unwrap().to_string(), "0_inf");
        assert_eq!(offsets[4].unwrap().to_string(), "27744944_4");
        assert!(offsets.is_sorted() && offsets.iter().all(Option::is_some));
        assert!(Offset::parse("27744944_4") < Some(Offset::end_of(27_744_944)));
    }

    #[test]
    fn other_texts_are_no_positions() {
        for text in ["-1", "now", "", "_", "1_", "_1", "1", "99999999999999999999_0"] {
            assert_eq!(Offset::parse(text), None, "{text}");
        }
    }
}

//! Estimates what values take on the heap, for budgets in bytes. An estimate is never too low by much.

/// Returns the bytes that an allocation of `bytes` takes. Allocators round up to size classes: to multiples of 16, and
/// above 128 bytes to steps of an eighth.
pub(crate) const fn allocation(bytes: usize) -> usize {
    if bytes <= 128 { bytes.next_multiple_of(16) } else { bytes + bytes / 8 }
}

/// Returns the bytes of a hash table with room for `capacity` entries of `entry` bytes. It has a power of two of
/// buckets, an eighth of which stays empty, and one more byte for each.
pub(crate) const fn hash_table(capacity: usize, entry: usize) -> usize {
    if capacity == 0 { 0 } else { allocation((capacity * 8 / 7).next_power_of_two() * (entry + 1) + 16) }
}

/// Returns the bytes of texts in a list that may have grown to twice its length.
pub(crate) fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| 2 * size_of::<String>() + allocation(text.len())).sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_hash_table_has_a_bucket_for_each_entry_of_its_capacity() {
        for entries in 1..1_000_usize {
            let table: HashMap<_, _> = (0..entries).map(|number| (number, [0; 4])).collect();
            let entry = size_of::<(usize, [i32; 4])>();
            assert!(hash_table(table.capacity(), entry) >= entries * 8 / 7 * (entry + 1), "{entries}");
            assert!(hash_table(table.capacity(), entry) <= (entries * 3 + 8) * (entry + 2), "{entries}");
        }
        assert_eq!(hash_table(HashMap::<u8, u8>::new().capacity(), 2), 0);
    }
}

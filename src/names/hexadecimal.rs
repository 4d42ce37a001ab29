//! Hexadecimal digits, many at once: every request has an id of them.
//!
//! Guarantees: two small digits for each byte, in the order of the bytes.

/// The eight digits of four bytes.
pub fn hexadecimal(bytes: [u8; 4]) -> [u8; 8] {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A digit in each byte,
    let spread = u64::from(u32::from_be_bytes(bytes));
    let spread = (spread << 16 | spread) & 0x0000_ffff_0000_ffff;
    let spread = (spread << 8 | spread) & 0x00ff_00ff_00ff_00ff;
    let digits = (spread << 4 | spread) & (0x0f * ONES);
    // and 1 in those that are letters.
    let letters = (digits + 6 * ONES) >> 4 & ONES;
    let text = digits + u64::from(b'0') * ONES + letters * u64::from(b'a' - b'0' - 10);
    text.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_digits_are_those_that_are_usual(number in any::<u32>()) {
            let digits = hexadecimal(number.to_be_bytes());
            prop_assert_eq!(str::from_utf8(&digits), Ok(&*format!("{number:08x}")));
        }
    }
}

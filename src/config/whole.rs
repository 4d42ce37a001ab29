//! Whole numbers, as a configuration writes them.
//!
//! Guarantees: hexadecimal, octal and binary numbers are read as TOML has them, from variables,
//! too; what is out of range is answered with the range.

/// A type of whole numbers.
pub(super) trait Whole: TryFrom<i128> {
    /// The largest of them.
    const MOST: u64;

    /// Reads one, or says why not.
    fn read(text: &str) -> Result<Self, String> {
        let number = to_whole(text).ok_or_else(|| format!("`{text}` is not a whole number"))?;
        Self::try_from(number).map_err(|_| match number < 0 {
            true => format!("`{text}` is below 0"),
            false => format!("`{text}` is too large: at most {}", Self::MOST),
        })
    }
}

impl Whole for u16 {
    const MOST: u64 = 65_535;
}

impl Whole for u32 {
    const MOST: u64 = 4_294_967_295;
}

impl Whole for usize {
    const MOST: u64 = Self::MAX as u64;
}

/// A number such as `8080`, `16_384`, `0x1F90`, `0o17` or `-1`.
pub(super) fn to_whole(text: &str) -> Option<i128> {
    let text = text.replace('_', "");
    let (digits, radix) = match text.get(..2) {
        Some("0x") => (text.get(2..)?, 16),
        Some("0o") => (text.get(2..)?, 8),
        Some("0b") => (text.get(2..)?, 2),
        _ => (text.as_str(), 10),
    };
    i128::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_every_way_that_toml_has() {
        for (text, number) in [
            ("8080", 8080),
            ("+7", 7),
            ("16_384", 16_384),
            ("0x1F90", 8080),
            ("0o17", 15),
            ("0b101", 5),
        ] {
            assert_eq!(u16::read(text), Ok(number), "{text}");
        }
        for (text, said) in [
            ("80800", "too large: at most 65535"),
            ("-1", "below 0"),
            ("1.5", "not a whole number"),
            ("", "not a whole number"),
            ("0x", "not a whole number"),
            (
                "99999999999999999999999999999999999999999",
                "not a whole number",
            ),
        ] {
            assert!(u16::read(text).unwrap_err().contains(said), "{text}");
        }
    }
}

//! Executables without what only a debugger reads.
//!
//! Guarantees: what is cut off is never loaded (System V ABI, "Program Header": only segments are);
//! a file that is not understood is kept as it is.

const MAGIC: &[u8] = b"\x7fELF\x02\x01";

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field: [u8; N] = bytes.get(at..at + N)?.try_into().ok()?;
    let mut wide = [0; 8];
    wide.get_mut(..N)?.copy_from_slice(&field);
    Some(u64::from_le_bytes(wide))
}

/// The end of the last segment of a 64-bit, little-endian file.
fn end_of_segments(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(MAGIC) {
        return None;
    }
    let table = usize::try_from(number::<8>(bytes, 0x20)?).ok()?;
    let size = usize::try_from(number::<2>(bytes, 0x36)?).ok()?;
    let count = usize::try_from(number::<2>(bytes, 0x38)?).ok()?;
    let mut end = table.checked_add(size.checked_mul(count)?)?;
    for index in 0..count {
        let at = table.checked_add(index.checked_mul(size)?)?;
        let offset = number::<8>(bytes, at.checked_add(0x08)?)?;
        let length = number::<8>(bytes, at.checked_add(0x20)?)?;
        end = end.max(usize::try_from(offset.checked_add(length)?).ok()?);
    }
    (end <= bytes.len()).then_some(end)
}

/// Cuts the sections off that are not loaded.
pub(super) fn without_debug_information(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = end_of_segments(&bytes) {
        bytes.truncate(end);
        // No section table any more: its place, and its entries' size, number and names.
        for field in [0x28..0x30, 0x3a..0x40] {
            if let Some(field) = bytes.get_mut(field) {
                field.fill(0);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_is_shorter_without_and_other_files_stay() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let before = own.len();
        let cut = without_debug_information(own);
        assert!(cut.len() < before, "{} of {before}", cut.len());
        // A second time there is nothing left to cut.
        assert_eq!(without_debug_information(cut.clone()), cut);
        for strange in [b"#!/bin/sh\n".as_slice(), MAGIC, b""] {
            assert_eq!(without_debug_information(strange.to_vec()), strange);
        }
    }
}

//! Columns for people.
//!
//! Guarantees: a cell of a server's cannot move the cursor, colour the terminal or turn the
//! direction of what follows.

use crate::telemetry::is_invisible;

/// How wide each column is, for lines that come one after the other.
pub(in crate::cli) struct Columns<const N: usize>([usize; N]);

/// Rows under their titles, each column as wide as its widest cell.
pub(in crate::cli) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let titles = titles.map(str::to_owned);
    let mut columns = Columns([0; N]);
    let cells = || std::iter::once(&titles).chain(rows);
    cells().for_each(|row| columns.fit(row));
    cells().map(|row| columns.line(row)).collect()
}

/// The characters of a cell that are shown.
fn visible(cell: &str) -> impl Iterator<Item = char> {
    cell.chars().filter(|c| !is_invisible(*c))
}

// === impl Columns ===

impl<const N: usize> Columns<N> {
    /// At least so wide.
    pub(in crate::cli) fn new(widths: [usize; N]) -> Self {
        Self(widths)
    }

    /// Makes room for a row.
    pub(in crate::cli) fn fit(&mut self, row: &[String; N]) {
        for (width, cell) in self.0.iter_mut().zip(row) {
            *width = visible(cell).count().max(*width);
        }
    }

    /// One row as a line.
    pub(in crate::cli) fn line(&self, row: &[String; N]) -> String {
        let cells = self.0.iter().zip(row).map(|(width, cell)| {
            let cell: String = visible(cell).collect();
            format!("{cell:<width$}  ")
        });
        let line: String = cells.collect();
        format!("{}\n", line.trim_end())
    }
}

/// Bytes for people, in powers of 1024.
pub(in crate::cli) fn bytes(number: i64) -> String {
    let (mut value, mut unit) = (number as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    match unit {
        "B" => format!("{number} B"),
        _ => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be_and_no_cell_moves_the_cursor() {
        let rows = [
            ["a".to_owned(), "Running".to_owned()],
            ["longer\u{1b}[31m\u{202e}".to_owned(), "Standby".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "STATE"], &rows),
            "NAME        STATE\na           Running\nlonger[31m  Standby\n"
        );
    }

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}

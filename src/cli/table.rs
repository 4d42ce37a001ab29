//! Columns for people.
//!
//! Guarantees: a cell of a server's cannot move the cursor or colour the terminal.

/// Rows under their titles, each column as wide as its widest cell.
pub(in crate::cli) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let titles = titles.map(str::to_owned);
    let cells = || std::iter::once(&titles).chain(rows);
    let width = |column: usize| {
        let widths = cells().filter_map(|row| row.get(column).map(|cell| cell.chars().count()));
        widths.max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in cells() {
        let cell = |(column, cell): (usize, &String)| {
            let cell: String = cell.chars().filter(|c| !c.is_control()).collect();
            let width = width(column);
            format!("{cell:<width$}  ")
        };
        let line: String = row.iter().enumerate().map(cell).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
            ["longer\u{1b}[31m".to_owned(), "Standby".to_owned()],
        ];
        assert_eq!(
            table(["NAME", "STATE"], &rows),
            "NAME         STATE\na            Running\nlonger[31m   Standby\n"
        );
    }

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }
}

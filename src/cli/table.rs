//! Aligned columns.

use std::fmt;

/// Rows of text under a header; the first column is aligned left, the others as asked.
pub struct Table {
    align: &'static [Align],
    rows: Vec<Vec<String>>,
}

/// Which side of a column is straight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

impl Table {
    /// An empty table; a column a word of `header`.
    pub fn new(header: &[&str], align: &'static [Align]) -> Table {
        let header = header.iter().map(|&h| h.to_string()).collect();
        Table { align, rows: vec![header] }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |i: usize| {
            self.rows.iter().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let gap = if i == 0 { "" } else { "  " };
                let width = widths[i];
                match self.align[i] {
                    Align::Left => line += &format!("{gap}{cell:<width$}"),
                    Align::Right => line += &format!("{gap}{cell:>width$}"),
                }
            }
            if n > 0 {
                writeln!(f)?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}

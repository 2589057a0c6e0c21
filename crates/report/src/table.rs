//! Columns of text: the first flush left, the others flush right.
//!
//! Width is counted in `char`s. That is wrong for wide and combining characters, which
//! then shift one row; names of groups and programs are ASCII almost always.

use std::fmt;

/// Rows of cells, of which the first row is the heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// How many of the leading columns are flush left.
    left: usize,
}

impl Table {
    /// A table with this heading, whose first `left` columns are flush left.
    pub(crate) fn new(left: usize, heading: &[&str]) -> Self {
        let heading = heading.iter().map(|&cell| cell.to_owned()).collect();
        Self {
            rows: vec![heading],
            left,
        }
    }

    /// Adds a row; it has as many cells as the heading.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(
            cells.len(),
            self.rows[0].len(),
            "every row has every column"
        );
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    /// The rows, each indented by two spaces, without spaces at line ends.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let lengths = self.rows.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line.push_str("  ");
                if column < self.left {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("{cell:>width$}"));
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

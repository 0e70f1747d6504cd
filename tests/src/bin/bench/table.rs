//! Results for people and for programs: tables with named columns.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::figures::{Estimate, Spread};

/// One field of a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// A value that was not, or could not be, measured.
    Nothing,
    Text(String),
    Number(f64),
    Spread(Spread),
    Estimate(Estimate),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Number(count as f64)
    }
}

impl From<Option<f64>> for Cell {
    fn from(number: Option<f64>) -> Self {
        number.map_or(Self::Nothing, Self::Number)
    }
}

impl From<Option<Spread>> for Cell {
    fn from(spread: Option<Spread>) -> Self {
        spread.map_or(Self::Nothing, Self::Spread)
    }
}

impl From<Option<Estimate>> for Cell {
    fn from(estimate: Option<Estimate>) -> Self {
        estimate.map_or(Self::Nothing, Self::Estimate)
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Nothing => "–".to_owned(),
            Self::Text(text) => text.clone(),
            Self::Number(number) => digits(*number),
            Self::Spread(Spread { median, low, high, .. }) => {
                format!("{} ({}…{})", digits(*median), digits(*low), digits(*high))
            }
            Self::Estimate(estimate) => format!("{} ± {}", digits(estimate.value), digits(estimate.within())),
        }
    }
}

/// Formats a number with its significant digits only.
fn digits(number: f64) -> String {
    let decimals = match number.abs() {
        size if size >= 100.0 || size.fract() <= 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{number:.decimals$}");
    // Negative zero is printed as zero.
    if text.trim_start_matches('-').chars().all(|digit| digit == '0' || digit == '.') {
        "0".to_owned()
    } else {
        text
    }
}

/// Rows with the same quantities for different subjects, which the first column names.
#[derive(Clone, Debug)]
pub struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new<C: Into<String>>(title: impl Into<String>, columns: impl IntoIterator<Item = C>) -> Self {
        Self { title: title.into(), columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<_> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "every column of `{}` has a cell", self.title);
        self.rows.push(cells);
    }

    /// Returns it with aligned columns.
    pub fn text(&self) -> String {
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(Cell::text).collect()).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for row in [&self.columns].into_iter().chain(&rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                // Writing to a string cannot fail.
                _ = if column == 0 {
                    write!(text, "  {cell:<width$}")
                } else {
                    write!(text, "  {cell:>width$}")
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// Returns it as an object: its title, and its rows by column name.
    pub fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| -> Map<String, Value> {
            self.columns.iter().cloned().zip(row.iter().map(|cell| json!(cell))).collect()
        };
        json!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_significant_digits_only() {
        let cases = [
            (1234.56, "1235", "thousands"),
            (44.44, "44.4", "tens"),
            (4.444, "4.44", "ones"),
            (0.004_44, "0.0044", "less"),
            (-0.000_01, "0", "nothing"),
            (64.0, "64", "a count"),
        ];
        for (number, expected, why) in cases {
            assert_eq!(digits(number), expected, "{why}");
        }
    }

    #[test]
    fn a_table_is_in_line_and_its_json_has_names() {
        let mut table = Table::new("title", ["who", "ns"]);
        table.row(["a".into(), 12.5.into()]);
        table.row(["longer".into(), Spread::of(&[1.0, 2.0, 3.0]).into()]);
        assert_eq!(table.text(), "title\n  who          ns\n  a          12.5\n  longer  2 (1…3)\n");
        let expected = json!({ "title": "title", "rows": [
            { "who": "a", "ns": 12.5 },
            { "who": "longer", "ns": { "median": 2.0, "low": 1.0, "high": 3.0, "n": 3 } },
        ] });
        assert_eq!(table.json(), expected);
    }
}

//! What a suite found: rows, as a table for people or as JSON for programs.

use serde::Serialize;

/// One comparison, or one figure without a peer.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Which suite it belongs to.
    pub suite: &'static str,
    /// What was done.
    pub case: String,
    /// Who did it.
    pub subject: String,
    /// What the values count.
    pub unit: &'static str,
    /// The subject's median; none if it could not be measured.
    pub value: Option<f64>,
    /// Who did the same, or why nobody could.
    pub peer: Option<String>,
    /// The peer's median.
    pub peer_value: Option<f64>,
    /// Subject by peer.
    pub ratio: Option<f64>,
    /// The ratio must not be greater; where there is no peer, the value.
    pub target: Option<f64>,
    /// Whether it is not.
    pub met: Option<bool>,
}

impl Row {
    /// A figure to know, without a peer.
    #[must_use]
    pub fn figure(
        suite: &'static str,
        case: &str,
        subject: &str,
        unit: &'static str,
        value: f64,
    ) -> Self {
        Self {
            suite,
            case: case.to_owned(),
            subject: subject.to_owned(),
            unit,
            value: Some(value),
            peer: None,
            peer_value: None,
            ratio: None,
            target: None,
            met: None,
        }
    }

    /// The same beside a peer's figure.
    #[must_use]
    pub fn against(mut self, peer: &str, peer_value: f64) -> Self {
        self.peer = Some(peer.to_owned());
        self.peer_value = Some(peer_value);
        self.ratio = self
            .value
            .filter(|_| peer_value > 0.0)
            .map(|v| v / peer_value);
        self
    }

    /// The same with what its ratio should not exceed, or without a peer its value.
    #[must_use]
    pub fn target(mut self, target: Option<f64>) -> Self {
        let reached = match self.peer {
            Some(_) => self.ratio,
            None => self.value,
        };
        self.target = target;
        self.met = reached
            .zip(target)
            .map(|(reached, target)| reached <= target);
        self
    }
}

/// The rows as a JSON array.
///
/// # Panics
///
/// Never: rows are strings and numbers.
#[must_use]
pub fn json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).expect("strings and numbers have a JSON form")
}

const HEAD: [&str; 9] = [
    "case",
    "subject",
    "value",
    "unit",
    "peer",
    "peer value",
    "ratio",
    "target",
    "met",
];

/// The rows as a table that is also Markdown.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let mut cells = vec![HEAD.map(str::to_owned)];
    cells.push(HEAD.map(|_| "-".to_owned()));
    cells.extend(rows.iter().map(cells_of));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            cells
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in cells {
        for (cell, width) in row.iter().zip(&widths) {
            let fill = if cell == "-" { "-" } else { " " };
            let missing = width - cell.chars().count();
            text.push_str("| ");
            text.push_str(cell);
            text.push_str(&fill.repeat(missing));
            text.push(' ');
        }
        text.push_str("|\n");
    }
    text
}

fn cells_of(row: &Row) -> [String; 9] {
    let number = |value: Option<f64>| value.map_or_else(String::new, figure);
    let ratio = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.3}"));
    let met = match row.met {
        Some(true) => "yes",
        Some(false) => "no",
        None => "",
    };
    [
        row.case.clone(),
        row.subject.clone(),
        number(row.value),
        row.unit.to_owned(),
        row.peer.clone().unwrap_or_default(),
        number(row.peer_value),
        ratio(row.ratio),
        ratio(row.target),
        met.to_owned(),
    ]
}

/// Four significant digits, whole numbers beyond that.
fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 100.0 => format!("{value:.1}"),
        v if v >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_knows_whether_it_met_its_target() {
        let row = || Row::figure("arena", "read", "ours", "ns", 2.0);
        assert_eq!(
            row().against("theirs", 4.0).target(Some(0.5)).met,
            Some(true)
        );
        assert_eq!(
            row().against("theirs", 3.0).target(Some(0.5)).met,
            Some(false)
        );
        assert_eq!(row().against("theirs", 3.0).target(None).met, None);
        assert_eq!(row().target(Some(2.0)).met, Some(true));
        assert_eq!(row().target(Some(1.9)).met, Some(false));
        let without_ratio = row().against("theirs", 0.0).target(Some(0.5));
        assert_eq!((without_ratio.ratio, without_ratio.met), (None, None));
    }

    #[test]
    fn both_forms_hold_every_row() {
        let rows = [
            Row::figure("arena", "read", "ours", "ns", 1234.5),
            Row::figure("arena", "write", "ours", "ns", 2.0)
                .against("theirs", 4.0)
                .target(Some(1.0)),
        ];
        let table = text(&rows);
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(
            table
                .lines()
                .nth(3)
                .is_some_and(|line| line.contains("yes"))
        );
        let parsed: serde_json::Value = serde_json::from_str(&json(&rows)).unwrap();
        assert_eq!(parsed[0]["met"], serde_json::Value::Null);
        assert_eq!(parsed[1]["ratio"], 0.5);
    }
}

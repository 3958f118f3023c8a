//! Results: a table for people, one JSON object for programs, and what went wrong.

use hdrhistogram::Histogram;
use serde_json::{Map, Number, Value};
use std::fmt::Write;

/// Longest latency told apart, in nanoseconds; longer ones count as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What a command found out.
#[derive(Debug, Default)]
pub(crate) struct Report {
    title: String,
    rows: Vec<Row>,
    notes: Vec<String>,
    failures: Vec<String>,
}

#[derive(Debug)]
struct Row {
    key: String,
    label: String,
    value: f64,
    unit: &'static str,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a figure. `key` names it in JSON and ends with its unit; `label` and `unit` name it in
    /// the table.
    pub(crate) fn row(
        &mut self,
        key: impl Into<String>,
        label: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.rows.push(Row {
            key: key.into(),
            label: label.into(),
            value,
            unit,
        });
    }

    /// Adds a whole number.
    pub(crate) fn count(&mut self, key: impl Into<String>, label: impl Into<String>, value: u64) {
        self.row(key, label, approximate(value), "");
    }

    /// Adds p50, p90, p99, p99.9 and the maximum of a histogram of nanoseconds, shown in
    /// microseconds.
    pub(crate) fn latencies(&mut self, key: &str, label: &str, histogram: &Histogram<u64>) {
        if histogram.is_empty() {
            return;
        }
        for (suffix, name, quantile) in [
            ("p50", "p50", 0.5),
            ("p90", "p90", 0.9),
            ("p99", "p99", 0.99),
            ("p999", "p99.9", 0.999),
            ("max", "max", 1.0),
        ] {
            let value = approximate(histogram.value_at_quantile(quantile)) / 1000.0;
            self.row(
                format!("{key}_{suffix}_us"),
                format!("{label} {name}"),
                value,
                "µs",
            );
        }
    }

    /// Adds something the reader must know to understand the figures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds something that makes the run a failure.
    pub(crate) fn failure(&mut self, text: impl Into<String>) {
        self.failures.push(text.into());
    }

    /// Adds a counted failure unless there were none; the count is shown in any case.
    pub(crate) fn failure_count(&mut self, key: &str, label: &str, count: u64) {
        self.count(key, label, count);
        if count > 0 {
            self.failure(format!("{label}: {count}"));
        }
    }

    /// Whether everything arrived as it should.
    pub(crate) fn is_clean(&self) -> bool {
        self.failures.is_empty()
    }

    /// The table.
    pub(crate) fn to_table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| row.label.chars().count())
            .max()
            .unwrap_or(0);
        let mut text = format!("{}\n", self.title);
        for row in &self.rows {
            let _ = writeln!(
                text,
                "  {:width$}  {:>14} {}",
                row.label,
                digits(row.value),
                row.unit
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note: {note}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "  FAILED: {failure}");
        }
        text
    }

    /// The JSON object, on one line: every row by its key, and the lists `notes` and `failures`.
    pub(crate) fn to_json(&self) -> String {
        let mut object = Map::new();
        object.insert("title".to_owned(), self.title.clone().into());
        for row in &self.rows {
            object.insert(row.key.clone(), number(row.value));
        }
        object.insert("notes".to_owned(), self.notes.clone().into());
        object.insert("failures".to_owned(), self.failures.clone().into());
        Value::Object(object).to_string()
    }
}

/// A histogram for latencies in nanoseconds: 3 digits, from 1 µs on.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, LATENCY_NS_MAX, 3)
        .expect("the bounds are constants that hdrhistogram accepts")
}

/// `part` of `whole`, both in the same unit; 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        approximate(part) / approximate(whole)
    }
}

/// A count as a floating-point number; above 2^53 it loses its last digits.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
pub(crate) fn approximate(value: u64) -> f64 {
    value as f64
}

fn number(value: f64) -> Value {
    let rounded = (value * 1000.0).round() / 1000.0;
    Number::from_f64(rounded).map_or(Value::Null, Value::Number)
}

fn digits(value: f64) -> String {
    let magnitude = value.abs();
    let places = match magnitude {
        _ if magnitude == magnitude.trunc() => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let plain = format!("{value:.places$}");
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left % 3 == 0 && digit != '-' && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() {
        grouped
    } else {
        format!("{grouped}.{fraction}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_the_digits_that_matter() {
        for (value, shown) in [
            (0.0, "0"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1234.5, "1,234"),
            (1e6, "1,000,000"),
            (-123.0, "-123"),
        ] {
            assert_eq!(digits(value), shown);
        }
    }

    #[test]
    fn json_holds_every_row_and_failure() {
        let mut report = Report::new("t");
        report.row("cost_ns", "cost", 1.5, "ns");
        report.failure_count("lost_total", "lost", 0);
        assert!(report.is_clean());
        report.failure_count("broken_total", "broken", 3);
        assert!(!report.is_clean());
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["cost_ns"], 1.5);
        assert_eq!(json["lost_total"], 0.0);
        assert_eq!(json["failures"][0], "broken: 3");
        assert!(report.to_table().contains("FAILED: broken: 3"));
    }

    #[test]
    fn latencies_are_reported_in_microseconds() {
        let mut histogram = latency_histogram();
        histogram.saturating_record(2_000_000);
        let mut report = Report::new("t");
        report.latencies("rtt", "round trip", &histogram);
        let json: Value = serde_json::from_str(&report.to_json()).unwrap();
        assert!((json["rtt_p50_us"].as_f64().unwrap() - 2000.0).abs() < 3.0);
        assert!(json["rtt_p999_us"].is_number());
    }
}

//! Writes metrics in the text format 0.0.4 of Prometheus, or in OpenMetrics 1.0.

use crate::base::metric::{Distribution, MetricKind, MetricValue};
use std::fmt::{self, Write};

/// The form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// The Prometheus text format 0.0.4. It names the family of a counter like its samples, with
    /// `_total`, and has no end marker; otherwise the two are the same here.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

/// The text so far.
#[derive(Debug)]
pub(super) struct Exposition {
    format: Format,
    text: String,
    /// The family of the samples that follow.
    name: &'static str,
    kind: MetricKind,
}

/// What the name of a metric ends with where samples are shown.
pub(super) const fn suffix(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "_total",
        MetricKind::Gauge | MetricKind::Histogram => "",
    }
}

impl Exposition {
    pub(super) fn new(format: Format) -> Self {
        Self {
            format,
            text: String::with_capacity(64 * 1024),
            name: "",
            kind: MetricKind::Gauge,
        }
    }

    /// Begins a family; `name` is without `_total` for counters.
    pub(super) fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricKind,
    ) -> fmt::Result {
        (self.name, self.kind) = (name, kind);
        let suffix = match self.format {
            Format::Prometheus => suffix(kind),
            Format::OpenMetrics => "",
        };
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        // OpenMetrics 1.0: double quotes are escaped in help, too; no help here has one.
        writeln!(self.text, "# HELP {name}{suffix} {help}")?;
        writeln!(self.text, "# TYPE {name}{suffix} {kind}")
    }

    /// A series of the family, with names and values of its labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: &MetricValue) -> fmt::Result {
        match value {
            MetricValue::Whole(value) => {
                self.begin(suffix(self.kind), labels, None)?;
                writeln!(self.text, " {value}")
            }
            MetricValue::Real(value) => {
                self.begin(suffix(self.kind), labels, None)?;
                writeln!(self.text, " {value}")
            }
            MetricValue::Distribution(distribution) => self.histogram(labels, distribution),
        }
    }

    fn histogram(&mut self, labels: &[(&str, &str)], distribution: &Distribution) -> fmt::Result {
        let mut count = 0;
        let bounds = distribution.bounds.iter().map(Some).chain([None]);
        for (bound, more) in bounds.zip(&distribution.counts) {
            count += more;
            let bound = match bound {
                Some(bound) => real(*bound, distribution.per_unit, true),
                None => "+Inf".to_owned(),
            };
            self.begin("_bucket", labels, Some(("le", &bound)))?;
            writeln!(self.text, " {count}")?;
        }
        self.begin("_sum", labels, None)?;
        let sum = real(distribution.sum, distribution.per_unit, false);
        writeln!(self.text, " {sum}")?;
        self.begin("_count", labels, None)?;
        writeln!(self.text, " {count}")
    }

    fn begin(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        last: Option<(&str, &str)>,
    ) -> fmt::Result {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(last);
        let mut separator = '{';
        for (name, value) in labels {
            write!(self.text, "{separator}{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// A recorded value in the exported unit. A bound always has a decimal point: OpenMetrics 1.0 asks for
/// one form of each.
fn real(value: u64, per_unit: u32, is_bound: bool) -> String {
    let (whole, rest) = (value / u64::from(per_unit), value % u64::from(per_unit));
    if rest == 0 {
        return if is_bound {
            format!("{whole}.0")
        } else {
            whole.to_string()
        };
    }
    // Units are powers of ten.
    let digits = per_unit.ilog10() as usize;
    let text = format!("{whole}.{rest:0digits$}");
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metric::{BatchSize, Histogram, Ranges, ShortTime};

    #[test]
    fn both_formats_have_their_form_of_a_counter() {
        for (format, family, end) in [
            (Format::Prometheus, "a_b_total", ""),
            (Format::OpenMetrics, "a_b", "# EOF\n"),
        ] {
            let mut text = Exposition::new(format);
            text.family("a_b", "Help", MetricKind::Counter).unwrap();
            text.sample(&[], &MetricValue::Whole(1)).unwrap();
            let labels = [("x", "a\\b\"c\nd"), ("y", "")];
            text.sample(&labels, &MetricValue::Real(2.5)).unwrap();
            let expected = format!(
                "# HELP {family} Help\n# TYPE {family} counter\na_b_total 1\n\
                 a_b_total{{x=\"a\\\\b\\\"c\\nd\",y=\"\"}} 2.5\n{end}"
            );
            assert_eq!(text.finish(), expected);
        }
    }

    #[test]
    fn ranges_of_a_histogram_are_cumulative_and_end_with_infinity() {
        let histogram = Histogram::<BatchSize>::default();
        [1, 3, 1_000]
            .iter()
            .for_each(|value| histogram.record(*value));
        let mut text = Exposition::new(Format::Prometheus);
        text.family("h", "Help", MetricKind::Histogram).unwrap();
        let value = MetricValue::Distribution(histogram.distribution());
        text.sample(&[("x", "y")], &value).unwrap();
        let text = text.finish();
        let expected = "# HELP h Help\n# TYPE h histogram\nh_bucket{x=\"y\",le=\"1.0\"} 1\n\
            h_bucket{x=\"y\",le=\"2.0\"} 1\nh_bucket{x=\"y\",le=\"4.0\"} 2\n";
        assert!(text.starts_with(expected), "{text}");
        let end = "h_bucket{x=\"y\",le=\"+Inf\"} 3\nh_sum{x=\"y\"} 1004\nh_count{x=\"y\"} 3\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn times_are_exported_in_seconds() {
        let seconds = |nanos| real(nanos, ShortTime::PER_UNIT, true);
        for (nanos, expected) in [
            (1_000, "0.000001"),
            (250_000_000, "0.25"),
            (1_000_000_000, "1.0"),
            (1_500_000_001, "1.500000001"),
        ] {
            assert_eq!(seconds(nanos), expected);
        }
    }
}

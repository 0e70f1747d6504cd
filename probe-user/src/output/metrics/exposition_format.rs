//! The two text formats, and their negotiation.

use std::fmt;

/// A text exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
    /// `text/plain; version=0.0.4`
    Prometheus,
}

impl Format {
    /// Returns the format that an `Accept` header requests; without a preference, Prometheus' own.
    pub fn accepted(header: Option<&str>) -> Self {
        let quality = |wanted: &str| {
            let ranges = header.unwrap_or_default().split(',').map(|range| range.split(';').map(str::trim));
            let matching = ranges.filter_map(|mut parts| {
                (parts.next()? == wanted).then(|| {
                    parts.find_map(|parameter| parameter.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0_f32)
                })
            });
            matching.fold(0.0, f32::max)
        };
        let open_metrics = quality("application/openmetrics-text");
        if open_metrics > 0.0 && open_metrics >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts an `OpenMetrics` exposition to Prometheus' older text format while it is written, so that only
/// one text exists.
///
/// In that format a counter family has the name of its samples, an info is a gauge, and units and the end
/// marker are omitted.
pub struct ToPrometheus<'a> {
    out: &'a mut String,
    /// Offset of the first line that has not been converted.
    line: usize,
    /// Name and help of a family whose type follows in the next line.
    family: Option<(String, String)>,
}

impl<'a> ToPrometheus<'a> {
    pub fn new(out: &'a mut String) -> Self {
        Self { line: out.len(), out, family: None }
    }

    /// Converts the lines that are complete.
    fn end_lines(&mut self) {
        let written = &self.out[self.line..];
        let is_one_line = written.find('\n') == Some(written.len() - 1);
        // Samples, nearly all lines, remain unchanged.
        if written.starts_with('#') || !is_one_line {
            for line in self.out.split_off(self.line).split_inclusive('\n') {
                match line.strip_prefix("# ") {
                    Some(comment) => self.take(comment.trim_end_matches('\n')),
                    None => self.out.push_str(line),
                }
            }
        }
        self.line = self.out.len();
    }

    fn take(&mut self, comment: &str) {
        if let Some(help) = comment.strip_prefix("HELP ") {
            let (name, text) = help.split_once(' ').unwrap_or((help, ""));
            self.family = Some((name.to_owned(), text.to_owned()));
        } else if let Some(kind) = comment.strip_prefix("TYPE ") {
            self.begin(kind.rsplit(' ').next().unwrap_or("unknown"));
        }
    }

    fn begin(&mut self, kind: &str) {
        let Some((name, help)) = self.family.take() else { return };
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            other => ("", other),
        };
        let parts = ["# HELP ", &name, suffix, " ", &help, "\n# TYPE ", &name, suffix, " ", kind, "\n"];
        self.out.extend(parts);
    }
}

impl fmt::Write for ToPrometheus<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.out.push_str(text);
        // Most writes are a part of a line.
        if text.as_bytes().last() == Some(&b'\n') {
            self.end_lines();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_result_does_not_depend_on_the_size_of_writes() {
        let text = "# HELP a_bytes What.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total{x=\"#\"} 1\n# HELP b \
                    Who.\n# TYPE b info\nb_info{y=\"z\"} 1\nb_info 1\n# EOF\n";
        let expected = "# HELP a_bytes_total What.\n# TYPE a_bytes_total counter\na_bytes_total{x=\"#\"} 1\n\
                        # HELP b_info Who.\n# TYPE b_info gauge\nb_info{y=\"z\"} 1\nb_info 1\n";
        for length in 1..=text.len() {
            let mut out = "before\n".to_owned();
            let mut to = ToPrometheus::new(&mut out);
            for piece in text.as_bytes().chunks(length) {
                to.write_str(std::str::from_utf8(piece).expect("ASCII")).expect("strings take any text");
            }
            assert_eq!(out, format!("before\n{expected}"), "in pieces of {length}");
        }
    }

    #[test]
    fn clients_get_the_format_that_they_request() {
        let cases = [
            (None, Format::Prometheus, "no preference"),
            (Some("*/*"), Format::Prometheus, "curl"),
            (Some("application/openmetrics-text"), Format::OpenMetrics, "no version"),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
                ),
                Format::OpenMetrics,
                "Prometheus 2",
            ),
            (
                Some("text/plain;q=0.9, application/openmetrics-text;q=0.2"),
                Format::Prometheus,
                "text preferred",
            ),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus, "refused"),
            (Some("application/openmetrics-text-not"), Format::Prometheus, "another type"),
        ];
        for (header, expected, why) in cases {
            assert_eq!(Format::accepted(header), expected, "{why}");
        }
    }
}

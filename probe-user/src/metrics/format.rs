//! The two text formats, and which of them a client asks for.

/// A text exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text; version=1.0.0`
    OpenMetrics,
    /// `text/plain; version=0.0.4`
    Prometheus,
}

impl Format {
    /// Returns the format that an `Accept` header asks for; Prometheus' own for whoever asks for nothing.
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

/// Turns an `OpenMetrics` exposition into Prometheus' older text format.
///
/// There, a family of counters has the name of its samples, an info is a gauge, and units and the end are not told.
pub fn to_prometheus(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(help) = line.strip_prefix("# HELP ") else {
            if !line.starts_with("# UNIT ") && line != "# EOF" {
                out.push_str(line);
                out.push('\n');
            }
            continue;
        };
        let (name, text) = help.split_once(' ').unwrap_or((help, ""));
        let kind = lines.next_if(|line| line.starts_with("# TYPE ")).and_then(|line| line.rsplit(' ').next());
        let (suffix, kind) = match kind.unwrap_or("unknown") {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            other => ("", other),
        };
        for part in ["# HELP ", name, suffix, " ", text, "\n# TYPE ", name, suffix, " ", kind, "\n"] {
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_what_they_ask_for() {
        let cases = [
            (None, Format::Prometheus, "nothing asked"),
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

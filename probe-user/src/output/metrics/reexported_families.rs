//! Writes the re-exported metrics of etcd after the probe's own, under etcd's names, with the label `member`.
//!
//! Samples are identical in both formats, including `le`: a series must not change its name with the format.
//! [`Naming`] implements the rules of `OpenMetrics`.

use std::{collections::BTreeSet, sync::Arc};

use super::Format;
use crate::analysis::{
    exposition::FamilyType,
    reexport::{MergedFamily, ReexportedMetrics, merge},
};

/// The end marker of an exposition in `OpenMetrics`.
const END: &str = "# EOF\n";

/// Appends the families of all members to an exposition, before its end.
pub fn append(out: &mut String, members: &[(String, Arc<ReexportedMetrics>)], format: Format) {
    let families = merge(members.iter().map(|(name, copy)| (name.as_str(), &**copy)));
    let naming = Naming::of(&families);
    if format == Format::OpenMetrics && out.ends_with(END) {
        out.truncate(out.len() - END.len());
    }
    for family in &families {
        let (name, kind) = match format {
            Format::OpenMetrics => naming.open_metrics(family),
            Format::Prometheus => (family.name, prometheus(family.kind)),
        };
        if let Some(help) = family.help {
            out.extend(["# HELP ", name, " "]);
            match format {
                // In this format a quote is also escaped in help.
                Format::OpenMetrics => out.push_str(&help.replace('"', "\\\"")),
                Format::Prometheus => out.push_str(help),
            }
            out.push('\n');
        }
        out.extend(["# TYPE ", name, " ", kind, "\n"]);
        for (member, samples) in &family.samples {
            label(out, samples, &format!("member=\"{}\"", escape(member)));
        }
    }
    if format == Format::OpenMetrics {
        out.push_str(END);
    }
}

/// Writes sample lines with one additional label before the others.
fn label(out: &mut String, samples: &str, label: &str) {
    for line in samples.split_inclusive('\n') {
        // A name contains neither character.
        let Some(end) = line.find(['{', ' ']) else { continue };
        let (name, rest) = line.split_at(end);
        match rest.strip_prefix('{') {
            Some(labels) => out.extend([name, "{", label, ",", labels]),
            None => out.extend([name, "{", label, "}", rest]),
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

const fn prometheus(kind: FamilyType) -> &'static str {
    match kind {
        FamilyType::Counter => "counter",
        FamilyType::Gauge => "gauge",
        FamilyType::Histogram => "histogram",
        FamilyType::Summary => "summary",
        FamilyType::Untyped => "untyped",
    }
}

/// The names of families according to `OpenMetrics` 1.0.
///
/// The name of a counter family lacks the `_total` of its samples. A counter whose samples also lack it
/// cannot be declared as one. The same holds for a counter whose family would then have the name of another
/// family (Go's `go_memstats_alloc_bytes`). Both are declared `unknown` under the name of their samples,
/// which Prometheus stores unchanged. A gauge may end in `_total`; three of the default list do.
struct Naming {
    /// Names of families, and of the series of histograms and summaries.
    names: BTreeSet<String>,
}

impl Naming {
    fn of(families: &[MergedFamily<'_>]) -> Self {
        let names = families.iter().flat_map(|family| {
            let parts = ["", "_sum", "_count", "_bucket"].into_iter();
            let is_own = |part: &&str| part.is_empty() || family.kind.suffixes().contains(part);
            parts.filter(is_own).map(|part| format!("{}{part}", family.name))
        });
        Self { names: names.collect() }
    }

    fn open_metrics<'a>(&self, family: &MergedFamily<'a>) -> (&'a str, &'static str) {
        match family.kind {
            FamilyType::Counter => match family.name.strip_suffix("_total") {
                Some(name) if !name.is_empty() && !self.names.contains(name) => (name, "counter"),
                _ => (family.name, "unknown"),
            },
            FamilyType::Untyped => (family.name, "unknown"),
            kind => (family.name, prometheus(kind)),
        }
    }
}

#[cfg(test)]
mod tests;

//! Writes what etcds say of themselves below the probe's own metrics, under etcd's names, with the label `member`.
//!
//! Samples are the same in both formats, down to `le`: a series must not change its name with the format. `OpenMetrics` has the
//! rules that [`Naming`] keeps.

use std::{collections::BTreeSet, sync::Arc};

use super::Format;
use crate::analysis::{
    exposition::Kind,
    reexport::{Merged, ReexportedMetrics, merge},
};

/// What ends an exposition in `OpenMetrics`.
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
                // There a quote is escaped in help, too.
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

/// Writes sample lines with one label more, in front of the others.
fn label(out: &mut String, samples: &str, label: &str) {
    for line in samples.split_inclusive('\n') {
        // A name has neither.
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

const fn prometheus(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
        Kind::Untyped => "untyped",
    }
}

/// How `OpenMetrics` 1.0 wants families called.
///
/// A counter's family lacks the `_total` that its samples have. A counter whose samples lack it, too, cannot be told as one, nor
/// can one whose family would then have the name of another (Go's `go_memstats_alloc_bytes`): both are `unknown`, under the name of
/// their samples, which Prometheus stores the same. A gauge may end in `_total`; three of the default list do.
struct Naming {
    /// Of families, and of the parts of histograms and summaries.
    names: BTreeSet<String>,
}

impl Naming {
    fn of(families: &[Merged<'_>]) -> Self {
        let names = families.iter().flat_map(|family| {
            let parts = ["", "_sum", "_count", "_bucket"].into_iter();
            let is_own = |part: &&str| part.is_empty() || family.kind.suffixes().contains(part);
            parts.filter(is_own).map(|part| format!("{}{part}", family.name))
        });
        Self { names: names.collect() }
    }

    fn open_metrics<'a>(&self, family: &Merged<'a>) -> (&'a str, &'static str) {
        match family.kind {
            Kind::Counter => match family.name.strip_suffix("_total") {
                Some(name) if !name.is_empty() && !self.names.contains(name) => (name, "counter"),
                _ => (family.name, "unknown"),
            },
            Kind::Untyped => (family.name, "unknown"),
            kind => (family.name, prometheus(kind)),
        }
    }
}

#[cfg(test)]
mod tests;

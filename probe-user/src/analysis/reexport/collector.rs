//! Gathers the allowed families out of one body, line by line, within bounds.

use std::collections::{BTreeMap, HashSet};

use super::{Family, MAX_BYTES, MAX_SAMPLES, Names, OmittedSamples, ReexportedMetrics};
use crate::analysis::{
    exposition::{Kind, Line, Sample, is_name_byte, number},
    reexport::AllowList,
};

/// As many families are gathered of one etcd; one of 3.5 has 190.
const MAX_FAMILIES: usize = 1_000;

/// What has been gathered so far.
#[derive(Debug)]
pub struct Collector<'a> {
    allowed: &'a AllowList,
    names: Names<'a>,
    families: BTreeMap<&'a str, Gathered<'a>>,
    /// The last name that is of no allowed family: samples of one family follow each other.
    refused: &'a str,
    samples: usize,
    bytes: usize,
    omitted: OmittedSamples,
}

#[derive(Debug, Default)]
struct Gathered<'a> {
    kind: Option<Kind>,
    help: Option<&'a str>,
    text: String,
    /// Names with labels in order, to tell duplicates.
    series: HashSet<String>,
    /// Too large, or contradictory: all its samples are left out.
    closed: Option<Closed>,
}

#[derive(Clone, Copy, Debug)]
enum Closed {
    TooLarge,
    Conflicting,
}

impl<'a> Collector<'a> {
    pub fn new(allowed: &'a AllowList) -> Self {
        Self {
            allowed,
            names: Names::default(),
            families: BTreeMap::new(),
            refused: "",
            samples: 0,
            bytes: 0,
            omitted: OmittedSamples::default(),
        }
    }

    /// Returns whether a line is, by how it begins, of the name that was refused last.
    pub fn refuses(&self, line: &str) -> bool {
        let rest = line.strip_prefix(self.refused).filter(|_| !self.refused.is_empty());
        rest.is_some_and(|rest| !rest.bytes().next().is_some_and(is_name_byte))
    }

    /// Returns whether lines of this name are to be read for [`Collector::take`].
    ///
    /// One of a family that is left out as a whole is counted here, unread: there may be millions.
    pub fn wants(&mut self, name: &'a str, is_comment: bool) -> bool {
        if name == self.refused || self.allowed.is_empty() {
            return false;
        }
        let family = if is_comment { name } else { self.family_of(name) };
        if let Some(gathered) = self.families.get(family) {
            match gathered.closed {
                Some(_) if is_comment => return false,
                Some(Closed::TooLarge) => self.omitted.beyond_limit += 1,
                Some(Closed::Conflicting) => self.omitted.conflicting += 1,
                None => return true,
            }
            return false;
        }
        if !self.allowed.allows(family) {
            self.refused = name;
            return false;
        }
        let fits = self.families.len() < MAX_FAMILIES;
        self.omitted.beyond_limit += u64::from(!fits && !is_comment);
        fits
    }

    /// Notes a line that was wanted, or that begins with no name, and cannot be read.
    pub fn malformed(&mut self) {
        self.omitted.malformed += u64::from(!self.allowed.is_empty());
    }

    /// Takes in a line that is wanted.
    pub fn take(&mut self, line: &Line<'a>) {
        match line {
            Line::Type { family, kind } => self.declare(family, *kind),
            Line::Help { family, text } => {
                let gathered = self.families.entry(family).or_default();
                // Format: one help for each family, before its first sample.
                if gathered.help.is_some() || !gathered.text.is_empty() {
                    self.omitted.malformed += 1;
                } else if self.bytes + text.len() > MAX_BYTES {
                    self.omitted.beyond_limit += 1;
                } else {
                    self.bytes += text.len();
                    gathered.help = Some(text);
                }
            }
            Line::Sample(sample) => self.add(sample),
            Line::Nothing => {}
        }
    }

    /// Returns what is passed on.
    pub fn finish(self) -> ReexportedMetrics {
        let families = self.families.iter().filter(|(_, gathered)| !gathered.text.is_empty());
        let families = families.map(|(name, gathered)| Family {
            name,
            kind: gathered.kind.unwrap_or(Kind::Untyped),
            help: gathered.help,
            samples: &gathered.text,
        });
        ReexportedMetrics::pack(families, self.omitted)
    }

    /// Returns the family that a sample belongs to by its name: its own, unless a histogram's or summary's is known.
    fn family_of(&self, name: &'a str) -> &'a str {
        if self.families.contains_key(name) {
            return name;
        }
        let whole = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
            let whole = name.strip_suffix(suffix)?;
            let kind = self.families.get(whole)?.kind?;
            kind.suffixes().contains(&suffix).then_some(whole)
        });
        whole.unwrap_or(name)
    }

    fn declare(&mut self, family: &'a str, kind: Kind) {
        self.refused = ""; // What was no family's may be part of this one.
        let gathered = self.families.entry(family).or_default();
        // Format: one type for each family, before its first sample.
        if gathered.kind.is_some() {
            self.omitted.malformed += 1;
        } else if self.names.admit(family, kind) {
            gathered.kind = Some(kind);
        } else {
            gathered.kind = Some(kind);
            gathered.closed = Some(Closed::Conflicting);
        }
    }

    fn add(&mut self, sample: &Sample<'a>) {
        let name = self.family_of(sample.name);
        let gathered = self.families.entry(name).or_default();
        if gathered.kind.is_none() {
            gathered.kind = Some(Kind::Untyped);
            if !self.names.admit(name, Kind::Untyped) {
                gathered.closed = Some(Closed::Conflicting);
                self.omitted.conflicting += 1;
                return;
            }
        }
        let kind = gathered.kind.unwrap_or(Kind::Untyped);
        if !is_possible(sample, name, kind) {
            self.omitted.malformed += 1;
            return;
        }
        if !gathered.series.insert(identity(sample)) {
            self.omitted.duplicate += 1;
            return;
        }
        let before = gathered.text.len();
        render(sample, &mut gathered.text);
        let first = if before == 0 { name.len() } else { 0 };
        let added = first + gathered.text.len() - before;
        if self.samples == MAX_SAMPLES || self.bytes + added > MAX_BYTES {
            // Half a family would be a wrong sum, so all of it is left out, and others have its room.
            let lost = gathered.text[..before].lines().count();
            let help = gathered.help.map_or(0, str::len);
            self.samples -= lost;
            self.bytes -= before + help + if lost > 0 { name.len() } else { 0 };
            self.omitted.beyond_limit += lost as u64 + 1;
            let closed = Some(Closed::TooLarge);
            *gathered = Gathered { kind: Some(kind), closed, ..Gathered::default() };
            return;
        }
        self.samples += 1;
        self.bytes += added;
    }
}

/// Returns whether a family of this type can have such a sample.
fn is_possible(sample: &Sample<'_>, family: &str, kind: Kind) -> bool {
    let bound = |label| sample.label(label).and_then(number).is_some();
    let is_count = sample.number >= 0.0; // Which NaN is not.
    match (kind, sample.name.strip_prefix(family).unwrap_or_default()) {
        (Kind::Counter, _) | (Kind::Histogram | Kind::Summary, "_count") => is_count,
        (Kind::Histogram, "_bucket") => is_count && bound("le"),
        (Kind::Histogram | Kind::Summary, suffix) => {
            suffix == "_sum" || kind == Kind::Summary && bound("quantile")
        }
        (Kind::Gauge | Kind::Untyped, _) => true,
    }
}

/// Returns what tells a series from others: the order of labels does not, nor do labels without a value.
fn identity(sample: &Sample<'_>) -> String {
    let mut labels: Vec<_> = sample.labels.iter().filter(|(_, value)| !value.is_empty()).collect();
    labels.sort_unstable();
    let length: usize = labels.iter().map(|(name, value)| name.len() + value.len() + ",=''".len()).sum();
    let mut identity = String::with_capacity(sample.name.len() + length);
    identity.push_str(sample.name);
    for (name, value) in labels {
        identity.extend([",", name, "=\"", value, "\""]);
    }
    identity
}

/// Writes a sample as it was; a label `member` of its own makes room for the probe's, as Prometheus does for its labels.
fn render(sample: &Sample<'_>, line: &mut String) {
    line.push_str(sample.name);
    let mut before = "{";
    for (name, value) in &sample.labels {
        line.push_str(before);
        if *name == "member" {
            let mut renamed = "exported_member".to_owned();
            while sample.label(&renamed).is_some() {
                renamed.insert_str(0, "exported_");
            }
            line.push_str(renamed.trim_end_matches("member"));
        }
        line.extend([name, "=\"", value, "\""]);
        before = ",";
    }
    line.push_str(if before == "," { "} " } else { " " });
    line.push_str(sample.value);
    line.push('\n');
}

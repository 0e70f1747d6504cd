//! The diagnosis as text: a heading for each group, a line for each finding, and the advice at the end of its
//! line.

use std::fmt::Write;

use super::{Diagnosis, DoctorFinding, Severity};

/// The maximum length of a detail: a failed self-test lists every event that did not arrive.
const DETAIL_MAX: usize = 320;

/// Renders a diagnosis for a terminal.
pub fn render(diagnosis: &Diagnosis) -> String {
    let acute = diagnosis.findings.iter().filter(|finding| finding.state >= Severity::Warning).count();
    let summary = match acute {
        0 => "nothing to do".to_owned(),
        1 => "one line needs action".to_owned(),
        lines => format!("{lines} lines need action"),
    };
    let mut out = match diagnosis.hook {
        Some(hook) if diagnosis.fit => format!("FIT  with the {hook} hook, {summary}\n"),
        Some(_) => "UNFIT  privileges cannot be dropped\n".to_owned(),
        None => "UNFIT  no hook can be used\n".to_owned(),
    };
    let width = diagnosis.findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let mut group = "";
    for finding in &diagnosis.findings {
        if finding.group != group {
            group = &finding.group;
            // Writing to a `String` cannot fail.
            let _ = writeln!(out, "\n{group}");
        }
        line(&mut out, finding, width);
    }
    out
}

fn line(out: &mut String, finding: &DoctorFinding, width: usize) {
    let DoctorFinding { what, state, detail, advice, .. } = finding;
    let _ = write!(out, "  {what:<width$}  {:<7}  {}", state.as_str(), truncated(detail));
    if let Some(advice) = advice {
        let _ = write!(out, " => {advice}");
    }
    let _ = writeln!(out);
}

/// Returns the beginning of a long text; the JSON output has all of it.
fn truncated(detail: &str) -> String {
    match detail.char_indices().nth(DETAIL_MAX) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail.to_owned(),
    }
}

//! The lines as a person reads them: a heading for each group, and what to do behind what is not well.

use std::fmt::Write;

use super::{Diagnosis, Finding, State};

/// A self-test that failed tells all that did not arrive.
const LONGEST_DETAIL: usize = 320;

/// Renders a diagnosis for a terminal.
pub fn render(diagnosis: &Diagnosis) -> String {
    let acute = diagnosis.findings.iter().filter(|finding| finding.state >= State::Warning).count();
    let to_do = match acute {
        0 => "nothing to do".to_owned(),
        1 => "one line to act on".to_owned(),
        lines => format!("{lines} lines to act on"),
    };
    let mut out = match diagnosis.hook {
        Some(hook) if diagnosis.fit => format!("FIT  by the {hook} hook, {to_do}\n"),
        Some(_) => "UNFIT  privileges cannot be given up\n".to_owned(),
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

fn line(out: &mut String, finding: &Finding, width: usize) {
    let Finding { what, state, detail, advice, .. } = finding;
    let _ = write!(out, "  {what:<width$}  {:<7}  {}", state.as_str(), shortened(detail));
    if let Some(advice) = advice {
        let _ = write!(out, " => {advice}");
    }
    let _ = writeln!(out);
}

/// Returns the beginning of a long text; JSON has all of it.
fn shortened(detail: &str) -> String {
    match detail.char_indices().nth(LONGEST_DETAIL) {
        Some((end, _)) => format!("{}…", &detail[..end]),
        None => detail.to_owned(),
    }
}

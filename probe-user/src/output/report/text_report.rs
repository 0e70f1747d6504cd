//! The report as text for one screen: the verdict first, then the numbers behind it.
//!
//! No line is longer than [`WIDTH`]: names are truncated, sentences are wrapped. Colours are escape
//! sequences; the caller that prints the text removes them if the output is not a terminal (`anstream` does).

mod line_wrap;
mod tables;

use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::{FigureReport, MemberReport, Report};
use crate::analysis::verdict::{percent, time};
use line_wrap::{INDENT, cut, heading, line, wrap};

/// Columns of the narrowest terminal in use, one of two side by side.
pub const WIDTH: usize = 100;

/// Renders a report for a terminal.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for member in &report.members {
        render_member(&mut out, member);
    }
    if report.members.is_empty() {
        out.push_str("no etcd found: no process of its name holds a WAL open (see --process-name)\n");
    }
    if let Some(failure) = &report.self_test_failure {
        wrap(&mut out, "", &format!("self-test failed: {failure}"));
    }
    if !report.misses.is_empty() {
        let misses = report.misses.iter().map(|(reason, count)| format!("{reason} {count}"));
        wrap(&mut out, "", &format!("not measured: {}", misses.collect::<Vec<_>>().join(", ")));
    }
    out
}

fn render_member(out: &mut String, member: &MemberReport) {
    let style = colour(member.exit_code);
    let since = member.since_s.map_or_else(String::new, |since_s| format!("  for {}", duration(since_s)));
    let verdict = member.verdict.to_uppercase();
    let name = cut(&member.member, WIDTH - verdict.len() - 2 - since.len());
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{style}{verdict}{style:#}  {name}{since}");
    wrap(out, INDENT, &member.reason);
    identity(out, member);
    let _ = writeln!(out);
    tables::figures(out, member);
    tables::lost(out, member);
    tables::device(out, member);
    tables::neighbours(out, member);
    environment(out, member);
    if !member.next.is_empty() {
        heading(out, "what to do next");
        for (number, step) in (1..).zip(&member.next) {
            wrap(out, &format!("{INDENT}{number}. "), step);
        }
        let _ = writeln!(out);
    }
    for figure in &member.figures {
        render_crosscheck(out, figure);
    }
    let _ = writeln!(out);
}

fn identity(out: &mut String, member: &MemberReport) {
    let version = member.version.as_deref().unwrap_or("of unknown version");
    let pid = member.pid.map_or_else(|| "ended".to_owned(), |pid| format!("pid {pid}"));
    let endpoint = cut(member.endpoint.as_deref().unwrap_or("no endpoint"), 40);
    line(out, &format!("etcd {version}, {pid}, {endpoint}, WAL in {}", member.wal_dir));
}

/// Writes what affects etcd's CPU time and its I/O, if anything.
fn environment(out: &mut String, member: &MemberReport) {
    let cpu = &member.cpu;
    let mut parts = Vec::new();
    let mut add = |seconds: Option<f64>, state: &str| {
        parts.extend(seconds.filter(|s| *s > 0.0).map(|s| format!("{state} {}", time(s))));
    };
    add(cpu.throttled_s, "throttled for");
    add(cpu.run_delay_s, "in run queues for");
    add(cpu.run_s, "ran for");
    parts.extend(cpu.quota_cpus.map(|cpus| format!("quota {cpus:.2} CPUs")));
    let pressures = [("CPU", cpu.psi_cpu_share), ("I/O", cpu.psi_io_share), ("memory", cpu.psi_memory_share)];
    let pressures = pressures.into_iter().filter_map(|(what, share)| Some((what, share?)));
    parts.extend(pressures.map(|(what, share)| format!("{what} pressure {}", percent(share))));
    parts.extend(cpu.major_faults.filter(|n| *n > 0).map(|n| format!("{n} major faults")));
    if !parts.is_empty() {
        wrap(out, &format!("{INDENT}process     "), &parts.join(", "));
    }
    for limit in &member.io_limits {
        wrap(out, &format!("{INDENT}I/O limit   "), limit);
    }
    if let Some(oldest) = &member.in_flight {
        let waits = oldest.waits_for.as_ref().map_or_else(String::new, |cause| format!(", {cause}"));
        let text = format!("{} of {} for {}{waits}", oldest.op, oldest.file, time(oldest.age_s));
        wrap(out, &format!("{INDENT}in flight   "), &text);
    }
    if !parts.is_empty() || !member.io_limits.is_empty() || member.in_flight.is_some() {
        let _ = writeln!(out);
    }
}

fn render_crosscheck(out: &mut String, figure: &FigureReport) {
    let check = &figure.crosscheck;
    let exactness = match check.origin_uncertainty {
        Some(0) => format!("difference {}", check.difference),
        Some(events) => format!("origin uncertain by {events} events until etcd pauses for two seconds"),
        None => "not cross-checked yet".to_owned(),
    };
    let mut text = format!("kernel {} = etcd {}: {exactness}", check.kernel_events, check.etcd_events);
    if check.violations > 0 {
        let _ = write!(text, ", {} violations", check.violations);
    }
    if check.unverified > 0 {
        let _ = write!(text, ", {} unverifiable after a crash", check.unverified);
    }
    if let Some(overhead_s) = figure.overhead_s {
        let _ = write!(text, "; outside the kernel {} each", time(overhead_s.max(0.0)));
    }
    wrap(out, &format!("{INDENT}{:<16}", figure.metric.replace('_', " ")), &text);
}

/// Returns green for a healthy member, red for an unhealthy one, yellow for an unknown state.
fn colour(exit_code: u8) -> Style {
    let colour = match exit_code {
        0 => AnsiColor::Green,
        1 => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    colour.on_default().bold()
}

/// Returns a long time in a suitable unit.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 7200.0 => format!("{:.0} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.0} min", s / 60.0),
        s => format!("{s:.0} s"),
    }
}

//! The report as a tired person reads it: the verdict first, then the numbers behind it.

use std::fmt::Write;

use super::{FigureReport, MemberReport, Report};
use crate::verdict::time;

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
        let _ = writeln!(out, "self-test failed: {failure}");
    }
    if !report.misses.is_empty() {
        let misses = report.misses.iter().map(|(reason, count)| format!("{reason} {count}"));
        let _ = writeln!(out, "not measured: {}", misses.collect::<Vec<_>>().join(", "));
    }
    out
}

fn render_member(out: &mut String, member: &MemberReport) {
    // Writing to a `String` cannot fail.
    let _ = writeln!(out, "{}  {}", member.verdict.to_uppercase(), member.member);
    let _ = writeln!(out, "  {}", member.reason);
    let version = member.version.as_deref().unwrap_or("of unknown version");
    let pid = member.pid.map_or_else(|| "ended".to_owned(), |pid| format!("pid {pid}"));
    let endpoint = member.endpoint.as_deref().unwrap_or("no endpoint");
    let _ = writeln!(out, "  etcd {version}, {pid}, {endpoint}, WAL in {}", member.wal_dir);
    let _ = writeln!(out);
    // No counts here: the two sides of a window under load are not read at the same instant. They are reconciled below.
    let header = ["mean", "p50", "p99", "p99.9", "max"];
    row(out, &format!("last {:.0} s", member.window_s), header.map(str::to_owned));
    for figure in &member.figures {
        let name = figure.metric.replace('_', " ");
        for (who, side) in [("kernel", &figure.kernel), ("etcd's buckets", &figure.etcd)] {
            let times = [side.mean_s, side.p50_s, side.p99_s, side.p999_s, side.max_s];
            row(
                out,
                &format!("{name}, {who}"),
                times.map(|value| value.map_or_else(|| "-".to_owned(), time)),
            );
        }
    }
    let _ = writeln!(out);
    for figure in &member.figures {
        render_crosscheck(out, figure);
    }
    if member.in_flight_s > 0.0 {
        let _ = writeln!(out, "  in flight now: {}", time(member.in_flight_s));
    }
    let _ = writeln!(out);
}

fn row(out: &mut String, name: &str, cells: [String; 5]) {
    let _ = write!(out, "  {name:<30}");
    for cell in cells {
        let _ = write!(out, "{cell:>10}");
    }
    let _ = writeln!(out);
}

fn render_crosscheck(out: &mut String, figure: &FigureReport) {
    let check = &figure.crosscheck;
    let exactness = match check.origin_uncertainty {
        Some(0) => format!("difference {}", check.difference),
        Some(events) => format!("origin known to {events} events: let etcd rest for two seconds"),
        None => "not cross-checked yet".to_owned(),
    };
    let _ = write!(
        out,
        "  {:<16}kernel {} = etcd {}: {exactness}",
        figure.metric.replace('_', " "),
        check.kernel_events,
        check.etcd_events
    );
    if check.violations > 0 {
        let _ = write!(out, ", {} violations", check.violations);
    }
    if check.unverified > 0 {
        let _ = write!(out, ", {} unverifiable after a crash", check.unverified);
    }
    if let Some(overhead_s) = figure.overhead_s {
        let _ = write!(out, "; outside the kernel {} each", time(overhead_s.max(0.0)));
    }
    let _ = writeln!(out);
}

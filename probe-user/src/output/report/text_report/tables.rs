//! The tables of the report: latencies, lost time, the device, its users.

use std::fmt::Write;

use super::line_wrap::{INDENT, bar, cut, heading, length, line, wrap};
use crate::{
    analysis::verdict::{bytes, percent, share, time},
    output::report::{DeviceReport, LatencySummary, MemberReport},
};

/// The number of neighbours in the text; JSON contains all of them.
const NEIGHBOURS_MAX: usize = 3;

/// The number of stacks of `other` in the text.
const STACKS_MAX: usize = 2;

/// Columns of the longest bar.
const BAR_COLUMNS: usize = 40;

/// Writes the kernel's latencies above etcd's.
///
/// The counts differ slightly under load: the two sides of a window are not read at the same instant. The
/// lines of the cross-check reconcile them.
pub fn figures(out: &mut String, member: &MemberReport) {
    let header = ["count", "p50", "p99", "p99.9", "max"].map(str::to_owned);
    heading(out, &row(&format!("last {:.0} s", member.window_s), "", &header));
    for figure in &member.figures {
        let mut name = figure.metric.replace('_', " ");
        for (source, side) in [("kernel", &figure.kernel), ("etcd", &figure.etcd)] {
            line(out, &row(&name, source, &cells(side)));
            name.clear();
        }
    }
    // Writing to a `String` cannot fail, here and below.
    let _ = writeln!(out);
}

fn cells(side: &LatencySummary) -> [String; 5] {
    let of = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), time);
    [side.count.to_string(), of(side.p50_s), of(side.p99_s), of(side.p999_s), of(side.max_s)]
}

/// Writes where the time of slow operations went, or of all operations if none was slow by itself.
pub fn lost(out: &mut String, member: &MemberReport) {
    let (slow, split) = (&member.slow, &member.split);
    let (what, mut parts) = if slow.operations > 0 {
        let waits = slow.waits.iter().map(|wait| (wait.cause.replace('_', " "), wait.seconds));
        let waits: Vec<_> = waits.collect();
        let known = [("on CPU".to_owned(), slow.on_cpu_s), ("run queue".to_owned(), slow.run_queue_s)];
        (format!("{} slow operations", slow.operations), known.into_iter().chain(waits).collect::<Vec<_>>())
    } else if let (Some(on_cpu_s), Some(run_queue_s)) = (split.on_cpu_s, split.run_queue_s)
        && split.total_s > 0.0
    {
        let blocked_s = (split.total_s - on_cpu_s - run_queue_s).max(0.0);
        let parts = [("on CPU", on_cpu_s), ("run queue", run_queue_s), ("blocked", blocked_s)];
        ("all operations".to_owned(), parts.map(|(name, seconds)| (name.to_owned(), seconds)).to_vec())
    } else {
        return;
    };
    parts.extend(split.outside_kernel_s.map(|seconds| ("outside the kernel".to_owned(), seconds)));
    let total_s: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    heading(out, &format!("where the time went: {} of {what}", time(total_s)));
    for (name, seconds) in parts {
        let part = share(seconds, total_s);
        line(
            out,
            &format!("{name:<22}{:>10}{:>7}  {}", time(seconds), percent(part), bar(part, BAR_COLUMNS)),
        );
    }
    for frames in slow.other_frames.iter().take(STACKS_MAX) {
        wrap(out, &format!("{INDENT}other: "), frames);
    }
    let _ = writeln!(out);
}

/// Writes the device, its layers and its requests by class.
pub fn device(out: &mut String, member: &MemberReport) {
    let Some(DeviceReport { device, classes }) = &member.device else { return };
    let facts = [
        device.model.clone(),
        device.cloud.map(str::to_owned),
        device.scheduler.as_ref().map(|scheduler| format!("scheduler {scheduler}")),
        device.write_cache.as_ref().map(|cache| format!("cache {cache}")),
    ];
    let facts = facts.into_iter().flatten();
    let text = [device.name.clone()].into_iter().chain(facts).collect::<Vec<_>>().join(", ");
    heading(out, &format!("device {text}"));
    if device.layers.len() > 1 {
        line(out, &format!("layers: {}", device.layers.join(" on ")));
    }
    let header = ["requests", "etcd", "kernel", "others", "mean queue", "device", "total"].map(str::to_owned);
    line(out, &format!("{}{}", column("", 12), right(&header, 12)));
    for class in classes.iter().filter(|class| class.time.requests > 0) {
        let counted = &class.time;
        let mean = |seconds: f64| {
            if seconds > 0.0 { time(seconds / counted.requests as f64) } else { "-".to_owned() }
        };
        let counts =
            [counted.requests, counted.own_requests, counted.kernel_requests, counted.other_requests];
        let [requests, own, kernel, others] = counts.map(|count| count.to_string());
        let [queue, at_device, total] = [counted.queue_s, counted.device_s, counted.total_s].map(mean);
        let cells = [requests, own, kernel, others, queue, at_device, total];
        line(out, &format!("{}{}", column(class.class, 12), right(&cells, 12)));
    }
    let _ = writeln!(out);
}

/// Writes the three heaviest users of the device other than the member.
pub fn neighbours(out: &mut String, member: &MemberReport) {
    if member.neighbours.is_empty() {
        return;
    }
    let header = ["share", "requests", "flushes", "syncs", "bytes"].map(str::to_owned);
    heading(out, &format!("{:<48}{}", "neighbours on the device", right(&header, 10)));
    for neighbour in member.neighbours.iter().take(NEIGHBOURS_MAX) {
        let owner = if neighbour.owner.contains(&neighbour.process) {
            neighbour.owner.clone()
        } else {
            format!("{} ({})", neighbour.owner, neighbour.process)
        };
        let cells = [
            percent(neighbour.share),
            neighbour.requests.to_string(),
            neighbour.flushes.to_string(),
            neighbour.syncs.to_string(),
            bytes(neighbour.bytes),
        ];
        line(out, &format!("{}{}", column(&owner, 48), right(&cells, 10)));
    }
    if let Some(more) = member.neighbours.len().checked_sub(NEIGHBOURS_MAX).filter(|more| *more > 0) {
        line(out, &format!("and {more} more"));
    }
    let _ = writeln!(out);
}

fn row(name: &str, source: &str, cells: &[String]) -> String {
    format!("{}{}{}", column(name, 16), column(source, 8), right(cells, 12))
}

/// Returns a text padded with blanks, truncated so that at least one blank remains.
fn column(text: &str, width: usize) -> String {
    let text = cut(text, width - 1);
    format!("{text}{}", " ".repeat(width - length(&text)))
}

fn right(cells: &[String], width: usize) -> String {
    cells.iter().fold(String::new(), |row, cell| format!("{row}{cell:>width$}"))
}

//! Malformed answers. Each variant writes the rest of the head and the body until the client closes the
//! connection.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::Context;

use crate::machine::cancel::{Cancel, POLL};

/// The size of the unpacked bomb: 64 times the largest body that the probe accepts.
const EXPLODED_BYTES: usize = 1 << 30;

/// Series in excess of the number that the probe re-exports, in a body that is within its size limit.
const FLOOD: usize = 30_000;

/// One kind of answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Malformed {
    /// The real answer, unchanged.
    #[default]
    Intact,
    /// Endless metrics.
    Endless,
    /// A gzip body that is small compressed and large uncompressed.
    GzipBomb,
    /// Metrics, one byte at a time.
    Drip,
    /// An endless head.
    EndlessHead,
    /// Ten million series of a re-exported family.
    TenMillionSeries,
    /// Too many series of one re-exported family, in a body within the size limit.
    Flood,
    /// Too many families that match a re-exported pattern.
    FloodOfFamilies,
    /// Counters that are not a number.
    NotANumber,
    /// Counters below zero.
    Negative,
    /// Every series twice.
    Duplicates,
    /// Bytes that are not UTF-8.
    InvalidText,
    /// A label of one megabyte and a help text of the same size.
    LongLines,
    /// A series with 300,000 labels, in a body within the size limit.
    ManyLabels,
    /// Contradictory types, invalid escapes, timestamps, misplaced braces and quotes.
    Nonsense,
    /// Counters that decrease.
    Falling,
}

impl Malformed {
    /// All variants. The one with a lasting effect is the last.
    pub const ALL: [Self; 16] = [
        Self::Intact,
        Self::Endless,
        Self::GzipBomb,
        Self::Drip,
        Self::EndlessHead,
        Self::TenMillionSeries,
        Self::Flood,
        Self::FloodOfFamilies,
        Self::NotANumber,
        Self::Negative,
        Self::Duplicates,
        Self::InvalidText,
        Self::LongLines,
        Self::ManyLabels,
        Self::Nonsense,
        Self::Falling,
    ];

    /// Returns whether the answer still contains the correct values that the cross-check needs.
    pub fn keeps_the_cross_check(self) -> bool {
        matches!(
            self,
            Self::Intact
                | Self::Flood
                | Self::FloodOfFamilies
                | Self::LongLines
                | Self::ManyLabels
                | Self::Nonsense
        )
    }

    pub(super) fn write(
        self,
        text: &str,
        bomb: &[u8],
        stop: &Cancel,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let counters = |to: &dyn Fn(&str) -> String| map_counters(text, to);
        match self {
            Self::Intact => body(out, text),
            Self::Endless => endless(out, text, stop, |_| "some_metric 1\n".to_owned()),
            Self::TenMillionSeries => {
                endless(out, text, stop, |n| format!("etcd_server_has_leader{{n=\"{n}\"}} 1\n"))
            }
            Self::GzipBomb => {
                out.write_all(b"content-encoding: gzip\r\n\r\n")?;
                out.write_all(bomb)
            }
            Self::Drip => {
                out.write_all(b"\r\n")?;
                for byte in text.bytes().take_while(|_| !stop.is_cancelled()) {
                    out.write_all(&[byte])?;
                    thread::sleep(POLL);
                }
                Ok(())
            }
            Self::EndlessHead => {
                while !stop.is_cancelled() {
                    out.write_all(format!("x-filler: {}\r\n", "x".repeat(8192)).as_bytes())?;
                }
                Ok(())
            }
            Self::Flood => body(out, &flood(text, |n| format!("etcd_snap_flood{{n=\"{n}\"}} 1\n"))),
            Self::FloodOfFamilies => {
                let family =
                    |n| format!("# HELP etcd_snap_{n} h\n# TYPE etcd_snap_{n} gauge\netcd_snap_{n} 1\n");
                body(out, &flood(text, family))
            }
            Self::NotANumber => body(out, &counters(&|_| "NaN".to_owned())),
            Self::Negative => body(out, &counters(&|value| format!("-{value}"))),
            Self::Falling => body(out, &counters(&|_| "0".to_owned())),
            Self::Duplicates => {
                let twice = text.lines().fold(String::new(), |all, line| all + line + "\n" + line + "\n");
                body(out, &twice)
            }
            Self::InvalidText => {
                out.write_all(b"\r\n")?;
                out.write_all(text.as_bytes())?;
                out.write_all(b"etcd_snap_text{a=\"\xff\xfe\"} 1\n")
            }
            Self::LongLines => {
                let long = "x".repeat(1 << 20);
                let more = format!("# HELP etcd_snap_long {long}\netcd_snap_long{{a=\"{long}\"}} 1\n");
                body(out, &(text.to_owned() + &more))
            }
            Self::ManyLabels => {
                let mut more = "etcd_snap_labels{".to_owned();
                (0..300_000).for_each(|n| _ = write!(more, "l{n}=\"\","));
                body(out, &(text.to_owned() + &more + "} 1\n"))
            }
            Self::Nonsense => body(out, &(text.to_owned() + NONSENSE)),
        }
    }
}

const NONSENSE: &str = "\
# TYPE etcd_snap_xa histogram
# TYPE etcd_snap_xa_count gauge
# TYPE etcd_snap_xa counter
etcd_snap_xa_count 1
etcd_snap_xa_bucket{le=\"one\"} 1
etcd_snap_xb{member=\"another\"} 1 1395066363000
etcd_snap_xc{__name__=\"up\"} 1
etcd_snap_xd{a=\"\\t\"} 1
etcd_snap_xe{a=\"1\",a=\"2\"} 1
etcd_snap_xf{a=\"} 1
etcd_snap_xg 1e999
etcd_snap_xh 0x10
etcd_snap_xi{a=\"}\\\"{,=\"} +Inf
etcd_snap_xj{} -1e-300
etcd_disk_probe_etcd_up{member=\"x\"} 1
# EOF
{\"etcd_snap_xk\"} 1
# TYPE etcd_snap_xl counter
etcd_snap_xl NaN
# HELP etcd_snap_xm \\
etcd_snap_xm 1\r
etcd_snap_xn{a=\"\0\"} 1
";

fn body(out: &mut impl Write, text: &str) -> io::Result<()> {
    out.write_all(format!("content-length: {}\r\n\r\n", text.len()).as_bytes())?;
    out.write_all(text.as_bytes())
}

/// Writes the real text, then endless lines.
fn endless(out: &mut impl Write, text: &str, stop: &Cancel, line: impl Fn(u64) -> String) -> io::Result<()> {
    out.write_all(b"\r\n")?;
    out.write_all(text.as_bytes())?;
    let mut n = 0;
    while !stop.is_cancelled() && n < 10_000_000 {
        let mut lines = String::new();
        (n..n + 4096).for_each(|n| lines.push_str(&line(n)));
        n += 4096;
        out.write_all(lines.as_bytes())?;
    }
    Ok(())
}

fn flood(text: &str, line: impl Fn(usize) -> String) -> String {
    (0..FLOOD).fold(text.to_owned(), |all, n| all + &line(n))
}

/// Replaces every count of the two cross-checked histograms and every counter of etcd's server.
fn map_counters(text: &str, to: &dyn Fn(&str) -> String) -> String {
    let is_counter = |line: &str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let of_histogram = ["etcd_disk_wal_fsync_duration", "etcd_disk_backend_commit_duration"];
        let counts = of_histogram.iter().any(|begin| name.starts_with(begin)) && !name.ends_with("_sum");
        counts || name.starts_with("etcd_server_") && name.ends_with("_total")
    };
    text.lines().fold(String::new(), |all, line| match line.rsplit_once(' ') {
        Some((series, value)) if is_counter(line) => all + series + " " + &to(value) + "\n",
        _ => all + line + "\n",
    })
}

/// Returns a compressed page of metrics that unpacks to [`EXPLODED_BYTES`].
pub(super) fn bomb() -> anyhow::Result<Vec<u8>> {
    let mut gzip = Command::new("gzip")
        .arg("-1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start gzip")?;
    let mut input = gzip.stdin.take().context("its input is a pipe")?;
    let writer = thread::spawn(move || {
        let part = "some_metric 1\n".repeat(1 << 16);
        (0..EXPLODED_BYTES / part.len()).try_for_each(|_| input.write_all(part.as_bytes()))
    });
    let output = gzip.wait_with_output().context("cannot wait for gzip")?;
    writer.join().map_err(|_| anyhow::anyhow!("the thread that feeds gzip panicked"))??;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_counters_are_changed() {
        let text = "# TYPE etcd_server_slow_apply_total counter\netcd_server_slow_apply_total 3\n\
                    etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 2\n\
                    etcd_disk_wal_fsync_duration_seconds_sum 0.5\nprocess_start_time_seconds 1\n";
        let changed = map_counters(text, &|value| format!("-{value}"));
        assert!(changed.contains("etcd_server_slow_apply_total -3\n"), "{changed}");
        assert!(changed.contains("_bucket{le=\"0.001\"} -2\n"), "{changed}");
        assert!(changed.contains("_sum 0.5\nprocess_start_time_seconds 1\n"), "{changed}");
    }
}

//! Log lines on standard error.

use std::error::Error;

use clap::ValueEnum;
use tracing::Level;
use tracing_subscriber::fmt;

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Installs the log, once per process. `details` adds debug lines, for `--kernel-log`.
pub fn init(format: LogFormat, details: bool) {
    let level = if details { Level::DEBUG } else { Level::INFO };
    let builder =
        fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false).with_max_level(level);
    // `Err` means that a log is installed already, for example in tests that share a process.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Returns an error and its causes as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some libraries repeat the cause in their own text.
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

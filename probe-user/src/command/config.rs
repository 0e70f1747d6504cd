//! The command line as typed ([`Args`]) and as validated ([`Config`]).

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    analysis::reexport::{AllowList, allow_list},
    etcd::client_tls::is_server_name,
    kernel::{HookChoice, KernelConfig},
    support::logging::LogFormat,
};

/// Measures whether etcd's disk is slow: times every sync in the kernel and reconciles the results with
/// etcd's own metrics.
///
/// Every flag has an environment variable: `--wal-fsync-limit` is `ETCD_DISK_PROBE_WAL_FSYNC_LIMIT`.
#[derive(Debug, Parser)]
#[command(name = "etcd-disk-probe", version, max_term_width = 110)]
pub struct Args {
    #[command(subcommand)]
    pub command: CommandArgs,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Debug, Subcommand)]
pub enum CommandArgs {
    /// Measure until stopped, and serve metrics over HTTP.
    Run {
        /// Address and port of `/metrics`. In brackets, the address may be IPv4 or IPv6.
        #[arg(long, env = "ETCD_DISK_PROBE_LISTEN", value_parser = socket_address, default_value = "127.0.0.1:12381")]
        listen: SocketAddr,
        /// TLS, client certificates and passwords of the HTTP server, in the format of Prometheus' exporters.
        /// Reloaded when it changes.
        #[arg(long = "web.config.file", env = "ETCD_DISK_PROBE_WEB_CONFIG_FILE", value_name = "FILE")]
        web_config: Option<PathBuf>,
    },
    /// Measure for a while and print one report. Exits with 0 if every member is healthy, 1 if one is not, 2
    /// if the probe could not decide.
    Check {
        /// How long to measure.
        #[arg(long, env = "ETCD_DISK_PROBE_DURATION", value_parser = duration, default_value = "30s")]
        duration: Duration,
        #[arg(long, env = "ETCD_DISK_PROBE_OUTPUT", value_enum, default_value_t = OutputFormat::Text)]
        output: OutputFormat,
    },
    /// Print every slow operation when it ends, one per line: its time by state, the cause of its wait, and
    /// other busy processes.
    Trace {
        /// Print operations that take longer than this.
        #[arg(long, env = "ETCD_DISK_PROBE_SLOWER_THAN", value_parser = duration, default_value = "10ms")]
        slower_than: Duration,
        /// How long to trace. Defaults to until stopped.
        #[arg(long, env = "ETCD_DISK_PROBE_DURATION", value_parser = duration)]
        duration: Option<Duration>,
        /// json prints one object per line.
        #[arg(long, env = "ETCD_DISK_PROBE_OUTPUT", value_enum, default_value_t = OutputFormat::Text)]
        output: OutputFormat,
    },
    /// Check the kernel, the privileges and the endpoints, and print each finding with its remedy.
    ///
    /// Changes nothing, and needs no etcd. Exits with 0 if no action is required, with 1 if the probe can run
    /// but a line is a warning or has failed, and with the exit code of `run` if it cannot run: 69 for a
    /// missing kernel feature, 77 for insufficient privileges.
    Doctor {
        #[arg(long, env = "ETCD_DISK_PROBE_OUTPUT", value_enum, default_value_t = OutputFormat::Text)]
        output: OutputFormat,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

/// How the cause of blocked operations is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Causes {
    /// By sampling the stacks of operations in flight, while operations are slow.
    Sampled,
    /// By a hook on every context switch, which adds a cost to the whole host.
    Exact,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// URL of etcd's metrics. Overrides etcd's own configuration. May be repeated.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_ENDPOINTS", value_delimiter = ',', value_name = "URL")]
    pub endpoints: Vec<String>,
    /// Certificate authority of etcd's servers. Overrides etcd's own setting.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_CACERT", value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// Client certificate to present to etcd. Overrides etcd's own.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_CERT", value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Key of the client certificate.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_KEY", value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Do not verify etcd's server certificate.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_INSECURE_SKIP_TLS_VERIFY")]
    pub insecure_skip_tls_verify: bool,
    /// Name for which etcd's server certificate must be valid. Overrides the endpoint's host.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_TLS_SERVER_NAME", value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Timeout of one scrape of etcd, in total.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_COMMAND_TIMEOUT", value_parser = duration, default_value = "5s")]
    pub command_timeout: Duration,
    /// Process name of etcd, if it differs. At most four names.
    #[arg(
        long,
        global = true,
        env = "ETCD_DISK_PROBE_PROCESS_NAME",
        value_delimiter = ',',
        default_value = "etcd",
        value_name = "NAME"
    )]
    pub process_name: Vec<String>,
    /// Maximum p99 of WAL syncs of a healthy member.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_WAL_FSYNC_LIMIT", value_parser = duration, default_value = "10ms")]
    pub wal_fsync_limit: Duration,
    /// Maximum p99 of backend commits of a healthy member.
    #[arg(
        long, global = true, env = "ETCD_DISK_PROBE_BACKEND_COMMIT_LIMIT", value_parser = duration, default_value = "25ms"
    )]
    pub backend_commit_limit: Duration,
    /// Operations longer than this are analysed individually: the cause of their wait, and other busy
    /// processes.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_SLOW_THRESHOLD", value_parser = duration, default_value = "10ms")]
    pub slow_threshold: Duration,
    /// An operation in flight for longer than this has stalled. Defaults to etcd's own election timeout.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_STALL_LIMIT", value_parser = duration)]
    pub stall_limit: Option<Duration>,
    /// How to determine the cause of blocked operations. sampled costs nothing while operations are fast.
    /// exact adds at least 72 ns to every context switch of this host.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_CAUSES", value_enum, default_value_t = Causes::Sampled)]
    pub causes: Causes,
    /// Interval between scrapes of etcd for the cross-check. In `check`, at most one second.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_SCRAPE_INTERVAL", value_parser = duration, default_value = "5s")]
    pub scrape_interval: Duration,
    /// etcd's own metrics to re-export with the label `member`: names of families, with * for any part. The
    /// names replace the default, or extend it if the first one starts with +, as in `+grpc_server_*`. `none`
    /// re-exports nothing.
    #[arg(
        long,
        global = true,
        env = "ETCD_DISK_PROBE_ETCD_METRICS",
        value_delimiter = ',',
        default_values = allow_list::DEFAULT,
        hide_default_value = true,
        value_name = "PATTERN"
    )]
    pub etcd_metrics: Vec<String>,
    /// The period that a verdict covers.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_WINDOW", value_parser = duration, default_value = "60s")]
    pub window: Duration,
    /// How the kernel programs are attached. fentry does not affect other system calls, tracepoint works on
    /// every kernel. auto selects the first that passes a self-test.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_HOOK", value_enum, default_value_t = HookChoice::Auto)]
    pub hook: HookChoice,
    /// Maximum number of processes measured at once. Each uses 140 KiB of kernel memory.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_MAX_MEMBERS", default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_members: u32,
    /// Log the decisions of the kernel programs, to debug them.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_KERNEL_LOG")]
    pub kernel_log: bool,
    /// Format of log lines.
    #[arg(long, global = true, env = "ETCD_DISK_PROBE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub command: Command,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Run { listen: SocketAddr, web_config: Option<PathBuf> },
    Check { duration: Duration, output: OutputFormat },
    Trace { slower_than: Duration, duration: Option<Duration>, output: OutputFormat },
    Doctor { output: OutputFormat },
}

/// Invalid settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot read `{}` of --{flag}: {error}", path.display())]
    Unreadable { flag: &'static str, path: PathBuf, error: std::io::Error },
}

/// The minimum interval between scrapes. A quiet period lasts one second.
const SCRAPE_INTERVAL_MIN: Duration = Duration::from_millis(100);

impl TryFrom<Args> for Config {
    type Error = ConfigError;

    /// Validates every setting, and reports all invalid ones at once.
    fn try_from(args: Args) -> Result<Self, ConfigError> {
        let options = args.options;
        let mut errors = Vec::new();
        for endpoint in &options.endpoints {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                errors.push(format!(
                    "--endpoints {endpoint}: not a URL such as http://HOST:PORT or https://HOST:PORT"
                ));
            }
        }
        if let Some(name) = options.tls_server_name.as_ref().filter(|name| !is_server_name(name)) {
            errors.push(format!(
                "--tls-server-name {name}: not a DNS name or an address without scheme and port"
            ));
        }
        if options.process_name.len() > probe_ebpf::process_names::PROCESS_NAMES_MAX {
            errors.push(format!(
                "--process-name: {} names given, but at most four are possible",
                options.process_name.len()
            ));
        }
        if options.process_name.iter().any(String::is_empty) {
            errors.push("--process-name: a name is empty".to_owned());
        }
        if options.scrape_interval < SCRAPE_INTERVAL_MIN {
            errors.push("--scrape-interval must be at least 100ms".to_owned());
        }
        if options.window < options.scrape_interval {
            errors.push("--window must be at least as long as --scrape-interval".to_owned());
        }
        if options.slow_threshold.is_zero() {
            errors.push("--slow-threshold must be greater than 0".to_owned());
        }
        if options.command_timeout.is_zero() {
            errors.push("--command-timeout must be greater than 0".to_owned());
        }
        if let Err(error) = AllowList::parse(&options.etcd_metrics) {
            errors.push(format!("--etcd-metrics: {error}"));
        }
        let command = match args.command {
            CommandArgs::Run { listen, web_config } => Command::Run { listen, web_config },
            CommandArgs::Check { duration, output } => {
                if duration < Duration::from_secs(1) {
                    errors.push("--duration must be at least 1s".to_owned());
                }
                Command::Check { duration, output }
            }
            CommandArgs::Trace { slower_than, duration, output } => {
                Command::Trace { slower_than, duration, output }
            }
            CommandArgs::Doctor { output } => Command::Doctor { output },
        };
        if !errors.is_empty() {
            return Err(ConfigError::Usage(errors.join("; ")));
        }
        for (flag, path) in [("cacert", &options.cacert), ("cert", &options.cert), ("key", &options.key)] {
            if let Some(path) = path {
                let readable = fs::File::open(path).map(drop);
                readable.map_err(|error| ConfigError::Unreadable { flag, path: path.clone(), error })?;
            }
        }
        Ok(Self { command, options })
    }
}

/// Accepts `10.0.0.1:1`, `[fd00::1]:1`, and `[10.0.0.1]:1`, as Go does (`net.SplitHostPort`): the author of a
/// Kubernetes manifest does not know the family of a node's address.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let parsed = text.parse().ok().or_else(|| {
        let (address, port) = text.strip_prefix('[')?.split_once("]:")?;
        Some(SocketAddr::new(IpAddr::V4(address.parse().ok()?), port.parse().ok()?))
    });
    parsed.ok_or_else(|| "not an address and port such as `127.0.0.1:12381` or `[::1]:12381`".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "not a duration such as `10ms`, `30s` or `1m`".to_owned())
}

impl From<&Options> for KernelConfig {
    /// Returns the configuration of the kernel side: everything that a report contains is measured.
    fn from(options: &Options) -> Self {
        Self {
            process_names: options.process_name.clone(),
            max_targets: options.max_members,
            log: options.kernel_log,
            recording: false,
            slow: Some(options.slow_threshold),
            block: true,
            exact_causes: options.causes == Causes::Exact,
            fault: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &str) -> Result<Config, String> {
        let args = Args::try_parse_from(["etcd-disk-probe"].into_iter().chain(flags.split_whitespace()))
            .map_err(|error| error.to_string())?;
        Config::try_from(args).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_etcds_guidance() {
        let config = config("run").expect("no flag is needed");
        assert_eq!(config.options.wal_fsync_limit, Duration::from_millis(10));
        assert_eq!(config.options.backend_commit_limit, Duration::from_millis(25));
        assert_eq!(config.options.process_name, ["etcd"]);
        assert!(matches!(config.command, Command::Run { listen, .. } if listen.ip().is_loopback()));
    }

    #[test]
    fn an_address_in_brackets_may_be_of_either_family() {
        let cases = [
            ("127.0.0.1:1", Some("127.0.0.1:1"), "plain"),
            ("[fd00::1]:1", Some("[fd00::1]:1"), "as IPv6 requires it"),
            ("[10.0.0.1]:1", Some("10.0.0.1:1"), "as a manifest writes it for both"),
            ("[10.0.0.1:1", None, "half a bracket"),
            ("[10.0.0.1]", None, "no port"),
            ("[10.0.0.1]:65536", None, "no such port"),
            ("fd00::1:1", None, "the start of the port is ambiguous"),
            ("[]:1", None, "an empty address"),
            ("localhost:1", None, "a name"),
        ];
        for (text, expected, why) in cases {
            assert_eq!(
                socket_address(text).ok().map(|address| address.to_string()).as_deref(),
                expected,
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn every_invalid_setting_is_reported_at_once() {
        let error = config("check --duration 10ms --endpoints 127.0.0.1:2379 --window 1s")
            .expect_err("three are invalid");
        for part in ["--duration must be", "--endpoints 127.0.0.1:2379", "--window must be"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn invalid_settings_are_refused() {
        let cases = [
            ("run --nonsense", "--nonsense", "an unknown flag"),
            ("run --cert /nowhere", "--key", "a certificate without its key"),
            ("run --cacert /nowhere/ca.pem", "/nowhere/ca.pem` of --cacert", "a missing file"),
            ("run --command-timeout soon", "10ms", "the error shows a valid value"),
            ("run --process-name a,b,c,d,e", "at most four", "the kernel holds four"),
            (
                "run --tls-server-name https://etcd",
                "--tls-server-name https://etcd: not a DNS name",
                "a URL is not a name",
            ),
            ("run --etcd-metrics etcd-server", "`etcd-server` is not a metric name such as", "not a pattern"),
            ("run --max-members 0", "1..=1024", "nothing could be measured"),
        ];
        for (flags, part, why) in cases {
            let error = config(flags).expect_err(why);
            assert!(error.contains(part), "{why}: {error}");
        }
    }
}

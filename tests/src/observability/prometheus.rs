//! A real Prometheus that scrapes one target, and its `promtool`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::etcd;
use crate::machine::cancel::Cancel;
use crate::machine::command;
use crate::machine::http::{Endpoint, free_address};
use crate::machine::process;

/// The time limit for its first answer.
const START_LIMIT: Duration = Duration::from_mins(1);

const STOP_LIMIT: Duration = Duration::from_secs(30);

const TAIL_LINES: usize = 12;

/// Returns the path of `prometheus`, `promtool`, `prometheus-alertmanager` or `amtool`: the one that `cargo
/// xtask setup` unpacked, else the one on the `PATH`.
pub fn find(program: &str) -> anyhow::Result<PathBuf> {
    let cache = etcd::cache()?;
    let entries = fs::read_dir(&cache).into_iter().flatten().flatten();
    let mut unpacked: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("prometheus-"))
        .map(|entry| entry.path().join("usr/bin").join(program))
        .filter(|path| path.is_file())
        .collect();
    unpacked.sort();
    let found = unpacked.pop().or_else(|| command::find(program));
    found.with_context(|| {
        format!("cannot find `{program}` in {}; `cargo xtask setup` gets it", cache.display())
    })
}

/// Returns the complaints of `promtool check metrics` about an exposition in Prometheus' text format, line by
/// line.
pub fn check_metrics(exposition: &str) -> anyhow::Result<Vec<String>> {
    let mut child = Command::new(find("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool")?;
    let mut stdin = child.stdin.take().context("its input is a pipe")?;
    stdin.write_all(exposition.as_bytes()).context("cannot write to promtool")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for promtool")?;
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    if output.status.success() != lines.is_empty() {
        bail!("cannot make sense of promtool: {} with {lines:?}", output.status);
    }
    Ok(lines)
}

/// Returns the output of `promtool check config` for a valid file.
pub fn check_config(file: &Path) -> anyhow::Result<String> {
    let file = file.to_str().context("cannot check a path that is not UTF-8")?;
    command::run(find("promtool")?.to_str().context("promtool's path is UTF-8")?, &["check", "config", file])
}

/// A scrape target.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    /// The authority's certificate for verification; `None` for plain HTTP.
    pub authority: Option<PathBuf>,
    /// User and password.
    pub basic_auth: Option<(String, String)>,
    pub every: Duration,
}

impl Target {
    /// Describes a target with plain HTTP and without authentication.
    pub fn plain(address: SocketAddr, every: Duration) -> Self {
        Self { address, authority: None, basic_auth: None, every }
    }

    /// Returns the configuration of a Prometheus that scrapes it as `job`.
    fn configuration(&self, job: &str) -> String {
        let mut text = format!(
            "scrape_configs:\n- job_name: {job}\n  scrape_interval: {0}ms\n  scrape_timeout: {0}ms\n  scheme: {1}\n",
            self.every.as_millis(),
            if self.authority.is_some() { "https" } else { "http" },
        );
        if let Some(authority) = &self.authority {
            _ = writeln!(text, "  tls_config:\n    ca_file: {}", authority.display());
        }
        if let Some((user, password)) = &self.basic_auth {
            _ = writeln!(text, "  basic_auth:\n    username: {user}\n    password: {password}");
        }
        _ = writeln!(text, "  static_configs:\n  - targets: ['{}']", self.address);
        text
    }
}

/// One element of a query result.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Element {
    /// Returns the value of a label; empty if the label is missing, as in Prometheus.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// A running Prometheus. Stopped on drop.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    endpoint: Endpoint,
    log: PathBuf,
}

impl Prometheus {
    /// Starts an instance on a free port with its data in `directory`, and waits until it answers.
    pub fn start(target: &Target, job: &str, directory: &Path) -> anyhow::Result<Self> {
        Self::configured(&target.configuration(job), directory)
    }

    /// Starts one like [`Prometheus::start`], with this text as its configuration.
    pub fn configured(configuration: &str, directory: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let file = directory.join("prometheus.yaml");
        fs::write(&file, configuration).with_context(|| format!("cannot write {}", file.display()))?;
        let log = directory.join("prometheus.log");
        let output = File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let child = Command::new(find("prometheus")?)
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("prometheus.data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("cannot start Prometheus")?;
        let mut prometheus = Self { child, endpoint: Endpoint::plain(address), log };
        let ready = Cancel::default().wait_for(START_LIMIT, || {
            if let Some(status) = prometheus.child.try_wait()? {
                bail!("Prometheus ended with {}; {}", process::describe(status), prometheus.tail());
            }
            let ready = prometheus.endpoint.get("/-/ready").is_ok_and(|response| response.status == 200);
            Ok(ready.then_some(()))
        })?;
        ready.with_context(|| format!("Prometheus is not ready; {}", prometheus.tail()))?;
        Ok(prometheus)
    }

    /// Evaluates an instant query.
    pub fn query(&self, expression: &str) -> anyhow::Result<Vec<Element>> {
        let data = self.ask(&format!("query?query={}", encoded(expression)), expression)?;
        data["result"].as_array().context("an answer is a vector")?.iter().map(element).collect()
    }

    /// Evaluates a range query over the last `over` with a step of one second: one element for each value of
    /// each series.
    pub fn query_over(&self, expression: &str, over: Duration) -> anyhow::Result<Vec<Element>> {
        let end_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
        let start_s = end_s - over.as_secs_f64();
        let path = format!("query_range?query={}&start={start_s}&end={end_s}&step=1", encoded(expression));
        let mut elements = Vec::new();
        for series in self.ask(&path, expression)?["result"].as_array().context("an answer is a matrix")? {
            for value in series["values"].as_array().context("a series has values")? {
                elements.push(element(&json!({"metric": series["metric"], "value": value}))?);
            }
        }
        Ok(elements)
    }

    /// Returns the values of a label on the series of a selector.
    pub fn label_values(&self, selector: &str, label: &str) -> anyhow::Result<Vec<String>> {
        let data = self.ask(&format!("label/{label}/values?match[]={}", encoded(selector)), selector)?;
        serde_json::from_value(data).context("values are a list of strings")
    }

    fn ask(&self, path: &str, expression: &str) -> anyhow::Result<Value> {
        let text = self.endpoint.get(&format!("/api/v1/{path}"))?.text();
        let text = text.with_context(|| format!("cannot evaluate {expression}"))?;
        let mut answer: Value = serde_json::from_str(&text).context("cannot parse Prometheus' answer")?;
        Ok(answer["data"].take())
    }

    /// Evaluates an expression until its result is as expected, for at most `limit`.
    pub fn wait_for(
        &self,
        expression: &str,
        limit: Duration,
        is_right: impl Fn(&[Element]) -> bool,
    ) -> anyhow::Result<Vec<Element>> {
        let mut last = Vec::new();
        let right = Cancel::default().wait_for(limit, || {
            last = self.query(expression)?;
            Ok(is_right(&last).then_some(()))
        })?;
        right.with_context(|| format!("{expression} is still {last:?} after {limit:?}; {}", self.tail()))?;
        Ok(last)
    }

    fn tail(&self) -> String {
        process::tail(&self.log, TAIL_LINES)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let pid = self.child.id();
        if let Err(error) = process::end(&mut self.child, pid, STOP_LIMIT) {
            eprintln!("cannot stop Prometheus: {error:#}");
        }
    }
}

fn element(value: &Value) -> anyhow::Result<Element> {
    let labels = value["metric"].as_object().context("an element has labels")?;
    let labels =
        labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let number = value["value"][1].as_str().context("an element has a value")?;
    Ok(Element { labels: labels.collect(), value: number.parse().context("a value is a number")? })
}

/// Encodes an expression for a URL.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_includes_its_credentials() {
        let address = "127.0.0.1:1".parse().unwrap();
        let mut target = Target::plain(address, Duration::from_secs(1));
        let text = target.configuration("probe");
        assert!(text.contains("scheme: http\n") && text.contains("scrape_interval: 1000ms\n"), "{text}");
        assert!(!text.contains("tls_config") && !text.contains("basic_auth"), "{text}");
        target.authority = Some("/ca.pem".into());
        target.basic_auth = Some(("user".into(), "word".into()));
        let text = target.configuration("probe");
        assert!(text.contains("scheme: https\n") && text.contains("    ca_file: /ca.pem\n"), "{text}");
        assert!(text.contains("    username: user\n    password: word\n"), "{text}");
        assert_eq!(encoded("a{b=\"c\"}"), "a%7Bb%3D%22c%22%7D");
    }
}

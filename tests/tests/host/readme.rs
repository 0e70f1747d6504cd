//! README.md: its commands run, its report has the form of a real one, and its exit codes are correct.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use probe_tests::etcd::load::{Amount, Load};
use probe_tests::etcd::{self, Member};
use probe_tests::machine::cancel::Cancel;
use probe_tests::machine::http::Endpoint;
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::{Scratch, SlowFs};
use probe_tests::probe::{self, Finished, Invocation, Running};
use serde_json::Value;

/// The time limit for a command of the probe, ten times that of `check --duration 60s` on an idle machine.
const LIMIT: Duration = Duration::from_mins(11);

/// The name of the member.
const NAME: &str = "readme";

/// Two WAL segments take 128 MiB.
const DISK_MIB: u32 = 320;

/// A WAL sync on this disk takes longer than the limit of `trace` in README.md, 10 ms.
const FLUSH: Duration = Duration::from_millis(12);

/// Syncs one by one.
const LOAD: Load =
    Load { amount: Amount::UntilStopped, connections: 1, value_bytes: 512, keys: 100, tolerant: true };

/// The number of lines of the report in README.md.
const REPORT_LINES: usize = 12;

/// The number of figures of a neighbour: share, requests, flushes, syncs and bytes.
const NEIGHBOUR_FIGURES: usize = 5;

/// The units that follow a figure in the report.
const UNITS: [&str; 13] = ["ns", "µs", "ms", "s", "min", "h", "%", "B", "KiB", "MiB", "GiB", "TiB", "-"];

/// A line of a block of shell commands.
#[derive(Debug)]
struct Line {
    words: Vec<String>,
    comment: String,
}

impl Line {
    fn of(line: &str) -> Self {
        let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
        let words = command.split_whitespace().map(str::to_owned).collect();
        Self { words, comment: comment.trim().to_owned() }
    }

    fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// Fails because the test does not run this command.
    fn unknown(&self) -> ! {
        panic!(
            "README.md has `{}`, which this test does not run; add it to `run` or `finish` in {}, or move it \
             to a block without `sh` if it cannot run on a single machine",
            self.words.join(" "),
            file!()
        )
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// Returns the fenced blocks of a page whose fence names this language, `""` for none.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    // The language of the open block, and its lines so far.
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (None, None) => {}
            (None, Some((_, block))) => block.extend([line, "\n"]),
            (Some(fence), None) => open = Some((fence, String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
        }
    }
    blocks.into_iter().filter(|(fence, _)| *fence == language).map(|(_, block)| block).collect()
}

/// Returns every command of the blocks of shell commands.
fn commands(page: &str) -> Vec<Line> {
    let blocks = blocks(page, "sh").concat();
    blocks.lines().filter(|line| !line.trim().is_empty()).map(Line::of).collect()
}

/// Returns the verdicts of the table, in its order.
fn verdicts(page: &str) -> Vec<&str> {
    let (_, section) = page.split_once("\n## Verdicts\n").expect("README.md has a section on verdicts");
    let section = section.split("\n## ").next().unwrap_or_default();
    section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect()
}

/// Returns the exit code of `check` for the verdicts of all members, as README.md states it: 0 for `healthy`,
/// 2 for the last three of its table, and 1 for all others. The worst counts.
fn stated_code(table: &[&str], members: &[String]) -> i32 {
    let undecided = &table[table.len() - 3..];
    let codes = members.iter().map(|verdict| match verdict.as_str() {
        "healthy" => (0, 0),
        verdict if undecided.contains(&verdict) => (1, 2),
        verdict => {
            assert!(table.contains(&verdict), "README.md lacks the verdict {verdict}");
            (2, 1)
        }
    });
    codes.max().map_or(2, |(_, code)| code)
}

/// Returns the verdict of every member in the text of a report.
fn verdicts_of_text(report: &str) -> Vec<String> {
    let first_words =
        report.lines().filter(|line| is_first_line(line)).filter_map(|line| line.split(' ').next());
    first_words.map(str::to_lowercase).collect()
}

fn is_first_line(line: &str) -> bool {
    let word = line.split(' ').next().unwrap_or_default();
    !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
}

/// Returns the words of a line of a report that depend on neither the machine nor the measurement.
fn fixed_words(line: &str) -> String {
    let named = is_first_line(line);
    let depends = |word: &&str| {
        word.contains(|letter: char| letter.is_ascii_digit() || letter == '/' || letter == '█')
            || UNITS.contains(word)
    };
    let mut words: Vec<_> = line.split_whitespace().collect();
    if named {
        words.drain(..words.len().min(2));
        words.splice(..0, ["VERDICT", "member"]);
    }
    words.retain(|word| !depends(word));
    words.join(" ")
}

/// Asserts that each line of the report in README.md has the form of a line of a real report.
fn assert_form(shown: &str, real: &[&str], advice: &str, table: &[&str]) {
    assert_eq!(shown.lines().count(), REPORT_LINES, "the length that README.md promises: {shown}");
    for verdict in verdicts_of_text(shown) {
        assert!(table.contains(&verdict.as_str()), "README.md shows {verdict}, which is not in its table");
    }
    let forms: Vec<_> = real.iter().flat_map(|report| report.lines()).map(fixed_words).collect();
    for line in shown.lines() {
        // Without the number of the callout.
        let line = line.rsplit_once("  (").map_or(line, |(line, _)| line).trim_end();
        let form = fixed_words(line);
        if form.is_empty() {
            // The names and the figures of a neighbour.
            let figures = line.split_whitespace().filter(|word| word.parse::<f64>().is_ok());
            assert_eq!(figures.count(), NEIGHBOUR_FIGURES, "the report has no line like `{line}`");
        } else if line.trim_start().starts_with(|first: char| first.is_ascii_digit()) {
            assert!(advice.contains(&format!("\"{form}\"")), "the probe never advises to `{form}`");
        } else {
            assert!(forms.contains(&form), "the report has no line like `{line}`: {forms:#?}");
        }
    }
}

/// Runs `./x` with these arguments, without the description that cargo gives this crate: build scripts watch
/// it and would run again.
fn x(arguments: &[&str]) -> Output {
    let mut command = Command::new("./x");
    command.args(arguments).current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    let output = command.output().expect("./x can be executed");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "./x {}: {}: {log}", arguments.join(" "), output.status);
    output
}

/// Runs a command for the workspace, or the closest to it that a test can run.
fn run(line: &Line, probe: &Path) {
    match line.words()[..] {
        // Building takes minutes, unless it is the probe under test that would be built again.
        ["./x", "build"] if probe == root().join("target/release/etcd-disk-probe") => {
            x(&["build"]);
            assert!(probe.is_file(), "`./x build` builds {}", probe.display());
        }
        // The gate calls `test`, which calls this; its demo is the same load on a member and the same check.
        ["./x", task @ ("build" | "demo" | "test")] => {
            let help = x(&["--help"]).stdout;
            let help = String::from_utf8_lossy(&help);
            let listed = help.lines().any(|line| line.split_whitespace().next() == Some(task));
            assert!(listed, "`./x --help` does not list {task}: {help}");
        }
        _ => line.unknown(),
    }
}

/// Waits for the result of a command of the probe; stops a command that does not end by itself, after it has
/// done what README.md promises.
fn finish(line: &Line, running: Running) -> Finished {
    let mut running = running;
    match line.words()[1..] {
        ["check" | "doctor", ..] => return running.wait(LIMIT).unwrap(),
        ["run", "--listen", address] => {
            let endpoint = Endpoint::plain(address.parse().expect("README.md has the address of a socket"));
            let pages: Vec<_> = line.comment.split([' ', ',']).filter(|word| word.starts_with('/')).collect();
            assert!(pages.contains(&"/-/ready"), "README.md lists what is served: {}", line.comment);
            await_output(&mut running, |_| pages.iter().all(|page| serves(&endpoint, page)));
        }
        ["trace", ..] => await_output(&mut running, has_operation),
        _ => line.unknown(),
    }
    running.interrupt(LIMIT).unwrap()
}

/// Returns whether `trace` has printed a slow operation of the member, up to the end of the line.
fn has_operation(output: &str) -> bool {
    output.split_inclusive('\n').any(|line| line.ends_with('\n') && line.split(' ').nth(1) == Some(NAME))
}

fn serves(endpoint: &Endpoint, page: &str) -> bool {
    endpoint.get(page).is_ok_and(|response| response.status == 200)
}

/// Waits until the output, or anything else, shows that a command works.
fn await_output(running: &mut Running, works: impl Fn(&str) -> bool) {
    let done = Cancel::default().wait_for(LIMIT, || {
        if let Some(finished) = running.try_finished()? {
            anyhow::bail!("it ended early: {finished:?}");
        }
        Ok(works(&running.output()?).then_some(()))
    });
    assert!(done.unwrap().is_some(), "it did not work within {LIMIT:?}; {}", running.tail());
}

/// Asserts what README.md states about the result of a command; returns the text of a report.
fn assert_finished(line: &Line, finished: &Finished, table: &[&str]) -> Option<String> {
    let text = line.words.join(" ");
    println!("{text}: {:?}\n{}", finished.code, finished.stdout);
    let code = finished.code.unwrap_or_else(|| panic!("a signal ended `{text}`: {finished:?}"));
    match line.words()[1..] {
        ["check", .., "--output", "json"] => {
            let report = finished.json().unwrap();
            let members = report["members"].as_array().into_iter().flatten();
            let verdicts: Vec<_> =
                members.filter_map(|member| member["verdict"].as_str()).map(str::to_owned).collect();
            assert_eq!(code, stated_code(table, &verdicts), "{text}: {verdicts:?}");
            assert!(members_of(&report).contains(&NAME), "the member is found without configuration");
            None
        }
        ["check", ..] => {
            let verdicts = verdicts_of_text(&finished.stdout);
            assert_eq!(code, stated_code(table, &verdicts), "{text}: {verdicts:?}");
            Some(finished.stdout.clone())
        }
        ["doctor", ..] => {
            assert!(code <= 1, "the probe can run here: {finished:?}");
            None
        }
        ["trace", ..] => {
            assert!(has_operation(&finished.stdout), "a line is an operation of the member: {finished:?}");
            assert_eq!(code, 0, "stopping it is no error: {finished:?}");
            None
        }
        _ => {
            assert_eq!(code, 0, "stopping it is no error: {finished:?}");
            None
        }
    }
}

fn members_of(report: &Value) -> Vec<&str> {
    let members = report["members"].as_array().into_iter().flatten();
    members.filter_map(|member| member["member"].as_str()).collect()
}

#[test]
fn every_command_of_the_readme_works() {
    requirements::require(&[Need::Root, Need::Bpf, Need::Etcd("3.5.16")]);
    requirements::require(&requirements::SLOW_EXT4);
    let page = read("README.md");
    let table = verdicts(&page);
    let binary = probe::binary().unwrap();
    let of_probe =
        |line: &Line| ["etcd-disk-probe", "target/release/etcd-disk-probe"].contains(&line.words[0].as_str());
    let (probes, others): (Vec<_>, Vec<_>) = commands(&page).into_iter().partition(of_probe);
    assert!(probes.len() >= 5 && others.len() >= 3, "README.md has commands: {probes:?}, {others:?}");
    for line in &others {
        run(line, &binary);
    }

    let scratch = Scratch::on_disk(NAME).unwrap();
    let disk = SlowFs::create(&scratch.path().join("disk"), DISK_MIB).unwrap();
    let member = Member::new(&etcd::find("3.5.16").unwrap(), NAME, scratch.path());
    let etcd = member.data_dir(&disk.path().join("data")).start().unwrap();
    disk.flush_delay(FLUSH);
    let load = LOAD.start(etcd.endpoint());

    // All at once: `check` takes a minute, and the others are done meanwhile.
    let mut running: Vec<_> = probes
        .iter()
        .map(|line| {
            let call = Invocation::new(&binary, scratch.path()).arguments(&line.words()[2..]);
            (line, call.start(&line.words[1]).unwrap())
        })
        .collect();
    running.sort_by_key(|(line, _)| line.words[1] == "check");
    let reports: Vec<_> = running
        .into_iter()
        .filter_map(|(line, running)| assert_finished(line, &finish(line, running), &table))
        .collect();
    println!("{:?}, {:?}", load.stop().unwrap(), disk.served());

    let golden = read("probe-user/testdata/report.txt");
    let mut real: Vec<_> = reports.iter().map(String::as_str).collect();
    assert!(!real.is_empty(), "README.md has a `check` that prints text");
    real.push(&golden);
    let shown = blocks(&page, "").into_iter().find(|block| block.lines().next().is_some_and(is_first_line));
    let advice = read("probe-user/src/analysis/verdict/advice.rs");
    assert_form(&shown.expect("README.md has a report"), &real, &advice, &table);
}

#[test]
fn a_page_is_read_by_its_blocks() {
    let page = "```sh\na b   # c d\n\n```\ntext\n```\nHEALTHY  x\n```\n```sh\n./x e\n```\n\n## Verdicts\n\n\
                | verdict | |\n| `one` | y |\n| `two` | z |\n\n## Else\n| `no` | |\n";
    let lines = commands(page);
    let read: Vec<_> = lines.iter().map(|line| (line.words.join(" "), line.comment.as_str())).collect();
    assert_eq!(read, [("a b".to_owned(), "c d"), ("./x e".to_owned(), "")]);
    assert_eq!(blocks(page, ""), ["HEALTHY  x\n"]);
    assert_eq!(verdicts(page), ["one", "two"]);
}

#[test]
fn the_form_of_a_line_has_no_figures() {
    let cases = [
        ("HEALTHY  node-1", "VERDICT member", "a first line"),
        ("CPU_STARVED  x  for 13 min", "VERDICT member for", "with its duration"),
        ("  run queue  100 ms    7 %  ███", "run queue", "a cause"),
        ("  pod a/b  80 %  3  2  2  7 MiB", "pod", "a neighbour"),
        ("  wal fsync  kernel 3 = etcd 3: difference 0", "wal fsync kernel = etcd difference", "a check"),
    ];
    for (line, expected, why) in cases {
        assert_eq!(fixed_words(line), expected, "{why}");
    }
}

#[test]
fn exit_codes_follow_the_table() {
    let table = ["healthy", "slow", "few", "mismatch", "blind"];
    let cases = [
        (&["healthy"][..], 0, "all is well"),
        (&["healthy", "blind"], 2, "one is undecided"),
        (&["blind", "slow", "healthy"], 1, "one is slow"),
        (&[], 2, "no member"),
    ];
    for (members, expected, why) in cases {
        let members: Vec<_> = members.iter().map(|&verdict| verdict.to_owned()).collect();
        assert_eq!(stated_code(&table, &members), expected, "{why}");
    }
}

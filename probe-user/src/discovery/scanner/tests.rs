//! Real processes: a copy of `sleep` named etcd that holds open the file that the test passes.

use std::{
    fs::{self, File},
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;
use crate::discovery::paths::FileRef;

const SEGMENT: &str = "0000000000000000-0000000000000000.wal";

/// A temporary directory for one test, removed on drop.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("etcd-disk-probe-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Creates `<data_dir>/member/wal` with one segment, and returns the segment's path.
    fn segment(&self, data_dir: &str) -> PathBuf {
        let wal = self.0.join(data_dir).join("member/wal");
        fs::create_dir_all(&wal).unwrap();
        let path = wal.join(SEGMENT);
        File::create(&path).unwrap();
        path
    }

    /// Copies `sleep` to the path `name`.
    fn program(&self, name: &str) -> PathBuf {
        let program = self.0.join(name);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        // Copied by another process: if the file were open for writing in this one, a child forked by another
        // test at the same time would inherit the descriptor, and a file that is open for writing cannot be
        // executed.
        assert!(Command::new("cp").arg("/bin/sleep").arg(&program).status().unwrap().success());
        program
    }

    /// Copies the libraries of `sleep`, so that it runs with the directory as its root.
    fn libraries(&self) {
        let listed = Command::new("ldd").arg("/bin/sleep").output().unwrap();
        for word in String::from_utf8(listed.stdout).unwrap().split_whitespace() {
            if word.starts_with('/') {
                let copy = self.0.join(word.trim_start_matches('/'));
                fs::create_dir_all(copy.parent().unwrap()).unwrap();
                fs::copy(word, copy).unwrap();
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Fake(Child);

impl Fake {
    /// Settings are passed in `environment`, because `sleep` does not accept etcd's flags.
    fn start(program: &Path, cwd: &Path, environment: &[(&str, &str)], holds: Option<&Path>) -> Self {
        let mut command = Command::new(program);
        Self::spawn(command.arg("60"), cwd, environment, holds)
    }

    fn spawn(command: &mut Command, cwd: &Path, environment: &[(&str, &str)], holds: Option<&Path>) -> Self {
        let stdin = holds.map_or_else(Stdio::null, |path| File::open(path).unwrap().into());
        Self(command.current_dir(cwd).envs(environment.iter().copied()).stdin(stdin).spawn().unwrap())
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id()).expect("the process that was just started runs")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn names() -> Vec<String> {
    vec!["etcd".to_owned()]
}

/// Scans until the processes are found: between fork and execve they have the name of this process.
fn scan_for(scanner: &mut Scanner, fakes: &[&Fake]) -> Scan {
    let ours = |pid: u32| fakes.iter().any(|fake| fake.0.id() == pid);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut scan = scanner.scan(&Overrides::default(), &names(), &[]);
        scan.members.retain(|member| ours(member.id.pid));
        scan.pending.retain(|pending| ours(pending.id.pid));
        scan.unreadable.retain(|unreadable| ours(unreadable.pid));
        if scan.members.len() + scan.pending.len() + scan.unreadable.len() == fakes.len() {
            return scan;
        }
        assert!(Instant::now() < deadline, "not all of the {} processes appeared: {scan:?}", fakes.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_member_is_recognized_by_the_segment_it_holds() {
    let scratch = Scratch::new("segment");
    let program = scratch.program("etcd");
    let inside = scratch.segment("data");
    let elsewhere = scratch.segment("elsewhere");
    let linked = scratch.0.join("linked");
    symlink(scratch.0.join("data"), &linked).unwrap();
    let data = inside.ancestors().nth(3).unwrap().to_str().unwrap();
    let cases: [(&str, Option<&Path>, bool, &str); 6] = [
        (data, Some(&inside), true, "holds its own segment"),
        (linked.to_str().unwrap(), Some(&inside), true, "by another name of the same directory"),
        ("data", Some(&inside), true, "by a relative path"),
        (data, Some(&elsewhere), false, "holds a segment of another directory"),
        (data, None, false, "holds none, although the directory exists"),
        ("/nowhere", Some(&inside), false, "has no WAL directory"),
    ];
    for (data_dir, holds, expected, why) in cases {
        let fake = Fake::start(&program, &scratch.0, &[("ETCD_DATA_DIR", data_dir)], holds);
        let scan = scan_for(&mut Scanner::default(), &[&fake]);
        assert_eq!(
            (scan.members.len() == 1, scan.pending.len() == 1),
            (expected, !expected),
            "{why}: {scan:?}"
        );
        if let Some(member) = scan.members.first() {
            let inode = fs::metadata(inside.parent().unwrap()).unwrap().ino();
            assert_eq!(member.wal_dir_inode, inode, "{why}");
            assert!(member.comm_matches && member.data_dir.is_absolute(), "{why}");
        }
    }
}

#[test]
fn a_pending_process_becomes_a_member_and_an_ended_one_leaves() {
    let scratch = Scratch::new("pending");
    let program = scratch.program("etcd");
    let held = scratch.0.join(SEGMENT);
    File::create(&held).unwrap();
    let fake = Fake::start(&program, &scratch.0, &[], Some(&held));
    let mut scanner = Scanner::default();
    assert_eq!(scan_for(&mut scanner, &[&fake]).pending.len(), 1);
    // As in etcd: the segment is open before its directory has its final name.
    let wal = scratch.0.join("default.etcd/member/wal");
    fs::create_dir_all(&wal).unwrap();
    fs::rename(&held, wal.join(SEGMENT)).unwrap();
    let scan = scan_for(&mut scanner, &[&fake]);
    // Other tests run processes of this name at the same time, so the label may be longer.
    assert_eq!(scan.members[0].settings.name, "default");
    assert_eq!(scan.members[0].data_dir, fs::canonicalize(&scratch.0).unwrap().join("default.etcd"));
    let id = fake.id();
    drop(fake);
    let scan = scanner.scan(&Overrides::default(), &names(), &[]);
    assert!(!scan.members.iter().any(|member| member.id == id), "an ended process is no member");
}

#[test]
fn members_of_one_name_keep_distinct_labels() {
    let scratch = Scratch::new("shared");
    let program = scratch.program("etcd");
    let (a, b) = (scratch.segment("a"), scratch.segment("b"));
    let dir = |name: &str| scratch.0.join(name).to_str().unwrap().to_owned();
    let name = format!("same-{}", std::process::id());
    let start = |data_dir: &str, segment: &Path| {
        Fake::start(&program, &scratch.0, &[("ETCD_NAME", &name), ("ETCD_DATA_DIR", data_dir)], Some(segment))
    };
    let first = start(&dir("a"), &a);
    let mut scanner = Scanner::default();
    assert_eq!(scan_for(&mut scanner, &[&first]).members[0].name, name, "a unique name is used as it is");
    let second = start(&dir("b"), &b);
    let both = scan_for(&mut scanner, &[&first, &second]);
    let labels: Vec<_> = both.members.iter().map(|member| member.name.clone()).collect();
    assert_eq!(labels, [format!("{name}@{}", dir("a")), format!("{name}@{}", dir("b"))]);
    drop(second);
    assert_eq!(scan_for(&mut scanner, &[&first]).members[0].name, labels[0], "the label stays");
    let third = start(&dir("a"), &a);
    let scan = scan_for(&mut scanner, &[&first, &third]);
    assert!(
        scan.members.iter().all(|member| member.name.contains('#')),
        "even the directory is the same: {scan:?}"
    );
}

#[test]
fn paths_do_not_leave_the_root_of_a_process() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test starts a process with its own root directory: run it as root"
    );
    let scratch = Scratch::new("root");
    scratch.libraries();
    scratch.program("bin/etcd");
    let segment = scratch.segment("var/etcd");
    let secret = scratch.0.with_extension("secret");
    fs::write(&secret, "outside").unwrap();
    fs::create_dir_all(scratch.0.join("etc")).unwrap();
    fs::write(scratch.0.join("etc/etcd.yaml"), "name: inside\ndata-dir: ../link\n").unwrap();
    // An absolute path that exists only inside the root.
    symlink("/var/etcd", scratch.0.join("link")).unwrap();
    symlink(&secret, scratch.0.join("etc/escape")).unwrap();
    symlink("../../../../../../../../etc/etcd.yaml", scratch.0.join("etc/up")).unwrap();

    let mut command = Command::new("chroot");
    command.arg(&scratch.0).args(["/bin/etcd", "60"]);
    let fake =
        Fake::spawn(&mut command, &scratch.0, &[("ETCD_CONFIG_FILE", "/etc/etcd.yaml")], Some(&segment));
    let scan = scan_for(&mut Scanner::default(), &[&fake]);
    let member = scan.members.first().unwrap_or_else(|| panic!("no member: {scan:?}"));
    assert_eq!((&*member.settings.name, &*member.data_dir), ("inside", Path::new("/../link")));
    assert_eq!(member.wal_dir_inode, fs::metadata(segment.parent().unwrap()).unwrap().ino());

    let read = |path: &str| FileRef { path: path.into(), root_of: Some(fake.id()) }.read(1 << 10);
    assert!(read("/etc/up").is_ok(), "`..` stops at the root");
    assert!(read("etc/etcd.yaml").is_ok(), "relative to the working directory");
    assert!(read("/etc/escape").is_err(), "a link to our file is not followed out of the root");
    assert!(read("/var/etcd").is_err(), "a directory is not a regular file");
    assert_eq!(
        rustix::fs::mknodat(
            rustix::fs::CWD,
            scratch.0.join("etc/pipe"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        ),
        Ok(())
    );
    assert!(read("/etc/pipe").is_err(), "a FIFO would never end");
    let small = FileRef { path: "/etc/etcd.yaml".into(), root_of: Some(fake.id()) }.read(3);
    assert!(small.is_err(), "larger than the limit");
    fs::remove_file(secret).unwrap();
}

#[test]
fn a_broken_configuration_file_is_reported() {
    let scratch = Scratch::new("broken");
    let program = scratch.program("etcd");
    fs::write(scratch.0.join("f"), "name: [").unwrap();
    let cases = [("f", UnreadableItem::Settings), ("missing", UnreadableItem::ConfigFile)];
    for (file, what) in cases {
        let fake = Fake::start(&program, &scratch.0, &[("ETCD_CONFIG_FILE", file)], None);
        let scan = scan_for(&mut Scanner::default(), &[&fake]);
        let unreadable = scan.unreadable.first().unwrap_or_else(|| panic!("{file}: {scan:?}"));
        assert_eq!(unreadable.what, what, "{unreadable}");
    }
}

#[test]
fn a_process_is_found_by_another_name_of_its_program() {
    let scratch = Scratch::new("names");
    let program = scratch.program("etcd");
    let alias = scratch.0.join("keyvalue");
    symlink(&program, &alias).unwrap();
    let fake = Fake::start(&alias, &scratch.0, &[], None);
    let scan = scan_for(&mut Scanner::default(), &[&fake]);
    assert!(!scan.pending[0].comm_matches, "the kernel calls it keyvalue: {scan:?}");
}

#[test]
fn shared_names_do_not_accumulate() {
    let mut shared: HashSet<String> = (0..SHARED_NAMES_MAX).map(|n| format!("gone-{n}")).collect();
    label(&mut [], &mut shared);
    assert_eq!(shared.len(), SHARED_NAMES_MAX, "few of them stay");
    shared.insert("one-more".to_owned());
    label(&mut [], &mut shared);
    assert!(shared.is_empty(), "no member has them: {shared:?}");
}

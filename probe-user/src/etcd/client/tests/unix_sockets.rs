//! Unix sockets of real processes, by the paths that these processes use.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::symlink,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::{
    analysis::scrape_failure::Reason,
    discovery::{Endpoint, FileRef, ProcessId},
    etcd::Client,
    support::fixture::Tree,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const METRICS: &str = include_str!("../../../../testdata/etcd-3.4.23-metrics.txt");

/// A process with a working directory. Killed on drop.
struct Worker(Child);

impl Worker {
    fn start(directory: &Path) -> Self {
        Self(Command::new("sleep").arg("60").current_dir(directory).spawn().unwrap())
    }

    fn id(&self) -> ProcessId {
        ProcessId::of(self.0.id()).expect("it runs")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Answers one request with etcd's metrics.
fn serve_once(listener: UnixListener) {
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", METRICS.len());
        stream.write_all((head + METRICS).as_bytes()).unwrap();
    });
}

/// Listens in a directory whose path may be too long for an address.
fn listen(directory: &Path, name: &str) -> UnixListener {
    let directory = File::open(directory).unwrap();
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd())).unwrap()
}

fn endpoint(path: PathBuf, root_of: Option<ProcessId>) -> Endpoint {
    let endpoint = Endpoint::parse(&format!("unix://{}", path.display())).unwrap();
    Endpoint { socket: Some(FileRef { path, root_of }), ..endpoint }
}

#[tokio::test]
async fn a_socket_is_found_by_etcds_own_path() {
    let tree = Tree::with(&[]);
    let long = tree.path().join("l".repeat(120));
    fs::create_dir(&long).unwrap();
    symlink("localhost:2379", tree.path().join("link")).unwrap();
    let worker = Worker::start(tree.path());
    let cases = [
        (tree.path(), "here", tree.path().join("here"), None, "a path of the probe"),
        (tree.path(), "there", tree.path().join("there"), Some(worker.id()), "its absolute path"),
        (
            tree.path(),
            "localhost:2379",
            "localhost:2379".into(),
            Some(worker.id()),
            "relative to its working directory",
        ),
        (tree.path(), "localhost:2379", "link".into(), Some(worker.id()), "through a symbolic link"),
        (&long, "s", long.join("s"), None, "longer than a socket address"),
    ];
    for (directory, name, path, root_of, why) in cases {
        let _ = fs::remove_file(directory.join(name));
        serve_once(listen(directory, name));
        let scrape = Client::new(vec![endpoint(path, root_of)], TIMEOUT).scrape().await;
        let scrape = scrape.unwrap_or_else(|failure| panic!("{why}: {failure:?}"));
        assert_eq!(scrape.wal_fsync.count, 5, "{why}");
    }
}

#[tokio::test]
async fn a_socket_that_is_not_served_has_its_reason() {
    let tree = Tree::with(&[("file", "")]);
    drop(listen(tree.path(), "left"));
    let busy = tree.path().join("busy");
    let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&busy).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _first = UnixStream::connect(&busy).unwrap(); // Fills the backlog.
    let cases = [
        ("left", Reason::Refused, "its process has ended"),
        ("none", Reason::Refused, "no such file"),
        ("file", Reason::Refused, "a regular file"),
        ("busy", Reason::Timeout, "the connection is not accepted"),
    ];
    for (name, reason, why) in cases {
        let started = Instant::now();
        let endpoint = endpoint(tree.path().join(name), None);
        let failure = Client::new(vec![endpoint], Duration::from_millis(300)).scrape().await;
        let failure = failure.map(drop).expect_err(why);
        assert_eq!(failure.reason(), reason, "{why}: {failure:?}");
        assert!(started.elapsed() < TIMEOUT, "{why}: bounded in time");
    }
}

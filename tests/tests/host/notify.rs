//! The daemon's notifications to a service manager; the daemon never blocks on one that does not read.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use probe_tests::faults::evidence::{Stopwatch, Ticker};
use probe_tests::machine::requirements::{self, Need};
use probe_tests::machine::scratch::Scratch;
use probe_tests::probe::{self, Invocation};

/// A keep-alive message is therefore due every second.
const WATCHDOG: Duration = Duration::from_secs(2);

/// The time limit for the daemon to detect that it is blind: the self-test runs every 5 s, and the status is
/// updated every second.
const BLIND_LIMIT: Duration = Duration::from_secs(15);

/// The same on a busy machine: [`BLIND_LIMIT`] applies to the time without the machine's own lateness.
const BUSY_LIMIT: Duration = Duration::from_mins(2);

fn call(binary: &Path, scratch: &Scratch, watchdog: Duration) -> Invocation {
    Invocation::new(binary, scratch.path())
        .environment("NOTIFY_SOCKET", &scratch.path().join("notify").display().to_string())
        .environment("WATCHDOG_USEC", &watchdog.as_micros().to_string())
}

/// Listens like systemd and forwards each message with its time of arrival.
fn listen(scratch: &Scratch) -> Receiver<(Instant, String)> {
    let socket = UnixDatagram::bind(scratch.path().join("notify")).unwrap();
    let (heard, messages) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length) = socket.recv(&mut bytes) {
            let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
            if heard.send((Instant::now(), text)).is_err() {
                return;
            }
        }
    });
    messages
}

fn has(message: &str, line: &str) -> bool {
    message.lines().any(|found| found == line)
}

#[test]
fn ready_keep_alive_blind_and_stopping_are_notified() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("notify").unwrap();
    let messages = listen(&scratch);
    let blind_now = scratch.path().join("blind-now");
    let faulty = call(Path::new(env!("CARGO_BIN_EXE_faulty-probe")), &scratch, WATCHDOG)
        .environment("FAULT", "detach")
        .environment("FAULT_WHEN", &blind_now.display().to_string());
    let probe = faulty.launch().unwrap();

    let (_, first) = messages.recv_timeout(Duration::from_mins(1)).unwrap();
    assert!(has(&first, "READY=1") && first.contains("STATUS=attached by "), "{first}");
    assert!(probe.is_ready(), "the first request is served");

    let ticker = Ticker::start();
    std::fs::write(&blind_now, "").unwrap();
    let since = Instant::now();
    let mut longest = Duration::ZERO;
    let (mut last, mut blind, mut alive_after) = (since, None, 0);
    // The keep-alive messages continue when it is blind.
    while alive_after < 3 {
        let (at, message) = messages.recv_timeout(BUSY_LIMIT).unwrap();
        assert!(has(&message, "WATCHDOG=1") && !has(&message, "READY=1"), "{message}");
        longest = longest.max(at - last);
        last = at;
        alive_after += usize::from(blind.is_some());
        if message.contains("STATUS=blind: ") {
            blind = Some(at - since);
        }
        assert!(
            blind.is_some() || since.elapsed() < BUSY_LIMIT,
            "it does not report that it is blind: {message}"
        );
    }
    let (blind, lateness) = (blind.unwrap(), ticker.stop());
    println!("reported as blind after {blind:?}, {longest:?} between two messages; {lateness}");
    assert!(
        blind.saturating_sub(lateness.total) < BLIND_LIMIT,
        "reported as blind after {blind:?}; {lateness}"
    );
    assert!(
        longest.saturating_sub(lateness.total) < WATCHDOG,
        "{longest:?} between two messages; {lateness}"
    );
    assert!(!probe.is_ready());

    assert_eq!(probe.stop().unwrap().code(), Some(0));
    let mut rest = Vec::new();
    while let Ok((_, message)) = messages.recv_timeout(Duration::from_millis(100)) {
        rest.push(message);
    }
    assert!(rest.last().is_some_and(|message| has(message, "STOPPING=1")), "{rest:?}");
}

#[test]
fn a_listener_that_does_not_read_blocks_nothing() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("notify").unwrap();
    let deaf = UnixDatagram::bind(scratch.path().join("notify")).unwrap();
    // A message every 20 ms: the kernel's buffer of the socket is soon full.
    let probe = call(&probe::binary().unwrap(), &scratch, Duration::from_millis(40)).run().unwrap();
    thread::sleep(Duration::from_secs(3));
    assert!(probe.is_ready(), "it continues");
    let since = Stopwatch::start();
    assert_eq!(probe.stop().unwrap().code(), Some(0));
    let took = since.stop();
    assert!(took.when_idle() < Duration::from_secs(3), "it ended after {took}");
    // The daemon sent messages until the buffer was full.
    deaf.set_nonblocking(true).unwrap();
    let kept = std::iter::repeat_with(|| deaf.recv(&mut [0; 4096])).take_while(Result::is_ok).count();
    println!("{kept} messages were buffered");
    assert!((2..100).contains(&kept), "{kept} messages");
}

#[test]
fn a_missing_listener_is_no_error() {
    requirements::require(&[Need::Root, Need::Bpf]);
    let scratch = Scratch::on_disk("notify").unwrap();
    let probe = call(&probe::binary().unwrap(), &scratch, WATCHDOG).run().unwrap();
    thread::sleep(2 * WATCHDOG);
    let messages = listen(&scratch);
    // Messages are sent once there is a listener.
    let received = messages.recv_timeout(10 * WATCHDOG);
    assert!(matches!(&received, Ok((_, message)) if has(message, "WATCHDOG=1")), "{received:?}");
    let log = probe.log().unwrap();
    assert_eq!(log.matches("cannot notify the service manager").count(), 1, "reported once: {log}");
}

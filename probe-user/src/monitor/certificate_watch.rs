//! The expiry of a member's certificates, and warnings in advance.
//!
//! The files are checked every few seconds on a separate thread, which may hang without delaying anything
//! else. They are read when one has changed, and once a minute in any case. Functions without I/O decide
//! which warnings are due.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    analysis::certificate_expiry::{CertificateKind, ExpiryWarning, Validity, due, end_of, sentence},
    discovery::Member,
    etcd::{
        certificate::{self, CertificateFiles},
        credential_files::Fingerprints,
    },
    system::netns_spawner::NetnsSpawner,
};

/// How often the files are checked for changes, and how often they are read even if unchanged.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const READ_INTERVAL: Duration = Duration::from_mins(1);

/// The certificates of one incarnation of a member.
#[derive(Debug, Default)]
pub struct CertificateWatch {
    /// By [`CertificateKind`].
    found: [Option<ExpiringFile>; 3],
    /// When the chain that the server presented on the current connection expires, in seconds since 1970.
    presented_s: Option<i64>,
    running: Option<oneshot::Receiver<CertificateCheck>>,
    checked_at: Option<Instant>,
    fingerprints: Option<Fingerprints>,
    read_at: Option<Instant>,
    /// By [`CertificateKind`].
    warned: [Option<ExpiryWarning>; 3],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct ExpiringFile {
    path: PathBuf,
    until_s: i64,
}

#[derive(Debug)]
struct CertificateCheck {
    fingerprints: Fingerprints,
    /// None if nothing has changed.
    found: Option<[Option<ExpiringFile>; 3]>,
}

impl CertificateWatch {
    /// Starts a new incarnation: clears everything except the warnings already logged.
    pub fn begin(&mut self) {
        *self = Self { warned: self.warned, ..Self::default() };
    }

    /// Sets the validity of the chain that the server presented on the connection; none without TLS.
    pub fn set_presented(&mut self, validity: Option<Validity>) {
        self.presented_s = validity.map(|validity| validity.not_after_s);
    }

    /// Returns when each certificate expires, in seconds since 1970, by [`CertificateKind`]; none if there is
    /// none.
    ///
    /// For the server, the presented certificate counts: it may differ from the one in the file.
    pub fn ends_s(&self) -> [Option<i64>; 3] {
        CertificateKind::ALL.map(|kind| {
            let presented_s = self.presented_s.filter(|_| kind == CertificateKind::Server);
            presented_s.or(self.found[kind as usize].as_ref().map(|found| found.until_s))
        })
    }

    /// Takes the result of the last check, starts the next one when it is due, and logs warnings of
    /// certificates that expire soon. Called each second.
    pub fn tick(&mut self, member: &Member) {
        self.take_result();
        if self.running.is_none() && self.checked_at.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            self.checked_at = Some(Instant::now());
            let recent = self.read_at.is_some_and(|at| at.elapsed() < READ_INTERVAL);
            let known = self.fingerprints.clone().filter(|_| recent);
            // If no thread can be started, the next check is soon enough.
            self.running = start(CertificateFiles::of(member), known).ok();
        }
        let now_s = now_s();
        for (kind, until_s) in CertificateKind::ALL.into_iter().zip(self.ends_s()) {
            let Some(until_s) = until_s else { continue };
            let Some(warning) = due(self.warned[kind as usize], until_s, now_s) else { continue };
            self.warned[kind as usize] = Some(warning);
            let file = self.file(kind, until_s).unwrap_or(Path::new(""));
            let sentence = sentence(kind, warning.urgency, until_s, now_s);
            warn!(member = member.name, certificate = kind.as_str(), file = %file.display(), "{sentence}");
        }
    }

    /// Returns the file that expires then; none if the presented certificate is meant.
    fn file(&self, kind: CertificateKind, until_s: i64) -> Option<&Path> {
        let found = self.found[kind as usize].as_ref();
        found.filter(|found| found.until_s == until_s).map(|found| &*found.path)
    }

    fn take_result(&mut self) {
        let Some(running) = &mut self.running else { return };
        match running.try_recv() {
            Ok(check) => {
                self.fingerprints = Some(check.fingerprints);
                if let Some(found) = check.found {
                    self.found = found;
                    self.read_at = Some(Instant::now());
                }
                self.running = None;
            }
            Err(oneshot::error::TryRecvError::Closed) => self.running = None,
            // The last check is still running, so no second one is started.
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
    }
}

/// Checks the files on a separate thread, and reads them unless their fingerprints are unchanged.
fn start(
    files: CertificateFiles,
    known: Option<Fingerprints>,
) -> io::Result<oneshot::Receiver<CertificateCheck>> {
    let (sender, receiver) = oneshot::channel();
    // The thread enters no namespace, so it gets no right to do so.
    NetnsSpawner::default().run(move || {
        let fingerprints = Fingerprints::of(files.all());
        let found = (known.as_ref() != Some(&fingerprints)).then(|| read(&files, now_s()));
        // The receiver is gone if the member has ended.
        let _ = sender.send(CertificateCheck { fingerprints, found });
    })?;
    Ok(receiver)
}

fn read(files: &CertificateFiles, now_s: i64) -> [Option<ExpiringFile>; 3] {
    let read = |kind, file: &crate::discovery::FileRef| {
        // A file that cannot be read makes the scrapes fail, if it is needed, and is reported there.
        let until_s = end_of(kind, &certificate::validities(file).ok()?, now_s)?;
        Some(ExpiringFile { path: file.path.clone(), until_s })
    };
    let authorities = files.authorities.iter().filter_map(|file| read(CertificateKind::Ca, file));
    [
        authorities.min_by_key(|found| found.until_s),
        files.server.as_ref().and_then(|file| read(CertificateKind::Server, file)),
        files.client_certificate().and_then(|file| read(CertificateKind::Client, file)),
    ]
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_presented_certificate_counts_for_the_server_only() {
        let found = |until_s| Some(ExpiringFile { path: "/pki/x.crt".into(), until_s });
        let mut certificates =
            CertificateWatch { found: [found(1), found(2), found(3)], ..CertificateWatch::default() };
        assert_eq!(certificates.ends_s(), [Some(1), Some(2), Some(3)], "of the files");
        certificates.set_presented(Some(Validity { not_before_s: 0, not_after_s: 9 }));
        assert_eq!(certificates.ends_s(), [Some(1), Some(9), Some(3)]);
        assert_eq!(
            certificates.file(CertificateKind::Server, 9),
            None,
            "the presented certificate is in no file"
        );
        certificates.set_presented(None);
        assert_eq!(certificates.ends_s(), [Some(1), Some(2), Some(3)], "a plain listener presents none");
    }
}

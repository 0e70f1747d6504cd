//! Until when a member's certificates hold, and warnings ahead of time.
//!
//! The files are looked at every few seconds on a thread of its own, which may hang without holding up anything else; they are
//! read when one has changed, and once a minute anyway. Whom to warn of what, and when, is decided by functions without I/O.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;
use tracing::warn;

use crate::analysis::certificate_expiry::CertificateKind;
use crate::analysis::certificate_expiry::{Told, due, end_of, sentence};

use crate::{
    analysis::certificate_expiry::Validity,
    discovery::Member,
    etcd::{
        certificate::{self, Files},
        credential_files::Fingerprints,
    },
    system::privileges::NetnsSpawner,
};

/// How often the files are looked at, and how often read, changed or not.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);
const READ_EVERY: Duration = Duration::from_mins(1);

/// What is known of a member's certificates in one of its lives.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By [`CertificateKind`].
    found: [Option<Found>; 3],
    /// Until when the chain holds that the server presented on the connection in use.
    presented_s: Option<i64>,
    looking: Option<oneshot::Receiver<Look>>,
    looked_at: Option<Instant>,
    fingerprints: Option<Fingerprints>,
    read_at: Option<Instant>,
    /// By [`CertificateKind`].
    told: [Option<Told>; 3],
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    path: PathBuf,
    until_s: i64,
}

#[derive(Debug)]
struct Look {
    fingerprints: Fingerprints,
    /// None if nothing has changed.
    found: Option<[Option<Found>; 3]>,
}

impl Certificates {
    /// Forgets what belongs to a life that is over, and not what was warned of.
    pub fn begin(&mut self) {
        *self = Self { told: self.told, ..Self::default() };
    }

    /// Takes in what the server presented on the connection that was used; none without TLS.
    pub fn presented(&mut self, validity: Option<Validity>) {
        self.presented_s = validity.map(|validity| validity.not_after_s);
    }

    /// Returns until when each certificate holds, in seconds since 1970, by [`CertificateKind`]; none where there is none.
    ///
    /// Of the server's the one that it presents counts, for it may be another one than the file has.
    pub fn ends_s(&self) -> [Option<i64>; 3] {
        CertificateKind::ALL.map(|kind| {
            let presented_s = self.presented_s.filter(|_| kind == CertificateKind::Server);
            presented_s.or(self.found[kind as usize].as_ref().map(|found| found.until_s))
        })
    }

    /// Takes in the last look, starts another when it is time, and warns of what will end soon. Called each second.
    pub fn tick(&mut self, member: &Member) {
        self.drain_sampler();
        if self.looking.is_none() && self.looked_at.is_none_or(|at| at.elapsed() >= LOOKED_AT_EVERY) {
            self.looked_at = Some(Instant::now());
            let recent = self.read_at.is_some_and(|at| at.elapsed() < READ_EVERY);
            let known = self.fingerprints.clone().filter(|_| recent);
            // Without a thread the next look is as good.
            self.looking = start(Files::of(member), known).ok();
        }
        let now_s = now_s();
        for (kind, until_s) in CertificateKind::ALL.into_iter().zip(self.ends_s()) {
            let Some(until_s) = until_s else { continue };
            let Some(warning) = due(self.told[kind as usize], until_s, now_s) else { continue };
            self.told[kind as usize] = Some(warning);
            let file = self.file(kind, until_s).unwrap_or(Path::new(""));
            let sentence = sentence(kind, warning.urgency, until_s, now_s);
            warn!(member = member.name, certificate = kind.as_str(), file = %file.display(), "{sentence}");
        }
    }

    /// Returns the file that ends then; none if it is the one that was presented.
    fn file(&self, kind: CertificateKind, until_s: i64) -> Option<&Path> {
        let found = self.found[kind as usize].as_ref();
        found.filter(|found| found.until_s == until_s).map(|found| &*found.path)
    }

    fn drain_sampler(&mut self) {
        let Some(looking) = &mut self.looking else { return };
        match looking.try_recv() {
            Ok(look) => {
                self.fingerprints = Some(look.fingerprints);
                if let Some(found) = look.found {
                    self.found = found;
                    self.read_at = Some(Instant::now());
                }
                self.looking = None;
            }
            Err(oneshot::error::TryRecvError::Closed) => self.looking = None,
            // The last one is not back, so there is no second one beside it.
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
    }
}

/// Looks at the files on a thread of its own, and reads them unless they are as they were known to be.
fn start(files: Files, known: Option<Fingerprints>) -> io::Result<oneshot::Receiver<Look>> {
    let (sender, receiver) = oneshot::channel();
    // It enters no namespace, so it gets no right to.
    NetnsSpawner::default().run(move || {
        let fingerprints = Fingerprints::of(files.all());
        let found = (known.as_ref() != Some(&fingerprints)).then(|| read(&files, now_s()));
        // Nobody waits any more if the member has gone.
        let _ = sender.send(Look { fingerprints, found });
    })?;
    Ok(receiver)
}

fn read(files: &Files, now_s: i64) -> [Option<Found>; 3] {
    let read = |kind, file: &crate::discovery::FileRef| {
        // What cannot be read breaks the scrapes, if it matters, and is told there.
        let until_s = end_of(kind, &certificate::validities(file).ok()?, now_s)?;
        Some(Found { path: file.path.clone(), until_s })
    };
    let authorities = files.authorities.iter().filter_map(|file| read(CertificateKind::Ca, file));
    [
        authorities.min_by_key(|found| found.until_s),
        files.server.as_ref().and_then(|file| read(CertificateKind::Server, file)),
        files.shown().and_then(|file| read(CertificateKind::Client, file)),
    ]
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_presented_counts_for_the_server_alone() {
        let found = |until_s| Some(Found { path: "/pki/x.crt".into(), until_s });
        let mut certificates =
            Certificates { found: [found(1), found(2), found(3)], ..Certificates::default() };
        assert_eq!(certificates.ends_s(), [Some(1), Some(2), Some(3)], "the files'");
        certificates.presented(Some(Validity { not_before_s: 0, not_after_s: 9 }));
        assert_eq!(certificates.ends_s(), [Some(1), Some(9), Some(3)]);
        assert_eq!(certificates.file(CertificateKind::Server, 9), None, "no file of that name is to blame");
        certificates.presented(None);
        assert_eq!(certificates.ends_s(), [Some(1), Some(2), Some(3)], "a plain listener presents none");
    }
}

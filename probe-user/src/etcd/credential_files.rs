//! Fingerprints of credential files, which detect a rotation without reading the files.

use std::io;

use rustix::fs::OFlags;
use tokio::sync::oneshot;

use crate::{
    discovery::{Credentials, FileRef, ProcessId, paths::Root},
    system::{file_fingerprint::Fingerprint, netns_spawner::NetnsSpawner},
};

/// Fingerprints of all files of a set of credentials; none for a file that cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprints(Vec<Option<Fingerprint>>);

impl Fingerprints {
    /// Computes the fingerprints of the files. May block for as long as their file system does.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a FileRef>) -> Self {
        // The files have at most one owning process; its root is opened once.
        let mut known: Option<(ProcessId, io::Result<Root>)> = None;
        let fingerprint = |file: &FileRef| {
            let Some(process) = file.root_of else { return Fingerprint::of_path(&file.path) };
            if known.as_ref().is_none_or(|(of, _)| *of != process) {
                known = Some((process, Root::of(process)));
            }
            let (_, root) = known.as_ref()?;
            let opened = root.as_ref().ok()?.open(&file.path, OFlags::PATH).ok()?;
            Fingerprint::of_descriptor(opened)
        };
        Self(files.into_iter().map(fingerprint).collect())
    }

    /// Computes the fingerprints of all files of these credentials.
    pub fn of_credentials(credentials: &Credentials) -> Self {
        let pairs = credentials.client.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        Self::of(credentials.authorities.iter().chain(&credentials.server_file).chain(pairs))
    }

    /// Computes the fingerprints on a separate thread: files of a container may be on a file system that
    /// never responds.
    pub(super) fn start(credentials: &Credentials) -> io::Result<oneshot::Receiver<Self>> {
        let (sender, receiver) = oneshot::channel();
        let credentials = credentials.clone();
        // The thread enters no namespace, so it gets no privilege for it.
        NetnsSpawner::default().run(move || {
            // The receiver is gone if the client was dropped.
            let _ = sender.send(Self::of_credentials(&credentials));
        })?;
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use std::fs;

    use super::*;

    #[test]
    fn every_change_of_a_file_is_detected() {
        let directory =
            std::env::temp_dir().join(format!("etcd-disk-probe-fingerprints-{}", std::process::id()));
        let make = |name: &str, text: &str| {
            fs::create_dir_all(directory.join(name)).unwrap();
            fs::write(directory.join(name).join("tls.crt"), text).unwrap();
        };
        make("..1", "one");
        make("..2", "two");
        symlink("..1", directory.join("..data")).unwrap();
        symlink("..data/tls.crt", directory.join("tls.crt")).unwrap();
        let me = ProcessId::of(std::process::id());
        let fingerprints =
            |root_of| Fingerprints::of([&FileRef { path: directory.join("tls.crt"), root_of }]);
        let both = || [fingerprints(None), fingerprints(me)];
        let swap = || {
            symlink("..2", directory.join("new")).unwrap();
            fs::rename(directory.join("new"), directory.join("..data")).unwrap();
        };
        let rewrite = || fs::write(directory.join("..2/tls.crt"), "TWO").unwrap();
        let replace = || {
            fs::write(directory.join("..2/x"), "TWO").unwrap();
            fs::rename(directory.join("..2/x"), directory.join("..2/tls.crt")).unwrap();
        };
        let remove = || fs::remove_file(directory.join("..2/tls.crt")).unwrap();
        let cases: [(&dyn Fn(), bool, &str); 5] = [
            (&|| {}, false, "no change"),
            (&swap, true, "kubelet switches ..data"),
            (&rewrite, true, "same length, rewritten in place"),
            (&replace, true, "replaced by rename"),
            (&remove, true, "removed"),
        ];
        for (change, differs, why) in cases {
            let before = both();
            // The timestamps of a file system may have a granularity of a few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            for (before, after) in before.iter().zip(both()) {
                assert_eq!(*before != after, differs, "{why}: {before:?} {after:?}");
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }
}

//! Tells whether certificate files have changed, without reading them.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::fs::{OFlags, fstat};
use tokio::sync::oneshot;

use crate::{
    discovery::{Credentials, FileRef, ProcessId, paths::Root},
    system::privileges::Entrance,
};

/// What `stat(2)` says of every file of some credentials; nothing of one that cannot be found.
///
/// Links are followed, so that a kubelet that points `..data` to another directory changes the file's inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamps(Vec<Option<Stamp>>);

/// Device, inode, size, and nanoseconds since 1970 of the last change of content and of anything.
type Stamp = (u64, u64, i64, i128, i128);

impl Stamps {
    /// Looks at the files. May block for as long as their file system does.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a FileRef>) -> Self {
        // Of few files at most one process is the owner; its root is opened once.
        let mut known: Option<(ProcessId, io::Result<Root>)> = None;
        let stamp = |file: &FileRef| {
            let Some(process) = file.seen_by else { return own(&file.path) };
            if known.as_ref().is_none_or(|(of, _)| *of != process) {
                known = Some((process, Root::of(process)));
            }
            let (_, root) = known.as_ref()?;
            theirs(root.as_ref().ok()?, &file.path)
        };
        Self(files.into_iter().map(stamp).collect())
    }

    /// Looks at all files of these credentials.
    pub fn of_credentials(credentials: &Credentials) -> Self {
        let pairs = credentials.client.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        Self::of(credentials.authorities.iter().chain(&credentials.server_file).chain(pairs))
    }

    /// Starts to look on a thread of its own: files of a container may be on a file system that never answers.
    pub(super) fn start(credentials: &Credentials) -> io::Result<oneshot::Receiver<Self>> {
        let (sender, receiver) = oneshot::channel();
        let credentials = credentials.clone();
        // It enters no namespace, so it gets no right to.
        Entrance::default().run(move || {
            // Nobody waits any more if the client was dropped.
            let _ = sender.send(Self::of_credentials(&credentials));
        })?;
        Ok(receiver)
    }
}

fn own(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let size = found.size().cast_signed();
    Some((
        found.dev(),
        found.ino(),
        size,
        ns(found.mtime(), found.mtime_nsec()),
        ns(found.ctime(), found.ctime_nsec()),
    ))
}

fn theirs(root: &Root, path: &Path) -> Option<Stamp> {
    let found = fstat(root.open(path, OFlags::PATH).ok()?).ok()?;
    let (modified, changed) =
        (ns(found.st_mtime, found.st_mtime_nsec), ns(found.st_ctime, found.st_ctime_nsec));
    Some((found.st_dev, found.st_ino, found.st_size, modified, changed))
}

fn ns(seconds: i64, nanoseconds: impl Into<i128>) -> i128 {
    i128::from(seconds) * 1_000_000_000 + nanoseconds.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whatever_happens_to_a_file_shows() {
        let directory = std::env::temp_dir().join(format!("etcd-disk-probe-stamps-{}", std::process::id()));
        let make = |name: &str, text: &str| {
            fs::create_dir_all(directory.join(name)).unwrap();
            fs::write(directory.join(name).join("tls.crt"), text).unwrap();
        };
        make("..1", "one");
        make("..2", "two");
        symlink("..1", directory.join("..data")).unwrap();
        symlink("..data/tls.crt", directory.join("tls.crt")).unwrap();
        let me = ProcessId::of(std::process::id());
        let look = |seen_by| Stamps::of([&FileRef { path: directory.join("tls.crt"), seen_by }]);
        let looks = || [look(None), look(me)];
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
            (&|| {}, false, "nothing happened"),
            (&swap, true, "kubelet points ..data elsewhere"),
            (&rewrite, true, "as long as before, in place"),
            (&replace, true, "another file in its place"),
            (&remove, true, "gone"),
        ];
        for (change, differs, why) in cases {
            let before = looks();
            // The clock of a file system may tick only every few milliseconds.
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            for (before, after) in before.iter().zip(looks()) {
                assert_eq!(*before != after, differs, "{why}: {before:?} {after:?}");
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }
}

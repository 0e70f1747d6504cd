//! A mount, pid and network namespace for etcd, in which its paths and addresses differ from those of the
//! host.

use std::path::{Path, PathBuf};

/// The path of the member's directory inside: below a private tmpfs mounted over a directory that exists on
/// every system.
const INSIDE: &str = "/mnt/etcd";

/// Brings up loopback, bind-mounts `$0` at `$1`, and executes the rest.
const ENTER: &str = "ip link set lo up && mount -t tmpfs tmpfs /mnt && mkdir \"$1\" && mount --bind \"$0\" \"$1\" \
                     && shift && exec \"$@\"";

/// Namespaces in which one directory of the host has another path.
#[derive(Clone, Debug)]
pub struct Namespaces {
    outside: PathBuf,
}

impl Namespaces {
    /// Describes new namespaces in which `directory`, which contains all of etcd's files, has another path.
    pub fn over(directory: &Path) -> Self {
        Self { outside: directory.to_owned() }
    }

    /// Returns the command prefix that enters them.
    pub(super) fn prefix(&self) -> Vec<String> {
        let outside = self.outside.display().to_string();
        let unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
        unshare.into_iter().chain(["sh", "-c", ENTER, &outside, INSIDE]).map(str::to_owned).collect()
    }

    /// Returns the path inside the namespaces for a path of the host. Outside the directory both are the
    /// same.
    pub(super) fn inside_path(&self, path: &Path) -> PathBuf {
        match path.strip_prefix(&self.outside) {
            Ok(rest) => Path::new(INSIDE).join(rest),
            Err(_) => path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mounted_directory_has_another_path() {
        let namespaces = Namespaces::over(Path::new("/var/tmp/x"));
        let cases = [
            ("/var/tmp/x/a.etcd", "/mnt/etcd/a.etcd", "in the directory"),
            ("/var/tmp/xy/a.etcd", "/var/tmp/xy/a.etcd", "in one with the same prefix"),
            ("/usr/bin/etcd", "/usr/bin/etcd", "elsewhere"),
        ];
        for (outside, inside, why) in cases {
            assert_eq!(namespaces.inside_path(Path::new(outside)), Path::new(inside), "{why}");
        }
    }
}

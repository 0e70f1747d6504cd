//! The user's cache directory. Every entry is complete, as it gets its name only when it is finished.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, io};

use anyhow::{Context, Result};

pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// Opens `$XDG_CACHE_HOME/etcd-disk-probe`, or the same below `~/.cache`.
    pub fn open() -> Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME")
            .filter(|base| Path::new(base).is_absolute()) // The specification says to ignore relative ones.
            .map(PathBuf::from)
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .context("cannot find the cache directory: neither XDG_CACHE_HOME nor HOME is set")?;
        let directory = base.join("etcd-disk-probe");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create the cache directory {}", directory.display()))?;
        Ok(Self { directory })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Waits until no other setup uses this cache, and excludes others until the file is dropped.
    pub fn lock(&self) -> Result<File> {
        let path = self.path("lock");
        let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("setup: waiting for another setup to finish");
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// Fills a directory under a temporary name and renames it when it is complete.
    ///
    /// The caller holds the lock, so a leftover of that temporary name is from an interrupted setup.
    pub fn fill(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (partial, whole) = (self.path(&format!("{name}.partial")), self.path(name));
        remove(&partial)?;
        fs::create_dir_all(&partial).with_context(|| format!("cannot create {}", partial.display()))?;
        fill(&partial)?;
        remove(&whole)?;
        fs::rename(&partial, &whole).with_context(|| format!("cannot create {}", whole.display()))?;
        Ok(whole)
    }

    /// Writes a small file atomically.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let (partial, whole) = (self.path(&format!("{name}.partial")), self.path(name));
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &whole))
            .with_context(|| format!("cannot write {}", whole.display()))
    }
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_fill_leaves_nothing_under_the_real_name_and_is_repaired() {
        let directory = env::temp_dir().join(format!("etcd-disk-probe-cache-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let cache = Cache { directory: directory.clone() };
        let interrupted = cache.fill("thing", |partial| {
            fs::write(partial.join("half"), "")?;
            anyhow::bail!("interrupted")
        });
        assert!(interrupted.is_err());
        assert!(!cache.path("thing").exists(), "half a thing must not look whole");
        let whole = cache.fill("thing", |partial| Ok(fs::write(partial.join("all"), "")?)).unwrap();
        assert!(whole.join("all").exists());
        assert!(!whole.join("half").exists(), "leftovers must not survive the repair");
        fs::remove_dir_all(directory).unwrap();
    }
}

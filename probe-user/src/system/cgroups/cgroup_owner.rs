//! The owner of a cgroup, derived from its path.

use std::fmt;

use serde::Serialize;

/// Digits of a container id, in every runtime.
const CONTAINER_DIGITS: usize = 64;

/// Digits of a pod uid. The uid of a static pod is a hash without dashes.
const POD_DIGITS: usize = 32;

/// The owner of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CgroupOwner {
    /// A pod of Kubernetes; without `container`, the pod as a whole.
    Pod { uid: String, container: Option<String> },
    /// A container without a known pod.
    Container { id: String },
    /// The monitor process of a container under CRI-O and podman: it forwards the output of the container and
    /// runs outside of it.
    Monitor { pod: Option<String>, container: String },
    /// A service or scope of systemd; `user` is set if it is in the slice of a user.
    Unit { name: String, user: Option<u32> },
    /// The slice of a user, without a known unit in it.
    User { uid: u32 },
    /// Anything else.
    Path { path: String },
}

/// Returns the owner of a cgroup, by its path from the root of the hierarchy.
///
/// The innermost owner counts: with a Kubernetes in a container, the pod and not the outer container.
pub fn owner(path: &str) -> CgroupOwner {
    let mut pod = None;
    let mut container = None;
    let mut monitor = false;
    let mut unit = None;
    let mut user = None;
    // With mismatched cgroup drivers, containerd creates a single directory named `slice:cri-containerd:id`.
    for segment in path.split(['/', ':']) {
        if let Some(uid) = pod_uid(segment) {
            (pod, container, monitor) = (Some(uid), None, false);
        } else if let Some(id) = container_id(segment) {
            container = Some(id.to_owned());
            monitor = segment.contains("-conmon-");
        } else if let Some(uid) = user_slice(segment) {
            user = Some(uid);
        } else if is_unit(segment) {
            unit = Some(segment);
        }
    }
    match (pod, container, unit, user) {
        (pod, Some(container), _, _) if monitor => CgroupOwner::Monitor { pod, container },
        (Some(uid), container, _, _) => CgroupOwner::Pod { uid, container },
        (None, Some(id), _, _) => CgroupOwner::Container { id },
        (None, None, Some(name), user) => CgroupOwner::Unit { name: name.to_owned(), user },
        (None, None, None, Some(uid)) => CgroupOwner::User { uid },
        (None, None, None, None) => CgroupOwner::Path { path: path.to_owned() },
    }
}

/// Parses `pod<uid>` of the cgroupfs driver, and `kubepods-burstable-pod<uid>.slice` of the systemd driver,
/// which writes `_` for `-`.
fn pod_uid(segment: &str) -> Option<String> {
    let segment = segment.strip_suffix(".slice").unwrap_or(segment);
    let (before, uid) = segment.rsplit_once("pod")?;
    let starts = before.is_empty() || before.ends_with('-');
    let uid = uid.replace('_', "-");
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    (starts && digits == POD_DIGITS && matches!(dashes, 0 | 4) && digits + dashes == uid.len()).then_some(uid)
}

/// Parses a bare id, or an id after the name of its runtime: `cri-containerd-<id>.scope`,
/// `crio-conmon-<id>.scope`, `libpod-<id>`.
fn container_id(segment: &str) -> Option<&str> {
    let segment = segment.strip_suffix(".scope").unwrap_or(segment);
    let id = segment.rsplit_once('-').map_or(segment, |(_, id)| id);
    (id.len() == CONTAINER_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn user_slice(segment: &str) -> Option<u32> {
    segment.strip_prefix("user-")?.strip_suffix(".slice")?.parse().ok()
}

fn is_unit(segment: &str) -> bool {
    [".service", ".scope", ".socket", ".mount", ".swap"].iter().any(|kind| segment.ends_with(kind))
}

impl fmt::Display for CgroupOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { uid, container: None } => write!(f, "pod {}", brief_pod(uid)),
            Self::Pod { uid, container: Some(container) } => {
                write!(f, "pod {}, container {}", brief_pod(uid), brief(container))
            }
            Self::Container { id } => write!(f, "container {}", brief(id)),
            Self::Monitor { pod: None, container } => write!(f, "monitor of container {}", brief(container)),
            Self::Monitor { pod: Some(pod), container } => {
                write!(f, "pod {}, monitor of container {}", brief_pod(pod), brief(container))
            }
            Self::Unit { name, user: None } => write!(f, "unit {name}"),
            Self::Unit { name, user: Some(user) } => write!(f, "user {user}, unit {name}"),
            Self::User { uid } => write!(f, "user {uid}"),
            Self::Path { path } => f.write_str(path),
        }
    }
}

fn brief_pod(uid: &str) -> String {
    format!("{}…", uid.get(..8).unwrap_or(uid))
}

/// Shortens an id to the number of digits that `crictl ps` and `docker ps` print.
fn brief(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

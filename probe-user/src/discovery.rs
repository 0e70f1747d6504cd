//! Discovery of the etcd processes on this host, and of their settings.
//!
//! It requires no configuration and no mounts: processes are found by name, their settings are read from the
//! sources that etcd itself uses, and every path and address is resolved in the root directory and network
//! namespace of the process. A process becomes a [`Member`] by the WAL segment that it holds open, not by its
//! name.

pub mod endpoint;
pub mod identity;
pub mod layout_matcher;
pub mod paths;
pub mod process_info;
pub mod scanner;
pub mod member_settings;

pub use endpoint::{Credentials, Endpoint, KeyPair, Overrides, Scheme};
pub use identity::Member;
pub use member_settings::MemberSettings;
pub use paths::FileRef;
pub use process_info::{ProcessId, Unreadable};
pub use scanner::{Pending, Scan, Scanner};

//! Which etcd processes run here, and how each of them is set up.
//!
//! Nothing needs to be configured or mounted: a process is known by its name, its settings are read as it read them
//! itself, and every path and address is taken in its own root directory and network namespace.
//! A process becomes a [`Member`] by what it holds open, not by what it calls itself.

pub mod endpoint;
pub mod identity;
pub mod layout_matcher;
pub mod paths;
pub mod process_info;
pub mod scanner;
pub mod member_settings;

pub use endpoint::{Credentials, Endpoint, KeyPair, Overrides, Scheme};
pub use identity::Member;
pub use member_settings::Settings;
pub use paths::FileRef;
pub use process_info::{ProcessId, Unreadable};
pub use scanner::{Pending, Scan, Scanner};

//! etcd: real members on the host, in containers and in clusters, the load on them, and servers that imitate
//! etcd.

mod install;
mod member;
mod namespaces;

pub mod certs;
pub mod settings;

pub mod cluster;
pub mod container;

pub mod grpc;
pub mod load;

pub mod fake;
pub mod hostile;

pub use install::{Install, cache, find, installs};
pub use member::{Etcd, Member, Observations, Readiness};
pub use namespaces::Namespaces;

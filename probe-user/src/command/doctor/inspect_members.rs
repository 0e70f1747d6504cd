//! Inspects the etcd members of this machine: the location of their data, their endpoints, and their
//! certificates.

use std::path::Path;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    analysis::{certificate_expiry::Validity, scrape_failure::Reason},
    command::config::Options,
    discovery::{FileRef, Member, Overrides, Pending, ProcessId, Scanner, Unreadable, paths::Root},
    etcd::{
        Client,
        certificate::{self, CertificateFiles},
    },
    monitor::is_from,
    support::logging,
    system::{mount_info, netns_spawner::NetnsSpawner},
};

/// The members of this machine, and processes that may be members.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InspectedMembers {
    pub members: Vec<InspectedMember>,
    /// Pids of processes that have etcd's name and no open WAL.
    pub without_wal: Vec<u32>,
    /// One sentence for each process that could not be examined.
    pub unreadable: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct InspectedMember {
    pub member: String,
    pub pid: u32,
    /// The distribution whose layout it has, if it is a known one.
    pub layout: Option<&'static str>,
    pub data: InspectedDirectory,
    pub wal: InspectedDirectory,
    pub endpoints: Vec<InspectedEndpoint>,
    pub certificates: Vec<InspectedCertificate>,
}

/// A directory as in the mount namespace of the process, with its device and file system; empty if these are
/// unknown.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedDirectory {
    pub path: String,
    pub device: String,
    pub filesystem: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct InspectedEndpoint {
    pub url: String,
    /// etcd's version, if it answered and its metrics contain the version.
    pub version: Option<String>,
    pub error: Option<EndpointFailure>,
}

#[derive(Clone, Debug, Serialize)]
pub struct EndpointFailure {
    /// The label value under which the daemon would count it, or `other_process`.
    pub reason: &'static str,
    pub sentence: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct InspectedCertificate {
    pub role: CertificateRole,
    pub path: String,
    /// The validity of each of the file's certificates, from and until, in seconds since 1970; empty if it
    /// cannot be read.
    pub validities_s: Vec<(i64, i64)>,
    pub error: Option<String>,
}

/// The use of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateRole {
    Authority,
    Server,
    Client,
    /// One that etcd presents, and that the probe presents to etcd.
    ServerAndClient,
}

/// Scans for members once, as the daemon does each second, and scrapes all their endpoints concurrently.
pub async fn all(options: &Options, overrides: &Overrides, netns_spawner: &NetnsSpawner) -> InspectedMembers {
    let scan = Scanner::default().scan(overrides, &options.process_name, &[]);
    let mut scrapes = JoinSet::new();
    for (index, member) in scan.members.iter().enumerate() {
        for (order, endpoint) in member.endpoints.iter().enumerate() {
            let client = Client::new(vec![endpoint.clone()], options.command_timeout);
            let client = client.with_spawner(netns_spawner.clone());
            let (url, id) = (endpoint.to_string(), member.id);
            scrapes.spawn(async move { ((index, order), scrape_endpoint(client, url, id).await) });
        }
    }
    let mut answers: Vec<_> = scrapes.join_all().await;
    answers.sort_by_key(|(position, _)| *position);
    let mut members: Vec<_> = scan.members.iter().map(inspect).collect();
    for ((index, _), endpoint) in answers {
        members[index].endpoints.push(endpoint);
    }
    InspectedMembers {
        members,
        without_wal: scan.pending.iter().map(|Pending { id, .. }| id.pid).collect(),
        unreadable: scan.unreadable.iter().map(Unreadable::to_string).collect(),
    }
}

async fn scrape_endpoint(mut client: Client, url: String, id: ProcessId) -> InspectedEndpoint {
    let failure = |reason, sentence| Some(EndpointFailure { reason, sentence });
    let (version, error) = match client.scrape().await {
        Ok(scrape) if is_from(&scrape, id) => (scrape.version, None),
        Ok(_) => {
            let sentence = "another process answers, not the one that has this WAL open".to_owned();
            (None, failure("other_process", sentence))
        }
        Err(failed) => (None, failure(failed.reason().as_str(), logging::chain(&failed.error))),
    };
    InspectedEndpoint { url, version, error }
}

fn inspect(member: &Member) -> InspectedMember {
    let data = Root::of(member.id).and_then(|root| root.directory(&member.data_dir));
    InspectedMember {
        member: member.name.clone(),
        pid: member.id.pid,
        layout: member.layout,
        data: directory(member, &member.data_dir, data.ok().map(|data| data.st_dev)),
        wal: directory(member, &member.wal_dir, Some(member.wal_dir_st_dev)),
        endpoints: Vec::new(),
        certificates: certificates(member),
    }
}

fn directory(member: &Member, path: &Path, st_dev: Option<u64>) -> InspectedDirectory {
    let mount = st_dev.map(|st_dev| mount_info::of(member.id.pid, path, st_dev)).unwrap_or_default();
    InspectedDirectory {
        path: path.display().to_string(),
        device: mount.device,
        filesystem: mount.filesystem,
    }
}

/// Reads the certificates of a member with TLS: the authorities, the server certificate, the client
/// certificate.
fn certificates(member: &Member) -> Vec<InspectedCertificate> {
    let files = CertificateFiles::of(member);
    let authorities = files.authorities.iter().map(|file| (CertificateRole::Authority, file));
    let own = match (&files.server, files.client_certificate()) {
        (Some(server), Some(client)) if server == client => {
            [Some((CertificateRole::ServerAndClient, server)), None]
        }
        (server, client) => [
            server.as_ref().map(|file| (CertificateRole::Server, file)),
            client.map(|file| (CertificateRole::Client, file)),
        ],
    };
    authorities.chain(own.into_iter().flatten()).map(|(role, file)| read(role, file)).collect()
}

fn read(role: CertificateRole, file: &FileRef) -> InspectedCertificate {
    let (validities, error) = match certificate::validities(file) {
        Ok(validities) => (validities, None),
        Err(error) => (Vec::new(), Some(logging::chain(&error))),
    };
    let pair = |validity: Validity| (validity.not_before_s, validity.not_after_s);
    let validities_s = validities.into_iter().map(pair).collect();
    InspectedCertificate { role, path: file.path.display().to_string(), validities_s, error }
}

/// Returns what to do about an endpoint without metrics, unless the failure's own sentence states it.
pub fn advice(reason: &str) -> &'static str {
    let is = |known: Reason| reason == known.as_str();
    if is(Reason::TlsExpired) {
        "renew etcd's certificate; etcd reloads it without a restart"
    } else if is(Reason::Timeout) {
        "increase --command-timeout, or set another address with --endpoints"
    } else if is(Reason::UnreadableCredentials) {
        "grant this process read access (CAP_DAC_READ_SEARCH), or set --cacert, --cert and --key"
    } else {
        "set the address at which this etcd serves /metrics with --endpoints"
    }
}

//! Visits the etcds of this machine: where they keep their data, whether they answer, until when their certificates hold.

use std::path::Path;

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    analysis::{certificate_expiry::Validity, scrape_failure::Reason},
    command::config::Options,
    discovery::{FileRef, Member, Overrides, Pending, ProcessId, Scanner, Unreadable, paths::Root},
    etcd::{
        Client,
        certificate::{self, Files},
    },
    monitor::is_from,
    support::logging,
    system::{mount_info, privileges::NetnsSpawner},
};

/// What a look over the machine found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Visited {
    pub members: Vec<VisitedMember>,
    /// Pids of processes that go by etcd's name and hold no WAL.
    pub without_wal: Vec<u32>,
    /// One sentence for each process that could not be examined.
    pub unreadable: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct VisitedMember {
    pub member: String,
    pub pid: u32,
    /// The distribution whose layout it has, if it is one that we know.
    pub layout: Option<&'static str>,
    pub data: Directory,
    pub wal: Directory,
    pub endpoints: Vec<VisitedEndpoint>,
    pub certificates: Vec<VisitedCertificate>,
}

/// A directory as the process sees it, and what holds it; empty where that could not be told.
#[derive(Clone, Debug, Serialize)]
pub struct Directory {
    pub path: String,
    pub device: String,
    pub filesystem: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct VisitedEndpoint {
    pub url: String,
    /// etcd's version, if it answered and told.
    pub version: Option<String>,
    pub error: Option<EndpointFailure>,
}

#[derive(Clone, Debug, Serialize)]
pub struct EndpointFailure {
    /// The label under which the daemon would count it, or `other_process`.
    pub reason: &'static str,
    pub sentence: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct VisitedCertificate {
    pub role: Role,
    pub path: String,
    /// When the file's certificates are valid, from and until, in seconds since 1970; empty if it cannot be read.
    pub validities_s: Vec<(i64, i64)>,
    pub error: Option<String>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Authority,
    Server,
    Client,
    /// One that etcd serves, and that we show to it.
    ServerAndClient,
}

/// Looks for members once, as the daemon does each second, and asks all their endpoints at once.
pub async fn all(options: &Options, overrides: &Overrides, entrance: &NetnsSpawner) -> Visited {
    let scan = Scanner::default().scan(overrides, &options.process_name, &[]);
    let mut asking = JoinSet::new();
    for (place, member) in scan.members.iter().enumerate() {
        for (order, endpoint) in member.endpoints.iter().enumerate() {
            let client = Client::new(vec![endpoint.clone()], options.command_timeout);
            let client = client.through(entrance.clone());
            let (url, id) = (endpoint.to_string(), member.id);
            asking.spawn(async move { ((place, order), ask(client, url, id).await) });
        }
    }
    let mut answers: Vec<_> = asking.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    let mut members: Vec<_> = scan.members.iter().map(describe).collect();
    for ((place, _), endpoint) in answers {
        members[place].endpoints.push(endpoint);
    }
    Visited {
        members,
        without_wal: scan.pending.iter().map(|Pending { id, .. }| id.pid).collect(),
        unreadable: scan.unreadable.iter().map(Unreadable::to_string).collect(),
    }
}

async fn ask(mut client: Client, url: String, id: ProcessId) -> VisitedEndpoint {
    let failure = |reason, sentence| Some(EndpointFailure { reason, sentence });
    let (version, error) = match client.scrape().await {
        Ok(scrape) if is_from(&scrape, id) => (scrape.version, None),
        Ok(_) => {
            let sentence = "another process answers than the one that holds this WAL".to_owned();
            (None, failure("other_process", sentence))
        }
        Err(failed) => (None, failure(failed.reason().as_str(), logging::chain(&failed.error))),
    };
    VisitedEndpoint { url, version, error }
}

fn describe(member: &Member) -> VisitedMember {
    let data = Root::of(member.id).and_then(|root| root.directory(&member.data_dir));
    VisitedMember {
        member: member.name.clone(),
        pid: member.id.pid,
        layout: member.layout,
        data: directory(member, &member.data_dir, data.ok().map(|data| data.st_dev)),
        wal: directory(member, &member.wal_dir, Some(member.wal_dir_st_dev)),
        endpoints: Vec::new(),
        certificates: certificates(member),
    }
}

fn directory(member: &Member, path: &Path, st_dev: Option<u64>) -> Directory {
    let mount = st_dev.map(|st_dev| mount_info::of(member.id.pid, path, st_dev)).unwrap_or_default();
    Directory { path: path.display().to_string(), device: mount.device, filesystem: mount.filesystem }
}

/// Reads the certificates of a member that has TLS: whom we trust, what it serves, what we show.
fn certificates(member: &Member) -> Vec<VisitedCertificate> {
    let files = Files::of(member);
    let authorities = files.authorities.iter().map(|file| (Role::Authority, file));
    let own = match (&files.server, files.shown()) {
        (Some(server), Some(client)) if server == client => [Some((Role::ServerAndClient, server)), None],
        (server, client) => {
            [server.as_ref().map(|file| (Role::Server, file)), client.map(|file| (Role::Client, file))]
        }
    };
    authorities.chain(own.into_iter().flatten()).map(|(role, file)| read(role, file)).collect()
}

fn read(role: Role, file: &FileRef) -> VisitedCertificate {
    let (validities, error) = match certificate::validities(file) {
        Ok(validities) => (validities, None),
        Err(error) => (Vec::new(), Some(logging::chain(&error))),
    };
    let pair = |validity: Validity| (validity.not_before_s, validity.not_after_s);
    let validities_s = validities.into_iter().map(pair).collect();
    VisitedCertificate { role, path: file.path.display().to_string(), validities_s, error }
}

/// Returns what to do about an endpoint that gives no metrics, unless its own sentence says so.
pub fn advice(reason: &str) -> &'static str {
    let is = |known: Reason| reason == known.as_str();
    if is(Reason::TlsExpired) {
        "renew etcd's certificate; it takes a new one up by itself"
    } else if is(Reason::Timeout) {
        "allow more time with --command-timeout, or give another address with --endpoints"
    } else if is(Reason::UnreadableCredentials) {
        "let this process read it (CAP_DAC_READ_SEARCH), or give others with --cacert, --cert and --key"
    } else {
        "give the address at which this etcd serves /metrics with --endpoints"
    }
}

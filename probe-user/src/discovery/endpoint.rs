//! The endpoints that serve an etcd's metrics, and the certificates to use there.

use std::{fmt, path::PathBuf};

use super::{
    member_settings::{MemberSettings, Tls},
    paths::FileRef,
    process_info::ProcessId,
};

/// etcd's default for `--listen-client-urls`.
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";

/// More than any etcd has; bounds the connections that a process can cause us to open.
const MAX_ENDPOINTS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// One address that serves `/metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub scheme: Scheme,
    /// Host name or address; IPv6 without brackets. `localhost` for a socket.
    pub host: String,
    /// 0 for a socket.
    pub port: u16,
    /// The socket to connect to, for `unix://` and `unixs://`.
    pub socket: Option<FileRef>,
    /// The process whose network namespace must be entered to connect; `None` if it is our own.
    pub network_of: Option<ProcessId>,
    pub credentials: Credentials,
}

/// Files and names for TLS to an endpoint. The files are read for each connection, so that rotation takes
/// effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Trusted certificate authorities.
    pub authorities: Vec<FileRef>,
    /// The server certificate in the file that etcd reads: a server that proves possession of its key is the
    /// process under inspection.
    pub server_certificate: Option<FileRef>,
    /// The same file, also where it does not authenticate the server: when it changes, a new connection is
    /// required.
    pub server_file: Option<FileRef>,
    /// Client certificates that may be presented, in order of preference.
    pub client: Vec<KeyPair>,
    pub insecure_skip_verify: bool,
    /// The name that the server's certificate must be valid for, instead of the endpoint's host.
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    pub certificate: FileRef,
    pub key: FileRef,
}

/// Settings of the operator that replace discovered ones, under etcdctl's names. Files and addresses are
/// in our own root directory and network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub endpoints: Vec<Endpoint>,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub insecure_skip_tls_verify: bool,
    pub tls_server_name: Option<String>,
}

/// A text is not an endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use `{0}` as an endpoint: expected http://HOST:PORT, https://HOST:PORT or unix://PATH")]
pub struct EndpointError(String);

impl Endpoint {
    /// Parses a URL in etcd's format, or HOST:PORT, which means http as in etcdctl. Everything after
    /// `unix://` is the path, relative unless it begins with a slash (etcd 3.4 to 3.6, embed/etcd.go,
    /// `resolveURL`).
    ///
    /// # Errors
    ///
    /// If the text is neither, has no port, or contains a user name.
    pub fn parse(url: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(url.to_owned());
        let (scheme, rest) = match url.split_once("://") {
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some((_, "")) => return Err(error()),
            Some(("unix", path)) => return Ok(Self::of_socket(Scheme::Http, path)),
            Some(("unixs", path)) => return Ok(Self::of_socket(Scheme::Https, path)),
            Some(_) => return Err(error()),
            None => (Scheme::Http, url),
        };
        let authority: hyper::http::uri::Authority =
            rest.trim_end_matches('/').parse().map_err(|_| error())?;
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let plain = !host.is_empty() && !host.contains(['[', ']']) && !authority.as_str().contains('@');
        let port = authority.port_u16().filter(|port| *port != 0 && plain).ok_or_else(error)?;
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port,
            socket: None,
            network_of: None,
            credentials: Credentials::default(),
        })
    }

    fn of_socket(scheme: Scheme, path: &str) -> Self {
        Self {
            scheme,
            host: "localhost".to_owned(),
            port: 0,
            socket: Some(FileRef { path: path.into(), root_of: None }),
            network_of: None,
            credentials: Credentials::default(),
        }
    }

    /// Returns host and port in URL syntax; only the host for a socket.
    pub fn authority(&self) -> String {
        if self.socket.is_some() {
            self.host.clone()
        } else if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.socket, self.scheme) {
            (None, Scheme::Http) => write!(f, "http://{}", self.authority()),
            (None, Scheme::Https) => write!(f, "https://{}", self.authority()),
            (Some(socket), Scheme::Http) => write!(f, "unix://{}", socket.path.display()),
            (Some(socket), Scheme::Https) => write!(f, "unixs://{}", socket.path.display()),
        }
    }
}

/// Returns the endpoints of a process, the simplest first: metrics listeners without TLS, those with TLS,
/// then the client listeners.
///
/// `client` lists the client certificates that may be presented, in order of preference. `network_of` of the
/// result is the process if it is in another network namespace.
pub fn endpoints(
    settings: &MemberSettings,
    client: Vec<KeyPair>,
    process: ProcessId,
    foreign_network: bool,
    overrides: &Overrides,
) -> Vec<Endpoint> {
    let credentials = credentials(&settings.client_tls, client, process, overrides);
    if !overrides.endpoints.is_empty() {
        return overrides
            .endpoints
            .iter()
            .map(|endpoint| Endpoint { credentials: credentials.clone(), ..endpoint.clone() })
            .collect();
    }
    let parsed = |urls: &[String]| -> Vec<Endpoint> {
        urls.iter().filter_map(|url| Endpoint::parse(url).ok()).collect()
    };
    let (plain, encrypted): (Vec<_>, Vec<_>) = parsed(&settings.listen_metrics_urls)
        .into_iter()
        .partition(|endpoint| endpoint.scheme == Scheme::Http);
    let clients = match (&settings.listen_client_http_urls[..], &settings.listen_client_urls[..]) {
        ([], []) => parsed(&[DEFAULT_CLIENT_URL.to_owned()]),
        // If HTTP has its own listener, the client listeners serve only gRPC.
        ([], clients) | (clients, _) => parsed(clients),
    };
    plain
        .into_iter()
        .chain(encrypted)
        .chain(clients)
        .take(MAX_ENDPOINTS)
        .map(|endpoint| Endpoint {
            host: reachable(endpoint.host),
            socket: endpoint.socket.map(|socket| FileRef { root_of: Some(process), ..socket }),
            network_of: foreign_network.then_some(process),
            credentials: credentials.clone(),
            ..endpoint
        })
        .collect()
}

/// Replaces the wildcard address of a listener by the loopback address, to which a client can connect.
fn reachable(host: String) -> String {
    match &*host {
        "0.0.0.0" => "127.0.0.1".to_owned(),
        "::" => "::1".to_owned(),
        _ => host,
    }
}

fn credentials(tls: &Tls, client: Vec<KeyPair>, process: ProcessId, overrides: &Overrides) -> Credentials {
    let of_process = |path: &PathBuf| FileRef { path: path.clone(), root_of: Some(process) };
    let own = |path: &PathBuf| FileRef { path: path.clone(), root_of: None };
    let authorities = match &overrides.cacert {
        Some(path) => vec![own(path)],
        None => tls.trusted_ca_file.iter().map(of_process).collect(),
    };
    let client = match (&overrides.cert, &overrides.key) {
        (Some(certificate), Some(key)) => {
            vec![KeyPair { certificate: own(certificate), key: own(key) }]
        }
        _ => client,
    };
    let server_file = tls.cert_file.as_ref().map(of_process);
    Credentials {
        authorities,
        // If the operator names an authority, only that authority authenticates the server.
        server_certificate: server_file.clone().filter(|_| overrides.cacert.is_none()),
        server_file,
        client,
        insecure_skip_verify: overrides.insecure_skip_tls_verify,
        server_name: overrides.tls_server_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::discovery::member_settings::LaunchConfig;

    const PROCESS: ProcessId = ProcessId { pid: 7, start_ticks: 70 };

    fn settings(line: &str) -> MemberSettings {
        let argv: Vec<String> = line.split(' ').map(str::to_owned).collect();
        LaunchConfig::new(&argv, &HashMap::new()).settings()
    }

    #[test]
    fn the_simplest_endpoint_comes_first() {
        let cases = [
            ("etcd", "http://localhost:2379", "etcd's default"),
            (
                "etcd --listen-metrics-urls=https://1.1.1.1:1,http://0.0.0.0:2381 --listen-client-urls=https://[::]:2379",
                "http://127.0.0.1:2381 https://1.1.1.1:1 https://[::1]:2379",
                "plain text first, wildcards made reachable",
            ),
            (
                "etcd --listen-client-urls=unix://localhost:2379,unixs:///run/etcd.sock,http://10.0.0.1:2379",
                "unix://localhost:2379 unixs:///run/etcd.sock http://10.0.0.1:2379",
                "sockets",
            ),
            (
                "etcd --listen-client-urls=https://10.0.0.1:2379 --listen-client-http-urls=https://127.0.0.1:2382",
                "https://127.0.0.1:2382",
                "where HTTP has its own listener, the other one answers with status 415",
            ),
        ];
        for (line, expected, why) in cases {
            let found = endpoints(&settings(line), Vec::new(), PROCESS, false, &Overrides::default());
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{why}");
        }
    }

    #[test]
    fn the_network_namespace_is_set_only_if_it_differs_from_ours() {
        for (foreign, expected) in [(true, Some(PROCESS)), (false, None)] {
            let found = endpoints(&settings("etcd"), Vec::new(), PROCESS, foreign, &Overrides::default());
            assert_eq!(found[0].network_of, expected);
        }
    }

    #[test]
    fn overrides_replace_discovered_settings() {
        let settings = settings("etcd --cert-file /c --key-file /k --trusted-ca-file /a");
        let own = FileRef { path: "/x".into(), root_of: None };
        let of_process = |path: &str| FileRef { path: path.into(), root_of: Some(PROCESS) };
        let pairs = vec![KeyPair { certificate: of_process("/c"), key: of_process("/k") }];
        let found = endpoints(&settings, pairs.clone(), PROCESS, true, &Overrides::default());
        assert_eq!(found[0].credentials.authorities[0].path, PathBuf::from("/a"));
        assert_eq!(found[0].credentials.client, pairs);

        let overrides = Overrides {
            endpoints: vec![Endpoint::parse("https://h:1").unwrap()],
            cacert: Some("/x".into()),
            cert: Some("/x".into()),
            key: Some("/x".into()),
            insecure_skip_tls_verify: true,
            tls_server_name: Some("etcd.example".to_owned()),
        };
        let found = endpoints(&settings, pairs, PROCESS, true, &overrides);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].to_string().as_str(), found[0].network_of), ("https://h:1", None));
        let credentials = &found[0].credentials;
        assert_eq!((&credentials.authorities[..], &credentials.client[0].key), (&[own.clone()][..], &own));
        assert_eq!(credentials.server_name.as_deref(), Some("etcd.example"));
        assert!(credentials.insecure_skip_verify && credentials.server_certificate.is_none());
    }

    #[test]
    fn endpoints_are_parsed_as_etcdctl_does() {
        let cases = [
            ("127.0.0.1:2379", Some("http://127.0.0.1:2379"), "no scheme means http"),
            ("https://[fe80::1]:2379/", Some("https://[fe80::1]:2379"), "IPv6 in brackets"),
            ("https://etcd.local:1", Some("https://etcd.local:1"), "a name"),
            ("unix:///run/etcd", Some("unix:///run/etcd"), "a socket"),
            (
                "unixs://localhost:0",
                Some("unixs://localhost:0"),
                "a socket in etcd's working directory, with TLS",
            ),
            ("unix://", None, "a socket without a name"),
            ("ftp://127.0.0.1:1", None, "another protocol"),
            ("http://127.0.0.1", None, "etcd requires a port"),
            ("http://user:secret@127.0.0.1:1", None, "no secrets in a URL"),
            ("", None, "empty"),
        ];
        for (url, expected, why) in cases {
            let parsed = Endpoint::parse(url).ok().map(|endpoint| endpoint.to_string());
            assert_eq!(parsed.as_deref(), expected, "{url}: {why}");
        }
    }
}

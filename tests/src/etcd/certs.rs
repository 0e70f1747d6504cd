//! Certificates for one test run: an authority and the server and client certificates that it signs,
//! including expired ones.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_hours(24);
const HALF_A_DAY: Duration = Duration::from_hours(12);

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The validity period of a certificate.
///
/// Future end dates lie half a day past a whole number of days, so that the number of whole days left does
/// not change during a test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Validity {
    /// From yesterday, for a year.
    Current,
    /// From yesterday, for ten days: due for renewal.
    Ending,
    /// Until yesterday.
    Expired,
}

impl Validity {
    fn period(self) -> (SystemTime, SystemTime) {
        let now = SystemTime::now();
        match self {
            Self::Current => (now - DAY, now + 365 * DAY + HALF_A_DAY),
            Self::Ending => (now - DAY, now + 10 * DAY + HALF_A_DAY),
            Self::Expired => (now - 2 * DAY, now - DAY),
        }
    }
}

/// A certificate authority whose files are in one directory.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    certificate: PathBuf,
}

impl Pair {
    /// Copies both files to `<stem>.crt` and `<stem>.key`, as most distributions name them.
    pub fn copy_to(&self, stem: &Path) -> anyhow::Result<Self> {
        let copy = Self { certificate: stem.with_extension("crt"), key: stem.with_extension("key") };
        for (from, to) in [(&self.certificate, &copy.certificate), (&self.key, &copy.key)] {
            std::fs::copy(from, to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(copy)
    }
}

impl Authority {
    /// Creates an authority and writes `<name>.pem` to `directory`. Its key is never written.
    pub fn create(directory: &Path, name: &str) -> anyhow::Result<Self> {
        Self::lasting(directory, name, Validity::Current)
    }

    /// Creates an authority whose own certificate has this validity.
    pub fn lasting(directory: &Path, name: &str, validity: Validity) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params(name, &[], validity)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).context("cannot sign an authority's certificate")?;
        let path = directory.join(format!("{name}.pem"));
        write(&path, &certificate.pem(), 0o644)?;
        Ok(Self { issuer: Issuer::new(params, key), directory: directory.to_owned(), certificate: path })
    }

    /// Returns the file that clients and servers should trust.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Signs a certificate for a server at 127.0.0.1, localhost and the `extra` names or addresses.
    ///
    /// It is valid for clients too: etcd's JSON gateway connects to etcd with the server's own certificate.
    pub fn server(&self, name: &str, extra: &[&str], validity: Validity) -> anyhow::Result<Pair> {
        let names = [&["127.0.0.1", "localhost"], extra].concat();
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, &names, &purposes, validity)
    }

    /// Signs a certificate that is valid for servers only, as kubeadm does for etcd: etcd rejects it as a
    /// client certificate.
    pub fn server_only(&self, name: &str) -> anyhow::Result<Pair> {
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(name, &["127.0.0.1", "localhost"], &purposes, Validity::Current)
    }

    pub fn client(&self, name: &str, validity: Validity) -> anyhow::Result<Pair> {
        self.sign(name, &[], &[ExtendedKeyUsagePurpose::ClientAuth], validity)
    }

    /// Signs a certificate for servers and clients with exactly these names and addresses.
    pub fn named(&self, name: &str, names: &[&str]) -> anyhow::Result<Pair> {
        let purposes = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(name, names, &purposes, Validity::Current)
    }

    fn sign(
        &self,
        name: &str,
        names: &[&str],
        purposes: &[ExtendedKeyUsagePurpose],
        validity: Validity,
    ) -> anyhow::Result<Pair> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let mut params = params(name, names, validity)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = purposes.to_vec();
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("cannot sign a certificate for {name}"))?;
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.pem")),
            key: self.directory.join(format!("{name}-key.pem")),
        };
        write(&pair.certificate, &certificate.pem(), 0o644)?;
        write(&pair.key, &key.serialize_pem(), 0o600)?;
        Ok(pair)
    }
}

/// The files for mutual TLS between a server and its clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mutual {
    /// The certificate of the one authority that both sides trust.
    pub authority: PathBuf,
    pub server: Pair,
    pub client: Pair,
}

impl Mutual {
    /// Creates an authority, a server certificate and a client certificate in `directory`.
    pub fn create(directory: &Path) -> anyhow::Result<Self> {
        let authority = Authority::create(directory, "ca")?;
        Ok(Self {
            server: authority.server("server", &[], Validity::Current)?,
            client: authority.client("client", Validity::Current)?,
            authority: authority.certificate().to_owned(),
        })
    }
}

fn params(name: &str, names: &[&str], validity: Validity) -> anyhow::Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params =
        CertificateParams::new(names).with_context(|| format!("cannot name a certificate {name}"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, until) = validity.period();
    params.not_before = from.into();
    params.not_after = until.into();
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use crate::machine::scratch::Scratch;

    #[test]
    fn keys_are_private_and_certificates_are_not() {
        let scratch = Scratch::new(&std::env::temp_dir(), "certs-test").unwrap();
        let authority = Authority::create(scratch.path(), "ca").unwrap();
        let server = authority.server("server", &["10.0.0.1", "etcd.local"], Validity::Current).unwrap();
        let client = authority.client("client", Validity::Expired).unwrap();
        let cases = [
            (authority.certificate(), 0o644, "-----BEGIN CERTIFICATE-----", "the authority"),
            (&server.certificate, 0o644, "-----BEGIN CERTIFICATE-----", "the server"),
            (&server.key, 0o600, "-----BEGIN PRIVATE KEY-----", "the server's key"),
            (&client.key, 0o600, "-----BEGIN PRIVATE KEY-----", "the client's key"),
        ];
        for (path, mode, begin, why) in cases {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{why}");
            assert!(fs::read_to_string(path).unwrap().starts_with(begin), "{why}");
        }
    }
}

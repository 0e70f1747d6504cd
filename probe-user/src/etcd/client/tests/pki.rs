//! Certificates for tests.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::discovery::{Credentials, FileRef, KeyPair as ClientPair};

/// Certificates of one authority, as files.
pub struct Pki {
    pub directory: PathBuf,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(test: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("etcd-disk-probe-{test}-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, test);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
        Self { directory, authority }
    }

    pub fn issue(&self, name: &str, host: &str, change: impl FnOnce(&mut CertificateParams)) -> ClientPair {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = match params.is_ca {
            IsCa::Ca(_) => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, &self.authority).unwrap(),
        };
        let pair = ClientPair {
            certificate: self.file(&format!("{name}.pem")),
            key: self.file(&format!("{name}.key")),
        };
        fs::write(&pair.certificate.path, certificate.pem()).unwrap();
        fs::write(&pair.key.path, key.serialize_pem()).unwrap();
        pair
    }

    pub fn file(&self, name: &str) -> FileRef {
        FileRef { path: self.directory.join(name), root_of: None }
    }

    pub fn trusting(&self, client: Vec<ClientPair>) -> Credentials {
        Credentials { authorities: vec![self.file("ca.pem")], client, ..Credentials::default() }
    }

    pub fn server(&self, pair: &ClientPair, requires_client: bool) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_file(&pair.certificate.path).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&pair.key.path).unwrap();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if requires_client {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(chain, key).unwrap()
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub fn expired(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
}

//! Signature algorithms for verification: ring's algorithms, and ECDSA on the curve that etcd uses for
//! `--auto-tls`.
//!
//! etcd with `--auto-tls` generates its key on P-521 (`transport.SelfCert`, client/pkg/transport/listener.go,
//! 3.4 to
//! 3.6), which ring does not support.

use std::sync::LazyLock;

use p521::ecdsa::{DerSignature, VerifyingKey, signature::Verifier};
use rustls::{
    SignatureScheme,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring},
    pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id},
};

/// Created once, because rustls requires `'static` references.
static ALGORITHMS: LazyLock<WebPkiSupportedAlgorithms> = LazyLock::new(|| {
    let rings = ring::default_provider().signature_verification_algorithms;
    let own: &'static dyn SignatureVerificationAlgorithm = &P521Sha512;
    let mapping = (SignatureScheme::ECDSA_NISTP521_SHA512, &*Vec::leak(vec![own]));
    WebPkiSupportedAlgorithms {
        all: Vec::leak([rings.all, &[own]].concat()),
        mapping: Vec::leak([rings.mapping, &[mapping]].concat()),
    }
});

/// Returns ring's algorithms plus P-521.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider { signature_verification_algorithms: *ALGORITHMS, ..ring::default_provider() }
}

#[derive(Debug)]
struct P521Sha512;

impl SignatureVerificationAlgorithm for P521Sha512 {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = VerifyingKey::from_sec1_bytes(public_key).map_err(|_| InvalidSignature)?;
        let signature = DerSignature::from_bytes(signature).map_err(|_| InvalidSignature)?;
        let signature = signature.try_into().map_err(|_| InvalidSignature)?;
        key.verify(message, &signature).map_err(|_| InvalidSignature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P521
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA512
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    /// Created by etcd 3.5.16 with `--auto-tls`; its private key was deleted.
    const SELF_SIGNED: &[u8] = include_bytes!("../../../testdata/etcd-3.5.16-auto-tls.pem");

    #[test]
    fn only_valid_self_signed_certificates_of_etcd_are_verified() {
        let der = CertificateDer::from_pem_slice(SELF_SIGNED).unwrap();
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let key = &*certificate.public_key().subject_public_key.data;
        let (message, signature) = (certificate.tbs_certificate.as_ref(), &*certificate.signature_value.data);
        let changed = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        };
        let cases: [([&[u8]; 3], bool, &str); 6] = [
            ([key, message, signature], true, "its own signature"),
            ([key, &changed(message), signature], false, "another message"),
            ([key, message, &changed(signature)], false, "another signature"),
            ([&changed(key), message, signature], false, "another key"),
            ([key, message, b""], false, "no signature"),
            ([b"", message, signature], false, "no key"),
        ];
        for ([key, message, signature], expected, why) in cases {
            assert_eq!(P521Sha512.verify_signature(key, message, signature).is_ok(), expected, "{why}");
        }
    }

    #[test]
    fn all_algorithms_of_ring_are_included() {
        let (ours, rings) = (provider().signature_verification_algorithms, ring::default_provider());
        let rings = rings.signature_verification_algorithms.supported_schemes();
        let ours = ours.supported_schemes();
        assert!(rings.iter().all(|scheme| ours.contains(scheme)), "{ours:?}");
        assert_eq!(ours.len(), rings.len() + 1);
    }
}

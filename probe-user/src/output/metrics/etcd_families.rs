//! Families of the etcd member: verdict, scrapes, certificates, properties.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::{MetricFamily, counter, gauge};
use crate::analysis::{
    certificate_expiry::CertificateKind, scrape_failure::Reason, snapshot::MetricsSnapshot, verdict::Verdict,
};

const VERDICT: MetricFamily = MetricFamily::gauge("verdict", "1 for the current verdict, 0 for all others.");

const ETCD_UP: MetricFamily =
    MetricFamily::gauge("etcd_up", "1 if the etcd process runs and its last scrape succeeded, 0 otherwise.");

const ETCD_SCRAPE_AGE: MetricFamily = MetricFamily::gauge(
    "etcd_scrape_age",
    "Age of the last copy of etcd's own metrics; re-exported only while it is at most 5 s old and \
     etcd is up.",
)
.seconds();

const ETCD_SCRAPE_ERRORS: MetricFamily = MetricFamily::counter(
    "etcd_scrape_errors",
    "Failed scrapes of etcd, by reason; every reason is present from the start.",
);

const ETCD_CERTIFICATE_EXPIRY_TIMESTAMP: MetricFamily = MetricFamily::gauge(
    "etcd_certificate_expiry_timestamp",
    "Expiry time of the certificates in use, in seconds since 1970: the earliest of a chain, the next \
     one of a bundle of authorities.",
)
.seconds();

const MEMBER: MetricFamily = MetricFamily::info("member", "Properties of a member.");

impl MetricsSnapshot {
    pub(super) fn encode_etcd(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = VERDICT.begin(out)?;
        for member in &self.members {
            for verdict in Verdict::ALL {
                let labels = [("member", member.name.as_str()), ("verdict", verdict.as_str())];
                gauge(&mut family, &labels, f64::from(u8::from(verdict == member.verdict)))?;
            }
        }
        let mut family = ETCD_UP.begin(out)?;
        for member in &self.members {
            gauge(&mut family, &[("member", member.name.as_str())], f64::from(u8::from(member.etcd_up)))?;
        }
        let mut family = ETCD_SCRAPE_AGE.begin(out)?;
        for member in &self.members {
            if let Some(age_s) = member.scrape_age_s {
                gauge(&mut family, &[("member", member.name.as_str())], age_s)?;
            }
        }
        let mut family = ETCD_SCRAPE_ERRORS.begin(out)?;
        for member in &self.members {
            // Reasons with a count of 0 are exported, too: `rate()` misses the first failure of a series that
            // starts with it.
            for reason in Reason::ALL.map(Reason::as_str) {
                let count = member.scrape_errors.get(reason).copied().unwrap_or(0);
                counter(&mut family, &[("member", member.name.as_str()), ("reason", reason)], count)?;
            }
        }
        let mut family = ETCD_CERTIFICATE_EXPIRY_TIMESTAMP.begin(out)?;
        for member in &self.members {
            for (kind, end_s) in CertificateKind::ALL.into_iter().zip(member.certificate_ends_s) {
                let Some(end_s) = end_s else { continue };
                let labels = [("member", member.name.as_str()), ("certificate", kind.as_str())];
                gauge(&mut family, &labels, end_s as f64)?;
            }
        }
        let mut family = MEMBER.begin(out)?;
        for member in &self.members {
            family.encode_info(&[
                ("member", member.name.as_str()),
                ("data_dir", &member.data_dir),
                ("device", &member.device),
                ("filesystem", &member.filesystem),
                ("version", &member.version),
            ])?;
        }
        Ok(())
    }
}

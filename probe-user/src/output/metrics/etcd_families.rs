//! What is known of an etcd, and what is thought of it.

use std::fmt;

use prometheus_client::{encoding::DescriptorEncoder, metrics::MetricType, registry::Unit};

use super::{counter, gauge};
use crate::analysis::snapshot::Snapshot;
use crate::{
    analysis::certificate_expiry::CertificateKind, analysis::scrape_failure::Reason,
    analysis::verdict::Verdict,
};

impl Snapshot {
    pub(super) fn encode_etcd(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let mut family = out.encode_descriptor(
            "verdict",
            "1 for the current verdict, 0 for all others.",
            None,
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for verdict in Verdict::ALL {
                let labels = [("member", member.name.as_str()), ("verdict", verdict.as_str())];
                gauge(&mut family, &labels, f64::from(u8::from(verdict == member.verdict)))?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_up",
            "1 if the etcd process runs and its last scrape succeeded, 0 otherwise.",
            None,
            MetricType::Gauge,
        )?;
        for member in &self.members {
            gauge(&mut family, &[("member", member.name.as_str())], f64::from(u8::from(member.etcd_up)))?;
        }
        let mut family = out.encode_descriptor(
            "etcd_scrape_age",
            "Age of the last copy of etcd's own metrics; re-exported only while it is at most 5 s old and etcd is up.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            if let Some(age_s) = member.scrape_age_s {
                gauge(&mut family, &[("member", member.name.as_str())], age_s)?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_scrape_errors",
            "Failed scrapes of etcd, by reason; every reason is present from the start.",
            None,
            MetricType::Counter,
        )?;
        for member in &self.members {
            // Those of 0, too: `rate()` sees the first failure only of a series that was there before it.
            for reason in Reason::ALL.map(Reason::as_str) {
                let count = member.scrape_errors.get(reason).copied().unwrap_or(0);
                counter(&mut family, &[("member", member.name.as_str()), ("reason", reason)], count)?;
            }
        }
        let mut family = out.encode_descriptor(
            "etcd_certificate_expiry_timestamp",
            "Expiry time of the certificates in use, in seconds since 1970: the earliest of a chain, the next one of a bundle \
             of authorities.",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for member in &self.members {
            for (kind, end_s) in CertificateKind::ALL.into_iter().zip(member.certificate_ends_s) {
                let Some(end_s) = end_s else { continue };
                let labels = [("member", member.name.as_str()), ("certificate", kind.as_str())];
                gauge(&mut family, &labels, end_s as f64)?;
            }
        }
        let mut family =
            out.encode_descriptor("member", "Properties of a member.", None, MetricType::Info)?;
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

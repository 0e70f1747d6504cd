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
            "1 for the current verdict, 0 for the others.",
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
            "Whether etcd lives and its last scrape succeeded.",
            None,
            MetricType::Gauge,
        )?;
        for member in &self.members {
            gauge(&mut family, &[("member", member.name.as_str())], f64::from(u8::from(member.etcd_up)))?;
        }
        let mut family = out.encode_descriptor(
            "etcd_scrape_age",
            "Age of the last copy of etcd's own metrics; they are passed on only while it is no older than 5 s and etcd is up.",
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
            "Scrapes of etcd that failed, by reason; every reason is there from the start.",
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
            "When the certificates in use end, in seconds since 1970: of a chain the first link to end, of a bundle of \
             authorities the next one.",
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
            out.encode_descriptor("member", "What is known of a member.", None, MetricType::Info)?;
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

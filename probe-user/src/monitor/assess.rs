//! Assessments: the only module that decides verdicts.

use tracing::{info, warn};

use super::{
    MemberState, Monitor,
    gather_evidence::{evidence, other_frames},
};
use crate::analysis::{
    assessment::{Assessment, Assessments, CrosscheckTotals, MemberIdentity},
    crosscheck::{Invariant, Ledger},
    disk_metric::PerMetric,
    verdict::{Evidence, Judgement, Verdict, judge},
};

impl Monitor {
    /// Assesses every member.
    pub fn assess(&self) -> Assessments<'_> {
        let skipped_runs = self.kernel.skipped_runs();
        let misses = self.kernel.misses().map(|(miss, count)| (miss.as_str(), count));
        Assessments {
            hook: self.kernel.hook().as_str(),
            self_test_failure: self.self_test_failure(),
            skipped_runs,
            misses: misses.into_iter().chain([("program_skipped", skipped_runs)]).collect(),
            members: self.members().map(|member| self.assess_member(member, skipped_runs)).collect(),
        }
    }

    /// Records the verdict of every member, so that a report states since when it holds, and logs each
    /// change.
    pub fn record_verdicts(&mut self) {
        let skipped_runs = self.kernel.skipped_runs();
        let judgements: Vec<Judgement> =
            self.members().map(|member| self.judge_member(member, skipped_runs).1).collect();
        for (member, Judgement { verdict, reason, .. }) in self.members.values_mut().zip(judgements) {
            let is_new = member.record_verdict(verdict).is_some();
            if is_new && verdict.exit_code() == 1 {
                warn!(member = member.label(), verdict = verdict.as_str(), "{reason}");
            } else if is_new {
                info!(member = member.label(), verdict = verdict.as_str(), "{reason}");
            }
        }
    }

    /// Returns the verdict of a member. `skipped_runs` is an argument because reading it opens a file per
    /// program.
    pub(super) fn verdict_of(&self, member: &MemberState, skipped_runs: u64) -> Verdict {
        self.judge_member(member, skipped_runs).1.verdict
    }

    fn judge_member<'a>(&'a self, member: &'a MemberState, skipped_runs: u64) -> (Evidence<'a>, Judgement) {
        let evidence = evidence(self, member, skipped_runs);
        let judgement = judge(&evidence);
        (evidence, judgement)
    }

    fn assess_member<'a>(&'a self, member: &'a MemberState, skipped_runs: u64) -> Assessment<'a> {
        let (evidence, judgement) = self.judge_member(member, skipped_runs);
        Assessment {
            identity: identity(member),
            since_s: member.verdict_age_s(judgement.verdict),
            evidence,
            judgement,
            etcd: PerMetric::from_fn(|metric| member.window.etcd(metric)),
            crosscheck: PerMetric::from_fn(|metric| totals(member.ledger(metric))),
            other_frames: other_frames(self, member),
        }
    }
}

fn identity(state: &MemberState) -> MemberIdentity {
    let member = state.member();
    MemberIdentity {
        name: state.label().to_owned(),
        pid: state.id().map(|id| id.pid),
        version: state.version().map(str::to_owned),
        data_dir: member.data_dir.display().to_string(),
        wal_dir: member.wal_dir.display().to_string(),
        endpoint: member.endpoints.first().map(ToString::to_string),
    }
}

/// Returns the totals of a ledger.
pub(super) fn totals(ledger: &Ledger) -> CrosscheckTotals {
    CrosscheckTotals {
        kernel_events: ledger.kernel_events(),
        etcd_events: ledger.etcd_events(),
        difference: ledger.difference(),
        origin_uncertainty: ledger.uncertainty(),
        unverified: ledger.unverified(),
        violations: Invariant::ALL.map(|invariant| ledger.violations(invariant)),
        overhead_s: ledger.overhead_s(),
    }
}

//! The scan of each second: finds new members, retires ended ones, and releases what they used.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use probe_ebpf::series::{BACKEND_COMMIT, WAL_FSYNC};
use tracing::{info, warn};

use super::{MemberState, Monitor, SELF_TEST_INTERVAL, member_state::is_same_incarnation, retention};
use crate::{
    analysis::crosscheck::Start,
    discovery::{Member, ProcessId},
    kernel::{Kernel, NS_PER_TICK, Process, sampler},
};

/// How often the kernel slots of threads that ended in running processes are released; Go seldom ends a
/// thread.
const THREAD_RELEASE_INTERVAL: Duration = Duration::from_secs(10);

impl Monitor {
    /// Finds members that started and ended. Called each second.
    pub fn scan(&mut self) {
        self.kernel.flush_log();
        self.drain_sampler();
        self.run_self_test(SELF_TEST_INTERVAL);
        self.retire_ended();
        self.find_members();
        self.members.values_mut().for_each(MemberState::check_certificates);
        self.publish_devices();
        self.host.name_cgroups(self.kernel.block());
        self.forget_ended();
        self.release_idle();
    }

    fn find_members(&mut self) {
        let processes = self.kernel.processes();
        let suspects: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        let scan = self.scanner.scan(&self.settings.overrides, &self.settings.process_names, &suspects);
        let mut unreadable = BTreeMap::new();
        for process in scan.unreadable {
            if !self.unreadable.contains_key(&process.pid) {
                warn!(pid = process.pid, "cannot examine a process: {process}");
                self.unreadable_total += 1;
            }
            unreadable.insert(process.pid, process.to_string());
        }
        self.unreadable = unreadable;
        for member in scan.members {
            let process = processes.iter().find(|process| is_same_incarnation(process, member.id)).copied();
            self.track(member, process);
        }
    }

    fn track(&mut self, member: Member, process: Option<Process>) {
        let key = (member.settings.name.clone(), member.data_dir.clone());
        let state =
            self.members.entry(key).or_insert_with(|| MemberState::new(&member, self.settings.window));
        if state.id() != Some(member.id) {
            // Rounded down to a tick, so a process that started just after the probe may be taken for an
            // older one; never the reverse.
            let started_ns =
                process.map_or(member.id.start_ticks * NS_PER_TICK, |process| process.started_ns);
            // A process with another name is traced only from here on.
            let observed = member.comm_matches && self.kernel.observed_start_of(started_ns);
            let start = if observed { Start::Observed } else { Start::Missed };
            info!(
                member = member.name, pid = member.id.pid, data_dir = %member.data_dir.display(),
                start_observed = observed, "member found"
            );
            if state.id().is_some() {
                // Its predecessor ended after this scan had retired ended processes; two cannot hold one WAL.
                state.end(&mut self.kernel);
            }
            if !member.comm_matches
                && let Err(error) = self.kernel.watch(member.id.pid, true)
            {
                warn!(member = member.name, %error, "cannot trace a member by its pid");
            }
            let environment = self.host.resolve(&member, self.kernel.block_mut());
            state.begin(environment, start, &self.settings, &member);
        }
        state.update(member, process);
    }

    /// Takes over the counts of processes that have ended, and releases their kernel slots.
    fn retire_ended(&mut self) {
        for process in self.kernel.processes() {
            if !has_ended(&process) {
                continue;
            }
            match self.members.values_mut().find(|member| member.owns(&process)) {
                Some(member) => {
                    info!(member = member.label(), pid = process.pid, "member ended");
                    member.set_process(process);
                    member.end(&mut self.kernel);
                }
                None => self.unclaimed += reconciled(&self.kernel, process.target),
            }
            if let Err(error) = self.kernel.release(process.target) {
                warn!(pid = process.pid, %error, "cannot release the kernel slot of an exited process");
            }
        }
        // Members that never made a traced call have no process on the kernel side.
        for member in self.members.values_mut() {
            if member.id().is_some_and(|id| !id.is_alive()) {
                member.end(&mut self.kernel);
            }
        }
    }

    /// Publishes to the sampler which devices are under each member's files, and stops watching devices
    /// without a member.
    fn publish_devices(&mut self) {
        let alive = self.members.values().filter(|member| member.id().is_some());
        let layers: HashMap<u32, Vec<u32>> = alive
            .clone()
            .filter_map(|member| Some((member.process()?.target, member.environment().layers())))
            .collect();
        let used: BTreeSet<u32> = alive.flat_map(|member| member.environment().layers()).collect();
        self.host.unwatch_unused(&used, self.kernel.block_mut());
        sampler::lock(&self.findings).layers = layers;
    }

    /// Removes members whose retention is over.
    fn forget_ended(&mut self) {
        // The window is most of a member's memory in the daemon.
        let window = self.settings.window;
        let silent = self.members.values_mut().filter(|member| member.ended_for() > Some(window));
        silent.for_each(|member| member.window.clear());
        let ended = self.members.iter().filter_map(|(key, member)| Some((key.clone(), member.ended_for()?)));
        for key in retention::expired(ended.collect()) {
            self.members.remove(&key);
        }
    }

    fn release_idle(&mut self) {
        if self.threads_released.elapsed() <= THREAD_RELEASE_INTERVAL {
            return;
        }
        self.threads_released = Instant::now();
        if let Err(error) = self.kernel.release_ended_threads() {
            warn!(%error, "cannot release the kernel slots of ended threads");
        }
        if let Err(error) = self.kernel.block_mut().release_idle_owners() {
            warn!(%error, "cannot release idle I/O owners");
        }
    }
}

/// Returns how many events of a target etcd would have counted.
fn reconciled(kernel: &Kernel, target: u32) -> u64 {
    kernel.latencies(target, WAL_FSYNC).count() + kernel.latencies(target, BACKEND_COMMIT).count()
}

/// Returns whether a process has ended with all its threads; its parent may not have reaped it yet (zombie).
fn has_ended(process: &Process) -> bool {
    !ProcessId { pid: process.pid, start_ticks: process.started_ns / NS_PER_TICK }.is_alive()
}

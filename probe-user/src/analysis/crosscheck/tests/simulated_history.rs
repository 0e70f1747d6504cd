//! Generates histories of an etcd process, its kernel and its scrapes for the property tests.
//!
//! A history has three periods of load, each followed by a pause with two short scrapes. Within a period,
//! events and scrapes are independent: latencies from 10 µs to 4 s, delays up to half a second
//! between the return of a syscall and its observation, scrapes that last from microseconds to seconds.

use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{KernelReading, Observations, Round, Start};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// One sync or commit: etcd's clock starts, the syscall enters and returns, etcd's clock stops and it
/// observes.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit goes last in a name")]
pub(super) struct Event {
    pub(super) begun_ns: u64,
    pub(super) entered_ns: u64,
    pub(super) finished_ns: u64,
    pub(super) observed_ns: u64,
}

impl Event {
    pub(super) fn etcd_ns(&self) -> u64 {
        self.observed_ns - self.begun_ns
    }
}

/// The treatment of one event by a faulty probe or a faulty kernel clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Drop,
    Double,
    /// The return is counted twice, the entry once.
    DoubleReturn,
    /// The event is recorded with this latency.
    Latency(u64),
}

/// The times at which a scrape starts, etcd reads its counters, and the scrape ends.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "the unit goes last in a name")]
pub(super) struct Scrape {
    pub(super) begun_ns: u64,
    pub(super) taken_ns: u64,
    pub(super) ended_ns: u64,
}

#[derive(Debug, Clone)]
pub(super) struct History {
    /// Sorted by entry.
    pub(super) events: Vec<Event>,
    pub(super) scrapes: Vec<Scrape>,
    /// The periods of load, without the pauses.
    pub(super) loads: Vec<Range<u64>>,
    attached_ns: Option<u64>,
    /// The time during which a second backend exists.
    second: Range<u64>,
}

impl History {
    pub(super) fn start(&self) -> Start {
        if self.attached_ns.is_some() { Start::Missed } else { Start::Observed }
    }

    /// Returns whether the probe recorded the entry of the event.
    pub(super) fn known(&self, event: &Event) -> bool {
        self.attached_ns.is_none_or(|attached_ns| event.entered_ns > attached_ns)
    }

    /// Returns the number of events that etcd ever observes and the kernel does not count.
    pub(super) fn origin(&self) -> u64 {
        self.events.iter().filter(|event| !self.known(event)).count() as u64
    }

    /// Returns whether an event was in flight when the probe attached.
    pub(super) fn attached_amid_event(&self) -> bool {
        let amid =
            |at_ns| self.events.iter().any(|event| event.entered_ns <= at_ns && at_ns < event.finished_ns);
        self.attached_ns.is_some_and(amid)
    }

    /// Returns the index of the scrape that ends the pause after a load.
    pub(super) fn quiet_scrape(&self, load: usize) -> usize {
        let next_ns = self.loads.get(load + 1).map_or(u64::MAX, |next| next.start);
        self.scrapes.partition_point(|scrape| scrape.begun_ns < next_ns) - 1
    }

    pub(super) fn sequences(&self, at_ns: u64) -> u32 {
        1 + u32::from(self.second.contains(&at_ns))
    }

    /// Returns the reading at that time of a kernel with these faults, by index of the event.
    pub(super) fn kernel(&self, at_ns: u64, faults: &[(usize, Fault)]) -> KernelReading {
        let (mut entered, mut latencies_ns) = (0, vec![]);
        for (index, event) in self.events.iter().enumerate().filter(|(_, event)| self.known(event)) {
            let fault = faults.iter().find(|(faulty, _)| *faulty == index).map(|(_, fault)| *fault);
            let (entries, returns) = match fault {
                None | Some(Fault::Latency(_)) => (1, 1),
                Some(Fault::Drop) => (0, 0),
                Some(Fault::Double) => (2, 2),
                Some(Fault::DoubleReturn) => (1, 2),
            };
            if event.entered_ns <= at_ns {
                entered += entries;
            }
            if event.finished_ns <= at_ns {
                let true_ns = event.finished_ns - event.entered_ns;
                let latency_ns = if let Some(Fault::Latency(ns)) = fault { ns } else { true_ns };
                latencies_ns.extend((0..returns).map(|_| latency_ns));
            }
        }
        let mut finished = Observations::of_latencies(&latencies_ns);
        // The kernel adds whole nanoseconds.
        finished.sum_s = latencies_ns.iter().sum::<u64>() as f64 / 1e9;
        KernelReading { at_ns, entered, sequences: self.sequences(at_ns), finished }
    }

    pub(super) fn etcd(&self, at_ns: u64) -> Observations {
        let mut observed: Vec<_> = self.events.iter().filter(|event| event.observed_ns <= at_ns).collect();
        observed.sort_by_key(|event| event.observed_ns);
        Observations::of_latencies(&observed.into_iter().map(Event::etcd_ns).collect::<Vec<_>>())
    }

    pub(super) fn rounds(&self, faults: &[(usize, Fault)]) -> Vec<Round> {
        let attached_ns = self.attached_ns.unwrap_or(0);
        self.scrapes
            .iter()
            .filter(|scrape| scrape.begun_ns > attached_ns)
            .map(|scrape| Round {
                before: self.kernel(scrape.begun_ns, faults),
                etcd: self.etcd(scrape.taken_ns),
                after: self.kernel(scrape.ended_ns, faults),
            })
            .collect()
    }
}

/// Returns a duration of any order of magnitude between 1 µs × 2^`from` and 1 µs × 2^`to`.
fn duration(from: u32, to: u32) -> impl Strategy<Value = u64> + Clone {
    (from..to, 0..1_000_u64).prop_map(|(doublings, more)| (1_000 + more) << doublings)
}

/// The gaps and lengths of one event: idle, before the syscall, inside, until observed.
type Steps = (u64, u64, u64, u64);

fn steps() -> impl Strategy<Value = Steps> + Clone {
    // A pause, a short CPU time, a sync of 10 µs to 4 s, and less than the quiet second until the
    // observation.
    (duration(0, 19), duration(0, 10), duration(3, 21), duration(0, 18))
}

/// Appends the events of one sequence and returns the time at which the last one is observed.
fn append(events: &mut Vec<Event>, start_ns: u64, steps: &[Steps]) -> u64 {
    let mut at_ns = start_ns;
    for &(idle, prepare, inside, observe) in steps {
        let begun_ns = at_ns + idle;
        let entered_ns = begun_ns + prepare;
        let finished_ns = entered_ns + inside;
        at_ns = finished_ns + observe;
        events.push(Event { begun_ns, entered_ns, finished_ns, observed_ns: at_ns });
    }
    at_ns
}

/// A load: events of the first sequence, of the second, and its scrapes.
type Load = (Vec<Steps>, Vec<Steps>, Vec<(u64, u64, u64)>);

fn load(events: Range<usize>) -> impl Strategy<Value = Load> {
    let scrape = (duration(4, 21), duration(0, 19), duration(0, 19));
    (vec(steps(), events), vec(steps(), 1..6), vec(scrape, 0..4))
}

/// Returns histories with this many events of the first sequence in the middle load.
pub(super) fn histories(middle: Range<usize>) -> impl Strategy<Value = History> {
    let attach = prop_oneof![1 => Just(None), 2 => (0..7_usize, 0.0..1.0).prop_map(Some)];
    // The load during which a second backend exists, if any.
    let second = prop_oneof![2 => Just(None), 1 => (0..3_usize).prop_map(Some)];
    ((load(8..24), load(middle), load(1..24)), attach, second).prop_map(|((a, b, c), attach, second)| {
        let mut history =
            History { events: vec![], scrapes: vec![], loads: vec![], attached_ns: None, second: 0..0 };
        let mut at_ns = S;
        for (index, (events, others, scrapes)) in [a, b, c].into_iter().enumerate() {
            let start_ns = at_ns;
            let mut end_ns = append(&mut history.events, start_ns, &events);
            if second == Some(index) {
                let closed_ns = append(&mut history.events, start_ns, &others);
                history.second = start_ns..closed_ns + 1;
                end_ns = end_ns.max(closed_ns);
            }
            history.loads.push(start_ns..end_ns);
            at_ns = history.scrape(start_ns..end_ns, &scrapes) + S;
        }
        history.attach(attach);
        history.events.sort_by_key(|event| event.entered_ns);
        history
    })
}

impl History {
    /// Scrapes a load and the pause after it; returns the end of the pause.
    fn scrape(&mut self, load: Range<u64>, scrapes: &[(u64, u64, u64)]) -> u64 {
        let mut at_ns = load.start;
        for &(gap, to_taken, to_end) in scrapes.iter().cycle().take(40) {
            let begun_ns = at_ns + gap;
            if begun_ns >= load.end {
                break;
            }
            let taken_ns = begun_ns + to_taken;
            at_ns = taken_ns + to_end;
            self.scrapes.push(Scrape { begun_ns, taken_ns, ended_ns: at_ns });
        }
        let mut quiet_ns = load.end.max(at_ns) + S;
        for _ in 0..2 {
            self.scrapes.push(Scrape {
                begun_ns: quiet_ns,
                taken_ns: quiet_ns + MS,
                ended_ns: quiet_ns + 2 * MS,
            });
            quiet_ns += S + 2 * MS;
        }
        quiet_ns
    }

    /// Attaches within an event of the first load, early enough that other events follow.
    fn attach(&mut self, attach: Option<(usize, f64)>) {
        let Some((index, fraction)) = attach else { return };
        // The first 7 of at least 8 events of the first sequence.
        let event = self.events[index];
        let length_ns = (event.observed_ns - event.begun_ns) as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a fraction of a few seconds"
        )]
        let into_ns = (length_ns * fraction) as u64;
        self.attached_ns = Some(event.begun_ns + into_ns);
    }
}

//! Properties of every history: correct counts never violate an invariant, and no fault stays hidden.
//!
//! Each property counts how often its case occurred, so that it cannot hold trivially.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::super::{Breach, Invariant, Ledger, Reconciliation, Round, Start};
use super::simulated_history::{Fault, History, histories};

const CASES: u32 = 256;

fn check<S: Strategy>(strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(strategy, property) {
        panic!("{error}");
    }
}

/// Counts how often a case occurred.
#[derive(Default)]
struct Tally(Cell<u32>);

impl Tally {
    fn count(&self, happened: bool) {
        self.0.set(self.0.get() + u32::from(happened));
    }

    fn at_least(&self, times: u32, what: &str) {
        assert!(self.0.get() >= times, "{what}: {} of {CASES}, wanted {times}", self.0.get());
    }
}

fn violations(reconciliation: &Reconciliation) -> u64 {
    Invariant::ALL.iter().map(|&invariant| reconciliation.violations(invariant)).sum()
}

/// Returns the number of rounds up to and including the quiet one after a load.
fn rounds_until_quiet(history: &History, load: usize, rounds: usize) -> usize {
    // Scrapes from before the attach have no round.
    rounds - (history.scrapes.len() - 1 - history.quiet_scrape(load))
}

/// Returns whether a pause can pin the origin: no unknown event can be in flight, and the rounds prove it.
fn pinnable(history: &History, rounds: &[Round]) -> bool {
    let mut entered = rounds.iter().map(|round| &round.before).filter(|before| before.sequences == 1);
    let first = entered.next().map_or(u64::MAX, |before| before.entered);
    history.start() == Start::Observed || entered.any(|before| before.entered > first)
}

#[test]
fn correct_counts_never_violate_an_invariant() {
    let (missed, amid_event, by_sandwich, two) = <(Tally, Tally, Tally, Tally)>::default();
    let (rounds_seen, coherent_under_load, busy) = <(Tally, Tally, Tally)>::default();
    check(&histories(1..24), |history| {
        let truth = i64::try_from(history.origin()).unwrap();
        let mut reconciliation = Reconciliation::new(history.start());
        let rounds = history.rounds(&[]);
        let mut pinned_by_sandwich = false;
        for (index, round) in rounds.iter().enumerate() {
            let pinned = reconciliation.pinned();
            let outcome = reconciliation.observe(round);
            prop_assert_eq!(violations(&reconciliation), 0, "round {}: {:?}", index, outcome);
            prop_assert_eq!((outcome.sandwich, outcome.dominance), (None, None));
            prop_assert_eq!(reconciliation.difference(), 0);
            let origin = reconciliation.origin.established();
            prop_assert!(origin.lo <= truth && truth <= origin.hi, "{} is not in {:?}", truth, origin);
            prop_assert_eq!(reconciliation.origin.apparent(), origin);
            prop_assert_eq!(reconciliation.kernel_events(), round.after.finished.count);
            let known = history.events.iter().filter(|event| history.known(event));
            let observed =
                known.filter(|event| event.observed_ns <= taken_ns(&history, &rounds, index)).count();
            prop_assert!(reconciliation.etcd_events() <= observed as u64, "never more than the exact value");
            pinned_by_sandwich |= !pinned && reconciliation.pinned() && !outcome.quiet;
            rounds_seen.count(true);
            busy.count(round.before.entered > round.before.finished.count);
            coherent_under_load.count(outcome.coherent && !outcome.quiet);
            two.count(round.before.sequences == 2);
        }
        missed.count(history.start() == Start::Missed);
        amid_event.count(history.attached_amid_event());
        by_sandwich.count(pinned_by_sandwich);
        Ok(())
    });
    missed.at_least(64, "attached late");
    amid_event.at_least(32, "attached during an event");
    by_sandwich.at_least(32, "pinned without a pause");
    rounds_seen.at_least(2_000, "rounds");
    busy.at_least(300, "rounds with an event in flight");
    coherent_under_load.at_least(300, "coherent rounds under load");
    two.at_least(50, "rounds with two sequences");
}

/// Returns the time at which etcd read its counters for a round.
fn taken_ns(history: &History, rounds: &[Round], index: usize) -> u64 {
    history.scrapes[history.scrapes.len() - rounds.len() + index].taken_ns
}

#[test]
fn a_quiet_second_pins_the_origin() {
    let (vague_before, hidden) = <(Tally, Tally)>::default();
    check(&histories(1..24), |history| {
        let mut reconciliation = Reconciliation::new(history.start());
        let rounds = history.rounds(&[]);
        let first_quiet = rounds_until_quiet(&history, 0, rounds.len());
        for (index, round) in rounds.iter().enumerate() {
            let vague = !reconciliation.pinned();
            let outcome = reconciliation.observe(round);
            let until = &rounds[..=index];
            if (0..3).any(|load| until.len() == rounds_until_quiet(&history, load, rounds.len())) {
                let pinned = pinnable(&history, until);
                prop_assert_eq!(outcome.quiet, pinned, "a pause of a second");
                prop_assert!(pinned || until.len() == first_quiet, "later pauses always pin it");
                if pinned {
                    prop_assert!(outcome.coherent);
                    prop_assert_eq!(reconciliation.uncertainty(), Some(0));
                    prop_assert_eq!(reconciliation.kernel_events(), reconciliation.etcd_events());
                }
                vague_before.count(vague && pinned);
                hidden.count(!pinned);
            }
            prop_assert!(vague || reconciliation.pinned(), "pinned for ever");
        }
        prop_assert!(reconciliation.pinned());
        let last = rounds.last().unwrap();
        let overhead_s = reconciliation.overhead_s();
        prop_assert!(overhead_s > 0.0 && overhead_s <= last.etcd.sum_s, "{}", overhead_s);
        Ok(())
    });
    vague_before.at_least(4, "pinned by a pause");
    hidden.at_least(1, "pauses that could not pin it");
}

#[test]
fn no_fault_stays_hidden() {
    let faults =
        prop_oneof![Just((Fault::Drop, 1_i64)), Just((Fault::Double, -1)), Just((Fault::DoubleReturn, -1))];
    let (before_quiet, seen, missed) = <(Tally, Tally, Tally)>::default();
    let strategy = (histories(1..24), faults, any::<prop::sample::Index>());
    check(&strategy, |(history, (fault, difference), pick)| {
        let middle = history.loads[1].clone();
        let victims: Vec<usize> = (0..history.events.len())
            .filter(|&index| middle.contains(&history.events[index].entered_ns))
            .collect();
        let rounds = history.rounds(&[(*pick.get(&victims), fault)]);
        let (pinned, caught) =
            (rounds_until_quiet(&history, 0, rounds.len()), rounds_until_quiet(&history, 1, rounds.len()));
        prop_assume!(pinnable(&history, &rounds[..pinned]));
        let mut reconciliation = Reconciliation::new(history.start());
        for (index, round) in rounds.iter().enumerate() {
            reconciliation.observe(round);
            let shown = reconciliation.difference();
            if index < pinned {
                prop_assert_eq!(
                    (shown, violations(&reconciliation)),
                    (0, 0),
                    "round {}: no fault yet",
                    index
                );
            }
            prop_assert!(shown == 0 || shown == difference, "round {}: {}", index, shown);
            if index + 1 >= caught {
                prop_assert_eq!(shown, difference, "round {} of {}", index, rounds.len());
                let reported = reconciliation.violations(Invariant::Sandwich);
                // While an event that entered twice is in flight, the counts of entries and returns
                // contradict each other, and the apparent origin may alternate between them.
                prop_assert!(
                    reported == 1 || (reported > 1 && fault == Fault::Double),
                    "reported {} times",
                    reported
                );
                prop_assert_eq!(reconciliation.uncertainty(), Some(0), "the established origin stays");
            }
            before_quiet.count(index + 1 < caught && shown != 0);
        }
        seen.count(history.start() == Start::Observed);
        missed.count(history.start() == Start::Missed);
        Ok(())
    });
    before_quiet.at_least(32, "rounds that detected it before the pause");
    seen.at_least(48, "observed from the start");
    missed.at_least(64, "attached late");
}

#[test]
fn a_kernel_slower_than_etcd_violates_dominance() {
    let (by_count, by_sum) = <(Tally, Tally)>::default();
    // The only event between two pauses, unless a second backend adds some, whose slack could hide it.
    let strategy = (histories(1..2), any::<bool>());
    check(&strategy, |(history, cross)| {
        let middle = history.loads[1].clone();
        let mut inside =
            (0..history.events.len()).filter(|&at| middle.contains(&history.events[at].entered_ns));
        let victim = inside.next().unwrap();
        let etcd_ns = history.events[victim].etcd_ns();
        let above = (0..crate::analysis::disk_metric::BUCKETS).find(|&bound| etcd_ns <= 1_000_000 << bound);
        let bound = above.expect("no event lasts 8 s");
        let edge_ns = 1_000_000_u64 << bound;
        // Either just past the bound that etcd's latency is under, or longer but under the same bound.
        let latency_ns = if cross { edge_ns + 1 } else { edge_ns };
        prop_assume!(inside.next().is_none() && latency_ns > etcd_ns + 1_000_000);
        let rounds = history.rounds(&[(victim, Fault::Latency(latency_ns))]);
        let (clean, caught) =
            (rounds_until_quiet(&history, 0, rounds.len()), rounds_until_quiet(&history, 1, rounds.len()));
        prop_assume!(pinnable(&history, &rounds[..clean]));
        let mut reconciliation = Reconciliation::new(history.start());
        for (index, round) in rounds.iter().enumerate() {
            reconciliation.observe(round);
            let reported = reconciliation.violations(Invariant::Dominance);
            prop_assert!(index >= clean || reported == 0, "no fault yet");
            prop_assert!(index + 1 < caught || reported > 0, "{} instead of {}", latency_ns, etcd_ns);
        }
        match reconciliation.worst_breach() {
            Some(Breach::Count { bound: worst, missing }) => {
                prop_assert!(cross);
                prop_assert_eq!((worst, missing), (bound, 1));
                by_count.count(true);
            }
            Some(Breach::Sum { excess_s }) => {
                prop_assert!(!cross);
                prop_assert!((excess_s - (latency_ns - etcd_ns) as f64 / 1e9).abs() < 1e-6);
                by_sum.count(true);
            }
            None => prop_assert!(false, "it was reported"),
        }
        prop_assert_eq!(reconciliation.violations(Invariant::Sandwich), 0, "the counts are right");
        Ok(())
    });
    by_count.at_least(64, "past a bound");
    by_sum.at_least(64, "longer in sum");
}

#[test]
fn counters_never_fall_over_incarnations() {
    let (unverified, complete) = <(Tally, Tally)>::default();
    // The number of rounds of an incarnation, and the time it continues without scrapes, in milliseconds.
    let incarnation = (histories(1..24), any::<prop::sample::Index>(), 0..3_000_u64);
    check(&prop::collection::vec(incarnation, 1..4), |incarnations| {
        let mut ledger = Ledger::default();
        let (mut kernel_events, mut lost) = (0, 0);
        let mut shown = figures(&ledger);
        for (history, rounds, tail_ms) in incarnations {
            let all = history.rounds(&[]);
            let killed = rounds.index(all.len() + 1);
            ledger.begin(history.start());
            for round in &all[..killed] {
                prop_assert!(ledger.observe(round).is_some());
                rose(&mut shown, &ledger)?;
                prop_assert_eq!((ledger.difference(), ledger.unverified()), (0, lost));
            }
            let pinned = ledger.current().is_some_and(Reconciliation::pinned);
            let scraped = killed.checked_sub(1).map(|at| all[at].after.at_ns);
            let died_ns = scraped.unwrap_or(0) + tail_ms * 1_000_000;
            let finished = history.kernel(died_ns, &[]).finished.count;
            let verified = match killed.checked_sub(1) {
                Some(at) if pinned => all[at].etcd.count.saturating_sub(history.origin()),
                _ => 0,
            };
            ledger.end(finished);
            rose(&mut shown, &ledger)?;
            kernel_events += finished;
            lost += finished - verified;
            prop_assert_eq!((ledger.kernel_events(), ledger.unverified()), (kernel_events, lost));
            prop_assert!(ledger.etcd_events() + ledger.unverified() >= ledger.kernel_events());
            unverified.count(finished > verified);
            complete.count(finished > 0 && finished == verified);
        }
        Ok(())
    });
    unverified.at_least(64, "incarnations with an unverified end");
    complete.at_least(32, "incarnations verified to the end");
}

/// Returns every counter of a ledger as a float.
fn figures(ledger: &Ledger) -> [f64; 7] {
    [
        ledger.kernel_events() as f64,
        ledger.etcd_events() as f64,
        ledger.unverified() as f64,
        ledger.overhead_s(),
        ledger.overhead_events() as f64,
        ledger.violations(Invariant::Sandwich) as f64,
        ledger.violations(Invariant::Dominance) as f64,
    ]
}

fn rose(last: &mut [f64; 7], ledger: &Ledger) -> Result<(), TestCaseError> {
    let now = figures(ledger);
    let fell = now.iter().zip(last.iter()).any(|(now, last)| now < last);
    prop_assert!(!fell, "{:?} after {:?}", now, last);
    *last = now;
    Ok(())
}

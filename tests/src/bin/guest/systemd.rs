//! The unit in a machine that boots systemd: the steps, in order, and their shared state.

mod fit;
mod life;
mod unit;
mod work;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use probe_tests::machine::vm::case::{DONE, Report};
use probe_tests::machine::vm::systemd::{CHECKOUT, DOCUMENTATION, STEPS};
use probe_tests::probe::loaded_programs::Loaded;

use crate::{machine, message};

/// The state that the steps share.
#[derive(Default)]
struct Trial {
    /// The BPF objects in the kernel before anything was installed.
    before: Loaded,
}

/// A step and its name on the console.
type Step = fn(&mut Trial) -> anyhow::Result<String>;

/// Runs every step, even after a failure, and switches the machine off.
pub fn run() {
    let steps: [Step; STEPS.len()] = [
        fit::boots,
        life::is_installed,
        work::agrees,
        work::agrees_in_another_network,
        work::tells_its_status,
        fit::keeps_only_privileges_to_read,
        // From here on with tracepoints, whose programs an emulated CPU verifies in half the time.
        work::takes_its_settings,
        life::is_restarted_when_it_hangs,
        life::is_not_restarted_in_vain,
        fit::is_as_closed_as_documented,
        life::leaves_nothing,
    ];
    let mut trial = Trial::default();
    for (name, step) in STEPS.into_iter().zip(steps) {
        let started = Instant::now();
        let result = panic::catch_unwind(AssertUnwindSafe(|| step(&mut trial)));
        let result = match result {
            Ok(result) => result.map_err(|error| format!("{error:#}\n{}", unit::journal())),
            Err(panic) => Err(message(panic.as_ref())),
        };
        let seconds = started.elapsed().as_secs_f64();
        println!("{}", Report { case: name.to_owned(), seconds, result }.line());
    }
    println!("{DONE}");
    machine::switch_off();
}

/// Returns the text of docs/systemd.md.
fn documentation() -> anyhow::Result<String> {
    let path = Path::new(CHECKOUT).join(DOCUMENTATION);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

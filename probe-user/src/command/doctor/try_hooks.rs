//! Tries the hooks for real: attached, tested by the probe's own events, and let go.

use crate::{
    command::{config::Options, exit_code},
    kernel::{self, Hook, HookChoice, KernelConfig},
    support::logging,
    system::privileges::{self, NetnsSpawner},
};

/// What came of one kind of hook.
#[derive(Clone, Debug)]
pub struct Trial {
    pub hook: Hook,
    /// Whether `--hook` lets the daemon take it.
    pub allowed: bool,
    pub outcome: Result<(), Refusal>,
}

/// Why something that the daemon needs cannot be had.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// One line.
    pub sentence: String,
    /// That of the daemon.
    pub exit_code: u8,
}

/// What came of everything that takes privilege, and with what the rest goes on.
#[derive(Debug)]
pub struct Trials {
    pub hooks: Vec<Trial>,
    /// Whether privileges could be given up; `None` if no hook works, and the daemon would not come to it.
    pub drop: Option<Result<(), Refusal>>,
    pub entrance: NetnsSpawner,
}

/// Tries each kind of hook, the cheapest first, and then goes on with what the daemon keeps of its privileges. Nothing
/// stays attached.
pub fn all(options: &Options) -> Trials {
    let config = KernelConfig::from(options);
    // Never two at once: kernels before 5.11 count the memory of both against one limit.
    let mut working = None;
    let hooks = Hook::ALL.map(|hook| {
        working = None;
        let started = kernel::start(hook.into(), &config);
        let outcome = started.map(|kernel| working = Some(kernel)).map_err(refusal);
        Trial { hook, allowed: [HookChoice::Auto, hook.into()].contains(&options.hook), outcome }
    });
    let works = hooks.iter().find(|trial| trial.outcome.is_ok()).map(|trial| trial.hook);
    let mut working = working.or_else(|| kernel::start(works?.into(), &config).ok());
    let dropped = working.as_mut().map(|kernel| privileges::drop_capabilities(|| kernel.maps_answer()));
    let (drop, entrance) = match dropped {
        Some(Ok(entrance)) => (Some(Ok(())), entrance),
        Some(Err(error)) => (Some(Err(refusal(error))), NetnsSpawner::default()),
        None => (None, NetnsSpawner::default()),
    };
    Trials { hooks: hooks.into(), drop, entrance }
}

fn refusal(error: impl std::error::Error + Send + Sync + 'static) -> Refusal {
    let chain = logging::chain(&error);
    // The verifier's log follows, if it wrote one.
    let line = chain.lines().next().unwrap_or_default();
    let sentence = line.trim_end().trim_end_matches("Verifier output:").trim_end().trim_end_matches('.');
    Refusal { sentence: sentence.to_owned(), exit_code: exit_code::of(&error.into()) }
}

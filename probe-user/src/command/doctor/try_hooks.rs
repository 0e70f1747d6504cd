//! Tries each hook: attaches it, runs the self-test, and detaches it.

use crate::{
    command::{config::Options, exit_code},
    kernel::{self, Hook, HookChoice, KernelConfig},
    support::logging,
    system::{netns_spawner::NetnsSpawner, privileges},
};

/// The result of trying one kind of hook.
#[derive(Clone, Debug)]
pub struct HookAttempt {
    pub hook: Hook,
    /// Whether `--hook` allows the daemon to use it.
    pub allowed: bool,
    pub outcome: Result<(), StartFailure>,
}

/// Why the daemon could not start.
#[derive(Clone, Debug)]
pub struct StartFailure {
    /// One line.
    pub message: String,
    /// The exit code of the daemon.
    pub exit_code: u8,
}

/// The results of everything that requires privileges, and the spawner for the remaining inspection.
#[derive(Debug)]
pub struct PrivilegedAttempts {
    pub hooks: Vec<HookAttempt>,
    /// Whether privileges could be dropped; `None` if no hook works, because the daemon would end before it
    /// drops them.
    pub drop: Option<Result<(), StartFailure>>,
    pub netns_spawner: NetnsSpawner,
}

/// Tries each kind of hook, the cheapest first, and then drops privileges as the daemon does. Nothing stays
/// attached.
pub fn all(options: &Options) -> PrivilegedAttempts {
    let config = KernelConfig::from(options);
    // Never two at once: kernels before 5.11 count the memory of both against one limit (`RLIMIT_MEMLOCK`).
    let mut working = None;
    let hooks = Hook::ALL.map(|hook| {
        working = None;
        let started = kernel::start(hook.into(), &config);
        let outcome = started.map(|kernel| working = Some(kernel)).map_err(start_failure);
        HookAttempt { hook, allowed: [HookChoice::Auto, hook.into()].contains(&options.hook), outcome }
    });
    let works = hooks.iter().find(|attempt| attempt.outcome.is_ok()).map(|attempt| attempt.hook);
    let mut working = working.or_else(|| kernel::start(works?.into(), &config).ok());
    let dropped =
        working.as_mut().map(|kernel| privileges::drop_capabilities(|| kernel.maps_are_accessible()));
    let (drop, netns_spawner) = match dropped {
        Some(Ok(netns_spawner)) => (Some(Ok(())), netns_spawner),
        Some(Err(error)) => (Some(Err(start_failure(error))), NetnsSpawner::default()),
        None => (None, NetnsSpawner::default()),
    };
    PrivilegedAttempts { hooks: hooks.into(), drop, netns_spawner }
}

fn start_failure(error: impl std::error::Error + Send + Sync + 'static) -> StartFailure {
    let chain = logging::chain(&error);
    // The first line only: the verifier's log may follow.
    let line = chain.lines().next().unwrap_or_default();
    let message = line.trim_end().trim_end_matches("Verifier output:").trim_end().trim_end_matches('.');
    StartFailure { message: message.to_owned(), exit_code: exit_code::of(&error.into()) }
}

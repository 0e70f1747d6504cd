//! Tries the hooks for real: attached, and let go at once.

use crate::{
    config::Options,
    exit,
    kernel::{self, Hook, KernelConfig},
    logging,
};

/// What came of one kind of hook.
#[derive(Clone, Debug)]
pub struct Trial {
    pub hook: &'static str,
    pub outcome: Result<(), Refusal>,
}

/// Why a hook cannot be used.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// One line.
    pub sentence: String,
    /// That of a daemon which needs this hook.
    pub exit_code: u8,
}

/// Tries each kind of hook, the best first. Nothing stays attached.
pub fn all(options: &Options) -> Vec<Trial> {
    let config = KernelConfig {
        process_names: options.process_name.clone(),
        max_targets: options.max_members,
        ..KernelConfig::default()
    };
    let trial = |hook: Hook| Trial {
        hook: hook.as_str(),
        outcome: kernel::start(hook.into(), &config).map(drop).map_err(refusal),
    };
    Hook::ALL.map(trial).into()
}

fn refusal(error: impl std::error::Error + Send + Sync + 'static) -> Refusal {
    let chain = logging::chain(&error);
    // The verifier's log follows, if it wrote one.
    let line = chain.lines().next().unwrap_or_default();
    let sentence = line.trim_end().trim_end_matches("Verifier output:").trim_end().trim_end_matches('.');
    Refusal { sentence: sentence.to_owned(), exit_code: exit::of(&error.into()) }
}

//! Basic authentication against bcrypt hashes.
//!
//! A hash of cost 10 takes 50 ms or more, so a separate thread with the lowest priority verifies one password
//! at a time, and pauses after a wrong one: a flood of wrong passwords does not delay the daemon or etcd.
//! Correct passwords are cached as keyed hashes, so that a scraper is verified once.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Instant,
};

use axum::http::HeaderValue;
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{hmac, rand::SystemRandom};
use rustix::process::setpriority_process;
use tokio::sync::oneshot;

/// Maximum number of passwords waiting to be verified; further requests are rejected.
const MAX_WAITING: usize = 8;

/// Maximum number of cached correct passwords.
const MAX_VERIFIED: usize = 256;

/// The lowest priority (`setpriority(2)`); on Linux it applies to a single thread.
const LOWEST_PRIORITY: i32 = 19;

/// Result of an authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Granted,
    Denied,
    /// Too many passwords wait to be verified.
    Busy,
}

/// Verifies passwords, and caches the correct ones.
pub struct PasswordChecker {
    /// None if the kernel provides no random numbers; then nothing is cached.
    key: Option<hmac::Key>,
    verified: Mutex<HashSet<Vec<u8>>>,
    thread: OnceLock<Option<SyncSender<PasswordCheck>>>,
}

/// One password to verify.
struct PasswordCheck {
    hash: String,
    password: Vec<u8>,
    answer: oneshot::Sender<bool>,
}

/// The users of one configuration.
pub struct Passwords {
    users: BTreeMap<String, String>,
    checker: Arc<PasswordChecker>,
}

impl Passwords {
    /// Creates the users from the hashes of their passwords; at least one user is required.
    pub fn new(users: BTreeMap<String, String>, checker: Arc<PasswordChecker>) -> Self {
        Self { users, checker }
    }

    /// Authenticates the `Authorization` header of a request.
    pub async fn admit(&self, header: Option<&HeaderValue>) -> Admission {
        let Some((user, password)) = header.and_then(|header| credentials(header.as_bytes())) else {
            return Admission::Denied;
        };
        let stored = self.users.get(&user);
        // An unknown user takes as long: the password is compared with the hash of another user, always the
        // same one for a name, because hashes may differ in cost.
        let Some(hash) = stored.or_else(|| self.decoy_hash(&user)) else { return Admission::Denied };
        match self.checker.check(&user, hash, password).await {
            Some(true) if stored.is_some() => Admission::Granted,
            Some(_) => Admission::Denied,
            None => Admission::Busy,
        }
    }

    fn decoy_hash(&self, user: &str) -> Option<&String> {
        let number = self.checker.tag(&[user.as_bytes()]).map_or(0, |tag| usize::from(tag[0]));
        self.users.values().nth(number % self.users.len().max(1))
    }
}

impl PasswordChecker {
    pub fn new() -> Self {
        Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok(),
            verified: Mutex::default(),
            thread: OnceLock::new(),
        }
    }

    /// Returns whether a password is correct, or none if too many others wait.
    async fn check(&self, user: &str, hash: &str, password: Vec<u8>) -> Option<bool> {
        let tag = self.tag(&[user.as_bytes(), hash.as_bytes(), &password]);
        if tag.as_ref().is_some_and(|tag| self.verified().contains(tag)) {
            return Some(true);
        }
        let (answer, result) = oneshot::channel();
        let job = PasswordCheck { hash: hash.to_owned(), password, answer };
        // Started only on first use: threads inherit capabilities, and this one needs none.
        match self.thread.get_or_init(start).as_ref()?.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return None,
        }
        let right = result.await.ok()?;
        if let Some(tag) = tag.filter(|_| right) {
            let mut verified = self.verified();
            if verified.len() >= MAX_VERIFIED {
                verified.clear();
            }
            verified.insert(tag);
        }
        Some(right)
    }

    /// Returns a keyed hash of the parts, valid within this process. The length of each part is hashed, too,
    /// so that the boundaries between the parts are unambiguous.
    fn tag(&self, parts: &[&[u8]]) -> Option<Vec<u8>> {
        let mut context = hmac::Context::with_key(self.key.as_ref()?);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        Some(context.sign().as_ref().to_vec())
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn start() -> Option<SyncSender<PasswordCheck>> {
    let (sender, jobs) = sync_channel(MAX_WAITING);
    let builder = thread::Builder::new().name("passwords".to_owned()).stack_size(256 << 10);
    let spawned = builder.spawn(move || verify_sequentially(&jobs));
    spawned
        .inspect_err(|error| tracing::warn!(%error, "cannot start the thread that verifies passwords"))
        .ok()?;
    Some(sender)
}

fn verify_sequentially(jobs: &Receiver<PasswordCheck>) {
    // Optional: verification also works at normal priority.
    let _ = setpriority_process(None, LOWEST_PRIORITY);
    for job in jobs {
        if job.answer.is_closed() {
            continue; // The client has disconnected.
        }
        let started = Instant::now();
        let right = bcrypt::verify(&job.password, &job.hash).unwrap_or(false);
        let _ = job.answer.send(right); // The client may have disconnected meanwhile.
        if !right {
            // Limits the thread to half a CPU.
            thread::sleep(started.elapsed());
        }
    }
}

/// Parses `Basic base64(user:password)` (RFC 7617).
pub fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((user, decoded[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests;
